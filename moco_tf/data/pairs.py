"""A source of two aligned files a sample: two sensors of one scene."""

import hashlib
import os

import tensorflow as tf

from moco_tf.data import files

CHANNELS = 6  # of both files


class PairSource:
    """Images of two files, their channels one behind the other.

    Attributes:
      channels: of an image; the first file's red, green and blue come first.
    """

    may_fail = True
    channels = CHANNELS

    def __init__(self, first, second):
        """Joins two sources, file i with file i.

        Args:
          first, second: FileSource of as many files; labels are the first's.
        """
        self.labels, self.class_names = first.labels, first.class_names
        self._parts = first, second

    def __len__(self):
        return len(self._parts[0])

    def records(self, indices):
        """Both full paths, string [n, 2], of int64 [n] indices."""
        return tf.stack([part.records(indices) for part in self._parts], 1)

    def image(self, record):
        """Reads both paths: uint8 [H, W, 6].

        Raises:
          tf.errors.InvalidArgumentError: when run, for a file that cannot be
            read (see `decode.decode`), or two of unequal size.
        """
        return join(self._parts[0].image, record)

    def name(self, index):
        """The first file's path as it was listed."""
        return self._parts[0].name(index)

    def fingerprint(self):
        """Hex digest of both sources."""
        digests = "\0".join(part.fingerprint() for part in self._parts)
        return hashlib.sha256(digests.encode()).hexdigest()


def open_pairs(text):
    """Opens two folders whose files have the same names.

    A file of the first and one of the second are a pair if their paths below
    the folders are the same but for the ending: a/1.jpg and a/1.png.

    Args:
      text: "DIR,DIR". Labels are the first folder's (see `files.open_folder`).

    Returns:
      PairSource.

    Raises:
      ValueError: for another number of folders, a folder that cannot be
        opened, or a file without its pair.
    """
    folders = text.split(",")
    if len(folders) != 2 or not all(folders):
        raise ValueError(
            "The source pairs:DIR,DIR must name two folders with a comma "
            f"between. Received {text!r}."
        )
    first, second = (files.open_folder(folder) for folder in folders)
    places = [
        _by_stem(part, folder)
        for part, folder in zip((first, second), folders, strict=True)
    ]
    lone = places[0].keys() ^ places[1].keys()
    if lone:
        name = min(lone)
        has = folders[0 if name in places[0] else 1]
        raise ValueError(
            "Each file of one folder of pairs:DIR,DIR must have one of the "
            "same name, but for its ending, in the other. Received "
            f"{len(lone)} without: {os.fsdecode(name)!r} is in {has!r} alone. "
            "Move them away, or add the missing files."
        )
    order = [places[1][stem] for stem in places[0]]
    return PairSource(first, second.reordered(order))


def join(decode, files_of_pair):
    """Decodes both files of a pair.

    Args:
      decode: a function of a string scalar -> uint8 [H, W, 3].
      files_of_pair: string [2].

    Returns:
      uint8 [H, W, 6].

    Raises:
      tf.errors.InvalidArgumentError: when run, for two of unequal size.
    """
    first, second = decode(files_of_pair[0]), decode(files_of_pair[1])
    shapes = tf.shape(first), tf.shape(second)
    equal = tf.debugging.assert_equal(
        *shapes, message="Both files of a pair must have one size."
    )
    with tf.control_dependencies([equal] if equal is not None else []):
        image = tf.concat([first, second], axis=-1)
    return tf.ensure_shape(image, [None, None, CHANNELS])


def _by_stem(source, folder):
    """Place of each file by its path without the ending, bytes."""
    found = {}
    for place, path in enumerate(source.paths()):
        stem = os.path.splitext(path)[0]
        if stem in found:
            raise ValueError(
                "Names in a folder of pairs:DIR,DIR must differ in more than "
                f"their ending. Received {os.fsdecode(stem)!r} twice in "
                f"{folder!r}. Move one of them away."
            )
        found[stem] = place
    return found
