"""Reads the layout of torch's first files, a tar archive.

Its members are storages, tensors and pickle; the object in the third names its
tensors and storages by their keys in the first two.
"""

import struct
import tarfile

import numpy as np

from moco_tf.weights import other_files, pickle_reader, torch_tensors
from moco_tf.weights.pickle_reader import Unreadable, refuse


def read(path, data):
    """The saved object.

    Args:
      path: of the file. data: memoryview of it.

    Raises:
      Unreadable: for a damaged archive and for what is refused.
    """
    members = _members(path, data)
    objects = _storages(members["storages"])
    objects |= _tensors(members["tensors"], objects)

    def persistent_load(identity):
        if type(identity) not in (str, int) or str(identity) not in objects:
            refuse("an object that the archive does not hold")
        return objects[str(identity)]

    value, _ = pickle_reader.load(
        members["pickle"], 0, torch_tensors.NAMES, persistent_load
    )
    return value


def _members(path, data):
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
    parts = {"storages", "tensors", "pickle"}
    if members and not parts & set(members):
        other_files.refuse_archive(path, list(members))
    missing = parts - set(members)
    if missing:
        raise Unreadable(
            "It is cut off or damaged: a tar archive of torch holds storages, "
            f"tensors and pickle. Missing: {', '.join(sorted(missing))}."
        )
    return members


def _storages(data):
    """Storages by key.

    After their number each has a pickle (key, device, type), the number of its
    elements and the elements; at the end comes a list of views (key, key of
    another storage, start, length).
    """
    objects = {}
    number, position = pickle_reader.load(data, 0, {})
    for _ in range(_count(number, data)):
        entry, position = pickle_reader.load(
            data, position, torch_tensors.NAMES
        )
        key, _, kind = _parts(entry, 3)
        identity = ("storage", kind, _text(key), "cpu", 0)
        dtype, key, _, _ = torch_tensors.storage_parts(identity)
        raw, _ = torch_tensors.take(data, position, 8)
        (count,) = struct.unpack("<q", raw)
        # Refused here if it is cut off: zeros of any count would take memory.
        torch_tensors.take(data, position + 8, count * dtype.itemsize)
        elements = np.zeros(count, dtype)
        position = torch_tensors.fill(elements, data, position, key)
        objects[key] = torch_tensors.Storage(elements)
    views, _ = pickle_reader.load(data, position, {})
    for view in views if type(views) in (list, tuple) else ():
        target, root, *part = _parts(view, 4)
        start, length = pickle_reader.natural_numbers(
            part, "A part of a storage"
        )
        objects[_text(target)] = torch_tensors.part(
            _known(objects, root), start, length
        )
    return objects


def _tensors(data, objects):
    """Tensors by key.

    After their number each has a pickle (key, key of its storage, class), the
    number of axes, size, stride and offset.
    """
    tensors = {}
    number, position = pickle_reader.load(data, 0, {})
    for _ in range(_count(number, data)):
        entry, position = pickle_reader.load(
            data, position, torch_tensors.NAMES
        )
        key, storage, _ = _parts(entry, 3)
        raw, position = torch_tensors.take(data, position, 8)
        axes = struct.unpack("<i4x", raw)[0]
        raw, position = torch_tensors.take(data, position, 8 * (2 * axes + 1))
        numbers = struct.unpack(f"<{2 * axes + 1}q", raw)
        tensors[_text(key)] = torch_tensors.tensor(
            _known(objects, storage),
            numbers[-1],
            numbers[:axes],
            numbers[axes:-1],
        )
    return tensors


def _text(key):
    if type(key) not in (str, int):
        raise Unreadable("A key of its archive must be a number or a text.")
    return str(key)


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
