"""Prepared TFDS data sets as a random-access source, without a network.

tf.data reads TFRecord files from start to end only, and array_record not at
all. Here a record is read by its number: by an index of offsets made in one
pass over the headers (TFRecord), or by the file's own (array_record).
"""

import abc
import functools
import hashlib
import json
import os
import pathlib
import re
import struct
import weakref
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import message

from moco_tf import counting, file_kinds, paths, state_files
from moco_tf.data import host_decode

_HEADER = 12  # u64 length and u32 checksum of it, little-endian
_FOOTER = 4  # u32 checksum of the data
_ARRAY_RECORD_ERRORS = (OSError, RuntimeError, ValueError, IndexError)
_OPEN_FILES = 128  # kept open at a time; systems allow 256 or more
_BLOCK = 1 << 16  # bytes read at a time while records are small
_SMALL = 1 << 12  # bytes; larger records are skipped, not read
_INDEXERS = 32  # files indexed at a time: the disk is what takes time
_LABELS_AT_ONCE = 1024  # records parsed at a time
# The names of classes in features.json, of now and of before -> how they begin.
_FEATURE_HOMES = dict.fromkeys(
    ("pythonClassName", "python_class_name", "type"),
    "tensorflow_datasets.core.features.",
) | {"proto_cls": "tensorflow_datasets."}
_DEEPEST = 100  # of JSON within JSON: protobuf's own limit


def open_tfds(spec):
    """Opens a split of a prepared data set; nothing comes from a network.

    Args:
      spec: NAME/SPLIT, NAME/SPLIT@DATA_DIR or DIR/SPLIT. NAME as in TFDS,
        with its config and version where wanted (name/config:1.0.0); DIR is
        the folder that holds dataset_info.json.
        Without DATA_DIR it is TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
      TfdsSource.

    Raises:
      ValueError: when there is no such data set, prepared, on this machine.
    """
    folder, _, split = spec.rpartition("/")
    folder = os.path.expanduser(folder)
    if not _is_prepared(folder):
        name, data_dir = folder, ""
        if not os.path.isdir(folder):  # whose path may hold the sign
            name_and_split, _, data_dir = spec.partition("@")
            name, _, split = name_and_split.rpartition("/")
        if not name or not split:
            raise ValueError(
                "A TFDS source must be tfds:NAME/SPLIT, or "
                "tfds:NAME/SPLIT@DATA_DIR, or tfds:DIR/SPLIT. Received "
                f"{'tfds:' + spec!r}. Add the split, for instance "
                "tfds:cifar10/train."
            )
        folder = _prepared_folder(name, data_dir)
    _refuse_foreign_features(folder)
    return TfdsSource(tfds.builder_from_directory(folder), split)


class TfdsSource:
    """A split of a prepared data set."""

    may_fail = True
    channels = 3
    removed = None

    def __init__(self, builder, split):
        """Opens the files of a split, and chooses its image and its label.

        Args:
          builder: tfds.core.DatasetBuilder of a prepared data set.
          split: str, "train", also "train[:1000]" or "train+test".

        Raises:
          ValueError: for an unknown or empty split, another file format, no
            image feature or several, or files that are missing or cut.
        """
        features = _leaves(builder.info.features)
        self._image_key = _image_key(features)
        self._label_key = _label_key(features)
        self.class_names = None
        if self._label_key is not None:
            self.class_names = list(features[self._label_key].names)
        extents = _extents(builder, split)
        file_format = builder.info.file_format.value
        if file_format not in _READERS:
            raise ValueError(
                "A prepared data set must be of the format tfrecord or "
                f"array_record. Received {builder.info.full_name!r} as "
                f"{file_format}. Prepare it with --file_format=tfrecord."
            )
        self._files = _READERS[file_format](extents)
        self._identity = [builder.info.full_name, file_format]
        for path, skip, take, _ in extents:
            name, size = os.path.basename(path), os.path.getsize(path)
            self._identity.append([name, size, skip, take])

    def __len__(self):
        return len(self._files)

    @functools.cached_property
    def labels(self):
        """Labels int64 [N]; None if the data set has none.

        The first use reads every record once, as labels lie beside their
        images; pre-training does not ask for them.

        Raises:
          ValueError: for a record that cannot be read.
        """
        if self._label_key is None:
            return None
        form = {self._label_key: tf.io.FixedLenFeature([], tf.int64, -1)}
        blocks = []
        with counting.counted(len(self), 0, "reading labels", "records") as bar:
            for start in range(0, len(self), _LABELS_AT_ONCE):
                stop = min(start + _LABELS_AT_ONCE, len(self))
                records = self._files.read(range(start, stop))
                try:
                    parsed = tf.io.parse_example(records, form)
                except tf.errors.InvalidArgumentError:
                    self._refuse_damaged(records, start)
                    raise
                if not all(records):
                    self._refuse_damaged(records, start)
                blocks.append(parsed[self._label_key].numpy())
                bar.add(stop - start)
        labels = np.concatenate(blocks)
        # Test splits whose labels are kept secret carry -1.
        return None if (labels < 0).any() else labels

    def _refuse_damaged(self, records, first):
        """Raises a ValueError that names the first record without a label."""
        for number, record in enumerate(records, first):
            try:
                damaged = not tf.train.Example.FromString(record).ByteSize()
            except message.DecodeError:
                damaged = True
            if damaged:
                raise ValueError(
                    "All records must be readable to have their labels. "
                    f"Received {self.name(number)}, which cannot be read. Copy "
                    "or prepare the data set again."
                )

    def records(self, indices):
        """Serialised records, string [n], of int64 [n] indices."""
        records = tf.numpy_function(
            self._files.read, [indices], tf.string, stateful=False
        )
        return tf.ensure_shape(records, indices.shape)

    def image(self, record):
        """Decodes the image of a record: uint8 [H, W, 3]."""
        form = {self._image_key: tf.io.FixedLenFeature([], tf.string)}
        parsed = tf.io.parse_single_example(record, form)
        return host_decode.decode(parsed[self._image_key])

    def name(self, index):
        """File and number of the record in it."""
        path, number = self._files.locate(index)
        return f"{os.path.basename(path)} record {number}"

    def fingerprint(self):
        """Hex digest of the data set's name, and its files' names and sizes."""
        return hashlib.sha256(json.dumps(self._identity).encode()).hexdigest()

    def listing(self):
        """None: records have no names, and are added or removed by files."""


def _is_prepared(folder):
    return os.path.isfile(os.path.join(folder, "dataset_info.json"))


def _list(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _prepared_folder(name, data_dir):
    """The folder of a data set's newest prepared version, by its name."""
    data_dir = os.path.expanduser(
        data_dir
        or os.environ.get("TFDS_DATA_DIR")
        or os.path.join("~", "tensorflow_datasets")
    )
    folder = os.path.join(data_dir, os.path.expanduser(name))
    if not os.path.isdir(folder):  # with a version, then
        name_of_folder = os.path.expanduser(name).replace(":", "/")
        folder = os.path.join(data_dir, name_of_folder)
    if _is_prepared(folder):
        return folder
    inside = _list(folder)
    versions = [v for v in inside if re.fullmatch(r"\d+\.\d+\.\d+", v)]
    versions = [v for v in versions if _is_prepared(os.path.join(folder, v))]
    if versions:
        newest = max(versions, key=lambda v: [int(n) for n in v.split(".")])
        return os.path.join(folder, newest)
    near = folder
    while near and not os.path.isdir(near):
        near = os.path.dirname(near)
    raise ValueError(
        "A TFDS data set must be prepared on this machine: nothing is "
        f"downloaded. Received {name!r}; there is no dataset_info.json in "
        f"{folder!r} or in a version below it; {near!r} holds "
        f"{', '.join(_list(near)[:10]) or 'nothing'}. Give the folder of the "
        "data sets (tfds:NAME/SPLIT@DATA_DIR), add the config "
        "(tfds:NAME/CONFIG/SPLIT), or prepare it: "
        + paths.join(["tfds", "build", name, f"--data_dir={data_dir}"])
    )


def _refuse_foreign_features(folder):
    """Refuses a data set with features of other packages than TFDS.

    TFDS imports the module of any class that features.json names, and protobuf
    before 5.29.6 follows the two files to any depth (CVE-2026-0994).
    """
    _foreign_names(pathlib.Path(folder) / "dataset_info.json")
    path = pathlib.Path(folder) / "features.json"
    # Without the file TFDS says what to do.
    if foreign := os.path.lexists(path) and _foreign_names(path):
        raise ValueError(
            "The features of a TFDS data set must be classes of TFDS itself: "
            "another would be imported, and its code run. Received "
            f"{', '.join(map(repr, sorted(foreign)))} in {str(folder)!r}. Copy "
            "the images into folders, one per class, and give folder:DIR, or "
            "build the data set with features of TFDS."
        )


def _foreign_names(path):
    """The classes that a JSON file of TFDS names and that are not of TFDS."""
    remedy = "Bring back a copy of the data set, or build it again."
    waiting, foreign = [(state_files.read_object(path, remedy), 0)], set()
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEEPEST:
            words = f"is nested more than {_DEEPEST} deep"
            raise state_files.Damaged(path, words, remedy)
        if isinstance(value, list):
            waiting += [(entry, depth + 1) for entry in value]
        for key, entry in value.items() if isinstance(value, dict) else ():
            waiting.append((entry, depth + 1))
            home = _FEATURE_HOMES.get(key)
            if home and isinstance(entry, str) and not entry.startswith(home):
                foreign.add(entry)
    return foreign


def _leaves(features, prefix=""):
    """Features of a (nested) dict by the names of their stored fields."""
    leaves = {}
    for name, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            leaves.update(_leaves(feature, f"{prefix}{name}/"))
        else:
            leaves[prefix + name] = feature
    return leaves


def _image_key(features):
    keys = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    ]
    if "image" in keys or len(keys) == 1:
        return "image" if "image" in keys else keys[0]
    raise ValueError(
        "A data set must have one image feature, or one named 'image'. "
        f"Received {keys or 'none'} among the features "
        f"{', '.join(sorted(features))}. Choose another data set or config."
    )


def _label_key(features):
    """The class label; of several the one named "label", or none of them."""
    keys = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.ClassLabel)
    ]
    if "label" in keys:
        return "label"
    return keys[0] if len(keys) == 1 else None


def _extents(builder, split):
    splits = builder.info.splits
    try:
        instructions = splits[split].file_instructions
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(
            "A TFDS split must be one of the data set. Received "
            f"{split!r} of {builder.info.full_name!r}, which has "
            f"{', '.join(sorted(splits))}. Correct the split."
        ) from error
    extents = [
        Extent(str(i.filename), i.skip, i.take, i.examples_in_shard)
        for i in instructions
        if i.take
    ]
    if not extents:
        raise ValueError(
            "A TFDS split must hold at least one record. Received "
            f"{split!r} of {builder.info.full_name!r}. Widen the split."
        )
    return extents


class Extent(NamedTuple):
    """Consecutive records of a file."""

    path: str
    skip: int  # records before them
    take: int  # how many they are
    # Records of the file in all; not the method of tuples.
    count: int  # type: ignore[assignment]


class _Files(abc.ABC):
    """Records of files, numbered from the first file to the last."""

    def __init__(self, extents):
        self._extents = extents
        self._ends = np.cumsum([take for _, _, take, _ in extents])

    def __len__(self):
        return int(self._ends[-1])

    def locate(self, index):
        """Path of a record's file, and the record's number in it."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        path, skip, take, _ = self._extents[number]
        return path, int(index - (self._ends[number] - take) + skip)

    def read(self, indices):
        """Bytes of records, object [n]; a record that cannot be read is b""."""
        # An array of bytes objects: NumPy's own strings lose trailing zeros.
        records = np.empty(len(indices), object)
        records[:] = [self._read_one(int(index)) for index in indices]
        return records

    @abc.abstractmethod
    def _read_one(self, index):
        """Bytes of one record; b"" if it cannot be read."""


class TfrecordFiles(_Files):
    """Records of TFRecord files, read by number.

    Checksums are not compared: the decoders find damaged data.
    """

    def __init__(self, extents):
        """Indexes the records: one pass over their headers, not the data.

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
        path, _ = self.locate(index)
        try:
            data = self._open(path).read(int(offset), int(size))
        except OSError:
            return b""
        return data if len(data) == size else b""


class ArrayRecordFiles(_Files):
    """Records of array_record files, read by number; checksums are compared."""

    def __init__(self, extents):
        """Opens all files once, to count their records.

        Args:
          extents: list of Extent.

        Raises:
          ValueError: for a file that is missing, cut or not an array_record.
        """
        super().__init__(extents)
        self._open = functools.lru_cache(_OPEN_FILES)(_array_record)
        for path, _, _, count in extents:
            try:
                records = self._open(path).num_records()
            except _ARRAY_RECORD_ERRORS as error:
                raise _damaged(path, str(error)) from error
            if records != count:
                raise _damaged(path, f"{records} records of {count}")

    def _read_one(self, index):
        path, number = self.locate(index)
        try:
            return self._open(path).read([number])[0]
        except _ARRAY_RECORD_ERRORS:
            return b""


class _File:
    """A file open for reading; it closes when the last reference goes."""

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

    with paths.plain(path) as plain:
        return array_record_module.ArrayRecordReader(
            plain, "readahead_buffer_size:0,max_parallelism:0"
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
            raise _damaged(path, f"{number} complete records of {count}")
        (length,) = struct.unpack_from("<Q", block, offset - start)
        table[number] = offset + _HEADER, min(length, size)
        offset += _HEADER + length + _FOOTER
        if offset > size:
            raise _damaged(path, f"{number} complete records of {count}")
    if offset != size:
        raise _damaged(path, f"more than {count} records")
    return table[skip : skip + take]


_READERS: dict[str, Any] = {
    "tfrecord": TfrecordFiles,
    "array_record": ArrayRecordFiles,
}


def _damaged(path, damage):
    return ValueError(
        "A prepared data set must have all its files, undamaged. Received "
        f"{path!r}: {damage}.{file_kinds.substitute(path)} Copy or prepare "
        "the data set again."
    )
