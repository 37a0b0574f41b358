"""A source of image files, and how a folder becomes one."""

import hashlib
import os

import numpy as np
import tensorflow as tf

from moco_tf.data import decode

# Endings of file names, in the order of decode.FORMATS.
ENDINGS = (
    (b".jpg", b".jpeg", b".jpe", b".jfif"),
    (b".png",),
    (b".gif",),
    (b".bmp",),
)
READ = sum(ENDINGS, ())
_REFUSED = (
    b".webp", b".tif", b".tiff", b".heic", b".heif", b".avif", b".jp2",
    b".jxl", b".ppm", b".pgm", b".tga", b".ico", b".svg",
)  # fmt: skip
_SIZES_HASHED = 10_000


class FileSource:
    """Image files, read and decoded sample by sample."""

    may_fail = True
    channels = 3

    def __init__(self, root, paths, labels=None, class_names=None):
        """Holds the paths.

        Args:
          root: folder that relative paths start from.
          paths: list of str or bytes, relative to `root` or absolute.
          labels: int64 [N] or None. class_names: list of str or None.
        """
        self.labels = labels
        self.class_names = class_names
        self._root = os.fsencode(os.path.abspath(root))
        # A tensor made here is handed to the graph by reference; a constant
        # made while tracing would be copied into it.
        with tf.device("CPU:0"):
            self._paths = tf.constant([os.fsencode(path) for path in paths])

    def __len__(self):
        return len(self._paths)

    def paths(self):
        """The paths as they were listed, bytes [N]."""
        return self._paths.numpy()

    def reordered(self, places):
        """A source of the same files without labels, in int [N] order."""
        return FileSource(os.fsdecode(self._root), self.paths()[places])

    def records(self, indices):
        """Full paths, string [n], of int64 [n] indices."""
        paths = tf.gather(self._paths, indices)
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
        apart = max(1, -(-len(self) // _SIZES_HASHED))
        for name in self._paths[::apart].numpy():
            path = os.path.join(self._root, name)
            size = os.path.getsize(path) if os.path.exists(path) else -1
            digest.update(b"%d " % size)
        return digest.hexdigest()


def _walk(root):
    """Files below a folder: sorted paths relative to it, list of bytes.

    Hidden files and folders are left out. Links are followed, but not into a
    folder that holds the link. A link to nothing counts as a file, so that it
    is reported as unreadable and not silently missing.
    """
    found = []

    def visit(folder, prefix, above):
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                return
            # Entry by entry: a folder may hold a million.
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
            found.append(prefix + entry.name)

    visit(os.fsencode(root), b"", frozenset())
    found.sort()
    return found


def refuse_formats(paths):
    """Raises ValueError for paths, list of bytes, of other formats."""
    refused = [path for path in paths if path.lower().endswith(_REFUSED)]
    if refused:
        named = ", ".join(os.fsdecode(path) for path in refused[:5])
        more = ", ..." if len(refused) > 5 else ""
        raise ValueError(
            f"Images must be {decode.NAMED} files. Received "
            f"{len(refused)} of other formats: {named}{more}. "
            "Convert them to PNG, move them away, or name the files to be "
            "used in a list (list:FILE)."
        )


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
        what = "a file" if os.path.exists(path) else "missing"
        raise ValueError(
            "The source folder:PATH must name a folder. Received "
            f"{path!r}, which is {what}. Correct the path; a list of files is "
            "opened with list:FILE."
        )
    files = _walk(path)
    refuse_formats(files)
    images = [name for name in files if name.lower().endswith(READ)]
    if not images:
        raise ValueError(
            "A folder must hold at least one image. Received "
            f"{path!r} with {len(files)} files, none of them named "
            f"{b', '.join(READ).decode()}. Correct the path."
        )
    if any(name.count(b"/") != 1 for name in images):
        return FileSource(path, images)
    labels, names = number_classes(name.partition(b"/")[0] for name in images)
    if len(names) < 2:
        return FileSource(path, images)
    return FileSource(path, images, labels, names)


def number_classes(classes):
    """Class names of N images, bytes → labels int64 [N], sorted list of str.

    Names that are all whole numbers are sorted as numbers.
    """
    seen, names = number_distinct(classes)
    names = [name.decode("utf-8", "surrogateescape") for name in names]
    ordered = sorted(names)
    if all(name.isdecimal() for name in names):
        ordered.sort(key=lambda name: (int(name), name))
    rank = {name: number for number, name in enumerate(ordered)}
    return np.array([rank[name] for name in names], np.int64)[seen], ordered


def number_distinct(values):
    """N values → int64 [N], list: their place among the distinct ones.

    The distinct ones are in the order of their first appearance.
    """
    places: dict[bytes, int] = {}
    found = (places.setdefault(value, len(places)) for value in values)
    return np.fromiter(found, np.int64), list(places)
