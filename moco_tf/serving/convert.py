"""Converts an exported encoder for another runtime (the `convert` command).

The encoder is the export's signature `embed_tensors`. The packages of a format
are imported where they are used: only those of the chosen format need to be
installed (the extra `convert`).
"""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from moco_tf import cores, filesystem, naming, paths, standard_error
from moco_tf.data import sources, unreadable, views
from moco_tf.evaluation import frozen
from moco_tf.models import saved_models
from moco_tf.serving import comparison, server

SIGNATURE = "embed_tensors"
OPSET = 17  # of ONNX: runtimes since 2022 read it
COMPARED = 16  # images of a source, spread over it
# What TensorFlow 2.21 prints once in a process, whatever the log level.
_DELEGATE = b"Created TensorFlow Lite XNNPACK delegate for CPU"


class Format(NamedTuple):
    """The format of a runtime.

    Attributes:
      suffix: of its files; OpenVINO's is that of a folder.
      packages: that writing and running it import.
      write: (folder of a SavedModel, the same loaded, path to write) -> None.
      open: (path, output) -> function of float32 [n, S, S, 3].
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable
    open: Callable


class Exported(NamedTuple):
    """A version of an export, loaded.

    Attributes:
      folder: pathlib.Path. loaded: result of tf.saved_model.load.
      image_size: S, pixels.
      recipe: views.Recipe, whose evaluation view and normalisation it expects.
      channels: C, of the images.
    """

    folder: pathlib.Path
    loaded: object
    image_size: int
    recipe: views.Recipe
    channels: int


def convert_export(model, to, path="", images=""):
    """Writes an export's encoder for a runtime, runs it there and compares.

    The converted encoder takes normalised images float32 [n, S, S, C], any n,
    and returns `features` and `normalised`, float32 [n, F]: it is the
    SavedModel's signature `embed_tensors`.

    Args:
      model: folder of an export, or of its versions: the newest.
      to: name in FORMATS.
      path: file to write, for OpenVINO a folder; "": NAME-VERSION with the
        format's suffix, beside the folder of versions.
      images: source spec of images to compare on; "": photographs that come
        with the packages.

    Returns:
      pathlib.Path of the new file or folder.

    Raises:
      ValueError: before anything is written, for packages that are missing, a
        path that is taken, or a model that is not an export.
      FloatingPointError: if the runtime does not give the SavedModel's
        features to comparison.LIMIT; nothing is left of the file.

    Side effects: writes under a name that starts with a dot and renames; and
    prints the differences.
    """
    chosen = _format(to)
    folder, _ = server.newest_version(model)
    final = _path(path, folder, chosen.suffix)
    _refuse_existing(final)
    exported = open_export(folder)
    tensors = _normalised(_images(images, exported.channels), exported)
    with _scratch(final, chosen.suffix) as part:
        chosen.write(exported.folder, exported.loaded, part)
        differences = _compare(chosen, part, exported, tensors)
        listed = "\n".join(f"  {difference}" for difference in differences)
        if not all(d.relative <= comparison.LIMIT for d in differences):
            raise FloatingPointError(
                f"The encoder as {to} must give the features of the "
                f"SavedModel, to {comparison.LIMIT:g} of the largest. Received "
                f"from {folder}:\n{listed}\nNothing is kept. Try the versions "
                "of the packages that the extra `convert` names."
            )
    size, recipe = exported.image_size, exported.recipe
    shape = f"[n, {size}, {size}, {exported.channels}]"
    print(
        f"converted {paths.shown(folder)}\nwrote {paths.shown(final)}\n"
        f"  images float32 {shape}, (RGB / 255 - mean) / std, "
        f"mean {recipe.mean}, std {recipe.std} -> features, normalised\n"
        f"compared with the SavedModel on {len(tensors)} images:\n{listed}"
    )
    return final


def open_export(folder):
    """Loads a version of an export.

    Args:
      folder: of a SavedModel with model_card.json.

    Returns:
      Exported.

    Raises:
      ValueError: for a SavedModel that `export` did not write.
    """
    folder = pathlib.Path(folder)
    settings = frozen.read_preprocessing(folder)
    loaded = saved_models.load(folder)
    name = SIGNATURE
    known = settings.get("views") in views.RECIPES and "image_size" in settings
    if name not in loaded.signatures or not known:
        raise ValueError(
            f"The model must be an export: with the signature {name} and "
            "with model_card.json, which names its views. Received "
            f"{str(folder)!r} with the signatures "
            f"{', '.join(loaded.signatures) or 'none'}"
            f"{'' if settings else ' and without the card'}. Make one with "
            "moco-tf export."
        )
    recipe = views.RECIPES[settings["views"]]
    inputs = loaded.signatures[name].structured_input_signature[1]
    channels = inputs["images"].shape[-1]
    return Exported(folder, loaded, settings["image_size"], recipe, channels)


def _format(to):
    """The format of a name, whose packages are installed."""
    if to not in FORMATS:
        raise ValueError(
            f"--to must be one of {', '.join(FORMATS)}. "
            f"Received {to!r}. " + naming.suggestion(to, FORMATS)
        )
    chosen = FORMATS[to]
    # None stands in sys.modules for a package that must not be imported.
    missing = [
        n for n in chosen.packages if importlib.util.find_spec(n) is None
    ]
    if missing:
        raise ValueError(
            f"--to={to} needs the packages {', '.join(chosen.packages)}. "
            f"Received an environment without {', '.join(missing)}. Install "
            "them, in the checkout: pip install -e '.[convert]'"
        )
    return chosen


def _path(path, folder, suffix):
    if path:
        return paths.expand(path)
    folder = folder.resolve()
    if not folder.name.isdecimal():
        return folder.with_name(folder.name + suffix)
    versions = folder.parent
    return versions.with_name(f"{versions.name}-{folder.name}{suffix}")


def _refuse_existing(final):
    if final.exists():
        raise ValueError(
            f"A converted encoder is written to a new path. Received {final}, "
            "which is there. Remove it, or give another by --path."
        )


@contextlib.contextmanager
def _scratch(final, suffix):
    """Yields a path in a folder for the time of the block.

    Its name has the final suffix because converters look at that, and is plain
    because not all of them take any name; the folder is there because some
    leave other files beside it.

    Side effects: renames the path to the final one when all went well.
    """
    folder = filesystem.part_of(final)
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    folder.mkdir(parents=True)
    try:
        with paths.plain(folder) as plain:
            yield pathlib.Path(plain) / f"model{suffix}"
        _refuse_existing(final)  # of another command, in the meantime
        os.rename(folder / f"model{suffix}", final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _images(spec, channels):
    """Yields images of a source that can be read, COMPARED at most.

    Args:
      spec: of the source; "": the photographs. channels: int.
    """
    if not spec:
        yield from comparison.inputs_of_photographs(channels // 3)[1]
        return
    source = sources.open_source(spec, channels)
    for index in sources.evenly_spaced(len(source), COMPARED):
        image, reason = unreadable.read(source, index)
        if image is None:
            name = paths.shown(source.name(int(index)))
            print(f"not compared: {name}: {paths.shown(reason)}")
        else:
            yield image


def _normalised(images, exported):
    """Inputs of the encoder, float32 [n, S, S, C], of uint8 images."""
    recipe, size = exported.recipe, exported.image_size
    pixels = [recipe.evaluate(image, size) for image in images]
    if not pixels:
        raise ValueError(
            "Features are compared on images. Received a source of which none "
            "was read. Give another by --images."
        )
    return views.normalize(tf.stack(pixels), recipe.mean, recipe.std).numpy()


def _compare(chosen, path, exported, tensors):
    """Differences of both outputs, for the first image and for all."""
    signature = exported.loaded.signatures[SIGNATURE]
    expected = signature(images=tf.constant(tensors))
    differences = []
    for output, rows in sorted(expected.items()):
        encode = chosen.open(path, output)
        for count in sorted({1, len(tensors)}):
            title = f"{output} [{count}]"
            features = encode(tensors[:count])
            differences.append(
                comparison.compare(title, features, rows[:count])
            )
    return differences


def write_onnx(folder, loaded, path):
    """Writes the signature `embed_tensors` as ONNX, for any batch size.

    Args:
      folder: of a SavedModel. loaded: result of tf.saved_model.load for it.
      path: of the file.
    """
    import tf2onnx

    del folder
    signature = loaded.signatures[SIGNATURE]
    spec = signature.structured_input_signature[1]["images"]
    # Inputs and outputs keep their names if this is a new function.
    with paths.plain(path) as plain:
        tf2onnx.convert.from_function(
            tf.function(lambda images: signature(images=images)),
            input_signature=[tf.TensorSpec(spec.shape, spec.dtype, "images")],
            opset=OPSET,
            output_path=plain,
        )


def open_onnx(path, output="features"):
    """Opens an ONNX file in onnxruntime, on the CPU.

    Args:
      path: of the file. output: "features" or "normalised".

    Returns:
      function: float32 [n, S, S, 3], normalised -> float32 [n, F].
    """
    import onnxruntime

    with paths.plain(path) as plain:
        session = onnxruntime.InferenceSession(
            plain, providers=["CPUExecutionProvider"]
        )
    return lambda images: session.run([output], {"images": images})[0]


def write_tflite(folder, loaded, path):
    """Writes `embed_tensors` for TFLite, in float32, for any batch size.

    Args:
      folder, loaded, path: as `write_onnx`.
    """
    del loaded
    failed = True
    # It counts the operations that it has left as they are: no news, where the
    # outputs are compared.
    with (
        paths.plain(folder) as plain,
        standard_error.capture(lambda line: failed),
    ):
        converter = tf.lite.TFLiteConverter.from_saved_model(
            plain, signature_keys=[SIGNATURE]
        )
        model = converter.convert()
        failed = False
    pathlib.Path(path).write_bytes(model)


def open_tflite(path, output="features"):
    """Opens a TFLite file in TensorFlow's interpreter, on the CPU.

    A change of the batch size costs time: the interpreter plans anew.

    Args:
      path, output: as `open_onnx`.

    Returns:
      as `open_onnx`.
    """
    with (
        paths.plain(path) as plain,
        warnings.catch_warnings(),
        standard_error.capture(lambda line: _DELEGATE not in line),
    ):
        # TensorFlow 2.21 has it, and warns that a later one will not.
        warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter")
        interpreter = tf.lite.Interpreter(plain, num_threads=cores.count())
        # The first in a process says how it computes, with 2.21.
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner(SIGNATURE)
    return lambda images: runner(images=images)[output]


def write_openvino(folder, loaded, path):
    """Writes `embed_tensors` as OpenVINO's IR, for any batch size.

    Args:
      folder, loaded: as `write_onnx`.
      path: of a new folder with a plain name (see `paths.plain`), for
        model.xml and model.bin; a folder of the same name with ".saved_model"
        is left beside it.
    """
    openvino = _import_openvino()
    del folder
    # It reads a SavedModel's default signature, which takes bytes in ours.
    saved = f"{path}.saved_model"
    signature = loaded.signatures[SIGNATURE]
    tf.saved_model.save(loaded, saved, {"serving_default": signature})
    model = openvino.Core().read_model(saved)
    # By default the weights would become float16.
    openvino.save_model(
        model, str(pathlib.Path(path) / "model.xml"), compress_to_fp16=False
    )


def open_openvino(path, output="features"):
    """Opens an IR in OpenVINO, on the CPU and in float32.

    Args:
      path: of the folder. output: as `open_onnx`.

    Returns:
      as `open_onnx`.
    """
    openvino = _import_openvino()
    # Left to itself it may compute in 16 bits where the CPU has them.
    with paths.plain(path) as plain:
        compiled = openvino.Core().compile_model(
            f"{plain}/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
    return lambda images: compiled(images)[output]


def _import_openvino():
    """Imports OpenVINO without its report to its maker.

    On import it sends one over the network and writes an identifier into the
    home folder, unless the package that does so cannot be imported.
    """
    name = "openvino_telemetry"
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if absent:
            del sys.modules[name]
    return openvino


# To add a format, add a line.
FORMATS = {
    "onnx": Format(
        ".onnx", ("tf2onnx", "onnx", "onnxruntime"), write_onnx, open_onnx
    ),
    "tflite": Format(".tflite", (), write_tflite, open_tflite),
    "openvino": Format(
        ".openvino", ("openvino",), write_openvino, open_openvino
    ),
}
