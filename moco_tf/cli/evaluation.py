"""The commands that evaluate an encoder: flags to one function call each."""

import os

from moco_tf import paths
from moco_tf.cli import flags, quiet


def _open_encoder(options, command):
    """The frozen encoder that the flags name, and two folders.

    Returns:
      FrozenEncoder; the folder of results; the folder of features.
    """
    from moco_tf.evaluation import frozen

    if options.saved_model and not options.output:
        raise flags.UsageError(
            "--output must be given with --saved_model: a folder for results "
            "and features."
        )
    encoder = frozen.open_frozen(
        options.workdir,
        options.checkpoint,
        saved_model=options.saved_model,
        recipe=options.views,
        image_size=options.image_size,
    )
    output = options.output or os.path.join(options.workdir, command)
    parent = options.workdir or options.output
    return encoder, output, os.path.join(parent, "features")


def _knn(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import knn
        from moco_tf.training import distribution
    if options.plot:
        from moco_tf.monitoring import representation_plot

        if not options.workdir:
            raise flags.UsageError("--plot needs the --workdir of a run.")
        epochs = representation_plot.plot_run(options.workdir, options.plot)
        run, plot = paths.shown(options.workdir), paths.shown(options.plot)
        print(f"drew {epochs} epochs of {run} in {plot}")
        return
    distribution.make_strategy(options.devices)
    encoder, _, features_folder = _open_encoder(options, "knn")
    knn.evaluate(
        encoder,
        features_folder,
        bank=options.bank,
        query=options.query,
        ks=options.k,
        temperatures=options.temperature,
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
        encoder, output, features_folder = _open_encoder(options, "linear")
    linear.run(config, encoder, output, strategy, folder=features_folder)


def _finetune(options, config):
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import finetune
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(
        options.devices, deterministic=options.deterministic
    )
    quiet.start_xla(options.verbose)
    finetune.run(
        config,
        options.workdir,
        options.checkpoint,
        options.output or os.path.join(options.workdir, "finetune"),
        strategy,
    )


def _compare(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf import comparing
        from moco_tf.training import distribution
    distribution.make_strategy(options.devices)
    quiet.start_xla(options.verbose)
    comparing.compare(
        options.encoder,
        options.images,
        options.query,
        options.output,
        k=options.k,
        temperature=options.temperature,
        probe=not options.skip_probe,
        rounds=options.rounds,
    )


def _embed(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import embeddings
        from moco_tf.training import distribution
    distribution.make_strategy(options.devices)
    encoder, _, features_folder = _open_encoder(options, "embed")
    layers = () if options.features == "both" else (options.features,)
    embeddings.embed_source(
        encoder,
        options.source,
        options.path,
        layers=layers,
        folder=features_folder,
    )


def _neighbours(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import neighbours
    neighbours.search_files(
        options.bank,
        options.query or options.bank,
        k=options.k,
        csv_path=options.csv,
        grid_path=options.grid,
        queries=(options.names,) if options.names else (),
        layer=options.features,
        shown=options.shown,
    )


_ENCODER = (
    flags.WORKDIR,
    flags.CHECKPOINT,
    flags.path(
        "saved_model", "", "SavedModel or .keras to use instead of a run"
    ),
    flags.text("views", "", "views a SavedModel was trained with, as simclr"),
    flags.integer(
        "image_size", 0, "pixels of a SavedModel's images, where it takes any"
    ),
)
_FEATURES = flags.choice(
    "features",
    ("backbone", "projection", "both"),
    "both",
    "backbone, projection or both",
)

COMMANDS = {
    "knn": flags.Command(
        run=_knn,
        purpose="classify by the nearest neighbours among labelled features",
        flags=(
            *_ENCODER,
            flags.OUTPUT,
            flags.DEVICES,
            flags.text(
                "bank",
                "",
                "labelled source that votes; none = the run's own",
                flags.SOURCES,
            ),
            flags.text(
                "query",
                "",
                "labelled source to classify; none = the run's own",
                flags.SOURCES,
            ),
            flags.integers("k", (200,), "neighbours; several with commas"),
            flags.floats(
                "temperature", (0.1,), "of the vote; several with commas"
            ),
            _FEATURES,
            flags.boolean(
                "baselines", "also measure raw pixels and the untrained encoder"
            ),
            flags.path(
                "plot",
                "",
                "instead, draw the logged figures against kNN (.png)",
            ),
        ),
        required=(),
        examples=(
            "knn --workdir=runs/mine --checkpoint=best",
            "knn --workdir=runs/mine --bank=folder:photos/train "
            "--query=folder:photos/val --k=20,200",
        ),
    ),
    "linear": flags.Command(
        run=_linear,
        purpose="train a linear classifier on a frozen encoder",
        flags=(
            flags.CONFIG,
            flags.SHOW_CONFIG,
            *_ENCODER,
            flags.OUTPUT,
            flags.DEVICES,
            flags.DETERMINISTIC,
        ),
        required=(),
        examples=(
            "linear --workdir=runs/mine",
            "linear --workdir=runs/mine --config.probe.way=published "
            "--config.data.train=folder:photos/train "
            "--config.data.test=folder:photos/val",
        ),
    ),
    "finetune": flags.Command(
        run=_finetune,
        purpose="train a whole network from an encoder, with few labels",
        flags=(
            flags.CONFIG,
            flags.SHOW_CONFIG,
            flags.WORKDIR,
            flags.CHECKPOINT,
            flags.OUTPUT,
            flags.DEVICES,
            flags.DETERMINISTIC,
        ),
        required=("workdir",),
        examples=(
            "finetune --workdir=runs/mine --config.data.labels=0.1",
            "finetune --workdir=runs/mine --config=finetune "
            "--config.model.init=random --output=runs/mine/from_scratch",
        ),
    ),
    "compare": flags.Command(
        run=_compare,
        purpose="measure encoders side by side on the same images",
        flags=(
            flags.paths(
                "encoder",
                "RUN, RUN@best, RUN@1200, a file of weights, a SavedModel, a "
                ".keras file, untrained or pixels; 2 to 20, the first is what "
                "the others are compared with",
            ),
            flags.text(
                "images",
                "",
                "any source, with labels or without; none = bank and query of "
                "the first run",
                flags.SOURCES,
            ),
            flags.text(
                "query",
                "",
                "source to classify; none = the images, each by the others",
                flags.SOURCES,
            ),
            flags.path("output", None, "folder of the results and features"),
            flags.integer("k", 20, "neighbours that vote and are compared"),
            flags.number("temperature", 0.1, "of the vote"),
            flags.boolean("skip_probe", "leave out the linear probe"),
            flags.integer("rounds", 5, "of the timing, in turn; 0 = none"),
            flags.DEVICES,
        ),
        required=("encoder", "output"),
        words="encoder",
        examples=(
            "compare runs/mine@best resnet50.pth untrained "
            "--images=folder:photos --output=compared",
            "compare runs/a runs/b exports/encoder pixels "
            "--images=folder:photos/train --query=folder:photos/val "
            "--output=compared",
        ),
    ),
    "embed": flags.Command(
        run=_embed,
        purpose="write features, labels and names of any source to a file",
        flags=(
            *_ENCODER,
            flags.OUTPUT,
            flags.DEVICES,
            flags.text(
                "source",
                None,
                "any source of images, with labels or without",
                flags.SOURCES,
            ),
            flags.path("path", None, "file to write: .npz or .parquet"),
            _FEATURES,
        ),
        required=("source", "path"),
        examples=(
            "embed --workdir=runs/mine --source=folder:photos "
            "--path=photos.npz",
            "embed --workdir=runs/mine --checkpoint=best --features=backbone "
            "--source=list:files.csv --path=files.parquet",
        ),
    ),
    "neighbours": flags.Command(
        run=_neighbours,
        purpose="find the nearest neighbours among the images of such files",
        flags=(
            flags.path("bank", "", "file of `embed` that is searched"),
            flags.path(
                "query", "", "file of `embed` with the queries; none = the bank"
            ),
            flags.integer("k", 10, "neighbours of each query"),
            flags.path("csv", None, "file to write: one row a neighbour"),
            flags.path(
                "grid",
                "",
                "picture to write: queries and their neighbours (.png)",
            ),
            flags.text("names", "", "queries by name, with commas; none = all"),
            flags.text(
                "features",
                "backbone",
                "backbone or projection",
                ("backbone", "projection"),
            ),
            flags.integer("shown", 10, "queries in the picture"),
        ),
        required=("bank", "csv"),
        examples=(
            "neighbours --bank=photos.npz --csv=nearest.csv --grid=nearest.png",
            "neighbours --bank=photos.npz --query=new.npz --k=5 "
            "--csv=nearest.csv",
        ),
    ),
}
