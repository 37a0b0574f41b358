"""Exports an encoder for other programs (the `export` command).

OUTPUT/NAME/VERSION/
    saved_model.pb variables/ assets.extra/   for TensorFlow Serving
    encoder.keras                             for Keras
    README.md model_card.json signatures.txt
"""

import pathlib
import re

import tensorflow as tf

from moco_tf import filesystem, lane, paths
from moco_tf.evaluation import frozen
from moco_tf.models import batch_norm, cloning, keras_files
from moco_tf.serving import (
    comparison,
    labelling,
    model_card,
    signatures,
    warm_up,
)


def export_run(
    encoder: frozen.FrozenEncoder,
    output: str | pathlib.Path,
    name: str,
    version: int = 0,
    head: str = "",
    bank: str = "",
    licence: str = "",
    workdir: str | pathlib.Path = "",
) -> pathlib.Path:
    """Exports an encoder, compares the export with it, and prints a summary.

    Args:
      encoder: of a run.
      output: folder of all exports. name: of this model, letters, digits, "_",
        "-" and ".".
      version: positive int; 0: one more than the largest there.
      head: linear.npz of `moco-tf linear`, or its folder; adds `classify`.
      bank: labelled file of `moco-tf embed`, or source spec; adds
        `neighbours`.
      licence: of the weights, text for the model card.
      workdir: of the run, for the model card and for stored features.

    Returns:
      pathlib.Path of the version's folder.

    Raises:
      ValueError: before anything is written, for a version that is there, or
        a head or bank that does not belong to the encoder.
      FloatingPointError: if the export does not give the encoder's features;
        nothing is left of it.
      OSError: if it cannot be written.

    Side effects: writes the folder under a name that starts with a dot and
      renames it, so that a server never sees a part of one.
    """
    if encoder.encoder is None or encoder.config is None:
        raise ValueError(
            "An encoder is exported from its run. Received "
            f"{encoder.title!r}, which is a model without one. Give --workdir."
        )
    final = version_folder(output, name, version)
    backbone = signatures.float32_backbone(encoder)
    linear, result = None, {}
    if head:
        size = backbone.output_shape[-1]
        linear, result = labelling.open_head(head, encoder, size)
    neighbours = labelling.open_bank(bank, encoder, workdir) if bank else None
    served = signatures.ServedEncoder(
        backbone, encoder.recipe, encoder.image_size, linear, neighbours
    )
    with filesystem.atomic_folder(final) as part:
        card = model_card.describe(
            encoder,
            name,
            version=int(final.name),
            described=_write_models(part, served, encoder, name),
            licence=licence,
            workdir=workdir,
            linear=result,
            bank=neighbours.title if neighbours else "",
            keras_note=_write_keras(part, backbone),
        )
        model_card.write(part, card)
        differences = comparison.check_export(part, served, encoder)
    print(_text(final, card, differences))
    return final


def version_folder(output, name, version=0):
    """The folder of a version that is not there yet.

    Args:
      output, name, version: as `export_run`.

    Returns:
      pathlib.Path OUTPUT/NAME/VERSION.

    Raises:
      ValueError: for a name or version that cannot be used.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(
            "--name must be of letters, digits, '_', '-' and '.', as it "
            f"becomes a folder and a part of addresses. Received {name!r}."
        )
    if version < 0:
        raise ValueError(
            "--version must be a positive number; 0 takes the next one. "
            f"Received {version}."
        )
    folder = paths.expand(output) / name
    versions = []
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
        versions = sorted(int(name) for name in names if name.isdecimal())
    if version in versions:
        raise ValueError(
            f"A version is written once. Received --version={version}, and "
            f"{folder} holds {', '.join(map(str, versions))}. Leave --version "
            "out to take the next one."
        )
    return folder / str(version or max(versions, default=0) + 1)


def _write_models(folder, served, encoder, name):
    """Writes the SavedModel and its warm-up; returns its signatures."""
    traced = served.signatures()
    try:
        with paths.plain(folder) as plain:
            tf.saved_model.save(served, plain, signatures=traced)
    except tf.errors.OpError as error:  # a full disk, in TensorFlow's words
        raise OSError(
            f"The export could not be written: {error.message}. Nothing is "
            "left of it. Free space, or give another --output."
        ) from error
    files = encoder.channels // 3  # of an image
    pairs = warm_up.requests(traced, encoder.recipe, encoder.image_size, files)
    warm_up.write(folder, name, pairs)
    return signatures.describe(traced)


def _write_keras(folder, backbone):
    """Writes encoder.keras; returns "", or why there is none."""
    try:
        keras_files.save(stock_model(backbone), folder / "encoder.keras")
    except keras_files.NotStock as error:
        return str(error)
    return ""


def stock_model(backbone):
    """Copies a backbone into layers that Keras itself has.

    Args:
      backbone: functional keras.Model, images -> features.

    Returns:
      keras.Model of the same layer names, weights and features. Trained, its
      BatchNormalization takes the whole batch as one group.

    Raises:
      keras_files.NotStock: for a model that holds other layers, with their
        names.
    """
    copy = cloning.clone_functional(backbone, _stock)
    foreign = sorted(
        {
            f"{type(layer).__module__}.{type(layer).__name__}"
            for layer in cloning.sublayers(copy)
            if type(layer).__module__.split(".")[0] != lane.KERAS
        }
    )
    if foreign:
        raise keras_files.NotStock(
            "A .keras file must hold layers of Keras alone. Received "
            f"{backbone.name!r} with {', '.join(foreign)}."
        )
    cloning.copy_weights(backbone, copy)
    return copy


def _stock(layer):
    """A BatchNormalization for our BatchNorm; None for another layer."""
    if not isinstance(layer, batch_norm.BatchNorm):
        return None
    return tf.keras.layers.BatchNormalization(
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        name=layer.name,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )


def keras_line(card):
    """What is to be known of the .keras file, or why there is none."""
    if not card["keras_file"]:
        return card["keras_note"]
    return (
        f"{card['keras_file']:<16} for Keras 2 (TensorFlow up to 2.15) and "
        "tf-keras; Keras 3 cannot load it: use the SavedModel there"
    )


def _text(folder, card, differences):
    """The summary: files, signatures, differences, commands to try."""
    pairs = card["encoder"]["input"] == "pair"
    lines = [f"wrote {paths.shown(folder)}"]
    lines += [
        f"  {name:<16} {', '.join(parts['inputs'])} -> "
        f"{', '.join(parts['outputs'])}"
        for name, parts in card["signatures"].items()
    ]
    lines.append(f"  {keras_line(card)}")
    lines.append(f"  licence: {paths.shown(card['licence'])}")
    lines.append("compared with the encoder:")
    lines += [f"  {difference}" for difference in differences]
    show = ["saved_model_cli", "show", f"--dir={folder}", "--tag_set=serve"]
    show.append("--signature_def=serving_default")
    serve = ["python", "launch/serve_local.py", f"--model={folder.parent}"]
    serve.append(f"--name={card['name']}")
    lines += [
        "try:",
        f"  {paths.join(show)}",
        f"  {paths.join(serve)}",
        f"  {model_card.curl(card['name'], pairs)}",
    ]
    return "\n".join(lines)
