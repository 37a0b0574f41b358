"""Reads files of torch.save, and pickles of NumPy arrays, without torch.

A file can make tensors (as NumPy arrays), numbers, text and containers. It can
neither import nor call anything else: see pickle_reader. torch has had three
layouts:

zip     members NAME/data.pkl and NAME/byteorder, and NAME/data/KEY with the
        elements of each storage, all of them stored uncompressed
legacy  pickles one behind the other: magic number, protocol, system, the
        object, the keys of its storages; then for each key the number of its
        elements and the elements, little-endian on every machine
tar     members storages, tensors and pickle; the object names its tensors and
        storages by their keys in the first two

A tensor is a view of a storage: offset, size and strides, in elements.
"""

import dataclasses
import math
import mmap
import pathlib
import struct
import tarfile
import zipfile

import ml_dtypes
import numpy as np

from moco_tf.weights import pickle_reader
from moco_tf.weights.pickle_reader import Name, Unreadable, refuse

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
_MAGIC = 0x1950A86A20F9469CFC6C  # of the legacy layout
_PROTOCOL = 1001


def read(path):
    """Reads a file of weights.

    Args:
      path: of a file in one of torch's three layouts, or of a plain pickle.

    Returns:
      the saved object: a dict most times. Tensors are arrays, read-only;
      bfloat16 ones have the dtype ml_dtypes.bfloat16. A name that the file
      puts where a value belongs is a pickle_reader.Name.

    Raises:
      ValueError: if the file is none of these, is damaged, or asks for
        anything else than tensors, numbers, text and containers.
    """
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            data = _mapped(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    try:
        if bytes(data[:4]) == b"PK\x03\x04":
            return _read_zip(path, len(data))
        if bytes(data[257:262]) == b"ustar":
            return _read_tar(path, data)
        return _read_pickles(data)
    except Unreadable as error:
        raise ValueError(
            f"{path} cannot be read as weights. {error}"
        ) from error


def _mapped(file):
    """The bytes of a file; they come into memory as they are used."""
    if not file.seek(0, 2):
        return memoryview(b"")
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_zip(path, size):
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(archive, size)
            return _read_members(archive, members)
    except Unreadable:
        raise
    except Exception as error:  # of a damaged or hostile header: any kind
        raise Unreadable(f"Its archive is damaged: {error}.") from error


def _checked_members(archive, size):
    """Members by name, if each is stored as it is and none hides another."""
    members, end = {}, 0
    for member in sorted(archive.infolist(), key=lambda m: m.header_offset):
        name = member.filename
        if member.compress_type != zipfile.ZIP_STORED:
            raise Unreadable(
                "Members of its archive must be stored uncompressed, as torch "
                f"stores them. Received {name!r} compressed, of "
                f"{member.file_size} bytes."
            )
        if member.file_size != member.compress_size or name in members:
            raise Unreadable(
                f"Its archive is damaged: member {name!r} has two sizes, or "
                "two members have that name."
            )
        # The header of a member takes 30 bytes and its name.
        start = member.header_offset + 30 + len(name)
        if member.header_offset < end or start + member.file_size > size:
            raise Unreadable(
                f"Member {name!r} of its archive must lie within the file, "
                f"and in no other member. Received {member.file_size} bytes at "
                f"{member.header_offset} in a file of {size}."
            )
        end = start + member.file_size
        members[name] = member
    return members


def _read_members(archive, members):
    roots = [
        name.removesuffix("data.pkl")
        for name in members
        if name.endswith("/data.pkl") and name.count("/") == 1
    ]
    if len(roots) != 1:
        raise Unreadable(
            "An archive of torch holds one data.pkl. Received "
            f"{len(roots)} among {len(members)} members."
        )
    root = roots[0]
    order = b"little"
    if f"{root}byteorder" in members:
        order = archive.read(members[f"{root}byteorder"])
    if order not in (b"little", b"big"):
        raise Unreadable(
            "The byte order must be little or big. Received "
            f"{bytes(order[:20])!r}."
        )
    storages = {}

    def persistent_load(identity):
        dtype, key, count, _ = _storage_parts(identity)
        name = f"{root}data/{key}"
        if name not in members:
            raise Unreadable(f"Storage {key[:40]!r} is missing.")
        if key not in storages:
            raw = np.frombuffer(archive.read(members[name]), np.uint8)
            elements = raw[: raw.size // dtype.itemsize * dtype.itemsize]
            if order == b"big":
                width = f"u{dtype.itemsize}"
                elements = elements.view(width).byteswap().view(np.uint8)
            storages[key] = elements.view(dtype)
        elements = storages[key]
        if elements.dtype != dtype:
            raise Unreadable(f"Storage {key[:40]!r} is described twice.")
        if count > elements.size:
            raise Unreadable(
                f"Storage {key[:40]} must hold {count} elements of {dtype}. "
                f"Received {elements.nbytes} bytes."
            )
        return _Storage(elements[:count])

    value, _ = pickle_reader.load(
        memoryview(archive.read(members[f"{root}data.pkl"])),
        0,
        _NAMES,
        persistent_load,
    )
    return value


def _read_pickles(data):
    """Reads the legacy layout, or one pickle alone."""
    if bytes(data[:1]) not in (b"\x80", b"(", b"}", b"c", b"]"):
        raise Unreadable(
            "It must be a file of torch.save or a pickle. Received one that "
            f"begins with {bytes(data[:8])!r}."
        )
    first, position = pickle_reader.load(data, 0, _NAMES)
    if type(first) is not int or first != _MAGIC:
        return first
    protocol, position = pickle_reader.load(data, position, {})
    system, position = pickle_reader.load(data, position, {})
    if protocol != _PROTOCOL or type(system) is not dict:
        raise Unreadable(
            f"Its protocol must be {_PROTOCOL}. Received {str(protocol)[:20]}."
        )
    storages = _LegacyStorages(len(data))
    value, position = pickle_reader.load(
        data, position, _NAMES, storages.persistent_load
    )
    keys, position = pickle_reader.load(data, position, {})
    storages.fill(data, position, keys)
    return value


class _LegacyStorages:
    """Storages of the legacy layout: made when named, filled at the end."""

    def __init__(self, size):
        self.left = size  # bytes that storages may take
        self.by_key = {}

    def persistent_load(self, identity):
        dtype, key, count, rest = _storage_parts(identity)
        if key not in self.by_key:
            self.left -= count * dtype.itemsize
            if self.left < 0:
                raise Unreadable(
                    f"Storage {key[:40]} of {count} elements must fit in the "
                    "file. It does not, with those before it: the file is cut "
                    "off or damaged."
                )
            self.by_key[key] = _Storage(np.zeros(count, dtype))
        storage = self.by_key[key]
        if storage.elements.dtype != dtype or storage.elements.size != count:
            raise Unreadable(f"Storage {key[:40]} is described twice.")
        if not rest or rest[0] is None:
            return storage
        view = rest[0]
        if type(view) is not tuple or len(view) != 3:
            raise Unreadable("A part of a storage must have start and length.")
        start, length = pickle_reader.whole_numbers(
            view[1:], "A part of a storage"
        )
        return _part(storage, start, length)

    def fill(self, data, position, keys):
        """Sets all elements from the file."""
        known = type(keys) is list and all(type(key) is str for key in keys)
        if not known or set(keys) != set(self.by_key):
            raise Unreadable(
                "The storages of the file must be those that its tensors name."
            )
        for key in keys:
            elements = self.by_key[key].elements
            position = _fill(elements, data, position, key)


def _read_tar(path, data):
    """Reads the layout of a tar archive."""
    members = _tar_members(path, data)
    objects = _tar_storages(members["storages"])
    objects |= _tar_tensors(members["tensors"], objects)

    def persistent_load(identity):
        if type(identity) not in (str, int) or str(identity) not in objects:
            refuse("an object that the archive does not hold")
        return objects[str(identity)]

    value, _ = pickle_reader.load(members["pickle"], 0, _NAMES, persistent_load)
    return value


def _tar_members(path, data):
    """The members of the archive by name, as memoryviews."""
    members = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg() or member.issparse():
                    continue
                end = member.offset_data + member.size
                if member.size < 0 or end > len(data):
                    raise Unreadable(f"Part {member.name[:40]!r} is cut off.")
                members[member.name] = data[member.offset_data : end]
    except Unreadable:
        raise
    except Exception as error:  # of a damaged or hostile header: any kind
        raise Unreadable(f"Its archive is damaged: {error}.") from error
    missing = {"storages", "tensors", "pickle"} - set(members)
    if missing:
        raise Unreadable(
            "A tar archive of torch holds storages, tensors and pickle. "
            f"Missing: {', '.join(sorted(missing))}."
        )
    return members


def _tar_storages(data):
    """Storages by key.

    After their number each has a pickle (key, device, type), the number of its
    elements and the elements; at the end comes a list of views (key, key of
    another storage, start, length).
    """
    objects = {}
    number, position = pickle_reader.load(data, 0, {})
    for _ in range(_count(number, data)):
        entry, position = pickle_reader.load(data, position, _NAMES)
        key, _, kind = _parts(entry, 3)
        identity = ("storage", kind, str(key), "cpu", 0)
        dtype, key, _, _ = _storage_parts(identity)
        raw, _ = _take(data, position, 8)
        (count,) = struct.unpack("<q", raw)
        _take(data, position + 8, count * dtype.itemsize)  # or it is cut off
        elements = np.zeros(count, dtype)
        position = _fill(elements, data, position, key)
        objects[key] = _Storage(elements)
    views, _ = pickle_reader.load(data, position, {})
    for view in views if type(views) in (list, tuple) else ():
        target, root, *part = _parts(view, 4)
        start, length = pickle_reader.whole_numbers(part, "A part of a storage")
        objects[str(target)] = _part(_known(objects, root), start, length)
    return objects


def _tar_tensors(data, objects):
    """Tensors by key.

    After their number each has a pickle (key, key of its storage, class), the
    number of axes, size, stride and offset.
    """
    tensors = {}
    number, position = pickle_reader.load(data, 0, {})
    for _ in range(_count(number, data)):
        entry, position = pickle_reader.load(data, position, _NAMES)
        key, storage, _ = _parts(entry, 3)
        raw, position = _take(data, position, 8)
        axes = struct.unpack("<i4x", raw)[0]
        raw, position = _take(data, position, 8 * (2 * axes + 1))
        numbers = struct.unpack(f"<{2 * axes + 1}q", raw)
        tensors[str(key)] = _tensor(
            _known(objects, storage),
            numbers[-1],
            numbers[:axes],
            numbers[axes:-1],
        )
    return tensors


def _known(objects, key):
    if type(key) not in (str, int) or str(key) not in objects:
        raise Unreadable("A tensor names a storage that is missing.")
    return objects[str(key)]


def _parts(entry, count):
    if type(entry) is not tuple or len(entry) != count:
        raise Unreadable(f"An entry of {count} parts is damaged.")
    return entry


def _count(number, data):
    if type(number) is not int or not 0 <= number <= len(data):
        raise Unreadable("The number of entries is damaged.")
    return number


def _fill(elements, data, position, key):
    """Reads a count and that many elements; returns the position behind."""
    raw, position = _take(data, position, 8)
    (count,) = struct.unpack("<q", raw)
    if count != elements.size:
        raise Unreadable(
            f"Storage {str(key)[:40]} must hold {elements.size} elements. "
            f"Received {count}."
        )
    raw, position = _take(data, position, elements.nbytes)
    elements.view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
    return position


def _take(data, position, count):
    if count < 0 or position + count > len(data):
        raise Unreadable(
            f"It is cut off: {count} bytes are wanted at byte {position}, "
            f"{max(len(data) - position, 0)} are left."
        )
    return data[position : position + count], position + count


def _part(storage, start, length):
    if start + length > storage.elements.size:
        raise Unreadable(
            "A part of a storage must lie within it. Received elements "
            f"{start} to {start + length} of {storage.elements.size}."
        )
    return _Storage(storage.elements[start : start + length])


@dataclasses.dataclass(slots=True)
class _Storage:
    """A row of elements that tensors are views of.

    Attributes:
      elements: array [n]; a legacy file fills it after tensors were made of it.
    """

    elements: np.ndarray


def _tensor(storage, offset, size, stride):
    """A view of a storage, with bounds checked.

    Args:
      storage: _Storage. offset: int. size, stride: tuples of int, in elements.

    Returns:
      array of that size.

    Raises:
      Unreadable: if the tensor reaches past the storage, or names its elements
        more than once (a small file could claim a huge tensor).
    """
    if type(storage) is not _Storage:
        refuse("a tensor of no storage")
    size = pickle_reader.whole_numbers(size, "The size of a tensor")
    stride = pickle_reader.whole_numbers(stride, "The stride of a tensor")
    (offset,) = pickle_reader.whole_numbers((offset,), "The offset of a tensor")
    available, count = storage.elements.size, math.prod(size)
    if not count:
        return np.empty(size, storage.elements.dtype)
    steps = zip(size, stride, strict=True)
    end = offset + sum((length - 1) * step for length, step in steps) + 1
    if max(end, count) > available:
        raise Unreadable(
            f"A tensor of size {size}, stride {stride} and offset {offset} "
            f"must lie within its storage. Received a storage of "
            f"{available} elements."
        )
    return np.lib.stride_tricks.as_strided(
        storage.elements[offset:],
        size,
        [step * storage.elements.itemsize for step in stride],
        writeable=False,
    )


def _storage_parts(identity):
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


def _rebuild(storage, offset, size, stride, *_):
    # What is left out: whether it takes gradients, and hooks.
    return _tensor(storage, offset, size, stride)


def _rebuild_parameter(data, requires_grad, hooks):
    del requires_grad, hooks
    if not isinstance(data, np.ndarray):
        refuse("a parameter of no tensor")
    return data


def _size(values):
    return pickle_reader.whole_numbers(values, "A torch.Size")


_TYPES = {
    f"{module}.{name}": dtype
    for module in ("torch", "torch.cuda")  # files from GPUs, long ago
    for name, dtype in STORAGES.items()
}
_NAMES = {
    **pickle_reader.NAMES,
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _size,
    **_TYPES,
    **{name.replace("Storage", "Tensor"): None for name in _TYPES},
}
