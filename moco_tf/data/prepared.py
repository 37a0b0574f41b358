"""A prepared cache as a source: decoded images, mapped from the disk."""

import ctypes
import functools
import hashlib
import json
import os

import numpy as np
import tensorflow as tf

from moco_tf.data import prepared_files


class PreparedSource:
    """Images that `prepare` has written; nothing is decoded any more.

    The file of pixels is one tensor over the mapped file. A record says where
    an image lies, and taking it is a slice in the graph: without Python, and
    with the disk read only where a view looks.
    """

    def __init__(self, folder):
        """Opens a cache (see prepared_files.Cache for what is checked)."""
        self._cache = cache = prepared_files.Cache(folder)
        rows = cache.rows
        self.class_names = cache.about["class_names"]
        self.labels = None
        if cache.about["labelled"]:
            self.labels = rows["label"].astype(np.int64)
        self.may_fail = bool(cache.about["unreadable"])
        sizes = np.unique(rows[["height", "width"]])
        # Of one size, small images make their views in batches.
        self._shape = [*sizes[0].tolist(), 3] if len(sizes) == 1 else [None] * 3
        places = [rows[name] for name in ("offset", "height", "width")]
        with tf.device("CPU:0"):
            self._places = tf.constant(np.stack(places, axis=1), tf.int64)
            self._reasons = tf.constant(cache.reasons() or [""])
            self._pixels = _as_tensor(cache.pixels)

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
            check = tf.debugging.Assert(
                readable, ["Unreadable when it was prepared:", reason]
            )
            checks = [] if check is None else [check]  # None: run at once
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


def _as_tensor(array):
    """A tensor over the memory of an array, without a copy."""
    # NumPy hands out no read-only memory. A private mapping that may be
    # written would have to fit into memory and swap on many systems; this one
    # is only called writable. TensorFlow writes into no tensor that is held.
    memory = (ctypes.c_uint8 * len(array)).from_address(array.ctypes.data)
    memory.mapped = array  # lives as long as the tensor
    shared = np.ctypeslib.as_array(memory)
    return tf.experimental.dlpack.from_dlpack(shared.__dlpack__())


def open_prepared(path):
    """Opens a cache by its folder."""
    return PreparedSource(os.path.expanduser(path))
