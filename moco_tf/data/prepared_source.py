"""The images of a prepared cache, as a source."""

import copy
import ctypes
import functools
import hashlib
import json
import mmap
import os
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf.data import file_bytes, listing, prepared_cache

_ANY = "surrogateescape"  # a file name need not be text, so its bytes are kept
# Of about.json, what makes a cache another one; where it has them.
_IDENTITY = (
    *("fingerprint", "short_side", "class_names", "sha256"),
    *("stored_as", "quality", "chroma", "shard", "shards"),
)


def open_prepared(path):
    """Opens the cache in a folder.

    Args:
      path: str.

    Returns:
      PreparedSource.

    Raises:
      ValueError: as `prepared_cache.open_caches`.
    """
    caches = prepared_cache.open_caches(os.path.expanduser(path))
    return PreparedSource(caches)


class PreparedSource:
    """Images that `prepare` has written.

    One tensor lies over each mapped file of images. A record says where an
    image lies, and taking it is a slice in the graph, without Python. Of pixels
    it is no copy, and the disk is read only where a view looks; a JPEG is
    compared with its checksum and decoded.
    """

    channels = 3
    removed: Any = None

    def __init__(self, caches):
        """Takes a cache, or the shards of one, in their order.

        Args:
          caches: list of prepared_cache.Cache, of one source and form.
        """
        self._caches = caches
        self._form = caches[0].form
        self._rows = rows = np.concatenate([cache.rows for cache in caches])
        about = caches[0].about
        self.class_names = about["class_names"]
        self.labels = None
        self.why_unlabelled = (
            f"its source, {about.get('source')}, had none when it was "
            "prepared. Prepare one that has labels."
        )
        if about["labelled"]:
            self.labels = rows["label"].astype(np.int64)
        self._has_gaps = any(cache.about["unreadable"] for cache in caches)
        self.may_fail = self._has_gaps or self._form.checked
        sizes = np.stack([rows["height"], rows["width"]], axis=1)
        # Small images of one size are augmented in whole batches.
        same = not self.may_fail and (sizes == sizes[0]).all()
        self._shape = [*sizes[0].tolist(), 3] if same else [None, None, 3]
        reasons = [cache.reasons() for cache in caches]
        with tf.device("CPU:0"):
            self._records = tf.constant(self._make_records(reasons), tf.int64)
            self._reasons = tf.constant(sum(reasons, []) or [b""])
            self._mapped = [
                _map(cache.folder / prepared_cache.IMAGES) for cache in caches
            ]

    def _make_records(self, reasons):
        """Records int64 [N, 3], of several shards [N, 4], the shard last.

        Args:
          reasons: list of list of bytes, of the shards.
        """
        records = self._form.records(self._rows)
        if len(self._caches) == 1:
            return records
        lengths = [len(cache) for cache in self._caches]
        shards = np.repeat(np.arange(len(lengths)), lengths)
        # Lines of the reasons of all shards, behind one another.
        firsts = np.cumsum([0, *map(len, reasons)])
        gaps = records[:, 1] == 0
        records[gaps, 0] += firsts[shards[gaps]]
        return np.column_stack([records, shards])

    def __len__(self):
        return len(self._records)

    def records(self, indices):
        """Where images lie, int64 [n, 3 or 4], of int64 [n] indices."""
        return tf.gather(self._records, indices)

    def image(self, record):
        """Takes one image: uint8 [H, W, 3].

        Raises:
          tf.errors.InvalidArgumentError: when run, for an original that could
            not be read, or a JPEG that is damaged.
        """
        offset, second, *_ = fields = tf.unstack(record)
        checks = []
        if self._has_gaps:
            readable = second > 0
            line = tf.where(readable, tf.zeros_like(offset), offset)
            reason = tf.gather(self._reasons, line)
            checks = file_bytes.require(
                readable, "Unreadable when it was prepared:", reason
            )
        with tf.control_dependencies(checks):
            fields = [tf.identity(field) for field in fields]
        return tf.ensure_shape(self._take(*fields), self._shape)

    def _take(self, offset, second, third, shard=None):
        """The image of a record of a readable one."""

        def of(mapped):
            record = (offset, second, third)
            return lambda: self._form.image(mapped, record)

        takes = [of(mapped) for mapped in self._mapped]
        if shard is None:
            return takes[0]()
        return tf.switch_case(tf.cast(shard, tf.int32), takes)

    @functools.cached_property
    def _names(self):
        return sum([cache.names() for cache in self._caches], [])

    def name(self, index):
        """The original's name in its source."""
        return self._names[index]

    def fingerprint(self):
        """Hex digest of the images' checksums, labels, names and settings."""
        identity = ""
        for cache in self._caches:
            about = cache.about
            names = [name for name in _IDENTITY if name in about]
            identity += json.dumps({name: about[name] for name in names})
        if self.removed is not None:
            gone = np.packbits(self.removed).tobytes().hex()
            identity += json.dumps([self._names, gone])
        return hashlib.sha256(identity.encode()).hexdigest()

    def marks(self, indices):
        """Checksums of the images, int64 [n] of [n]; -1: it has none."""
        rows = self._rows[indices]
        return np.where(rows["height"] > 0, self._form.marks(rows), -1)

    def listing(self):
        """The Listing of the originals, for the workdir of a run."""
        names = [name.encode(errors=_ANY) for name in self._names]
        every = np.arange(len(self))
        return listing.of(self, names, self._form.mark, every)

    def relisted(self, before, difference):
        """This cache with the numbers and labels of an earlier Listing.

        Args:
          before: Listing. difference: Difference of it and this cache.

        Returns:
          PreparedSource of len(before.names); the first reason is that of the
          images that are gone.
        """
        source = copy.copy(self)
        names = [name.decode(errors=_ANY) for name in difference.names]
        places = {name: place for place, name in enumerate(self._names)}
        rows = np.array([places.get(name, 0) for name in names])
        records = self._records.numpy()[rows]
        records[records[:, 1] == 0, 0] += 1  # lines of the reasons
        records[difference.gone] = 0
        with tf.device("CPU:0"):
            source._records = tf.constant(records, tf.int64)
            source._reasons = tf.concat([[b"removed"], self._reasons], axis=0)
        source._names, source.removed = names, difference.gone
        source.labels, source.class_names = before.labels, before.class_names
        source.may_fail = source._has_gaps = True
        source._shape = [None, None, 3]
        return source


def _map(path):
    """A file as a tensor uint8 [bytes], read from the disk on access."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, np.uint8)
    # NumPy hands out no read-only memory, so this is called writable. A mapping
    # that may be written would have to fit into memory and swap on many
    # systems. TensorFlow writes into no tensor that is in use; if it did, the
    # process would end and the file stay as it is. (ImmutableConst, which maps
    # a file too, crashes for some sizes above 4 GB.)
    memory = (ctypes.c_uint8 * len(array)).from_address(array.ctypes.data)
    # Lives as long as the tensor.
    memory.mapped = array  # type: ignore[attr-defined]
    shared = np.ctypeslib.as_array(memory)
    return tf.experimental.dlpack.from_dlpack(shared.__dlpack__())
