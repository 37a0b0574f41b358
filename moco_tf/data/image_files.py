"""Sources of image files: a folder, a list, and pairs of two aligned files.

Names of files need not be valid text: paths are bytes throughout. A folder or
list may have millions of files: asking a network file system for each one, and
Python objects for each one, are avoided where they would take minutes.
"""

import codecs
import hashlib
import os
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf import paths as any_paths
from moco_tf.data import decode, listing, specs

# Endings of file names, in the order of decode.FORMATS.
ENDINGS = (
    (b".jpg", b".jpeg", b".jpe", b".jfif"),
    (b".png",),
    (b".gif",),
    (b".bmp",),
)
READABLE_ENDINGS = sum(ENDINGS, ())
_REFUSED = (
    b".webp", b".tif", b".tiff", b".heic", b".heif", b".avif", b".jp2",
    b".jxl", b".ppm", b".pgm", b".tga", b".ico", b".svg",
)  # fmt: skip
_SIZES_HASHED = 10_000
PAIR_CHANNELS = 6  # of both files of a pair


class FileSource:
    """Image files, read and decoded sample by sample."""

    may_fail = True
    channels = 3
    removed: Any = None

    def __init__(self, root, paths, labels=None, class_names=None):
        """Takes the paths of the files.

        Args:
          root: folder that relative paths start from.
          paths: list of str or bytes, relative to `root` or absolute.
          labels: int64 [N] or None. class_names: list of str or None.
        """
        self.labels = labels
        self.class_names = class_names
        self._root = os.fsencode(any_paths.absolute(root))
        listed = [os.fsencode(path) for path in paths]
        # The graph refers to a tensor that exists before it is traced; a
        # constant created while tracing would be copied into it.
        with tf.device("CPU:0"):
            self._paths = self._files = tf.constant(listed)
            if any(b".." in path for path in listed):
                self._files = tf.constant([self._file(x) for x in listed])

    def __len__(self):
        return len(self._paths)

    def _file(self, path):
        """A listed path without ".."; the platform follows no link there."""
        if b".." not in path.split(b"/"):
            return path
        return os.path.realpath(os.path.join(self._root, path))

    def paths(self):
        """The paths as they were listed, bytes [N]."""
        return self._paths.numpy()

    def reordered(self, indices):
        """A source of the same files without labels, in int [N] order."""
        return FileSource(os.fsdecode(self._root), self.paths()[indices])

    def records(self, indices):
        """Full paths, string [n], of int64 [n] indices."""
        paths = tf.gather(self._files, indices)
        absolute = tf.equal(tf.strings.substr(paths, 0, 1), b"/")
        return tf.where(
            absolute, paths, tf.strings.join([self._root, b"/", paths])
        )

    def image(self, record):
        """Reads one path: uint8 [H, W, 3] (errors: see `decode.decode`)."""
        return decode.decode(tf.io.read_file(record))

    def name(self, index):
        """The file's path as it was listed."""
        return os.fsdecode(self._paths[index].numpy())

    def fingerprint(self):
        """Hex digest of the names, their labels, and the sizes of files.

        Sizes are taken of at most 10,000 files, evenly spaced: asking a
        network folder for millions takes many minutes.
        """
        digest = hashlib.sha256()
        # Joined by the platform: a million names are no Python objects then.
        joined = tf.strings.reduce_join(self._paths, separator="\0")
        digest.update(joined.numpy())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
            names = "\0".join(self.class_names)
            digest.update(names.encode("utf-8", "surrogateescape"))
        for size in self.marks(listing.marked(len(self), _SIZES_HASHED)):
            digest.update(b"%d " % size)
        return digest.hexdigest()

    def marks(self, indices):
        """Sizes of files, bytes, int64 [n] of [n]; -1 where there is none."""
        paths = (
            os.path.join(self._root, name)
            for name in tf.gather(self._paths, indices).numpy()
        )
        sizes = (os.path.getsize(p) if os.path.exists(p) else -1 for p in paths)
        return np.fromiter(sizes, np.int64, len(indices))

    def listing(self):
        """The Listing of the files, for the workdir of a run."""
        names, places = (
            self.paths().tolist(),
            listing.marked(len(self), _SIZES_HASHED),
        )
        return listing.of(self, names, "bytes", places, self._root)

    def relisted(self, before, difference):
        """These files, numbered and labelled as in an earlier Listing.

        Args:
          before: Listing. difference: Difference of it and these files.
        """
        root, names = os.fsdecode(self._root), difference.names
        source = FileSource(root, names, before.labels, before.class_names)
        source.removed = difference.gone
        return source


class PairSource:
    """Images of two files, their channels one behind the other.

    Attributes:
      channels: of an image; the first file's red, green and blue come first.
    """

    may_fail = True
    channels = PAIR_CHANNELS
    removed: Any = None

    def __init__(self, first, second):
        """Pairs two sources, file i with file i.

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
        return decode_pair(self._parts[0].image, record)

    def name(self, index):
        """The first file's path as it was listed."""
        return self._parts[0].name(index)

    def fingerprint(self):
        """Hex digest of both sources."""
        digests = "\0".join(part.fingerprint() for part in self._parts)
        return hashlib.sha256(digests.encode()).hexdigest()

    def marks(self, indices):
        """Sizes of both files in one number, int64 [n] of [n]."""
        first, second = (part.marks(indices) for part in self._parts)
        return (first + 1 << 32) + second

    def listing(self):
        """The Listing of the pairs, for the workdir of a run."""
        pairs = zip(*(part.paths() for part in self._parts), strict=True)
        names = [listing.PAIR.join(pair) for pair in pairs]
        places = listing.marked(len(self), _SIZES_HASHED)
        return listing.of(self, names, "bytes", places)

    def relisted(self, before, difference):
        """As FileSource.relisted."""
        pairs = [name.split(listing.PAIR) for name in difference.names]
        first, second = (
            part.relisted(before, difference._replace(names=list(names)))
            for part, names in zip(
                self._parts, zip(*pairs, strict=True), strict=True
            )
        )
        source = PairSource(first, second)
        source.removed = difference.gone
        return source


def decode_pair(decode, files_of_pair):
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
    return tf.ensure_shape(image, [None, None, PAIR_CHANNELS])


def open_folder(path):
    """Opens the image files of a folder, by extension.

    Labels exist if every image lies in a class folder directly below the
    root, and there are two such folders or more; classes are numbered in the
    sorted order of their names. Any other layout, flat or nested, is read
    without labels. Files of no image extension are left out.

    Args:
      path: str.

    Returns:
      FileSource.

    Raises:
      ValueError: for a missing, unreadable or empty folder, or images of
        another format in it.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        kind = "a file" if os.path.exists(path) else "missing"
        raise ValueError(
            "The source folder:PATH must name a folder. Received "
            f"{path!r}, which is {kind}. Correct the path; a list of files is "
            "opened with list:FILE."
        )
    files = _walk(path)
    _refuse_formats(files)
    images = [name for name in files if name.lower().endswith(READABLE_ENDINGS)]
    if not images:
        raise ValueError(
            "A folder must contain at least one image. Received "
            f"{path!r} with {len(files)} files, none of them named "
            f"{b', '.join(READABLE_ENDINGS).decode()}. Correct the path."
        )
    if any(name.count(b"/") != 1 for name in images):
        return FileSource(path, images)
    labels, names = _number_classes(name.partition(b"/")[0] for name in images)
    if len(names) < 2:
        return FileSource(path, images)
    return FileSource(path, images, labels, names)


def open_list(path):
    """Opens the files named in a text file.

    One image a line: its path, absolute or relative to the list's folder;
    then, on all lines or on none, a tab and the name of its class. Empty
    lines are left out. Paths may contain spaces.

    Args:
      path: str.

    Returns:
      FileSource.

    Raises:
      ValueError: for a missing or empty list, and, with the number of the
        line, for a missing image or a label that is missing or too many.
    """
    path = os.path.expanduser(path)
    lines = _read_lines(path)
    numbers = np.flatnonzero([line != b"" for line in lines]) + 1
    rows = [line for line in lines if line]
    del lines  # of a million lines each copy counts
    if not rows:
        raise ValueError(
            "A list must name at least one image. Received the empty file "
            f"{path!r}. Write one path a line, or path<TAB>class."
        )
    tabs = _count_tabs(path, rows, numbers)
    root = os.path.dirname(path) or "."
    labels = names = None
    if tabs:
        labels, names = _number_classes(row.partition(b"\t")[2] for row in rows)
    images = [row.partition(b"\t")[0] for row in rows]
    del rows
    _refuse_formats(images)
    missing = _first_missing(os.fsencode(root), images)
    if missing is not None:
        name = _text(images[missing])
        spaced = " Path and class are separated by a tab." * (" " in name)
        raise ValueError(
            "Each line of a list must name a file that exists, absolute or "
            f"relative to the list's folder. Received {path!r} with line "
            f"{numbers[missing]}: {name!r}.{spaced} Correct or remove the line."
        )
    return FileSource(root, images, labels, names)


def open_pairs(text):
    """Opens two folders whose files have the same names.

    A file of the first and one of the second are a pair if their paths below
    the folders are the same but for the ending: a/1.jpg and a/1.png.

    Args:
      text: "DIR,DIR". Labels are the first folder's (see `open_folder`).

    Returns:
      PairSource.

    Raises:
      ValueError: for another number of folders, a folder that cannot be
        opened, or a file without its pair.
    """
    folders = specs.split_pair(text)
    first, second = (open_folder(folder) for folder in folders)
    stems = [
        _index_by_stem(part, folder)
        for part, folder in zip((first, second), folders, strict=True)
    ]
    lone = stems[0].keys() ^ stems[1].keys()
    if lone:
        name = min(lone)
        folder = folders[0 if name in stems[0] else 1]
        raise ValueError(
            "Each file of one folder of pairs:DIR,DIR must have one of the "
            "same name, but for its ending, in the other. Received "
            f"{len(lone)} without: {os.fsdecode(name)!r} is in {folder!r} "
            "alone. Move them away, or add the missing files."
        )
    order = [stems[1][stem] for stem in stems[0]]
    return PairSource(first, second.reordered(order))


def _walk(root):
    """Files below a folder: sorted paths relative to it, list of bytes.

    Hidden files and folders are left out. Links are followed, but not into a
    folder that the link is in. A link to nothing counts as a file, so that it
    is reported as unreadable and not silently missing.
    """
    paths = []

    def visit(folder, prefix, above):
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                return
            # Entry by entry: a folder may have a million.
            with os.scandir(folder) as listing:
                for entry in listing:
                    if not entry.name.startswith(b"."):
                        add(entry, prefix, above | {identity})
        except OSError as error:
            raise ValueError(
                "Every folder of the images must exist and be readable. "
                f"Received {os.fsdecode(folder)!r}: {error.strerror}. Correct "
                "the path, or grant read and search permission on the folder."
            ) from error

    def add(entry, prefix, above):
        if entry.is_dir():
            visit(entry.path, prefix + entry.name + b"/", above)
        elif entry.is_file() or (
            entry.is_symlink() and not os.path.exists(entry.path)
        ):
            paths.append(prefix + entry.name)

    visit(os.fsencode(root), b"", frozenset())
    paths.sort()
    return paths


def _refuse_formats(paths):
    """Raises ValueError for paths, list of bytes, of other formats."""
    refused = [path for path in paths if path.lower().endswith(_REFUSED)]
    if refused:
        named = ", ".join(os.fsdecode(path) for path in refused[:5])
        more = ", ..." if len(refused) > 5 else ""
        raise ValueError(
            f"Images must be {decode.FORMAT_NAMES} files. Received "
            f"{len(refused)} of other formats: {named}{more}. "
            "Convert them to PNG, move them away, or name the files to be "
            "used in a list (list:FILE)."
        )


def _number_classes(classes):
    """Numbers the classes of N images in the order of their names.

    Args:
      classes: iterable of bytes, the class name of each image.

    Returns:
      labels int64 [N], and the names by label, list of str; names that are all
      whole numbers are sorted as numbers.
    """
    numbers, names = _number_distinct(classes)
    names = [name.decode("utf-8", "surrogateescape") for name in names]
    ordered = sorted(names)
    if all(name.isdecimal() for name in names):
        ordered.sort(key=lambda name: (int(name), name))
    rank = {name: number for number, name in enumerate(ordered)}
    return np.array([rank[name] for name in names], np.int64)[numbers], ordered


def _number_distinct(values):
    """Numbers of N values, int64 [N], and the distinct values that they index.

    The distinct values are in the order of their first appearance.
    """
    known: dict[bytes, int] = {}
    numbers = (known.setdefault(value, len(known)) for value in values)
    return np.fromiter(numbers, np.int64), list(known)


def _read_lines(path):
    """Lines of a file, list of bytes, without a byte-order mark."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(
            "The source list:FILE must name a text file that can be read. "
            f"Received {path!r}: {error.strerror}. Correct the path; a folder "
            "of images is opened with folder:PATH."
        ) from error
    # Of bytes this splits at \n, \r\n and \r, and at nothing else.
    return text.removeprefix(codecs.BOM_UTF8).splitlines()


def _text(line):
    return line.decode("utf-8", "surrogateescape")


def _count_tabs(path, rows, numbers):
    """Tabs of each row, 0 or 1: raises ValueError unless all have as many."""
    tabs = rows[0].count(b"\t")
    for number, row in zip(numbers, rows, strict=True):
        lacking = row.strip(b"\t") != row  # a path or a class
        if tabs > 1 or row.count(b"\t") != tabs or lacking:
            raise ValueError(
                "Each line of a list must be PATH, or each PATH<TAB>CLASS. "
                f"Received {path!r} with {tabs} tabs in its first line and "
                f"line {number}: {_text(row)!r}. Label all lines or none."
            )
    return tabs


def _first_missing(root, images):
    """Index of the first image that does not exist; None if all exist.

    Args:
      root: bytes, folder that relative paths start from.
      images: list of bytes.
    """
    folder_of, folders = _number_distinct(
        name[: name.rfind(b"/") + 1] for name in images
    )
    # Folders, and the images of each, in the order of the list.
    rows = np.argsort(folder_of, kind="stable")
    members = np.split(rows, np.cumsum(np.bincount(folder_of))[:-1])
    first = len(images)
    for folder, indices in zip(folders, members, strict=True):
        if indices[0] > first:
            break
        missing = _missing(root, folder, images, indices.tolist())
        first = min(first, next(missing, first))
    return first if first < len(images) else None


def _missing(root, folder, images, indices):
    """Yields the indices of the images of one folder that do not exist."""
    path = os.path.join(root, folder)
    # One listing a folder: asking for each file of a network folder takes
    # many minutes.
    readable = os.path.isdir(path) and os.access(path, os.R_OK)
    present = set(os.listdir(path)) if readable else set()
    for index in indices:
        name = images[index]
        if name[len(folder) :] not in present:
            if not os.path.exists(os.path.join(root, name)):
                yield index


def _index_by_stem(source, folder):
    """Dict: path of a file without its ending, bytes -> index of the file."""
    indices = {}
    for index, path in enumerate(source.paths()):
        stem = os.path.splitext(path)[0]
        if stem in indices:
            raise ValueError(
                "Names in a folder of pairs:DIR,DIR must differ in more than "
                f"their ending. Received {os.fsdecode(stem)!r} twice in "
                f"{folder!r}. Move one of them away."
            )
        indices[stem] = index
    return indices
