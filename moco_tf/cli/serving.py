"""The commands that take an encoder away, or bring one: flags to one call."""

import os

from moco_tf.cli import flags, quiet


def _export(options, config):
    del config
    version = flags.number(int, "version", options.version)
    with quiet.imports(options.verbose):
        from moco_tf.evaluation import frozen
        from moco_tf.serving import export
        from moco_tf.training import distribution
    distribution.make_strategy(options.devices)
    export.export_run(
        frozen.open_frozen(options.workdir, options.checkpoint),
        options.output or os.path.join(options.workdir, "export"),
        options.name,
        version,
        options.head,
        options.bank,
        options.licence,
        options.workdir,
    )


def _import_weights(options, overrides):
    with quiet.imports(options.verbose):
        from moco_tf.weights import importing
    importing.import_weights(
        options.path, options.workdir, options.config or "", overrides
    )


def _export_weights(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf.weights import exporting
    exporting.export_weights(
        options.workdir, options.checkpoint, options.path, options.layout
    )


def _convert(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf.serving import convert
        from moco_tf.training import distribution
    # A GPU's float32 would not be that of the runtimes, which use the CPU.
    distribution.make_strategy("cpu")
    convert.convert_export(
        options.model, options.to, options.path, options.images
    )


COMMANDS = {
    "import-weights": flags.Command(
        run=_import_weights,
        purpose="make a run of a MoCo, torchvision or detectron2 file",
        flags=("path", "workdir", "config"),
        required=("path", "workdir"),
        defaults={
            "path": (None, "file to read: .pth.tar, .pth or .pkl"),
            "config": (None, "what the file does not say; none = as published"),
        },
    ),
    "export-weights": flags.Command(
        run=_export_weights,
        purpose="write weights for PyTorch or detectron2, without torch",
        flags=("workdir", "checkpoint", "path", "layout"),
        required=("workdir", "path"),
        defaults={"path": (None, "file to write; one that exists is refused")},
    ),
    "export": flags.Command(
        run=_export,
        purpose="write an encoder for TensorFlow Serving and Keras",
        flags=(
            "workdir",
            "checkpoint",
            "output",
            "name",
            "version",
            "head",
            "bank",
            "licence",
            "devices",
        ),
        required=("workdir",),
        defaults={
            "bank": (
                "",
                "labelled file of `embed`, or source: adds neighbours",
            ),
            "output": ("", "folder of exports; none = export/ in the run's"),
        },
    ),
    "convert": flags.Command(
        run=_convert,
        purpose="write an exported encoder for ONNX, TFLite or OpenVINO",
        flags=("model", "to", "path", "images"),
        required=("model", "to"),
        defaults={
            "path": ("", "to write; none = NAME-VERSION beside the versions"),
        },
    ),
}
