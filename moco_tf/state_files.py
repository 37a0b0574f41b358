"""Files that this program has written, read again: what is wrong is named.

A kill leaves no damage, since files appear at once; disks, copies and editors
do. Every reader of a run's files names the file, its damage and the way back.
What is damaged is never deleted or written over: it is set aside.
"""

import csv
import io
import json
import os
import pathlib
import re
import struct
import tokenize
import zipfile
import zlib

from moco_tf import file_kinds, filesystem

FORMAT = 1  # of JSON files, in their entry "format"; those without one have it
_VERSION = re.compile(r"\d+")
# What reading a damaged zip file may end in, and a damaged .npy or .npz file,
# whose headers NumPy reads as Python.
DAMAGED_ZIP = (
    *(OSError, EOFError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
DAMAGED_ARRAY = (
    *DAMAGED_ZIP,
    *(ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError),
    *(struct.error, OverflowError, MemoryError),
)


class Damaged(ValueError):
    """A file that cannot be read any more.

    Attributes:
      path: pathlib.Path of it.
      damage: what is wrong with it, in words that follow its name.
    """

    def __init__(self, path, damage, remedy=""):
        """Makes the message.

        Args:
          path: of the file. damage: words that follow its name.
          remedy: sentences that say how to go on.
        """
        self.path, self.damage = pathlib.Path(path), damage
        super().__init__(f"{path} {damage}. {remedy}".rstrip())


class OtherKind(Damaged):
    """A JSON file that holds no object, as every one of this program does."""


class LaterVersion(ValueError):
    """A file of a later version of this program: intact, but not for this."""


def look(path, may_be_empty=False):
    """Says what is wrong with a file without reading its content.

    Args:
      path: of the file. may_be_empty: bool.

    Returns:
      str, words that follow its name; "" for a file that can be opened.
    """
    try:
        if not os.path.lexists(path):
            return "is missing"
        if os.path.isdir(path):
            return "is a folder where a file was written"
        with open(path, "rb") as file:
            first = file.read(1)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if first or may_be_empty else "is empty"


def read_text(path, remedy="", may_be_empty=False):
    """Reads a text, in UTF-8, with line ends of any system.

    Args:
      path: of the file. remedy: sentences that say how to go on without it.
      may_be_empty: bool.

    Returns:
      str, with "\\n" at the ends of lines.

    Raises:
      Damaged: for a file that is missing, empty, no file or no text.
    """
    damage = look(path, may_be_empty)
    if damage:
        raise Damaged(path, damage, remedy)
    try:
        data = pathlib.Path(path).read_bytes()
        text = data.decode("utf-8-sig")  # some editors put a mark before it
    except OSError as error:
        words = f"cannot be read: {error.strerror}"
        raise Damaged(path, words, remedy) from error
    except UnicodeDecodeError as error:
        words = f"is no text: byte {error.start + 1} of {len(data)} is garbled"
        raise Damaged(path, words, remedy) from error
    return text.replace("\r\n", "\n")


def read_json(path, remedy="", newest=FORMAT):
    """Reads a JSON file that holds an object.

    Args:
      path: of the file. remedy: sentences that say how to go on without it.
      newest: int, the last format of such files that this version knows.

    Returns:
      dict; its "format" is left out.

    Raises:
      Damaged: for a file that is missing or cannot be read as an object.
      LaterVersion: for a file of a later format.
    """
    value = read_object(path, remedy)
    number = value.pop("format", FORMAT)
    if not isinstance(number, int):
        raise Damaged(path, f"names {number!r} as its format", remedy)
    if number > newest:
        raise LaterVersion(
            f"{path} is of format {number}, which a later version of moco_tf "
            f"has written; this one reads up to format {newest}. Use the "
            "version that wrote it."
        )
    return value


def read_object(path, remedy=""):
    """Reads a JSON file that holds an object, of any format.

    Args:
      path: of the file. remedy: sentences that say how to go on without it.

    Returns:
      dict.

    Raises:
      Damaged: for a file that is missing or cannot be read as an object.
    """
    text = read_text(path, remedy)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if text.strip("\0 \n\t")[:1] not in ("{", "["):
            remedy = f"{file_kinds.substitute(path)} {remedy}".strip()
        raise Damaged(path, _json_damage(text, error), remedy) from error
    except (ValueError, RecursionError) as error:  # digits or depth beyond use
        raise Damaged(path, f"is no JSON: {error}", remedy) from error
    if not isinstance(value, dict):
        words = f"holds a {type(value).__name__} where an object was written"
        raise OtherKind(path, words, remedy)
    return value


def _json_damage(text, error):
    """Words for a text that is no JSON."""
    if not text.strip("\0"):
        return f"holds {len(text)} zero bytes in place of its content"
    if not text.strip():
        return "holds blanks alone"
    cut = error.pos >= len(text.rstrip()) or "Unterminated" in error.msg
    if cut and text.lstrip()[:1] in '{["':
        return f"is cut off after {len(text)} characters"
    return f"is no JSON from line {error.lineno}, column {error.colno} on"


def write_json(path, value, with_format=False):
    """Writes a JSON file, complete or not at all.

    Args:
      path: of the file. value: dict that JSON can hold.
      with_format: whether the file says its format, for later versions.
    """
    value = {"format": FORMAT, **value} if with_format else value
    with filesystem.atomic_file(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n")


def write_text(path, text):
    """Writes a file of text in ASCII, complete or not at all."""
    with filesystem.atomic_file(path) as part:
        part.write_text(text, encoding="ascii")


def read_table(path, columns):
    """Reads a CSV file that has a header.

    Args:
      path: of the file; its names need not be text.
      columns: names that the header must have.

    Returns:
      rows: list of dicts of str by column.
      bad: list of the numbers of lines (from 1, the header) that are no row.
      torn: whether a kill has left half a last line, which is left out.

    Raises:
      Damaged: for a file without such a header, but for an empty one.
    """
    damage = look(path, may_be_empty=True)
    if damage:
        raise Damaged(path, damage)
    with open(
        path, newline="", encoding="utf-8-sig", errors="surrogateescape"
    ) as file:
        text = file.read()
    end = text.rfind("\n") + 1
    rows: list = []
    bad: list = []
    reader = csv.reader(io.StringIO(text[:end], newline=""))
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error:
            row = []
        width = len(rows[0]) if rows else len(row)
        if row and len(row) == width:
            rows.append(row)
        else:
            bad.append(reader.line_num)
    if not text[end:].isprintable():  # no half line that a kill has left
        bad.append(reader.line_num + 1)
    header = rows[0] if rows else []
    if rows and not set(columns) <= set(header):
        raise Damaged(path, f"has no header of {','.join(columns)}")
    table = [dict(zip(header, row, strict=True)) for row in rows[1:]]
    return table, bad, end < len(text)


def zip_damage(path):
    """Says what is wrong with a zip file, such as an .npz; reads all of it.

    Args:
      path: pathlib.Path of the file.

    Returns:
      str, words that follow its name; "" for a file that is as it was written.
    """
    if damage := look(path):
        return damage
    try:
        with zipfile.ZipFile(path) as archive:
            name = archive.testzip()
    except DAMAGED_ARRAY as error:  # of a damaged header: of many kinds
        return f"is no complete {path.suffix} file: {error}".rstrip(".")
    return f"is damaged: the checksum of {name} in it differs" if name else ""


def set_aside(path):
    """Gives a damaged file or folder another name, so that it is kept.

    Args:
      path: of the file or folder.

    Returns:
      pathlib.Path, beside it: NAME.damaged-1, or the next number.
    """
    path = pathlib.Path(path)
    number = 1
    while True:
        other = path.with_name(f"{path.name}.damaged-{number}")
        if not os.path.lexists(other):
            os.rename(path, other)
            return other
        number += 1


def warn(text):
    """Prints what was found damaged and what was done about it."""
    print(f"Warning: damaged: {text}")


def in_words(numbers, most=5):
    """Numbers of lines in words: "line 3", "lines 3, 4 and 7 more"."""
    shown = ", ".join(map(str, numbers[:most]))
    rest = len(numbers) - most
    shown += f" and {rest} more" if rest > 0 else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}"


def is_later(version, ours):
    """Whether a version of this program is later than another.

    Args:
      version, ours: text such as "0.1.0"; of another form: never later.
    """
    parts = [
        tuple(map(int, _VERSION.findall(text)[:3]))
        for text in (str(version), ours)
    ]
    return parts[0] > parts[1]
