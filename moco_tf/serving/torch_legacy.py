"""torch's layouts before its zip archives, and plain pickles."""

import struct
import tarfile

import numpy as np

from moco_tf.serving import pickle_machine, pickle_names, torch_tensors
from moco_tf.serving.pickle_objects import Unreadable, refuse

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_pickles(data):
    """Reads pickles with raw storages behind them, or one pickle alone.

    The layout: magic number, protocol, system, the object, the keys of its
    storages, and for each key the number of its elements and the elements;
    little-endian on every machine.

    Args:
      data: memoryview of the file.

    Returns:
      what was saved.

    Raises:
      Unreadable: see torch_reader.read.
    """
    if bytes(data[:1]) not in (b"\x80", b"(", b"}", b"c", b"]"):
        raise Unreadable(
            "It must be a file of torch.save or a pickle. Received one that "
            f"begins with {bytes(data[:8])!r}."
        )
    first, position = pickle_machine.load(data, 0, torch_tensors.NAMES)
    if type(first) is not int or first != _MAGIC:
        return first
    protocol, position = pickle_machine.load(data, position, {})
    system, position = pickle_machine.load(data, position, {})
    if protocol != _PROTOCOL or type(system) is not dict:
        raise Unreadable(
            f"Its protocol must be {_PROTOCOL}. Received {str(protocol)[:20]}."
        )
    storages = _Storages(len(data))
    value, position = pickle_machine.load(
        data, position, torch_tensors.NAMES, storages.persistent_load
    )
    keys, position = pickle_machine.load(data, position, {})
    storages.fill(data, position, keys)
    return value


class _Storages:
    """The storages of a file: made when named, filled at the end."""

    def __init__(self, size):
        self.left = size  # bytes that storages may take
        self.by_key = {}

    def persistent_load(self, identity):
        dtype, key, count, rest = torch_tensors.described_storage(identity)
        if key not in self.by_key:
            self.left -= count * dtype.itemsize
            if self.left < 0:
                raise Unreadable(
                    f"Storage {key[:40]} of {count} elements must fit in the "
                    "file. It does not, with those before it: the file is cut "
                    "off or damaged."
                )
            storage = torch_tensors.Storage(np.zeros(count, dtype))
            self.by_key[key] = storage
        storage = self.by_key[key]
        if storage.elements.dtype != dtype or storage.elements.size != count:
            raise Unreadable(f"Storage {key[:40]} is described twice.")
        if not rest or rest[0] is None:
            return storage
        view = rest[0]
        if type(view) is not tuple or len(view) != 3:
            raise Unreadable("A part of a storage must have start and length.")
        start, length = pickle_names.whole_numbers(
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
    return torch_tensors.Storage(storage.elements[start : start + length])


def read_tar(path, data):
    """Reads the oldest layout: storages, tensors and a pickle in a tar.

    Args:
      path: of the file. data: memoryview of it.

    Returns:
      what was saved.

    Raises:
      Unreadable: see torch_reader.read.
    """
    members = _tar_members(path, data)
    objects = _tar_storages(members["storages"])
    objects |= _tar_tensors(members["tensors"], objects)

    def persistent_load(identity):
        if type(identity) not in (str, int) or str(identity) not in objects:
            refuse("an object that the archive does not hold")
        return objects[str(identity)]

    value, _ = pickle_machine.load(
        members["pickle"], 0, torch_tensors.NAMES, persistent_load
    )
    return value


def _tar_members(path, data):
    """The three parts, as memoryviews."""
    found = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg() or member.issparse():
                    continue
                end = member.offset_data + member.size
                if member.size < 0 or end > len(data):
                    raise Unreadable(f"Part {member.name[:40]!r} is cut off.")
                found[member.name] = data[member.offset_data : end]
    except Unreadable:
        raise
    except Exception as error:  # of a damaged or hostile header: any kind
        raise Unreadable(f"Its archive is damaged: {error}.") from error
    missing = {"storages", "tensors", "pickle"} - set(found)
    if missing:
        raise Unreadable(
            "A tar archive of torch holds storages, tensors and pickle. "
            f"Missing: {', '.join(sorted(missing))}."
        )
    return found


def _tar_storages(data):
    """Storages by key, from a count and (key, place, type), count, elements."""
    objects = {}
    number, position = pickle_machine.load(data, 0, {})
    for _ in range(_count(number, data)):
        entry, position = pickle_machine.load(
            data, position, torch_tensors.NAMES
        )
        key, _, kind = _parts(entry, 3)
        dtype, key, _, _ = torch_tensors.described_storage(
            ("storage", kind, str(key), "cpu", 0)
        )
        raw, _ = _take(data, position, 8)
        (count,) = struct.unpack("<q", raw)
        _take(data, position + 8, count * dtype.itemsize)  # it is there
        elements = np.zeros(count, dtype)
        position = _fill(elements, data, position, key)
        objects[key] = torch_tensors.Storage(elements)
    views, _ = pickle_machine.load(data, position, {})
    for view in views if type(views) in (list, tuple) else ():
        target, root, *part = _parts(view, 4)
        start, length = pickle_names.whole_numbers(part, "A part of a storage")
        objects[str(target)] = _part(_known(objects, root), start, length)
    return objects


def _tar_tensors(data, objects):
    """Tensors by key: each (key, storage, class), axes, size, stride, start."""
    tensors = {}
    number, position = pickle_machine.load(data, 0, {})
    for _ in range(_count(number, data)):
        entry, position = pickle_machine.load(
            data, position, torch_tensors.NAMES
        )
        key, storage, _ = _parts(entry, 3)
        raw, position = _take(data, position, 8)
        axes = struct.unpack("<i4x", raw)[0]
        raw, position = _take(data, position, 8 * (2 * axes + 1))
        numbers = struct.unpack(f"<{2 * axes + 1}q", raw)
        tensors[str(key)] = torch_tensors.tensor(
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
