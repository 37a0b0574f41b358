"""Writes files that torch.load and detectron2 read, without torch.

The bytes are a function of the values alone: dates in the archive are fixed.
"""

import collections
import pickle
import struct
import zipfile

import numpy as np

from moco_tf import whole
from moco_tf.serving import torch_tensors

_ALIGNMENT = 64  # bytes, of each storage in the file; as torch writes them
_PADDING = 0x4246  # "FB": the id of the extra field that torch pads with
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a ZIP archive
_STORAGE_NAMES = {dtype: name for name, dtype in torch_tensors.STORAGES.items()}


def write_torch(path, value):
    """Writes a file in torch's zip layout.

    Args:
      path: of the file; its folder is made. It appears whole or not at all.
      value: dict, OrderedDict, list, tuple, str, int, float, bool or None, and
        arrays of the types in torch_tensors.STORAGES, which become tensors.

    Raises:
      ValueError: for a value of another type.
      OSError: if the file cannot be written.
    """
    emitter = _Emitter()
    body = emitter.pickle(value)
    with whole.file(path) as part, zipfile.ZipFile(part, "w") as archive:
        _store(archive, "archive/data.pkl", body)
        _store(archive, "archive/byteorder", b"little")
        for number, array in enumerate(emitter.storages):
            data = array.astype(array.dtype.newbyteorder("<"), copy=False)
            _store(archive, f"archive/data/{number}", data.tobytes())
        _store(archive, "archive/version", b"3\n")


def write_pickle(path, value):
    """Writes a plain pickle, as pickle.dump of Python 3.8 to 3.13 does.

    Args:
      path: of the file; its folder is made. It appears whole or not at all.
      value: containers of text, numbers and arrays.

    Raises:
      OSError: if the file cannot be written.
    """
    with whole.file(path) as part, open(part, "wb") as file:
        pickle.dump(value, file, protocol=4)


def _store(archive, name, data):
    """Adds a member whose data begin at a multiple of the alignment."""
    info = zipfile.ZipInfo(name, _EARLIEST)
    start = archive.fp.tell() + 30 + len(name) + 4
    padding = -start % _ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
    archive.writestr(info, data)


class _Emitter:
    """Pickles values in protocol 2, tensors by what torch rebuilds them with.

    Attributes:
      storages: arrays in the order of their keys.
    """

    def __init__(self):
        self.storages = []

    def pickle(self, value):
        return b"\x80\x02" + self._emit(value) + b"."

    def _emit(self, value):
        kind = type(value)
        if isinstance(value, np.ndarray):
            return self._tensor(value)
        if kind is dict or kind is collections.OrderedDict:
            empty = b"}"
            if kind is collections.OrderedDict:
                empty = b"ccollections\nOrderedDict\n)R"
            pairs = [part for pair in value.items() for part in pair]
            return empty + b"(" + b"".join(map(self._emit, pairs)) + b"u"
        if kind is list:
            return b"](" + b"".join(map(self._emit, value)) + b"e"
        if kind is tuple:
            return b"(" + b"".join(map(self._emit, value)) + b"t"
        return _emit_plain(value)

    def _tensor(self, array):
        name = _STORAGE_NAMES.get(array.dtype)
        if name is None:
            raise ValueError(
                "Tensors of torch files have one of the types "
                f"{', '.join(map(str, _STORAGE_NAMES))}. Received "
                f"{array.dtype}."
            )
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = str(len(self.storages))
        self.storages.append(array)
        strides = tuple(step // array.itemsize for step in array.strides)
        return b"".join(
            [
                b"ctorch._utils\n_rebuild_tensor_v2\n((",
                _emit_plain("storage"),
                f"ctorch\n{name}\n".encode(),
                *map(_emit_plain, (key, "cpu", array.size)),
                b"tQ",
                _emit_plain(0),
                self._emit(array.shape),
                self._emit(strides),
                _emit_plain(False),  # takes no gradient
                b"ccollections\nOrderedDict\n)RtR",  # no hooks
            ]
        )


def _emit_plain(value):
    kind = type(value)
    if value is None:
        return b"N"
    if kind is bool:
        return b"\x88" if value else b"\x89"
    if kind is int:
        size = value.bit_length() // 8 + 1
        return (
            b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=1)
        )
    if kind is float:
        return b"G" + struct.pack(">d", value)
    if kind is str:
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    raise ValueError(
        "A torch file is written of arrays, numbers, text and containers. "
        f"Received a value of type {kind.__name__}."
    )
