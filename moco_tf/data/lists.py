"""A source of the image files that a text file names."""

import codecs
import os

import numpy as np

from moco_tf.data import files


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
    lines = _read(path)
    # Bytes throughout: names of files need not be valid text.
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
        labels, names = files.number_classes(
            row.partition(b"\t")[2] for row in rows
        )
    images = [row.partition(b"\t")[0] for row in rows]
    del rows
    files.refuse_formats(images)
    missing = _first_missing(os.fsencode(root), images)
    if missing is not None:
        name = _text(images[missing])
        spaced = " Path and class are separated by a tab." * (" " in name)
        raise ValueError(
            "Each line of a list must name a file that exists, absolute or "
            f"relative to the list's folder. Received {path!r} with line "
            f"{numbers[missing]}: {name!r}.{spaced} Correct or remove the line."
        )
    return files.FileSource(root, images, labels, names)


def _read(path):
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
    """Number of the first image that does not exist; None if all do.

    Args:
      root: bytes, folder that relative paths start from.
      images: list of bytes.
    """
    seen, folders = files.number_distinct(
        name[: name.rfind(b"/") + 1] for name in images
    )
    # Folders, and the images of each, in the order of the list.
    rows = np.argsort(seen, kind="stable")
    members = np.split(rows, np.cumsum(np.bincount(seen))[:-1])
    first = len(images)
    for folder, numbers in zip(folders, members, strict=True):
        if numbers[0] > first:
            break
        missing = _missing(root, folder, images, numbers.tolist())
        first = min(first, next(missing, first))
    return first if first < len(images) else None


def _missing(root, folder, images, numbers):
    """Yields the numbers of the images of one folder that do not exist."""
    path = os.path.join(root, folder)
    # One listing a folder: asking for each file of a network folder takes
    # many minutes.
    readable = os.path.isdir(path) and os.access(path, os.R_OK)
    present = set(os.listdir(path)) if readable else set()
    for number in numbers:
        name = images[number]
        if name[len(folder) :] not in present:
            if not os.path.exists(os.path.join(root, name)):
                yield number
