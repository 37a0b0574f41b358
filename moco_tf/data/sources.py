"""Random-access sources: folders, lists, pairs, TFDS, caches, the shapes."""

import functools
import hashlib
import os
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from moco_tf import counting, naming, paths
from moco_tf.data import (
    class_folders,
    image_files,
    listing,
    prepared_source,
    shapes,
)


class Source(Protocol):
    """N images that are read by index, for a stream or an evaluation.

    Two methods run in the graph: `records` for many indices at once, `image`
    for each record.

    Those of files also have `remarks` and `why_unlabelled`, which `remarks`
    and `labelled` below ask for, and `file_paths`.

    Attributes:
      may_fail: bool; False when all images are known to be readable.
      channels: int, C, of an image: 3 (red, green, blue), or 6 for pairs.
      removed: bool [N] or None; the images that are known to be gone, which
        the stream replaces without counting them.
    """

    may_fail: bool
    channels: int
    removed: np.ndarray | None

    @property
    def labels(self) -> np.ndarray | None:
        """Labels int64 [N], -1 for an image without a class, or None."""

    @property
    def class_names(self) -> list[str] | None:
        """Names by label, or None."""

    def __len__(self) -> int: ...

    def records(self, indices: Any) -> Any:
        """Records [n] of int64 [n] indices."""

    def image(self, record: Any) -> Any:
        """The image of one record: uint8 [H, W, C]."""

    def name(self, index: int) -> str:
        """The file or record of an image, for people."""

    def fingerprint(self) -> str:
        """Hex digest that differs for another source."""

    def listing(self) -> listing.Listing | None:
        """The images by name; None where they cannot differ one by one.

        A source with a Listing also has `marks` and `relisted`, as those of
        image_files.FileSource.
        """


class ArraySource:
    """Images of one size in memory."""

    may_fail = False
    removed = None

    def __init__(self, images, labels, class_names, title):
        """Takes the images.

        Args:
          images: uint8 [N, H, W, C]. labels: int64 [N].
          class_names: list of str. title: str, of the images in messages.
        """
        self.channels = images.shape[-1]
        self.labels = labels
        self.class_names = class_names
        self._title = title
        with tf.device("CPU:0"):
            self._images = tf.constant(images)

    @property
    def memory(self):
        """Bytes of the images on the host: the caller's and TensorFlow's."""
        shape = self._images.shape
        return 2 * shape.num_elements() * self._images.dtype.size

    def __len__(self):
        return len(self._images)

    def records(self, indices):
        """Images uint8 [n, H, W, C] of int64 [n] indices."""
        return tf.gather(self._images, indices)

    def image(self, record):
        """The record is the image."""
        return record

    def name(self, index):
        """The title and the index."""
        return f"{self._title}[{index}]"

    def fingerprint(self):
        """Hex digest of the images and labels."""
        return self._digest

    @functools.cached_property
    def _digest(self):
        digest = hashlib.sha256(self._images.numpy())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def listing(self):
        """None: the images have no names."""


class Subset:
    """Some images of a source, in any order."""

    def __init__(self, source, indices):
        """Selects int64 [n] indices of a source."""
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.class_names = source.class_names
        self.may_fail = source.may_fail
        self.channels = source.channels
        self.removed = getattr(source, "removed", None)
        if self.removed is not None:
            self.removed = self.removed[self.indices]
        self.labels = None
        if source.labels is not None:
            self.labels = np.asarray(source.labels, np.int64)[self.indices]
        with tf.device("CPU:0"):
            self._indices = tf.constant(self.indices)

    def __len__(self):
        return len(self.indices)

    def records(self, indices):
        """Records of int64 [n] indices into the subset."""
        return self.source.records(tf.gather(self._indices, indices))

    def image(self, record):
        """Decodes one record."""
        return self.source.image(record)

    def name(self, index):
        """The image's name in the source."""
        return self.source.name(int(self.indices[index]))

    def file_paths(self, index):
        """Full paths of the files of a sample; none of a source without."""
        paths = getattr(self.source, "file_paths", None)
        return paths(tf.gather(self._indices, index)) if paths else []

    def remarks(self):
        """Those on the source."""
        return remarks(self.source)

    def fingerprint(self):
        """Hex digest of the source and the selection."""
        digest = hashlib.sha256(self.source.fingerprint().encode())
        digest.update(self.indices.tobytes())
        return digest.hexdigest()

    def listing(self):
        """None: it follows from that of its source."""


def _open_tfds(rest):
    from moco_tf.data import tfds_records  # seconds to import, rarely used

    return tfds_records.open_tfds(rest)


def _open_shapes(split):
    images, labels = shapes.load(split or "train")
    return ArraySource(
        images, labels, list(shapes.CLASS_NAMES), f"shapes:{split or 'train'}"
    )


_COMPARED = 8  # samples of which `are_same` reads the files
_SOURCES = {
    "folder": image_files.open_folder,
    "list": image_files.open_list,
    "pairs": image_files.open_pairs,
    "prepared": prepared_source.open_prepared,
    "tfds": _open_tfds,
    "shapes": _open_shapes,
}

# What has so many channels.
_OF_CHANNELS = {3: "one folder of them, as folder:DIR", 6: "pairs:DIR,DIR"}


def open_source(spec: str, channels: int | None = 3) -> Source:
    """Opens the source that a spec names.

    Args:
      spec: "folder:PATH", "list:FILE", "pairs:DIR,DIR" of two sensors,
        "tfds:NAME/SPLIT", optionally "@DATA_DIR", or "tfds:DIR/SPLIT" of a
        prepared data set, "prepared:DIR" of a cache, "shapes:train" (also
        "shapes") or "shapes:test".
      channels: of the images that the caller works on; None: any.

    Returns:
      a source.

    Raises:
      ValueError: for an unknown kind, images of other channels, or what the
        source cannot be opened for.
    """
    kind, colon, rest = spec.partition(":")
    if kind in _SOURCES and (rest or kind == "shapes"):
        with counting.Elapsed("listing the images"):
            source = _SOURCES[kind](rest)
        if channels not in (None, source.channels):
            raise ValueError(
                f"Images of {channels} channels are needed here: pairs:DIR,DIR "
                "(6) goes with an encoder of model.input=pair and with nothing "
                f"else. Received {spec!r}, of {source.channels} channels. Give "
                f"{_OF_CHANNELS[channels]}."
            )
        return source
    near = naming.nearest(kind, _SOURCES)
    if os.path.isdir(os.path.expanduser(spec)):
        remedy = f"Did you mean {_quoted(f'folder:{spec}')}?"
    elif near and (colon or near == "shapes"):
        meant = f"{near}:{rest or '...'}"
        remedy = f"Did you mean {_quoted(meant)}?"
    else:
        remedy = "Give, for instance, folder:/data/images."
    raise ValueError(
        "A source must be folder:PATH, list:FILE, pairs:DIR,DIR, "
        "tfds:NAME/SPLIT, prepared:DIR, shapes:train or shapes:test. Received "
        f"{spec!r}. {remedy}"
    )


@counting.timed("listing the names")
def names_of(source, indices):
    """The names of images, list of str, one for each of the indices."""
    return [source.name(int(index)) for index in indices]


def _quoted(spec):
    """A spec in quotes, as it can be pasted into a command."""
    word = paths.quote(spec)
    return f"'{spec}'" if word == spec else word


def labelled(source: Any, name: str, otherwise: str = "") -> Any:
    """The images of a source that have a label: the source, or a Subset of it.

    Args:
      source: Source. name: of what it is for, as "bank".
      otherwise: sentence, what can be done without labels.

    Raises:
      ValueError: for a source without labels, with the reason.
    """
    why = getattr(source, "why_unlabelled", "") or (
        "give a folder of class folders or a data set that has labels."
    )
    if source.labels is not None:
        chosen = np.flatnonzero(np.asarray(source.labels) >= 0)
        if len(chosen) == len(source):
            return source
        if len(chosen):
            return Subset(source, chosen)
        why = "each of its labels is -1, which stands for none."
    raise ValueError(
        f"An evaluation needs labels. The {name} has none: {why} "
        f"{otherwise}".strip()
    )


def remarks(source: Any) -> list[class_folders.Remark]:
    """What a user should know of a source: what was left out, and the like.

    Side effects: may read the first bytes of a few files.
    """
    look = getattr(source, "remarks", None)
    return look() if look else []


def remark_lines(source: Any, indent: str = "") -> str:
    """The remarks on a source, a line each, "" without any.

    Remedies are in the table of `doctor`, and would hide here what there is.

    Args:
      source: Source. indent: blanks before each line.

    Side effects: as of `remarks`.
    """
    listed = remarks(source)
    lines = [f"{remark.subject}: {remark.words}" for remark in listed]
    if any(remark.remedy for remark in listed):
        lines.append("`moco-tf doctor` says what to do about these.")
    return "".join(f"{indent}{line}\n" for line in lines)


def are_same(first: Any, second: Any) -> bool:
    """Whether two Sources are of the same images, in the same order.

    Their fingerprints say it; of files, whose names and sizes may be the same
    by chance, a few are compared as well.
    """
    if first is second:
        return True
    if len(first) != len(second) or first.fingerprint() != second.fingerprint():
        return False
    return all(
        _bytes_of_files(first, index) == _bytes_of_files(second, index)
        for index in tf.constant(evenly_spaced(len(first), _COMPARED))
    )


def _bytes_of_files(source, index):
    """The contents of a sample's files, a list; None for one not readable."""
    paths = getattr(source, "file_paths", None)
    contents: list[bytes | None] = []
    for path in paths(index) if paths else ():
        try:
            with open(path, "rb") as file:
                contents.append(file.read())
        except OSError:
            contents.append(None)
    return contents


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Indices int64 of at most `count` of `total` items, evenly spaced."""
    return np.linspace(0, total - 1, min(count, total)).astype(np.int64)
