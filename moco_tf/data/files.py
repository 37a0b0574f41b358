"""Sources of image files: a folder, or a list in a text file."""

import hashlib
import os

import numpy as np
import tensorflow as tf

from moco_tf.data import decode

_READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
_REFUSED = (
    ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif",
    ".jp2", ".jxl", ".ppm", ".pgm", ".tga", ".ico", ".svg",
)  # fmt: skip
_SIZES_HASHED = 10_000


class FileSource:
    """JPEG and PNG files, read and decoded sample by sample."""

    may_fail = True

    def __init__(self, root, paths, labels=None, class_names=None):
        """Holds the paths.

        Args:
          root: folder that relative paths start from.
          paths: list of str, relative to `root` or absolute.
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
        names = self._paths.numpy().tolist()
        digest.update(b"\0".join(names))
        if self.labels is not None:
            digest.update(self.labels.tobytes())
            digest.update("\0".join(self.class_names).encode())
        for name in names[:: max(1, -(-len(names) // _SIZES_HASHED))]:
            path = os.path.join(self._root, name)
            size = os.path.getsize(path) if os.path.exists(path) else -1
            digest.update(b"%d " % size)
        return digest.hexdigest()


def _walk(root):
    """Files below a folder, as paths relative to it, in sorted order.

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
            with os.scandir(folder) as listing:
                entries = [e for e in listing if not e.name.startswith(".")]
        except OSError as error:
            raise ValueError(
                "Every folder of the images must exist and be readable. "
                f"Received {folder!r}: {error.strerror}. Correct the path, or "
                "grant read and search permission on the folder."
            ) from error
        for entry in entries:
            if entry.is_dir():
                visit(entry.path, f"{prefix}{entry.name}/", above | {identity})
            elif entry.is_file() or (
                entry.is_symlink() and not os.path.exists(entry.path)
            ):
                found.append(prefix + entry.name)

    visit(root, "", frozenset())
    return sorted(found)


def _refuse_formats(paths):
    refused = [p for p in paths if p.lower().endswith(_REFUSED)]
    if refused:
        more = ", ..." if len(refused) > 5 else ""
        raise ValueError(
            "Images must be JPEG or PNG files. Received "
            f"{len(refused)} of other formats: {', '.join(refused[:5])}{more}. "
            "Convert them to PNG, move them away, or name the files to be "
            "used in a list (list:FILE)."
        )


def open_folder(path):
    """Opens the JPEG and PNG files of a folder, by extension.

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
    _refuse_formats(files)
    images = [name for name in files if name.lower().endswith(_READ)]
    if not images:
        raise ValueError(
            "A folder must hold at least one image. Received "
            f"{path!r} with {len(files)} files, none of them named "
            f"{', '.join(_READ)}. Correct the path."
        )
    if any(name.count("/") != 1 for name in images):
        return FileSource(path, images)
    classes = [name.partition("/")[0] for name in images]
    if len(set(classes)) < 2:
        return FileSource(path, images)
    return FileSource(path, images, *_number(classes))


def _number(classes):
    """Class names of N images → labels int64 [N], sorted names.

    Names that are all whole numbers are sorted as numbers.
    """
    names = sorted(set(classes))
    if all(name.isdecimal() for name in names):
        names.sort(key=lambda name: (int(name), name))
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[name] for name in classes], np.int64), names


def open_list(path):
    """Opens the files named in a text file.

    One image a line: its path, absolute or relative to the list's folder;
    then, on all lines or on none, a tab and the name of its class. Empty
    lines are left out. Paths may hold spaces.

    Args:
      path: str.

    Returns:
      FileSource.

    Raises:
      ValueError: for a missing or empty list, and, with the number of the
        line, for a missing image or a label that is missing or too many.
    """
    path = os.path.expanduser(path)
    try:
        # Names of files need not be valid text.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split("\t") for line in file]
    except OSError as error:
        raise ValueError(
            "The source list:FILE must name a text file that can be read. "
            f"Received {path!r}: {error.strerror}. Correct the path; a folder "
            "of images is opened with folder:PATH."
        ) from error
    rows = {n: row for n, row in enumerate(lines, start=1) if row != [""]}
    if not rows:
        raise ValueError(
            "A list must name at least one image. Received the empty file "
            f"{path!r}. Write one path a line, or path<TAB>class."
        )
    columns = len(next(iter(rows.values())))
    for number, row in rows.items():
        if len(row) != columns or columns > 2 or not all(row):
            raise ValueError(
                "Each line of a list must be PATH, or each PATH<TAB>CLASS. "
                f"Received {path!r} with {columns - 1} tabs in its first line "
                f"and line {number}: {chr(9).join(row)!r}. Label all lines or "
                "none."
            )
    root = os.path.dirname(path) or "."
    images = [row[0] for row in rows.values()]
    _refuse_formats(images)
    _check_exist(path, root, rows)
    if columns == 1:
        return FileSource(root, images)
    return FileSource(root, images, *_number([r[1] for r in rows.values()]))


def _check_exist(path, root, rows):
    listed = {}
    for number, (name, *_) in rows.items():
        folder, file = os.path.split(os.path.join(root, name))
        # One listing a folder: asking for each file of a network folder
        # takes many minutes.
        if folder not in listed:
            readable = os.path.isdir(folder) and os.access(folder, os.R_OK)
            listed[folder] = set(os.listdir(folder)) if readable else set()
        if file in listed[folder] or os.path.exists(f"{folder}/{file}"):
            continue
        spaced = " Path and class are separated by a tab." * (" " in name)
        raise ValueError(
            "Each line of a list must name a file that exists, absolute or "
            f"relative to the list's folder. Received {path!r} with line "
            f"{number}: {name!r}.{spaced} Correct or remove the line."
        )
