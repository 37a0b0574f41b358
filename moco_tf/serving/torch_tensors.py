"""Tensors and storages of torch files, as NumPy arrays."""

import math

import ml_dtypes
import numpy as np

from moco_tf.serving import pickle_names
from moco_tf.serving.pickle_objects import Marker, Unreadable, refuse

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class Storage:
    """A row of elements that tensors are views of.

    Attributes:
      elements: array [n]; a file may fill it after tensors were made of it.
    """

    __slots__ = ("elements",)

    def __init__(self, elements):
        self.elements = elements


def storage_of(raw, dtype, count, name):
    """The first elements of a storage's bytes.

    Args:
      raw: uint8 [n]. dtype: np.dtype. count: int, elements as the file says.
      name: of the storage, for messages.

    Raises:
      Unreadable: if there are fewer bytes than that.
    """
    if count * dtype.itemsize > raw.size:
        raise Unreadable(
            f"Storage {name} must hold {count} elements of {dtype}. Received "
            f"{raw.size} bytes."
        )
    return Storage(raw[: count * dtype.itemsize].view(dtype))


def from_big_endian(elements):
    """Turns the bytes of each element, in place."""
    elements.view(f"u{elements.itemsize}").byteswap(inplace=True)


def tensor(storage, offset, size, stride):
    """A view of a storage, with bounds checked.

    Args:
      storage: Storage. offset: int. size, stride: tuples of int, in elements.

    Returns:
      array of that size.

    Raises:
      Unreadable: if the tensor reaches past the storage, or names its elements
        more than once (a small file could claim a huge tensor).
    """
    if not isinstance(storage, Storage):
        refuse("a tensor of no storage")
    size = pickle_names.whole_numbers(size, "The size of a tensor")
    stride = pickle_names.whole_numbers(stride, "The stride of a tensor")
    (offset,) = pickle_names.whole_numbers((offset,), "The offset of a tensor")
    held, count = storage.elements.size, math.prod(size)
    if not count:
        return np.empty(size, storage.elements.dtype)
    steps = zip(size, stride, strict=True)
    end = offset + sum((length - 1) * step for length, step in steps) + 1
    if end > held or count > held:
        raise Unreadable(
            f"A tensor of size {size}, stride {stride} and offset {offset} "
            f"must lie within its storage. Received a storage of {held} "
            "elements."
        )
    return np.lib.stride_tricks.as_strided(
        storage.elements[offset:],
        size,
        [step * storage.elements.itemsize for step in stride],
        writeable=False,
    )


def described_storage(identity):
    """The parts of a persistent id.

    Returns:
      (dtype, key str, count int, rest tuple).

    Raises:
      Unreadable: unless it is a storage with a known type.
    """
    parts = identity if type(identity) is tuple else ()
    if len(parts) < 5 or parts[0] != "storage":
        kind = parts[0] if parts and type(parts[0]) is str else "other things"
        refuse(f"a persistent id of {kind}")
    _, kind, key, _, count, *rest = parts
    if not isinstance(kind, Marker) or not isinstance(kind.value, np.dtype):
        refuse("a storage of an unknown type")
    if type(key) is not str or type(count) is not int or count < 0:
        raise Unreadable("A storage must have a text for a key and a length.")
    return kind.value, key, count, tuple(rest)


def _rebuild(storage, offset, size, stride, *_):
    # What is left out: whether it takes gradients, and hooks.
    return tensor(storage, offset, size, stride)


def _rebuild_parameter(data, requires_grad, hooks):
    del requires_grad, hooks
    if not isinstance(data, np.ndarray):
        refuse("a parameter of no tensor")
    return data


def _size(values):
    return pickle_names.whole_numbers(values, "A torch.Size")


_KINDS = {
    f"{module}.{name}": dtype
    for module in ("torch", "torch.cuda")  # files from GPUs, long ago
    for name, dtype in STORAGES.items()
}
_CLASSES = {name.replace("Storage", "Tensor"): None for name in _KINDS}
NAMES = {
    **pickle_names.NAMES,
    **pickle_names.table(
        {
            "torch._utils._rebuild_tensor": _rebuild,
            "torch._utils._rebuild_tensor_v2": _rebuild,
            "torch._utils._rebuild_parameter": _rebuild_parameter,
            "torch.Size": _size,
        },
        {**_KINDS, **_CLASSES},
    ),
}
