"""Reads a list of images: a path a line, or path, tab and class.

Lines are bytes, as names of files are. What may mean two things is refused with
the number of its line; what was probably meant is tried on the disk, so that a
hint names a file that is there.
"""

import codecs
import os
import re
import stat
import unicodedata
from typing import Any, NamedTuple

import numpy as np

from moco_tf import file_kinds
from moco_tf.data import class_folders

# The longer marks first: that of UTF-32 begins as that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEADERS = re.compile(
    rb"\W*(image|img|file|path|name|filename|filepath|image_?path|image_?id|"
    rb"id|url|label|class|category|split)s?(?![\w:/.\\-])",
    re.IGNORECASE,
)
_SEPARATORS = (
    (b",", "a comma"),
    (b";", "a semicolon"),
    (b"|", "a bar"),
    (b" ", "blanks"),
)
# That a list may be in while names are in UTF-8; as Python and iconv call them.
_ENCODINGS = ("CP1252", "ISO-8859-1", "CP850", "GB18030", "SHIFT_JIS", "EUC-KR")
_QUOTES = b"\"'"


class Rows(NamedTuple):
    """The lines of a list that are not empty.

    Attributes:
      images: list of bytes, paths, absolute or relative to `root`.
      classes: list of bytes, of each image; None: no line has one.
      numbers: int64, of the lines, from 1. root: str, the list's folder.
    """

    images: list
    classes: Any
    numbers: Any
    root: str


def read(path):
    """Reads a list.

    Args:
      path: str, of the list.

    Returns:
      Rows. All images are files that are there, or links to nothing.

    Raises:
      ValueError: for a list that cannot be read or is empty, and, with the
        number of the line, for what does not fit.
    """
    lines = _read_lines(path)
    numbers = np.flatnonzero([line != b"" for line in lines]) + 1
    rows = [line for line in lines if line]
    del lines  # of a million lines each copy counts
    if not rows:
        raise ValueError(
            "A list must name at least one image. Received the empty file "
            f"{path!r}. Write one path a line, or path<TAB>class."
        )
    root = os.path.dirname(path) or "."
    tabs = _count_tabs(path, rows, numbers, root)
    classes = None
    if tabs:
        classes = [row.partition(b"\t")[2] for row in rows]
        _check_classes(path, classes, numbers)
    images = [_at_home(row.partition(b"\t")[0], root) for row in rows]
    del rows
    return Rows(images, classes, numbers, root)


def check_files(path, rows):
    """Refuses a list with a line that names no file.

    Args:
      path: str, of the list. rows: Rows.

    Raises:
      ValueError: with the first such line.
    """
    root = os.fsencode(rows.root)
    first = first_unfit(root, rows.images)
    if first is None:
        return
    index, what = first
    name = rows.images[index]
    hint = "" if what else _hint(root, rows, index)
    raise ValueError(
        "Each line of a list must name a file that exists, absolute or "
        f"relative to the list's folder. Received {path!r} with line "
        f"{rows.numbers[index]}: {_text(name)!r}{what}."
        f"{hint} Correct or remove the line."
    )


def _read_lines(path):
    """Lines of a file, list of bytes, without a byte-order mark."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            # A pipe would wait, and could not be read again.
            raise ValueError(
                "The source list:FILE must name a text file, which is read "
                f"more than once. Received {path!r}: "
                f"{file_kinds.kind_of_mode(mode)}. Write the lines to a file."
            )
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(
            "The source list:FILE must name a text file that can be read. "
            f"Received {path!r}: {error.strerror}. Correct the path; a folder "
            "of images is opened with folder:PATH."
        ) from error
    # Of bytes this splits at \n, \r\n and \r, and at nothing else.
    return _as_utf8(path, text).splitlines()


def _as_utf8(path, text):
    """A list's bytes in UTF-8, or in whatever has no zeros, without a mark."""
    marks = dict(_MARKS)
    if b"\0" not in text and text not in marks:
        # Without a zero not even a line break is of UTF-16: what looks like a
        # mark of it are bytes of a name.
        return text.removeprefix(codecs.BOM_UTF8)
    encoding = next(
        (marks[mark] for mark in marks if text.startswith(mark)), ""
    )
    if not encoding:
        # Names have no zeros; many letters of UTF-16 have one, on one side.
        zeros = np.frombuffer(text, np.uint8) == 0
        even, odd = np.count_nonzero(zeros[::2]), np.count_nonzero(zeros[1::2])
        if (even and odd) or max(even, odd) < len(text) / 16:
            _refuse_kind(path, text)
        encoding = "utf-16-be" if even else "utf-16-le"
    try:
        decoded = text.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        _refuse_kind(path, text)
    return decoded.encode("utf-8", "surrogatepass")


def _refuse_kind(path, text):
    kind = file_kinds.kind_of(text[: file_kinds.HEAD])
    raise ValueError(
        "The source list:FILE must name a text file, in UTF-8 or UTF-16. "
        f"Received {path!r}, which is {kind.name}. Write one path a line, or "
        "path<TAB>class."
    )


def _text(line):
    return line.decode("utf-8", "surrogateescape")


def _count_tabs(path, rows, numbers, root):
    """Tabs of each row, 0 or 1: raises ValueError unless all have as many."""
    tabs = rows[0].count(b"\t")
    for number, row in zip(numbers, rows, strict=True):
        lacking = row.strip(b"\t") != row  # a path or a class
        if tabs > 1 or row.count(b"\t") != tabs or lacking:
            hint = ""
            if number != numbers[0] and not tabs:
                hint = _header_hint(os.fsencode(root), rows[0], numbers[0])
            raise ValueError(
                "Each line of a list must be PATH, or each PATH<TAB>CLASS. "
                f"Received {path!r} with {tabs} tabs in its first line and "
                f"line {number}: {_text(row)!r}.{hint} Label all lines or none."
            )
    return tabs


def _check_classes(path, classes, numbers):
    """Refuses two classes that differ in nothing that one can see."""
    seen: dict[str, tuple] = {}
    known = set()
    for number, name in zip(numbers, classes, strict=True):
        if name in known:
            continue
        known.add(name)
        plain = class_folders.without_quotes(_text(name))
        other, line = seen.setdefault(plain, (name, number))
        if other != name:
            raise ValueError(
                "Classes of a list must differ in more than blanks, quotes and "
                f"the form of their letters. Received {path!r} with "
                f"{_text(other)!r} in line {line} and {_text(name)!r} in line "
                f"{number}. Write {plain!r} in both."
            )


def _at_home(image, root):
    """A path below "~" as one from the root, unless there is such a folder."""
    if not image.startswith(b"~"):
        return image
    if os.path.lexists(os.path.join(os.fsencode(root), image)):
        return image
    return os.path.expanduser(image)


def first_unfit(root, images):
    """The first image that is no file.

    Args:
      root: bytes, folder that relative paths start from.
      images: list of bytes.

    Returns:
      (its index, what it is: str, ", which is a folder", or "" where there is
      nothing); None if all are files, or links to nothing.
    """
    folder_of, folders = class_folders.number_distinct(
        name[: name.rfind(b"/") + 1] for name in images
    )
    # Folders, and the images of each, in the order of the list.
    rows = np.argsort(folder_of, kind="stable")
    members = np.split(rows, np.cumsum(np.bincount(folder_of))[:-1])
    first = len(images), ""
    for folder, indices in zip(folders, members, strict=True):
        if indices[0] > first[0]:
            break
        unfit = _unfit(root, folder, images, indices.tolist())
        first = min(first, next(unfit, first))
    return first if first[0] < len(images) else None


def _unfit(root, folder, images, indices):
    """Yields (index, what it is) of images of a folder that are no files."""
    path = os.path.join(root, folder)
    # One listing a folder: asking for each file of a network folder takes
    # many minutes.
    present = _files_of(path)
    for index in indices:
        name = images[index]
        if name[len(folder) :] not in present:
            try:
                mode = os.stat(os.path.join(root, name)).st_mode
            except OSError:
                if os.path.islink(os.path.join(root, name)):
                    continue  # counted as unreadable, as in a folder
                yield index, ""
                continue
            if not stat.S_ISREG(mode):
                yield index, f", which is {file_kinds.kind_of_mode(mode)}"


def _files_of(path):
    """Names of the files in a folder; none where it cannot be listed."""
    if not os.path.isdir(path) or not os.access(path, os.R_OK):
        return frozenset()
    with os.scandir(path) as listing:
        # Of a link the system would be asked; a link in a list seldom is one
        # to anything but a file, and is asked for by its name then.
        return {
            entry.name
            for entry in listing
            if entry.is_file(follow_symlinks=False)
        }


def _hint(root, rows, index):
    """What was probably meant with a line that names no file: a sentence."""
    line = rows.images[index]
    if rows.classes is not None:
        line += b"\t" + rows.classes[index]
    name = rows.images[index]
    if not name.strip():
        return " The line has nothing but blanks."
    if re.match(rb"(https?|ftp|s3|gs|hdfs)://", name):
        return " It is an address: download the file, and name its path."
    if name.startswith(b"#"):
        return " A list has no comments."
    if rows.classes is None:
        split = _other_separator(root, name)
        if split:
            return split
    if not index:
        header = _header_hint(root, line, rows.numbers[0])
        if header:
            return header
        kind = file_kinds.kind_of(line)
        if kind.group == "substitute":
            return f" The list is {kind.name}: {kind.remedy}"
    for other, words in _other_names(name):
        if _is_file(root, other):
            return f" There is {_text(other)!r}: {words}."
    if b" " in name and rows.classes is None:
        return " Path and class are separated by a tab."
    return ""


def _header_hint(root, line, number):
    """A sentence for a first line that names columns, or ""."""
    if _HEADERS.match(line) and not _is_file(root, line.partition(b"\t")[0]):
        return f" A list has no header: remove line {number}."
    return ""


def _other_separator(root, line):
    """A sentence for a path and a class with something else between."""
    for separator, words in _SEPARATORS:
        for image, _, name in (
            line.rpartition(separator),
            line.partition(separator),
        ):
            image, name = (
                part.strip().strip(_QUOTES) for part in (image, name)
            )
            if name and image and _is_file(root, image):
                return (
                    " Path and class are separated by a tab, here by "
                    f"{words}: write {_text(image)}<TAB>{_text(name)}."
                )
            if image and name and _is_file(root, name):
                return (
                    " The path comes first, then a tab and the class: write "
                    f"{_text(name)}<TAB>{_text(image)}."
                )
    return ""


def _other_names(name):
    """Yields (a name that may be meant, what is wrong with the given one)."""
    bare = name.strip()
    yield bare, "remove the blanks around it"
    yield bare.strip(_QUOTES), "remove the quotes"
    yield name.replace(b"\\", b"/"), "folders are separated by /"
    yield name.removeprefix(b"file://"), "a list has paths, not addresses"
    yield name.replace(b"%20", b" "), "a blank is written as a blank"
    yield os.path.abspath(name), "paths start from the list's folder"
    yield b"/" + name, "the first / is missing"
    yield name.lstrip(b"/"), "paths start from the list's folder, without /"
    for form in ("NFC", "NFD"):
        words = f"the same letters, written in the Unicode form {form}"
        yield _encoded(unicodedata.normalize(form, _text(name))), words
    for encoding in _ENCODINGS:
        try:
            yield (
                name.decode(encoding).encode("utf-8"),
                (
                    f"the list is written in {encoding}, the name in UTF-8; "
                    f"convert the list with iconv -f {encoding} -t UTF-8"
                ),
            )
        except UnicodeDecodeError:
            pass
    stem, ending = os.path.splitext(name)
    for other in (ending.lower(), ending.upper(), b".jpg", b".png", b".jpeg"):
        yield stem + other, "it has another ending"


def _encoded(text):
    return text.encode("utf-8", "surrogateescape")


def _is_file(root, name):
    return b"\0" not in name and os.path.isfile(os.path.join(root, name))
