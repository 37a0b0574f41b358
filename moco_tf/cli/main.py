"""The command line: command, configuration, strategy, one function call."""

import os
import pathlib
import shutil
import sys
import traceback

import moco_tf
from moco_tf import config as configs
from moco_tf import config_schema, paths
from moco_tf.cli import (
    completion,
    evaluation,
    flags,
    quiet,
    runs,
    serving,
    usage,
)
from moco_tf.cluster import membership, rendezvous, watchdog
from moco_tf.monitoring import printed


def _pretrain(options, config):
    profile_steps = _profile_steps(options)
    cluster = None
    if options.cluster == "auto":
        cluster = membership.find(
            os.environ, options.workers, options.worker_index
        )
    runs.check_chosen(config, cluster)
    runs.render_ahead(config)
    with quiet.imports(options.verbose):
        from moco_tf import pretrain
        from moco_tf.doctor import resources
        from moco_tf.training import distribution
    if cluster and pretrain.is_finished(config, options.workdir):
        # The others may have ended for good: nobody is waited for.
        if not cluster.is_chief:
            print(f"This run is finished: {paths.shown(options.workdir)}.")
            return
        cluster = None
    kinds = cluster and distribution.describe_devices(options.devices, cluster)

    def make_strategy():
        strategy = distribution.make_strategy(
            options.devices,
            cluster,
            cross_device_ops=options.cross_device_ops,
            communication=options.communication,
            deterministic=options.deterministic,
        )
        quiet.start_xla(options.verbose, cluster)
        return strategy

    with (
        distribution.lost_workers(cluster),
        rendezvous.joined(
            cluster,
            make_strategy,
            start_timeout=options.start_timeout,
            stall_timeout=options.stall_timeout,
            devices=kinds or "",
        ) as (strategy, guard),
    ):
        config, preset = _choose(config, strategy)
        pretrain.pretrain(
            config,
            options.workdir,
            strategy,
            extend=options.extend,
            guard=guard,
            profile_steps=profile_steps,
            preset=preset,
            require=resources.require,
        )
    if options.report and (cluster is None or cluster.is_chief):
        with quiet.imports(options.verbose):
            from moco_tf.reporting import page
        page.finish(options.workdir, _program())


def _profile_steps(options):
    """The first and the last step to trace, or ()."""
    steps = options.profile_steps
    if len(steps) not in (0, 2):
        text = ",".join(str(step) for step in steps)
        raise flags.UsageError(
            "--profile_steps takes a first and a last step. Received "
            f"{text!r}. Pass, for example, 10,20."
        )
    return steps


def _choose(config, strategy):
    """A configuration, and the text of its preset file where it is chosen."""
    if not isinstance(config, dict):
        return config, ""
    from moco_tf.doctor import auto

    return auto.start(config, strategy)


def _program():
    """What a person types for this command: a name, or its path."""
    if shutil.which("moco-tf"):
        return "moco-tf"
    script = pathlib.Path(sys.executable).parent / "moco-tf"
    return paths.quote(os.fspath(script))


_PRETRAIN = flags.Command(
    run=_pretrain,
    purpose="train an encoder without labels; run it again to go on",
    flags=(
        flags.CONFIG_OR_AUTO,
        flags.SHOW_CONFIG,
        flags.WORKDIR,
        flags.DEVICES,
        flags.boolean(
            "extend", "allow more epochs than the run was started with"
        ),
        flags.boolean("report", "write report.html at the end"),
        flags.WORKERS,
        flags.WORKER_INDEX,
        flags.CLUSTER,
        flags.START_TIMEOUT,
        flags.seconds(
            "stall_timeout",
            1800.0,
            "seconds a step may take in a cluster; the first, four times",
        ),
        flags.integers(
            "profile_steps", (), "first,last step to trace for TensorBoard"
        ),
        flags.CROSS_DEVICE_OPS,
        flags.COMMUNICATION,
        flags.DETERMINISTIC,
    ),
    required=("workdir",),
    examples=(
        "pretrain --config.data.source=folder:photos --workdir=runs/mine",
        "pretrain --config=quickstart --workdir=runs/quickstart --report",
        "pretrain --config=moco_v2_imagenet "
        "--config.data.source=folder:photos --workdir=runs/mine",
    ),
)


def _completion(options, config):
    del config
    usage.show(completion.script(options.shell, COMMANDS)[:-1])


_COMPLETION = flags.Command(
    run=_completion,
    purpose="print what lets a shell complete these commands",
    flags=(
        flags.choice(
            "shell",
            completion.SHELLS,
            None,
            "bash or zsh; also typed without --shell=",
        ),
    ),
    required=("shell",),
    examples=(
        "completion bash > ~/.moco-tf-completion",
        "completion zsh > ~/.zsh/completions/_moco-tf",
    ),
    word="shell",
)
COMMANDS = {
    "pretrain": _PRETRAIN,
    **evaluation.COMMANDS,
    **serving.COMMANDS,
    **runs.COMMANDS,
    "completion": _COMPLETION,
}


@printed.copied()
def run(argv=None):
    """Runs a command line and returns its exit status.

    Args:
      argv: list of str without the program's name; None = sys.argv[1:].

    Returns:
      0: done. 1: the command failed, with a message. 2: not understood.
      130: interrupted. 138: start the same command again, to go on.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("--help", "-h", "help"):
        usage.show(usage.usage(COMMANDS))
        return 0
    if argv[0] == "--version":
        print(f"moco-tf {moco_tf.__version__}")
        return 0
    try:
        words = ["--help" if word == "-h" else word for word in argv]
        words = [words[0], *flags.expand_files(words[1:])]
        name, options, overrides = flags.parse(words, COMMANDS, _fields)
        if options.help:
            usage.show(_help(name, options))
            return 0
        config = _load(name, options, overrides)
        if "show_config" in options and options.show_config:
            shown = options.config or name
            usage.show(configs.show(config, shown, overrides, name))
            return 0
        quiet.prepare(options.verbose)
        COMMANDS[name].run(options, config)
    except flags.UsageError as error:
        known = f" {argv[0]}" if argv[0] in COMMANDS else ""
        print(f"moco-tf: error: {error}", file=sys.stderr)
        print(f"Try: moco-tf{known} --help", file=sys.stderr)
        return 2
    except (ValueError, OSError, FloatingPointError) as error:
        if options.verbose:
            traceback.print_exc()
        print(f"moco-tf: error: {error}", file=sys.stderr)
        return 1
    except rendezvous.PeerMissing as error:
        print(f"moco-tf: {error}", file=sys.stderr)
        return watchdog.START_AGAIN
    except watchdog.Left as error:
        print(f"moco-tf: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        resumes = argv[0] in (*config_schema.TABLES, "prepare")
        again = " The same command resumes it." if resumes else ""
        print(f"\nmoco-tf: interrupted.{again}", file=sys.stderr)
        return 130
    return 0


def _fields(name, config):
    """Names of the fields that a command's configuration has, for messages.

    Args:
      name: of the command. config: text of --config, or "".
    """
    tables = config_schema.TABLES
    if name != "pretrain" and name in tables:
        return [*tables[name]]
    try:
        return [*configs.flatten(configs.load(config).to_dict())]
    except ValueError:
        return [*tables["pretrain"]]


def _help(name, options):
    """The help of a command, with the fields of the configuration typed."""
    command = COMMANDS[name]
    config = options.config if command.has("config") else ""
    if config == configs.AUTO:
        config = ""  # its fields are any preset's
    try:
        return usage.command_usage(
            name, command, config or "", options.help == "fields"
        )
    except ValueError as error:
        raise flags.UsageError(str(error)) from error


def _chooses(name, options):
    """Whether the configuration is to be chosen for images and devices."""
    if name == "pretrain" or (name == "doctor" and not options.report):
        return options.config in (None, configs.AUTO)
    return name == "doctor" and options.config == configs.AUTO


def _given(options, overrides):
    """That of the run in the workdir, or else what was typed, a dict."""
    from moco_tf import keywords  # here: it loads NumPy

    if "show_config" in options and options.show_config:
        raise flags.UsageError(
            "--config must be given, to be shown. What auto chooses, moco-tf "
            "doctor prints."
        )
    saved = keywords.of_saved(options.workdir, overrides)
    if saved is not None:
        return saved
    try:
        config = configs.load(configs.auto_base(overrides), overrides)
        config_schema.check_source(config)
    except ValueError as error:
        raise flags.UsageError(str(error)) from error
    return overrides


def _load(name, options, overrides):
    """The configuration, or the overrides, that a command takes; or None.

    A dict of overrides is also what --config=auto begins with.
    """
    if COMMANDS[name].takes_overrides:
        return overrides
    if "config" not in options:
        return None
    if _chooses(name, options):
        options.config = configs.AUTO
        return _given(options, overrides)
    # A command without fields of its own takes those of the run it is about.
    table = name if name in config_schema.TABLES else "pretrain"
    name = options.config or COMMANDS[name].config or name
    try:
        return configs.load(name, overrides, table)
    except ValueError as error:
        raise flags.UsageError(str(error)) from error
