"""Reads files of torch.save, and pickles of NumPy arrays, without torch.

A file can make tensors (as NumPy arrays), numbers, text and containers. It can
neither import nor call anything else: see pickle_machine.
"""

import mmap
import pathlib
import zipfile

import numpy as np

from moco_tf.serving import (
    pickle_machine,
    torch_legacy,
    torch_tensors,
)
from moco_tf.serving.pickle_objects import Unreadable


def read(path):
    """Reads a file.

    Args:
      path: of a file in torch's zip layout, in its older layout of pickles and
        raw storages, in its oldest of a tar archive, or of a plain pickle.

    Returns:
      what was saved: a dict most times. Tensors are arrays, read-only;
      bfloat16 ones have the dtype ml_dtypes.bfloat16. A name that the file
      puts where a value belongs is an object of pickle_objects.

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
            return torch_legacy.read_tar(path, data)
        return torch_legacy.read_pickles(data)
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
    found, end = {}, 0
    for member in sorted(archive.infolist(), key=lambda m: m.header_offset):
        name = member.filename
        if member.compress_type != zipfile.ZIP_STORED:
            raise Unreadable(
                "Members of its archive must be stored uncompressed, as torch "
                f"stores them. Received {name!r} compressed, of "
                f"{member.file_size} bytes."
            )
        if member.file_size != member.compress_size or name in found:
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
        found[name] = member
    return found


def _read_members(archive, members):
    roots = [n.removesuffix("data.pkl") for n in members if _is_root(n)]
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
        dtype, key, count, _ = torch_tensors.described_storage(identity)
        name = f"{root}data/{key}"
        if name not in members:
            raise Unreadable(f"Storage {key[:40]!r} is missing.")
        if key not in storages:
            raw = np.frombuffer(archive.read(members[name]), np.uint8)
            if order == b"big":
                raw = raw[: raw.size // dtype.itemsize * dtype.itemsize].copy()
                torch_tensors.from_big_endian(raw.view(dtype))
            storages[key] = dtype, raw
        known, raw = storages[key]
        if known != dtype:
            raise Unreadable(f"Storage {key[:40]!r} is described twice.")
        return torch_tensors.storage_of(raw, dtype, count, key[:40])

    value, _ = pickle_machine.load(
        memoryview(archive.read(members[f"{root}data.pkl"])),
        0,
        torch_tensors.NAMES,
        persistent_load,
    )
    return value


def _is_root(name):
    return name.endswith("/data.pkl") and name.count("/") == 1
