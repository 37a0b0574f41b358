"""Reads files of torch.save, and pickles of NumPy arrays, without torch.

A file can make tensors (as NumPy arrays), numbers, text and containers. It can
neither import nor call anything else: see pickle_reader. torch has had three
layouts:

zip     members NAME/data.pkl and NAME/byteorder, and NAME/data/KEY with the
        elements of each storage, all of them stored uncompressed
legacy  pickles one behind the other: magic number, protocol, system, the
        object, the keys of its storages; then for each key the number of its
        elements and the elements, little-endian on every machine
tar     see torch_tar
"""

import mmap
import pathlib
import re
import zipfile

import numpy as np

from moco_tf import file_kinds
from moco_tf.weights import (
    other_files,
    pickle_reader,
    torch_tar,
    torch_tensors,
)
from moco_tf.weights.pickle_reader import Inert, Unreadable, kind_of

_MAGIC = 0x1950A86A20F9469CFC6C  # of the legacy layout
_PROTOCOL = 1001
_PICKLE = re.compile(rb"\x80[\x01-\x05]|[(}\]]|c[\w.]+\n[\w.]+\n")


def refused(path, error):
    """The error of a file, with what to do where it is damaged.

    Args:
      path: of the file. error: Unreadable, which has its own remedy else.

    Returns:
      ValueError.
    """
    text = f"{path} cannot be read as weights. {error}"
    words = str(error).lower()
    if any(word in words for word in ("damaged", "cut off", "missing")):
        text += f" {file_kinds.AGAIN}"
    return ValueError(text)


def read(path):
    """Reads a file of weights.

    Args:
      path: of a file in one of torch's three layouts, or of a plain pickle.

    Returns:
      the saved object: a dict most times. Tensors are arrays, read-only;
      bfloat16 ones have the dtype ml_dtypes.bfloat16. Objects of classes, and
      tensors that NumPy cannot hold, are pickle_reader.Inert. A name that the
      file puts where a value belongs is a pickle_reader.Name.

    Raises:
      ValueError: if the file is none of these, is damaged, or asks for
        what no weights need.
    """
    path = pathlib.Path(path)
    try:
        data = mapped(path)
        value = _read(path, data)
        if type(value) is Inert:
            raise Unreadable(
                f"It is one object of {value.kind}, of which nothing was run. "
                "Save its state_dict() where its class is at hand, and import "
                "that."
            )
    except Unreadable as error:
        raise refused(path, error) from error
    return value


def _read(path, data):
    if bytes(data[:4]) == b"PK\x03\x04":
        return _read_zip(path, len(data))
    if bytes(data[257:262]) == b"ustar":
        return torch_tar.read(path, data)
    if not _PICKLE.match(data):
        other_files.refuse(path, bytes(data[: file_kinds.HEAD]))
    return _read_pickles(data)


def mapped(path):
    """The bytes of a file, a memoryview; they come into memory when used.

    Raises:
      Unreadable: unless it is a file that can be opened.
    """
    other_files.check(path)
    try:
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                return memoryview(b"")
            number = file.fileno()
            return memoryview(mmap.mmap(number, 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise Unreadable(f"{error.strerror or error}.") from error


def _read_zip(path, size):
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(path, archive.namelist())
            members = _checked_members(archive, size)
            return _read_members(archive, members, root)
    except Unreadable:
        raise
    except Exception as error:  # of a damaged or hostile header: any kind
        raise Unreadable(
            f"Its archive is damaged: {pickle_reader.printable(str(error))}."
        ) from error


def _root(path, names):
    """The folder of an archive of torch, with its slash; refuses others."""
    roots = {
        name.removesuffix("data.pkl")
        for name in names
        if name.endswith("/data.pkl") and name.count("/") == 1
    }
    if len(roots) != 1:
        other_files.refuse_archive(path, names)
    (root,) = roots
    if f"{root}constants.pkl" in names:
        other_files.refuse_script(path)
    return root


def _checked_members(archive, size):
    """Members by name, if each is stored as it is and none hides another."""
    members, end = {}, 0
    for member in sorted(archive.infolist(), key=lambda m: m.header_offset):
        name = member.filename
        if member.compress_type != zipfile.ZIP_STORED:
            raise Unreadable(
                "Members of its archive must be stored uncompressed, as torch "
                f"stores them. Received {name!r} compressed, of "
                f"{member.file_size} bytes. Unpack it and pack it again "
                "without compression: zip -0 -r."
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


def _read_members(archive, members, root):
    order = b"little"
    if f"{root}byteorder" in members:
        order = archive.read(members[f"{root}byteorder"])
    if order not in (b"little", b"big"):
        raise Unreadable(
            "The byte order must be little or big. Received "
            f"{bytes(order[:20])!r}."
        )
    storages = _ZipStorages(archive, members, f"{root}data/", order == b"big")
    value, _ = pickle_reader.load(
        memoryview(archive.read(members[f"{root}data.pkl"])),
        0,
        torch_tensors.NAMES,
        storages.persistent_load,
    )
    return value


class _ZipStorages:
    """Storages of the zip layout, each read when it is named first."""

    def __init__(self, archive, members, root, big_endian):
        self.archive = archive
        self.members = members
        self.root = root
        self.big_endian = big_endian
        self.raw = {}  # key -> its bytes
        self.by_key = {}  # (key, type) -> elements in this machine's order

    def persistent_load(self, identity):
        if torch_tensors.is_source(identity):
            return Inert("a module")
        dtype, key, count, _ = torch_tensors.storage_parts(identity)
        name = f"{self.root}{key}"
        if name not in self.members:
            raise Unreadable(f"Storage {key[:40]!r} is missing.")
        if key not in self.raw:
            data = self.archive.read(self.members[name])
            self.raw[key] = np.frombuffer(data, np.uint8)
        if (key, dtype) not in self.by_key:
            self.by_key[key, dtype] = self._elements(self.raw[key], dtype)
        elements = self.by_key[key, dtype]
        if count > elements.size:
            raise Unreadable(
                f"Storage {key[:40]} must hold {count} elements of {dtype}. "
                f"Received {elements.nbytes} bytes."
            )
        turned = self.big_endian and dtype.itemsize == 1
        return torch_tensors.Storage(elements[:count], turned)

    def _elements(self, raw, dtype):
        usable = raw[: raw.size // dtype.itemsize * dtype.itemsize]
        if not self.big_endian:
            return usable.view(dtype)
        # NumPy cannot turn the types that it has not; two bytes at most.
        word = np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype
        return usable.view(word).byteswap().view(dtype)


def _read_pickles(data):
    """Reads the legacy layout, or one pickle alone."""
    first, position = pickle_reader.load(data, 0, torch_tensors.NAMES)
    if type(first) is not int or first != _MAGIC:
        return first
    protocol, position = pickle_reader.load(data, position, {})
    system, position = pickle_reader.load(data, position, {})
    if protocol != _PROTOCOL or type(system) is not dict:
        raise Unreadable(
            f"Its protocol must be {_PROTOCOL}. Received "
            f"{protocol if type(protocol) is int else kind_of(protocol)}."
        )
    storages = _LegacyStorages(len(data))
    value, position = pickle_reader.load(
        data, position, torch_tensors.NAMES, storages.persistent_load
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
        if torch_tensors.is_source(identity):
            return Inert("a module")
        dtype, key, count, rest = torch_tensors.storage_parts(identity)
        if key not in self.by_key:
            self.left -= count * dtype.itemsize
            if self.left < 0:
                raise Unreadable(
                    f"Storage {key[:40]} of {count} elements must fit in the "
                    "file. It does not, with those before it: the file is cut "
                    "off or damaged."
                )
            self.by_key[key] = torch_tensors.Storage(np.zeros(count, dtype))
        storage = self.by_key[key]
        if storage.elements.dtype != dtype or storage.elements.size != count:
            raise Unreadable(f"Storage {key[:40]} is described twice.")
        if not rest or rest[0] is None:
            return storage
        view = rest[0]
        if type(view) is not tuple or len(view) != 3:
            raise Unreadable("A part of a storage must have start and length.")
        start, length = pickle_reader.natural_numbers(
            view[1:], "A part of a storage"
        )
        return torch_tensors.part(storage, start, length)

    def fill(self, data, position, keys):
        """Sets all elements from the file."""
        known = type(keys) is list and all(type(key) is str for key in keys)
        if not known or set(keys) != set(self.by_key):
            raise Unreadable(
                "The storages of the file must be those that its tensors name."
            )
        for key in keys:
            elements = self.by_key[key].elements
            position = torch_tensors.fill(elements, data, position, key)
