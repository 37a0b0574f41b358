"""The commands that judge an encoder: flags to one function call each."""

import os

from moco_tf.cli import flags, quiet


def _judged(options, command):
    """The encoder that flags name, the folders of results and of features."""
    from moco_tf.evaluation import frozen

    if options.saved_model and not options.output:
        raise flags.UsageError(
            "--output must be given with --saved_model: a folder for results "
            "and features."
        )
    size = flags.number(int, "image_size", options.image_size)
    judged = frozen.open_frozen(
        options.workdir,
        options.checkpoint,
        options.saved_model,
        options.views,
        size,
    )
    place = options.workdir or options.output
    output = options.output or os.path.join(options.workdir, command)
    return judged, output, os.path.join(place, "features")


def _knn(options, config):
    del config
    ks = flags.numbers(int, "k", options.k)
    temperatures = flags.numbers(float, "temperature", options.temperature)
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import knn
        from moco_tf.training import distribution
    if options.plot:
        from moco_tf.monitoring import representation_plot

        if not options.workdir:
            raise flags.UsageError("--plot needs the --workdir of a run.")
        epochs = representation_plot.plot_run(options.workdir, options.plot)
        print(f"drew {epochs} epochs of {options.workdir} in {options.plot}")
        return
    distribution.make_strategy(options.devices)
    judged, _, store = _judged(options, "knn")
    knn.evaluate(
        judged,
        store,
        bank=options.bank,
        query=options.query,
        ks=ks,
        temperatures=temperatures,
        features=options.features,
        baselines=options.baselines,
    )


def _linear(options, config):
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import linear
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(
        options.devices, deterministic=options.deterministic
    )
    quiet.start_xla(options.verbose)
    with strategy.scope():
        judged, output, store = _judged(options, "linear")
    linear.linear_run(config, judged, output, strategy, store)


def _finetune(options, config):
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import finetune
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(
        options.devices, deterministic=options.deterministic
    )
    quiet.start_xla(options.verbose)
    finetune.finetune_run(
        config,
        options.workdir,
        options.checkpoint,
        options.output or os.path.join(options.workdir, "finetune"),
        strategy,
    )


def _embed(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import embeddings
        from moco_tf.training import distribution
    distribution.make_strategy(options.devices)
    judged, _, store = _judged(options, "embed")
    layers = () if options.features == "both" else (options.features,)
    embeddings.embed_source(judged, options.source, options.path, layers, store)


def _neighbours(options, config):
    del config
    k = flags.number(int, "k", options.k)
    shown = flags.number(int, "shown", options.shown)
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import neighbours
    neighbours.search_files(
        options.bank,
        options.query or options.bank,
        k,
        options.csv,
        options.grid,
        tuple(name for name in options.names.split(",") if name),
        options.features,
        shown,
    )


_ENCODER = ("workdir", "checkpoint", "saved_model", "views", "image_size")

COMMANDS = {
    "knn": flags.Command(
        run=_knn,
        purpose="classify by the nearest neighbours among labelled features",
        flags=(
            *_ENCODER,
            "output",
            "devices",
            "bank",
            "query",
            "k",
            "temperature",
            "features",
            "baselines",
            "plot",
        ),
        required=(),
    ),
    "linear": flags.Command(
        run=_linear,
        purpose="train a linear classifier on a frozen encoder",
        flags=(
            "config",
            "show_config",
            *_ENCODER,
            "output",
            "devices",
            "deterministic",
        ),
        required=(),
    ),
    "finetune": flags.Command(
        run=_finetune,
        purpose="train a whole network from an encoder, with few labels",
        flags=(
            "config",
            "show_config",
            "workdir",
            "checkpoint",
            "output",
            "devices",
            "deterministic",
        ),
        required=("workdir",),
    ),
    "embed": flags.Command(
        run=_embed,
        purpose="write features, labels and names of any source to a file",
        flags=(*_ENCODER, "output", "devices", "source", "path", "features"),
        required=("source", "path"),
    ),
    "neighbours": flags.Command(
        run=_neighbours,
        purpose="find the nearest neighbours among the images of such files",
        flags=(
            "bank",
            "query",
            "k",
            "csv",
            "grid",
            "names",
            "features",
            "shown",
        ),
        required=("bank", "csv"),
        defaults={
            "bank": ("", "file of `embed` that is searched"),
            "query": ("", "file of `embed` with the queries; none = the bank"),
            "k": ("10", "neighbours of each query"),
            "features": ("backbone", "backbone or projection"),
        },
    ),
}
