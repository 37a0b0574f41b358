"""What torch's files say of storages and tensors, as NumPy arrays.

A storage is a row of elements; a tensor is a view of one: offset, size and
strides, in elements. All functions by which torch 2.13 rebuilds tensors with
`weights_only=True` are in the table `NAMES`. Tensors that NumPy cannot hold as
they are (sparse, quantised, without values, of other types of elements) become
Inert, which says what they are.
"""

import dataclasses
import math
import struct
from typing import Any

import numpy as np

from moco_tf.weights import pickle_names, pickle_reader
from moco_tf.weights.pickle_reader import (
    Inert,
    Name,
    Pending,
    Unreadable,
    kind_of,
    refuse,
)

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": pickle_names.SMALL_FLOATS["bfloat16"],
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
}
# Elements that stand for others; tensors of them become Inert.
_QUANTISED = {
    "QInt8Storage": np.dtype(np.int8),
    "QUInt8Storage": np.dtype(np.uint8),
    "QInt32Storage": np.dtype(np.int32),
    "QUInt4x2Storage": np.dtype(np.uint8),
    "QUInt2x4Storage": np.dtype(np.uint8),
}
_UNTYPED = np.dtype(np.uint8)
_SMALL = tuple(pickle_names.SMALL_FLOATS.values())
_MAX_REPEATED = 2**24  # elements of a tensor that has more than its storage
# Of a tensor, by torch's names.
_DTYPES = {
    name: np.dtype(name)
    for name in """float16 float32 float64 complex64 complex128 bool uint8
        uint16 uint32 uint64 int8 int16 int32 int64""".split()
} | pickle_names.SMALL_FLOATS


@dataclasses.dataclass(slots=True)
class Storage:
    """A row of elements that tensors are views of.

    Attributes:
      elements: array [n]; a legacy file fills it after tensors were made of it.
      turned: whether the bytes of its untyped elements are in another order
        than this machine's.
    """

    elements: np.ndarray
    turned: bool = False


def tensor(storage, offset, size, stride):
    """A view of a storage, with bounds checked.

    Args:
      storage: Storage. offset: int. size, stride: tuples of int, in elements.

    Returns:
      array of that size.

    Raises:
      Unreadable: if the tensor reaches past the storage, or repeats its
        elements very often (a small file could claim a huge tensor).
    """
    if type(storage) is not Storage:
        refuse(f"a tensor of {kind_of(storage)}, no storage,")
    size = pickle_reader.natural_numbers(size, "The size of a tensor")
    stride = pickle_reader.natural_numbers(stride, "The stride of a tensor")
    (offset,) = pickle_reader.natural_numbers(
        (offset,), "The offset of a tensor"
    )
    available, count = storage.elements.size, math.prod(size)
    if not count:
        return np.empty(size, storage.elements.dtype)
    steps = zip(size, stride, strict=True)
    end = offset + sum((length - 1) * step for length, step in steps) + 1
    if end > available or count > max(available, _MAX_REPEATED):
        raise Unreadable(
            f"A tensor of size {size}, stride {stride} and offset {offset} "
            f"must lie within its storage. Received a storage of "
            f"{available} elements."
        )
    elements, kind = storage.elements[offset:], storage.elements.dtype
    if kind in _SMALL:  # NumPy may not know them by their description
        elements = elements.view(f"u{kind.itemsize}")
    view = np.lib.stride_tricks.as_strided(
        elements,
        size,
        [step * kind.itemsize for step in stride],
        writeable=False,
    )
    return view.view(kind)


def is_source(identity):
    """Whether a persistent id is of a class with its source, as of a module."""
    parts = identity if type(identity) is tuple else ()
    return len(parts) == 4 and parts[0] == "module"


def storage_parts(identity):
    """The parts of a persistent id, which describes a storage.

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
    if type(kind) is not Name or not isinstance(kind.value, np.dtype):
        refuse("a storage of an unknown type")
    if type(key) is not str or type(count) is not int or count < 0:
        raise Unreadable("A storage must have a text for a key and a length.")
    return kind.value, key, count, tuple(rest)


def part(storage, start, length):
    """A Storage of some elements of another, with bounds checked.

    Args:
      storage: Storage. start, length: int, in elements.

    Raises:
      Unreadable: if the part reaches past the storage.
    """
    if start + length > storage.elements.size:
        raise Unreadable(
            "A part of a storage must lie within it. Received elements "
            f"{start} to {start + length} of {storage.elements.size}."
        )
    return Storage(storage.elements[start : start + length])


def fill(elements, data, position, key):
    """Reads a count and that many elements.

    Args:
      elements: array [n], which is filled.
      data: memoryview of the file. position: int, of the count.
      key: of the storage, for the refusal.

    Returns:
      int, the position behind the elements.

    Raises:
      Unreadable: for another count than n, or data that are cut off.
    """
    raw, position = take(data, position, 8)
    (count,) = struct.unpack("<q", raw)
    if count != elements.size:
        raise Unreadable(
            f"Storage {str(key)[:40]} must hold {elements.size} elements. "
            f"Received {count}."
        )
    raw, position = take(data, position, elements.nbytes)
    elements.view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
    return position


def take(data, position, count):
    """The next bytes of a file, and the position behind them.

    Raises:
      Unreadable: if fewer are left.
    """
    if count < 0 or position + count > len(data):
        raise Unreadable(
            f"It is cut off: {count} bytes are wanted at byte {position}, "
            f"{max(len(data) - position, 0)} are left."
        )
    return data[position : position + count], position + count


def _rebuild(storage, offset, size, stride, *rest):
    """torch._utils._rebuild_tensor and _v2.

    Of the rest, whether it takes gradients and hooks do not matter; marks do.
    """
    return _unmarked(tensor(storage, offset, size, stride), rest[2:3])


def _rebuild_typed(
    storage, offset, size, stride, requires_grad, hooks, kind, *rest
):
    """torch._utils._rebuild_tensor_v3: a storage of bytes, with a type."""
    del requires_grad, hooks
    if type(kind) is not Name or not isinstance(kind.value, np.dtype):
        return Inert(f"a tensor of {kind_of(kind)}")
    if type(storage) is not Storage:
        refuse(f"a tensor of {kind_of(storage)}, no storage,")
    size_of = kind.value.itemsize
    usable = storage.elements.nbytes // size_of * size_of
    elements = storage.elements.view(np.uint8)[:usable]
    if storage.turned:
        elements = elements.view(f"u{size_of}").byteswap()
    typed = Storage(elements.view(kind.value))
    return _unmarked(tensor(typed, offset, size, stride), rest[:1])


def _unmarked(value, marks):
    """A tensor, unless it stands for the negative or the conjugate of it."""
    for mark in marks:
        if type(mark) is dict and any(mark.values()):
            names = ", ".join(str(name) for name in mark if mark[name])
            return Inert(f"a tensor with the mark {names[:40]}")
    return value


def _rebuild_parameter(data=None, *_):
    """Parameters: whether they take gradients, hooks, state are left out."""
    if type(data) not in (np.ndarray, Inert):
        refuse("a parameter of no tensor")
    return data


def _rebuild_subclass(function, kind, arguments, *_):
    """A tensor of a class of its own, with attributes, which are left out."""
    del kind
    known = type(function) is Name and function.name in _REBUILDERS
    if not known or type(arguments) is not tuple:
        return Inert(kind_of(function))
    return function.value(*arguments)


def _rebuild_sparse(*_):
    return Inert("a sparse tensor")


def _rebuild_quantised(*_):
    return Inert("a quantised tensor")


def _rebuild_nested(*_):
    return Inert("a nested tensor")


def _rebuild_meta(*_):
    return Inert("a tensor without values, of the device meta")


def _rebuild_wrapper(kind=None, *_):
    return Inert(f"a tensor of {kind_of(kind)}")


def _old_tensor(*_):
    """torch.FloatTensor(), which a BUILD gives storage, offset and strides."""

    def build(state):
        if type(state) is not tuple or len(state) != 4:
            refuse("a tensor with an unknown state")
        return tensor(*state)

    return Pending(build)


def _size(values=()):
    return pickle_reader.natural_numbers(values, "A torch.Size")


_REBUILDERS = {
    f"torch._utils.{name}": function
    for name, function in {
        "_rebuild_tensor": _rebuild,
        "_rebuild_tensor_v2": _rebuild,
        "_rebuild_tensor_v3": _rebuild_typed,
        "_rebuild_parameter": _rebuild_parameter,
        "_rebuild_parameter_with_state": _rebuild_parameter,
        "_rebuild_sparse_tensor": _rebuild_sparse,
        "_rebuild_sparse_csr_tensor": _rebuild_sparse,
        "_rebuild_qtensor": _rebuild_quantised,
        "_rebuild_nested_tensor": _rebuild_nested,
        "_rebuild_meta_tensor_no_storage": _rebuild_meta,
        "_rebuild_wrapper_subclass": _rebuild_wrapper,
        # From other devices: a tensor of the host, with all values.
        "_rebuild_device_tensor_from_numpy": _rebuild_parameter,
        "_rebuild_device_tensor_from_cpu_tensor": _rebuild_parameter,
        "_rebuild_xla_tensor": _rebuild_parameter,
    }.items()
}
_TYPES: dict[str, Any] = {
    f"{module}.{name}": kind
    for module in ("torch", "torch.cuda")  # files from GPUs, long ago
    for name, kind in (STORAGES | _QUANTISED).items()
}
NAMES: dict[str, Any] = {
    **pickle_names.NAMES,
    **_REBUILDERS,
    "torch._tensor._rebuild_from_type": _rebuild_subclass,
    "torch._tensor._rebuild_from_type_v2": _rebuild_subclass,
    "torch.tensor._rebuild_from_type_v2": _rebuild_subclass,  # of torch 1.8
    "torch.nn.parameter.Parameter": _rebuild_parameter,
    "torch.Size": _size,
    **_TYPES,
    **{name.replace("Storage", "Tensor"): _old_tensor for name in _TYPES},
    "torch.Tensor": _old_tensor,
    "torch.storage.UntypedStorage": _UNTYPED,
    "torch.storage._UntypedStorage": _UNTYPED,
    **{f"torch.{name}": kind for name, kind in _DTYPES.items()},
}
