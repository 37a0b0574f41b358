"""The commands that take an encoder away, or bring one: flags to one call."""

import os

from moco_tf.cli import flags, quiet


def _export(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf import counting
        from moco_tf.evaluation import frozen
        from moco_tf.serving import export, hub_folder
        from moco_tf.training import distribution
    if options.format == "hf" and (options.head or options.bank):
        raise flags.UsageError(
            "--format=hf holds the encoder alone. Received --head or --bank. "
            "Leave them out, or export with --format=saved_model."
        )
    distribution.make_strategy(options.devices)
    if options.format == "hf":
        with counting.Elapsed("exporting"):
            hub_folder.export_run(
                frozen.open_frozen(options.workdir, options.checkpoint),
                options.output or os.path.join(options.workdir, "export"),
                options.name,
                version=options.version,
                licence=options.licence,
                workdir=options.workdir,
            )
        return
    with counting.Elapsed("exporting"):
        export.export_run(
            frozen.open_frozen(options.workdir, options.checkpoint),
            options.output or os.path.join(options.workdir, "export"),
            options.name,
            version=options.version,
            head=options.head,
            bank=options.bank,
            licence=options.licence,
            workdir=options.workdir,
        )


def _import_weights(options, overrides):
    with quiet.imports(options.verbose):
        from moco_tf import counting
        from moco_tf.weights import importing
    with counting.Elapsed("importing"):
        importing.import_weights(
            options.path,
            options.workdir,
            options.config or "",
            overrides,
            entry=options.entry,
            prefix=options.prefix,
        )


def _export_weights(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf import counting
        from moco_tf.weights import exporting
    with counting.Elapsed("exporting"):
        exporting.export_weights(
            options.workdir, options.checkpoint, options.path, options.layout
        )


def _convert(options, config):
    del config
    with quiet.imports(options.verbose):
        from moco_tf import counting
        from moco_tf.serving import convert
        from moco_tf.training import distribution
    # A GPU's float32 would not be that of the runtimes, which use the CPU.
    distribution.make_strategy("cpu")
    with counting.Elapsed("converting"):
        convert.convert_export(
            options.model, options.to, options.path, options.images
        )


COMMANDS = {
    "import-weights": flags.Command(
        run=_import_weights,
        purpose="make a run of a ResNet's weights in a file of others",
        flags=(
            flags.path(
                "path",
                None,
                "file to read: .pth.tar, .pth, .pt, .bin, .ckpt, .pkl or "
                ".safetensors",
            ),
            flags.WORKDIR,
            flags.text(
                "entry",
                "",
                "of several encoders, the one below these keys; . = the file",
            ),
            flags.text(
                "prefix",
                "",
                "of several encoders, the one with these names; . = no prefix",
            ),
            flags.path(
                "config",
                None,
                "what the file does not say; none = as published",
            ),
        ),
        required=("path", "workdir"),
        examples=(
            "import-weights --path=moco_v2_800ep_pretrain.pth.tar "
            "--workdir=runs/published",
            "import-weights --path=resnet50.safetensors "
            "--workdir=runs/resnet50 --config=moco_v2_imagenet",
        ),
        takes_overrides=True,  # the file sets the other fields
    ),
    "export-weights": flags.Command(
        run=_export_weights,
        purpose="write weights for PyTorch, safetensors or detectron2",
        flags=(
            flags.WORKDIR,
            flags.CHECKPOINT,
            flags.path(
                "path",
                None,
                "new file; .safetensors = that format, else one of torch",
            ),
            flags.text(
                "layout",
                "moco",
                "moco, torchvision or detectron2",
                ("moco", "torchvision", "detectron2"),
            ),
        ),
        required=("workdir", "path"),
        examples=(
            "export-weights --workdir=runs/mine --path=mine.pth.tar",
            "export-weights --workdir=runs/mine --checkpoint=best "
            "--layout=torchvision --path=mine.safetensors",
        ),
    ),
    "export": flags.Command(
        run=_export,
        purpose="write an encoder for TensorFlow Serving, Keras, Hugging Face",
        flags=(
            flags.WORKDIR,
            flags.CHECKPOINT,
            flags.path(
                "output", "", "folder of exports; none = export/ in the run's"
            ),
            flags.text(
                "name",
                "encoder",
                "of the exported model, in paths and addresses",
            ),
            flags.choice(
                "format",
                ("saved_model", "hf"),
                "saved_model",
                "saved_model; hf: a folder for Hugging Face, with safetensors",
            ),
            flags.integer("version", 0, "of the export; 0 = the next one"),
            flags.path(
                "head",
                "",
                "linear.npz of `linear`: adds the signature classify",
            ),
            flags.text(
                "bank",
                "",
                "labelled file of `embed`, or source: adds neighbours",
                flags.SOURCES,
            ),
            flags.text("licence", "", "of the weights, for the model card"),
            flags.DEVICES,
        ),
        required=("workdir",),
        examples=(
            "export --workdir=runs/mine",
            "export --workdir=runs/mine --checkpoint=best --name=photos "
            "--head=runs/mine/linear/linear.npz --licence=CC-BY-4.0",
            "export --workdir=runs/mine --format=hf --licence=CC-BY-4.0",
        ),
    ),
    "convert": flags.Command(
        run=_convert,
        purpose="write an exported encoder for ONNX, TFLite or OpenVINO",
        flags=(
            flags.path(
                "model",
                None,
                "folder of an export, or of its versions: the newest",
            ),
            flags.text(
                "to",
                None,
                "onnx, tflite or openvino",
                ("onnx", "tflite", "openvino"),
            ),
            flags.path(
                "path", "", "to write; none = NAME-VERSION beside the versions"
            ),
            flags.text(
                "images",
                "",
                "source to compare features on; none = photographs",
                flags.SOURCES,
            ),
        ),
        required=("model", "to"),
        examples=(
            "convert --model=runs/mine/export/encoder --to=onnx",
            "convert --model=runs/mine/export/encoder/2 --to=tflite "
            "--path=encoder.tflite --images=folder:photos",
        ),
    ),
}
