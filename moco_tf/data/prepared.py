"""A prepared cache as a source: decoded images, mapped from the disk."""

import ctypes
import functools
import hashlib
import json
import mmap
import os

import numpy as np
import tensorflow as tf

from moco_tf.data import headers, prepared_files


class PreparedSource:
    """Images that `prepare` has written; nothing is decoded any more.

    The file of pixels is one tensor over the mapped file. A record says where
    an image lies, and taking it is a slice in the graph: without Python,
    without a copy, and with the disk read only where a view looks.
    """

    channels = 3

    def __init__(self, folder):
        """Opens a cache (see prepared_files.Cache for what is checked)."""
        self._cache = cache = prepared_files.Cache(folder)
        rows = cache.rows
        self.class_names = cache.about["class_names"]
        self.labels = None
        if cache.about["labelled"]:
            self.labels = rows["label"].astype(np.int64)
        self.may_fail = bool(cache.about["unreadable"])
        sizes = np.stack([rows["height"], rows["width"]], axis=1)
        # Small images of one size are augmented in whole batches.
        same = not self.may_fail and (sizes == sizes[0]).all()
        self._shape = [*sizes[0].tolist(), 3] if same else [None, None, 3]
        places = np.column_stack([rows["offset"], sizes])
        with tf.device("CPU:0"):
            self._places = tf.constant(places, tf.int64)
            self._reasons = tf.constant(cache.reasons() or [b""])
            self._pixels = _map(cache.folder / prepared_files.IMAGES)

    def __len__(self):
        return len(self._cache)

    def records(self, indices):
        """Offset, height and width, int64 [n, 3], of int64 [n] indices."""
        return tf.gather(self._places, indices)

    def image(self, record):
        """Takes one image: uint8 [H, W, 3].

        Raises:
          tf.errors.InvalidArgumentError: when run, for an original that could
            not be read.
        """
        offset, height, width = tf.unstack(record)
        checks = []
        if self.may_fail:
            readable = height > 0
            line = tf.where(readable, tf.zeros_like(offset), offset)
            reason = tf.gather(self._reasons, line)
            checks = headers.demand(
                readable, "Unreadable when it was prepared:", reason
            )
        with tf.control_dependencies(checks):
            size = tf.reshape(3 * height * width, [1])
        pixels = tf.slice(self._pixels, tf.reshape(offset, [1]), size)
        image = tf.reshape(pixels, tf.stack([height, width, 3]))
        return tf.ensure_shape(image, self._shape)

    @functools.cached_property
    def _names(self):
        return self._cache.names()

    def name(self, index):
        """The original's name in its source."""
        return self._names[index]

    def fingerprint(self):
        """Hex digest of the pixels' checksums, labels, names and settings."""
        about = self._cache.about
        names = ("fingerprint", "short_side", "class_names", "sha256")
        identity = json.dumps({name: about[name] for name in names})
        return hashlib.sha256(identity.encode()).hexdigest()


def _map(path):
    """A file as a tensor uint8 [bytes]; what is looked at is read."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, np.uint8)
    # NumPy hands out no read-only memory, so this is called writable. A mapping
    # that may be written would have to fit into memory and swap on many
    # systems. TensorFlow writes into no tensor that is held; if it did, the
    # process would end and the file stay as it is. (ImmutableConst, which maps
    # a file too, crashes for some sizes above 4 GB.)
    memory = (ctypes.c_uint8 * len(array)).from_address(array.ctypes.data)
    # Lives as long as the tensor.
    memory.mapped = array  # type: ignore[attr-defined]
    shared = np.ctypeslib.as_array(memory)
    return tf.experimental.dlpack.from_dlpack(shared.__dlpack__())


def open_prepared(path):
    """Opens a cache by its folder."""
    return PreparedSource(os.path.expanduser(path))
