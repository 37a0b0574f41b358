"""Random access to the records of prepared data-set files.

tf.data reads TFRecord files from start to end only, and array_record not at
all. Here a record is found by its number: by an index of offsets made in one
pass (TFRecord) or by the file's own (array_record).
"""

import abc
import functools
import os
import struct
import weakref
from concurrent import futures
from typing import NamedTuple

import numpy as np

_HEADER = 12  # u64 length and u32 checksum of it, little-endian
_FOOTER = 4  # u32 checksum of the data
_ARRAY_RECORD_ERRORS = (OSError, RuntimeError, ValueError, IndexError)
_OPEN_FILES = 128  # kept open at a time; systems allow 256 or more
_BLOCK = 1 << 16  # bytes read at a time while records are small
_SMALL = 1 << 12  # bytes; larger records are skipped, not read
_INDEXERS = 32  # files indexed at a time: the disk is what takes time


class Extent(NamedTuple):
    """A stretch of the records of a file."""

    path: str
    skip: int  # records before it
    take: int  # records of it
    # Records of the whole file; not the method of tuples.
    count: int  # type: ignore[assignment]


class _Files(abc.ABC):
    """Records of files, by number."""

    def __init__(self, extents):
        self._extents = extents
        self._ends = np.cumsum([take for _, _, take, _ in extents])

    def __len__(self):
        return int(self._ends[-1])

    def place(self, index):
        """File path and number of the record in the file."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        path, skip, take, _ = self._extents[number]
        return path, int(index - (self._ends[number] - take) + skip)

    def read(self, indices):
        """Bytes of records, object [n]; a record that cannot be read is b""."""
        # An array of bytes objects: NumPy's own strings lose trailing zeros.
        found = np.empty(len(indices), object)
        found[:] = [self._read_one(int(index)) for index in indices]
        return found

    @abc.abstractmethod
    def _read_one(self, index):
        """Bytes of one record; b"" if it cannot be read."""


class TfrecordFiles(_Files):
    """Records of TFRecord files, read by number.

    Checksums are not compared: the decoders find damaged data.
    """

    def __init__(self, extents):
        """Finds the offsets: one pass over the record headers, not the data.

        Args:
          extents: list of Extent.

        Raises:
          ValueError: for a file that is missing, cut or not a TFRecord.
        """
        super().__init__(extents)
        with futures.ThreadPoolExecutor(_INDEXERS) as pool:
            tables = list(pool.map(lambda extent: _offsets(*extent), extents))
        self._table = np.concatenate(tables)  # int64 [N, 2]: offset, bytes
        self._open = functools.lru_cache(_OPEN_FILES)(_File)

    def _read_one(self, index):
        offset, size = self._table[index]
        path, _ = self.place(index)
        try:
            data = self._open(path).read(int(offset), int(size))
        except OSError:
            return b""
        return data if len(data) == size else b""


class ArrayRecordFiles(_Files):
    """Records of array_record files, by number; the reader checks sums."""

    def __init__(self, extents):
        """Opens every file once, to count its records.

        Raises:
          ValueError: for a file that is missing, cut or not an array_record.
        """
        super().__init__(extents)
        self._open = functools.lru_cache(_OPEN_FILES)(_array_record)
        for path, _, _, count in extents:
            try:
                held = self._open(path).num_records()
            except _ARRAY_RECORD_ERRORS as error:
                raise _damaged(path, str(error)) from error
            if held != count:
                raise _damaged(path, f"{held} records of {count}")

    def _read_one(self, index):
        path, within = self.place(index)
        try:
            return self._open(path).read([within])[0]
        except _ARRAY_RECORD_ERRORS:
            return b""


class _File:
    """A descriptor that closes when the last user of it lets go."""

    def __init__(self, path):
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset, size):
        """Reads without moving a position: safe from many threads."""
        parts = []
        while size:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                break
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)


def _array_record(path):
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(
        path, "readahead_buffer_size:0,max_parallelism:0"
    )


def _offsets(path, skip, take, count):
    """Data offsets and sizes of the taken records, int64 [take, 2]."""
    table = np.empty((count, 2), np.int64)
    try:
        size = os.path.getsize(path)
        file = _File(path)
    except OSError as error:
        raise _damaged(path, error.strerror) from error
    offset = start = length = 0
    block = b""
    for number in range(count):
        if offset + _HEADER > start + len(block):
            block = file.read(offset, _BLOCK if length < _SMALL else _HEADER)
            start = offset
        if len(block) < _HEADER:
            raise _damaged(path, f"{number} whole records of {count}")
        (length,) = struct.unpack_from("<Q", block, offset - start)
        table[number] = offset + _HEADER, min(length, size)
        offset += _HEADER + length + _FOOTER
        if offset > size:
            raise _damaged(path, f"{number} whole records of {count}")
    if offset != size:
        raise _damaged(path, f"more than {count} records")
    return table[skip : skip + take]


def _damaged(path, what):
    return ValueError(
        "A prepared data set must have all its files, whole. Received "
        f"{path!r}: {what}. Copy or prepare the data set again."
    )
