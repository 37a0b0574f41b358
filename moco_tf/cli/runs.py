"""The commands around a run: benchmark, prepare, doctor and report."""

import contextlib
import os
import signal

from moco_tf import config as configs
from moco_tf import paths, records
from moco_tf.cli import flags, quiet
from moco_tf.cluster import membership, rendezvous


def _benchmark(options, config):
    with quiet.imports(options.verbose):
        from moco_tf import benchmark
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(
        options.devices,
        cross_device_ops=options.cross_device_ops,
        deterministic=options.deterministic,
    )
    quiet.start_xla(options.verbose)
    benchmark.benchmark(
        config,
        strategy,
        options.steps,
        path=options.json,
        gpu_rate=options.gpu_rate,
    )


def render_ahead(config):
    """Begins to render the embedded images of a run; none for --config=auto.

    Call it before TensorFlow's import (see shapes.render_ahead).

    Args:
      config: ConfigDict of a pre-training, or dict of a choice to come.
    """
    if isinstance(config, dict):
        return
    from moco_tf.data import shapes

    specs = config.data.source, config.knn.bank, config.knn.query
    kinds = [str(spec).partition(":") for spec in specs]
    shapes.render_ahead(
        [split or "train" for kind, _, split in kinds if kind == "shapes"]
    )


def _prepare(options, config):
    del config
    if not options.source and not options.verify:
        raise flags.UsageError(
            "--source must be given; --verify alone reads a finished cache "
            "again."
        )
    with quiet.imports(options.verbose):
        from moco_tf import counting, prepare
        from moco_tf.training import distribution
    distribution.make_strategy("cpu")  # decoding leaves GPUs to others
    if options.source:
        about = prepare.prepare(
            options.source,
            options.path,
            options.short_side,
            stored_as=options.format,
            shard=options.shard,
            shards=options.shards,
        )
        size = about["bytes"]["images.bin"]
        part = ""
        if options.shards > 1:
            part = f", shard {options.shard} of {options.shards}"
        print(
            f"cache       {about['images']} images of "
            f"{paths.shown(about['source'])}{part}, short side at most "
            f"{about['short_side']}, {options.format}\n"
            f"unreadable  {about['unreadable']}, named in unreadable.csv\n"
            f"size        {counting.format_bytes(size)}, "
            f"{size / about['images'] / 1e3:.0f} kB an image\n"
            f"use it as   {paths.quote(f'prepared:{options.path}')}"
            + (", once all shards are there" if part else "")
        )
    if options.verify:
        count = prepare.verify(options.path)
        print(f"verified    {count} images: all have their checksums")


# Of `doctor --report` without a --config: its step is examined, no image.
_EXAMINED = "moco_v2_imagenet"
_STALL = 900.0  # seconds of the start, in a cluster


def check_chosen(config, cluster):
    """Refuses a choice of several workers, each by its own machine.

    Args:
      config: ConfigDict, or dict of what --config=auto begins with.
      cluster: membership.Cluster, or None.
    """
    if cluster and isinstance(config, dict):
        raise flags.UsageError(
            "--config=auto is for one process: several could choose "
            f"differently. Received {len(cluster.workers)} workers. Let "
            "moco-tf doctor --config=auto --cluster=none --workdir=DIR choose "
            f"on one machine, and pass --config=DIR/{records.PRESET} to all."
        )


def _doctor(options, config):
    if options.trial_steps < 0:
        raise flags.UsageError(
            f"--trial_steps takes 0 or more. Received {options.trial_steps}."
        )
    cluster = None
    if options.cluster == "auto":
        cluster = membership.find(
            os.environ, options.workers, options.worker_index
        )
    check_chosen(config, cluster)
    with quiet.imports(options.verbose):
        from moco_tf.doctor import examination, report, table
        from moco_tf.training import distribution, gpus
    fault = ""
    if distribution.parse_devices(options.devices)[0] != "cpu":
        fault = gpus.examine().fault

    def make_strategy():
        try:
            strategy = distribution.make_strategy(
                options.devices,
                cluster,
                cross_device_ops=options.cross_device_ops,
                communication=options.communication,
                deterministic=options.deterministic,
            )
        except ValueError as error:
            if options.report:  # others may know more
                report.write_refusal(options.report, str(error))
            raise
        # Notices would come between rows.
        quiet.start_xla(options.verbose, cluster)
        return strategy

    with _joined(options, cluster, make_strategy) as (strategy, guard):
        request = _request(options, config, cluster, fault)
        failed = table.failures(examination.examine(request, strategy, guard))
    if failed:
        raise ValueError(
            f"{len(failed)} check(s) failed: {', '.join(failed)}. The table "
            "says what to do."
        )


@contextlib.contextmanager
def _joined(options, cluster, make_strategy):
    """The strategy, and the Guard that a worker of a cluster has, or None."""
    from moco_tf.training import distribution

    if cluster is None:
        yield make_strategy(), None
        return
    devices = distribution.describe_devices(options.devices, cluster)
    with (
        distribution.lost_workers(cluster),
        rendezvous.joined(
            cluster,
            make_strategy,
            start_timeout=options.start_timeout,
            stall_timeout=_STALL,
            devices=devices,
        ) as (strategy, guard),
    ):
        # There is nothing to save before this process leaves.
        for kind in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(kind, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield strategy, guard


def _request(options, config, cluster, fault):
    """What the flags of `doctor` ask for, an examination.Request."""
    from moco_tf.doctor import examination
    from moco_tf.training import distribution

    patient = options.prove == "always" or bool(options.report)
    prove = patient
    if options.prove == "auto":
        prove |= distribution.kind_of_devices() == "GPU" or bool(cluster)
    given = config if isinstance(config, dict) else None
    if given is not None:
        config = None  # the examination chooses it
    elif not options.config:
        config = config.copy_and_resolve_references().unlock()
        config.data.source = "shapes:train"  # checked, not read
    exchange = f"cross_device_ops={options.cross_device_ops}"
    if cluster:
        exchange = f"communication={options.communication}"
    name, rate = options.config or _EXAMINED, None
    if name != configs.AUTO:
        written = configs.load(name)  # as the file has it
        rate = written.optimizer.learning_rate / written.train.batch_size
    known = name in (configs.AUTO, *configs.names("pretrain"))
    return examination.Request(
        config,
        workdir=options.workdir or "",
        path=options.path,
        json=options.json,
        trial_steps=options.trial_steps,
        prove=prove,
        rate_per_image=rate,
        gpu_fault=fault,
        exchange=exchange,
        deterministic=options.deterministic,
        report=options.report,
        look=bool(options.config),
        patient=patient,
        name=name if known else "a file",
        given=given,
    )


def _report(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf.reporting import page
        from moco_tf.training import distribution
    distribution.make_strategy(options.devices)
    quiet.start_xla(options.verbose)
    page.write(
        options.workdir,
        options.path,
        options.checkpoint,
        options.images,
        options.json,
    )


COMMANDS = {
    "benchmark": flags.Command(
        run=_benchmark,
        purpose="measure input, step and both; name the bottleneck",
        flags=(
            flags.CONFIG,
            flags.DEVICES,
            flags.CROSS_DEVICE_OPS,
            flags.DETERMINISTIC,
            flags.integer("steps", 10, "measured in each of three rounds"),
            flags.integer(
                "gpu_rate",
                0,
                "images/s of GPUs elsewhere; says how many cores they need",
            ),
            flags.path(
                "json",
                "",
                "file to write: the same figures for other programs",
            ),
        ),
        required=("config",),
        examples=(
            "benchmark --config=quickstart",
            "benchmark --config=moco_v2_imagenet "
            "--config.data.source=folder:photos --json=figures.json",
        ),
        unread=("checkpoint", "knn"),
    ),
    "prepare": flags.Command(
        run=_prepare,
        purpose="decode a source once, into a cache that is faster to read",
        flags=(
            flags.text(
                "source",
                "",
                "any source of images; with --verify not needed",
                flags.SOURCES,
            ),
            flags.path(
                "path", None, "folder of the cache; the same command resumes"
            ),
            flags.choice(
                "format",
                ("raw", "jpeg"),
                "raw",
                "raw (pixels) or jpeg (a sixth of the size)",
            ),
            flags.integer(
                "short_side",
                0,
                "pixels; longer short sides are resized to it; 0 = 256 (raw), "
                "320 (jpeg)",
            ),
            flags.integer("shards", 1, "hosts that prepare it, each a part"),
            flags.integer("shard", 0, "which part this host prepares, from 0"),
            flags.boolean(
                "verify", "compare the checksum of every image in the cache"
            ),
        ),
        required=("path",),
        examples=(
            "prepare --source=folder:photos --path=photos.prepared",
            "prepare --source=folder:photos --path=photos.jpegs --format=jpeg",
            "prepare --path=photos.prepared --verify",
        ),
    ),
    "doctor": flags.Command(
        run=_doctor,
        purpose="examine images, devices and a configuration before a run",
        flags=(
            flags.CONFIG_OR_AUTO,
            flags.path(
                "workdir", "", "folder of the planned run; for disk and CSV"
            ),
            flags.DEVICES,
            flags.path(
                "path", "", "CSV of images at fault; none = in the workdir"
            ),
            flags.CROSS_DEVICE_OPS,
            flags.COMMUNICATION,
            flags.DETERMINISTIC,
            flags.WORKERS,
            flags.WORKER_INDEX,
            flags.CLUSTER,
            flags.START_TIMEOUT,
            flags.path("json", "", "file to write: the table, for scripts"),
            flags.path(
                "report",
                "",
                "file to send to others: devices, proofs and benchmarks; needs "
                "no --config",
            ),
            flags.integer("trial_steps", 20, "steps to time; 0 = none"),
            flags.choice(
                "prove",
                ("auto", "always", "never"),
                "auto",
                "check the devices by steps of the reference and of a small "
                "run, an exchange and a resume: auto (on GPUs, in a cluster, "
                "for a report), always or never",
            ),
        ),
        required=(),
        config=_EXAMINED,
        examples=(
            "doctor --config.data.source=folder:photos --workdir=runs/mine",
            "doctor --config=moco_v2_imagenet "
            "--config.data.source=folder:photos --workdir=runs/mine",
            "doctor --report=report.txt --devices=gpu",
        ),
    ),
    "report": flags.Command(
        run=_report,
        purpose="write one HTML file that shows a run, or compares several",
        flags=(
            flags.paths(
                "workdir", "folder of a run; give it again to compare runs"
            ),
            flags.path(
                "path", "", "file to write; none = report.html in the workdir"
            ),
            flags.CHECKPOINT,
            flags.integer(
                "images", 2000, "of the test set, on its map; 0 = curves alone"
            ),
            flags.path(
                "json",
                "",
                "file to write: what each run has reached, and its verdict",
            ),
            flags.DEVICES,
        ),
        required=("workdir",),
        examples=(
            "report --workdir=runs/mine",
            "report --workdir=runs/first --workdir=runs/second "
            "--path=both.html --images=0",
        ),
    ),
}
