"""What names in a pickle stand for: containers, bytes and NumPy's arrays."""

import collections
import math
import re

import numpy as np

from moco_tf.serving.pickle_objects import (
    Constructor,
    Marker,
    Pending,
    Unreadable,
    refuse,
)

_NUMBERS = re.compile(r"[fiu][1248]|b1")  # never objects, nor text
_MOST_AXES = 16


class _PendingType(Pending):
    """A dtype until its byte order comes."""

    def __init__(self, text):
        super().__init__()
        self.text = text

    def build(self, state):
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if order not in ("<", ">", "|", "=") or any(state[2:5]):
            refuse(f"numpy.dtype {self.text} of other than plain numbers")
        return np.dtype(self.text).newbyteorder(order)


class _PendingArray(Pending):
    """An array until its shape, type and bytes come."""

    def build(self, state):
        if type(state) is not tuple or len(state) != 5:
            refuse("numpy.ndarray with an unknown state")
        _, shape, dtype, fortran, data = state
        return array(data, dtype, shape, "F" if fortran else "C")


def dtype(text, *_):
    """numpy.dtype(text, align, copy): plain numbers alone."""
    if type(text) is not str or not _NUMBERS.fullmatch(text.lstrip("<>|=")):
        refuse(f"numpy.dtype({str(text)[:20]!r})")
    return _PendingType(text)


def array(data, dtype, shape, order="C"):
    """An array over bytes of a file, read-only.

    Args:
      data: bytes, or text of one character a byte (of Python 2).
      dtype: np.dtype. shape: tuple of int. order: "C" or "F".

    Raises:
      Unreadable: unless the bytes are as many as the shape needs.
    """
    data = data.encode("latin1") if type(data) is str else data
    if type(data) is not bytes or not isinstance(dtype, np.dtype):
        refuse(f"numpy.ndarray of {type(data).__name__}")
    if type(order) is not str or order not in ("C", "F"):
        refuse("numpy.ndarray of another memory order")
    sizes = whole_numbers(shape, "a shape")
    needed = math.prod(sizes) * dtype.itemsize
    if needed != len(data):
        raise Unreadable(
            f"An array of shape {sizes} and type {dtype} needs {needed} bytes. "
            f"Received {len(data)}."
        )
    return np.frombuffer(data, dtype).reshape(sizes, order=order)


def whole_numbers(values, what):
    """Returns a tuple of int, none below 0.

    Raises:
      Unreadable: for anything else.
    """
    right = type(values) in (tuple, list) and len(values) <= _MOST_AXES
    if not right or any(type(v) is not int or v < 0 for v in values):
        raise Unreadable(
            f"{what} must be up to {_MOST_AXES} whole numbers of 0 or more."
        )
    return tuple(values)


def _reconstruct(kind, shape, code):
    del shape, code
    if not isinstance(kind, Marker) or kind.name != "numpy.ndarray":
        refuse("numpy._reconstruct of another class")
    return _PendingArray()


def _scalar(dtype, data):
    return array(data, dtype, ())[()].item()


def _encode(text, encoding):
    if type(text) is not str or encoding != "latin1":
        refuse(f"_codecs.encode to {str(encoding)[:20]}")
    return text.encode("latin1")


def _no_bytes():
    return b""


def _ordered(pairs=()):
    found = collections.OrderedDict()
    if type(pairs) not in (tuple, list):
        refuse(f"collections.OrderedDict of a {type(pairs).__name__}")
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2:
            refuse("collections.OrderedDict of other than pairs")
        if type(pair[0]) not in (str, int):
            refuse(f"a {type(pair[0]).__name__} as a key")
        found[pair[0]] = pair[1]
    return found


def _set(values):
    if type(values) is not list or not {type(v) for v in values} <= {str, int}:
        refuse("a set of other than text and whole numbers")
    return set(values)


def table(constructors, markers=()):
    """Names for pickle_machine.load.

    Args:
      constructors: dict "module.name" -> function. markers: dict likewise, to
        a value that cannot be called.
    """
    found: dict[tuple[str, ...], object] = {}
    for name, build in constructors.items():
        found[tuple(name.rsplit(".", 1))] = Constructor(name, build)
    for name, value in dict(markers).items():
        found[tuple(name.rsplit(".", 1))] = Marker(name, value)
    return found


_PLAIN = {
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.bytes": _no_bytes,
    "__builtin__.set": _set,
    "__builtin__.frozenset": _set,
    "__builtin__.bytes": _no_bytes,
    "numpy.dtype": dtype,
}
# NumPy 2 renamed numpy.core.
for _core in ("numpy.core", "numpy._core"):
    _PLAIN[f"{_core}.multiarray._reconstruct"] = _reconstruct
    _PLAIN[f"{_core}.multiarray.scalar"] = _scalar
    _PLAIN[f"{_core}.numeric._frombuffer"] = array

NAMES = table(_PLAIN, {"numpy.ndarray": None})
