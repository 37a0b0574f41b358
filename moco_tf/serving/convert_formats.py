"""Encoders in the formats of other runtimes: what writes and what runs them.

The packages are imported where they are used: only those of the chosen format
need to be installed (the extra `convert`).
"""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

SIGNATURE = "embed_tensors"
OPSET = 17  # of ONNX: what runtimes since 2022 read


class Format(NamedTuple):
    """A format.

    Attributes:
      suffix: of its files; OpenVINO's is that of a folder.
      packages: that writing and running it import.
      write: (folder of a SavedModel, it loaded, path to write) -> None.
      open: (path, output) -> function of float32 [n, S, S, 3].
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable
    open: Callable


def write_onnx(folder, loaded, path):
    """Writes the signature `embed_tensors` as ONNX, for any batch size.

    Args:
      folder: of a SavedModel. loaded: what tf.saved_model.load gives of it.
      path: of the file.
    """
    import tf2onnx

    del folder
    signature = loaded.signatures[SIGNATURE]
    spec = signature.structured_input_signature[1]["images"]
    # A function of its own: its inputs and outputs keep the names.
    tf2onnx.convert.from_function(
        tf.function(lambda images: signature(images=images)),
        input_signature=[tf.TensorSpec(spec.shape, spec.dtype, "images")],
        opset=OPSET,
        output_path=str(path),
    )


def open_onnx(path, output="features"):
    """Opens an ONNX file in onnxruntime, on the CPU.

    Args:
      path: of the file. output: "features" or "normalised".

    Returns:
      function: float32 [n, S, S, 3], normalised -> float32 [n, F].
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run([output], {"images": images})[0]


def write_tflite(folder, loaded, path):
    """Writes `embed_tensors` for TFLite, in float32, for any batch size.

    Args:
      folder, loaded, path: as `write_onnx`.
    """
    del loaded
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder), signature_keys=[SIGNATURE]
    )
    pathlib.Path(path).write_bytes(converter.convert())


def open_tflite(path, output="features"):
    """Opens a TFLite file in TensorFlow's interpreter, on the CPU.

    A change of the batch size costs time: the interpreter plans anew.

    Args:
      path, output: as `open_onnx`.

    Returns:
      as `open_onnx`.
    """
    interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
    runner = interpreter.get_signature_runner(SIGNATURE)
    return lambda images: runner(images=images)[output]


def write_openvino(folder, loaded, path):
    """Writes `embed_tensors` as OpenVINO's IR, for any batch size.

    Args:
      folder, loaded: as `write_onnx`.
      path: of a new folder, for model.xml and model.bin; a folder of the same
        name with ".saved_model" is left beside it.
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
    compiled = openvino.Core().compile_model(
        str(pathlib.Path(path) / "model.xml"),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
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
