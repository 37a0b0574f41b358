"""Reads and writes safetensors, with the package of that name.

A file begins with the length of its header, in eight bytes, and the header, a
JSON object: name of a tensor -> its type, shape, and where it begins and ends
behind the header. The package reads the tensors. What a header claims is
checked here first, so that no file takes more memory than it has bytes.
"""

import json
import math

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from moco_tf import filesystem, paths
from moco_tf.weights import pickle_names
from moco_tf.weights.pickle_reader import Inert, Unreadable, printable

_LENGTH = 8  # bytes of the header's length
_MAX_HEADER = 8 * 2**20  # bytes; a ResNet-152 takes 0.1 million
_MAX_AXES = 16
_SMALL = tuple(pickle_names.SMALL_FLOATS.values())
_NOTES = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
# Bits of an element, and NumPy's type of it; None: NumPy has none.
_TYPES: dict[str, tuple[int, np.dtype | None]] = {
    "F64": (64, np.dtype(np.float64)),
    "F32": (32, np.dtype(np.float32)),
    "F16": (16, np.dtype(np.float16)),
    "BF16": (16, pickle_names.SMALL_FLOATS["bfloat16"]),
    "F8_E4M3": (8, pickle_names.SMALL_FLOATS["float8_e4m3fn"]),
    "F8_E5M2": (8, pickle_names.SMALL_FLOATS["float8_e5m2"]),
    "F8_E4M3FNUZ": (8, pickle_names.SMALL_FLOATS["float8_e4m3fnuz"]),
    "F8_E5M2FNUZ": (8, pickle_names.SMALL_FLOATS["float8_e5m2fnuz"]),
    "F8_E8M0": (8, None),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "F4": (4, None),
    "C64": (64, np.dtype(np.complex64)),
    "I64": (64, np.dtype(np.int64)),
    "U64": (64, np.dtype(np.uint64)),
    "I32": (32, np.dtype(np.int32)),
    "U32": (32, np.dtype(np.uint32)),
    "I16": (16, np.dtype(np.int16)),
    "U16": (16, np.dtype(np.uint16)),
    "I8": (8, np.dtype(np.int8)),
    "U8": (8, np.dtype(np.uint8)),
    "BOOL": (8, np.dtype(np.bool_)),
}


def read(path, data):
    """Reads the tensors of a file.

    Args:
      path: of the file. data: memoryview of it.

    Returns:
      dict name -> array, in the order of the elements; Inert for a type that
      NumPy has not.

    Raises:
      Unreadable: if the file is damaged, or its header claims what is not so.
    """
    header = _header(data)
    header.pop(_NOTES, None)
    start = len(data) - sum(_check(name, e) for name, e in header.items())
    _check_places(header, start, data)
    elements = data[start:]
    tensors = {}
    try:
        with (
            paths.plain(path) as plain,
            safetensors.safe_open(plain, framework="np") as file,
        ):
            known = set(file.keys())
            if known != set(header):
                raise Unreadable(
                    "Its header has names that are read in two ways."
                )
            for name, entry in header.items():
                kind = _TYPES[entry["dtype"]][1]
                if kind is None:
                    tensors[name] = Inert(f"a tensor of {entry['dtype']}")
                elif kind in _SMALL:  # the package may have no such arrays
                    first, last = entry["data_offsets"]
                    flat = np.frombuffer(elements[first:last], kind)
                    tensors[name] = flat.reshape(entry["shape"])
                else:
                    tensors[name] = file.get_tensor(name)
    except safetensors.SafetensorError as error:
        raise Unreadable(f"It is damaged: {printable(str(error))}.") from error
    return tensors


def write(path, tensors):
    """Writes tensors; the same ones give the same bytes.

    Args:
      path: of the file; its folder is made. It appears complete or not at all.
      tensors: dict name -> array.

    Raises:
      OSError: if the file cannot be written.
    """
    arrays = {
        name: np.ascontiguousarray(value).reshape(value.shape)
        for name, value in tensors.items()
    }
    # The package writes several notes in any order. This one others ask for.
    data = safetensors_numpy.save(arrays, {"format": "pt"})
    with filesystem.atomic_file(path) as part, open(part, "wb") as file:
        file.write(data)


def _header(data):
    """The header as a dict, with no name twice."""
    length = int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or length > len(data) - _LENGTH:
        raise Unreadable(
            f"It is cut off or damaged: its header has {length} bytes, of "
            f"{max(len(data) - _LENGTH, 0)} that follow."
        )
    if length > _MAX_HEADER:
        raise Unreadable(
            f"Its header must have up to {_MAX_HEADER} bytes. Received "
            f"{length}."
        )
    try:
        header = json.loads(
            bytes(data[_LENGTH : _LENGTH + length]).decode(),
            object_pairs_hook=_unique,
        )
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable(
            f"Its header is no JSON: {printable(str(error))}."
        ) from error
    if type(header) is not dict:
        raise Unreadable("Its header must be a JSON object.")
    return header


def _unique(pairs):
    names = dict(pairs)
    if len(names) != len(pairs):
        raise Unreadable("Its header names something twice.")
    return names


def _check(name, entry):
    """Checks what a header says of one tensor; returns its size in bytes."""
    title = f"Tensor {printable(name[:60])!r}"
    if type(entry) is not dict or set(entry) != _FIELDS:
        raise Unreadable(f"{title} must have {', '.join(sorted(_FIELDS))}.")
    kind, shape, places = (
        entry[key] for key in ("dtype", "shape", "data_offsets")
    )
    if type(kind) is not str or kind not in _TYPES:
        shown = printable(str(kind)[:20])
        raise Unreadable(f"{title} is of an unknown type, {shown!r}.")
    if not _numbers(shape) or len(shape) > _MAX_AXES:
        raise Unreadable(f"{title} must have up to {_MAX_AXES} sizes.")
    if not _numbers(places) or len(places) != 2 or places[0] > places[1]:
        raise Unreadable(f"{title} must have a begin and an end behind it.")
    bits = math.prod(shape) * _TYPES[kind][0]
    size = places[1] - places[0]
    if bits != 8 * size:
        raise Unreadable(
            f"{title} of type {kind} and shape {tuple(shape)} needs "
            f"{bits / 8:g} bytes. Received {size}."
        )
    return size


def _numbers(values):
    return type(values) is list and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _check_places(header, start, data):
    """The tensors must fill what follows the header, each a part of its own."""
    length = int.from_bytes(data[:_LENGTH], "little")
    end = 0
    places = (entry["data_offsets"] for entry in header.values())
    for first, last in sorted(places):
        if first != end:
            raise Unreadable(
                "Its tensors must follow each other without a gap, and none in "
                f"another. Received one that begins at {first}, after {end}."
            )
        end = last
    if start != _LENGTH + length:
        raise Unreadable(
            f"It is cut off or damaged: its tensors have {end} bytes, and "
            f"{len(data) - _LENGTH - length} follow the header."
        )
