"""What names in a pickle stand for: containers of Python, arrays of NumPy.

A pickle is read with a table of names (pickle_reader.load). `NAMES` is the part
that every file of weights needs. Its functions make plain values of a file's
parts; what is no plain value, such as an array of objects, becomes Inert.
"""

import collections
import math
import re
from typing import Any

import ml_dtypes
import numpy as np

from moco_tf.weights.pickle_reader import (
    Inert,
    Name,
    Pending,
    Unreadable,
    as_key,
    kind_of,
    natural_numbers,
    refuse,
)

# Types of elements that NumPy has not; by their names in ml_dtypes.
SMALL_FLOATS = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in (
        "bfloat16",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
    )
}
_NUMBERS = re.compile(r"[fiu][1248]|b1|c8|c16")  # never objects, nor text


def _dtype(element, *_):
    """numpy.dtype(element, align, copy): numbers alone are read."""
    if type(element) is Name and isinstance(element.value, np.dtype):
        kind = element.value
    elif type(element) is str and _NUMBERS.fullmatch(element.lstrip("<>|=")):
        kind = np.dtype(element)
    else:
        text = element if type(element) is str else kind_of(element)
        return Inert(f"numpy.dtype {text[:20]}")

    def build(state):
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if order not in ("<", ">", "|", "=") or any(state[2:5]):
            refuse(f"numpy.dtype {kind} of other than plain numbers")
        return kind.newbyteorder(order) if kind.isbuiltin == 1 else kind

    return Pending(build)


def _array(data, dtype, shape, order="C"):
    """An array over bytes of a file, read-only.

    Args:
      data: bytes, or text of one character a byte (of Python 2).
      dtype: np.dtype. shape: tuple of int. order: "C" or "F".

    Returns:
      array, or Inert if its elements are no numbers.

    Raises:
      Unreadable: unless the bytes are as many as the shape needs.
    """
    if type(dtype) is Inert:
        return Inert(f"an array of {dtype.kind}")
    data = data.encode("latin1") if type(data) is str else data
    if type(data) is not bytes or not isinstance(dtype, np.dtype):
        refuse(f"numpy.ndarray of {type(data).__name__}")
    if type(order) is not str or order not in ("C", "F"):
        refuse("numpy.ndarray of another memory order")
    sizes = natural_numbers(shape, "a shape")
    needed = math.prod(sizes) * dtype.itemsize
    if needed != len(data):
        raise Unreadable(
            f"An array of shape {sizes} and type {dtype} needs {needed} bytes. "
            f"Received {len(data)}."
        )
    return np.frombuffer(data, dtype).reshape(sizes, order=order)


def _reconstruct(kind, shape, code):
    """An array without elements, which a BUILD gives shape, type and bytes."""
    del shape, code
    if type(kind) is not Name or kind.name != "numpy.ndarray":
        return Inert(kind_of(kind))

    def build(state):
        if type(state) is not tuple or len(state) != 5:
            refuse("numpy.ndarray with an unknown state")
        _, shape, dtype, fortran, data = state
        return _array(data, dtype, shape, "F" if fortran else "C")

    return Pending(build)


def _scalar(dtype, data):
    if type(dtype) is Inert:
        return Inert(f"a number of {dtype.kind}")
    return _array(data, dtype, ())[()].item()


def _encode(text, encoding="utf-8"):
    """_codecs.encode, by which protocol 2 writes bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        return Inert("_codecs.encode")
    return text.encode("latin1")


def _ordered(pairs=()):
    if type(pairs) is dict:
        return collections.OrderedDict(pairs)
    if type(pairs) not in (tuple, list):
        refuse(f"collections.OrderedDict of {kind_of(pairs)}")
    if any(type(pair) not in (tuple, list) or len(pair) != 2 for pair in pairs):
        refuse("collections.OrderedDict of other than pairs")
    return collections.OrderedDict((as_key(k), value) for k, value in pairs)


def _counter(counts=()):
    return dict(counts) if isinstance(counts, dict) else {}


def _default(*_):  # the function that makes missing entries, and pairs
    return {}


def _set(values=()):
    if type(values) not in (list, tuple, set):
        refuse(f"a set of {kind_of(values)}")
    return set(map(as_key, values))


def _complex(real=0.0, imaginary=0.0):
    if {type(real), type(imaginary)} <= {int, float}:
        return complex(real, imaginary)
    return Inert("a complex number")


def _bytes(value=b"", *_):
    if type(value) is str:  # of Python 2
        return value.encode("latin1")
    return value if type(value) is bytes else Inert("bytes")


NAMES: dict[str, Any] = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,
    "collections.defaultdict": _default,
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    "numpy.ndarray": None,
    **{f"ml_dtypes.{name}": kind for name, kind in SMALL_FLOATS.items()},
}
for _builtins in ("builtins", "__builtin__"):  # of Python 3 and 2
    NAMES[f"{_builtins}.set"] = _set
    NAMES[f"{_builtins}.frozenset"] = _set
    NAMES[f"{_builtins}.bytes"] = _bytes
    NAMES[f"{_builtins}.bytearray"] = _bytes
    NAMES[f"{_builtins}.complex"] = _complex
for _core in ("numpy.core", "numpy._core"):  # NumPy 2 renamed it
    NAMES[f"{_core}.multiarray._reconstruct"] = _reconstruct
    NAMES[f"{_core}.multiarray.scalar"] = _scalar
    NAMES[f"{_core}.numeric._frombuffer"] = _array
