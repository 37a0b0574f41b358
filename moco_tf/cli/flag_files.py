"""Flag files: --flagfile=FILE stands for the flags in FILE, one a line.

A line is --name=value, --name = value or --name value; what begins with # or //
is a comment. Another --flagfile may stand in it. Flags count in the order in
which they are met, so one behind the file counts more than the file. absl-py
reads such files too, but it knows nothing of --config.SECTION.FIELD.
"""

import os
import pathlib

from moco_tf.cli import flags

_NAMES = ("--flagfile", "-flagfile")


def expand(words):
    """A command line with the flags of its files in their places.

    Args:
      words: list of str.

    Returns:
      list of str.

    Raises:
      UsageError: for a file that cannot be read, a line that is no flag, or
        files that name each other in a circle.
    """
    return _expand(words, pathlib.Path(), ())


def _expand(words, folder, opened):
    """As `expand`, of words of a file in a folder; `opened` led to it."""
    expanded = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in _NAMES:
            expanded.append(word)
            continue
        value = value if equals else next(rest, "")
        if not value:
            raise flags.UsageError("--flagfile needs a file: --flagfile=FILE.")
        path = _find(value, folder)
        if path in opened:
            names = " -> ".join(str(p) for p in (*opened, path))
            raise flags.UsageError(
                f"Flag files must not name each other in a circle: {names}. "
                "Remove one of the --flagfile lines."
            )
        lines = _read(path)
        expanded += _expand(lines, path.parent, (*opened, path))
    return expanded


def _find(name, folder):
    """The file of a name: beside the file that names it, or from here."""
    path = pathlib.Path(os.path.expanduser(name.strip()))
    beside = folder / path
    return (beside if beside.exists() else path).absolute()


def _read(path):
    """The flags of a file, a word each."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise flags.UsageError(
            f"--flagfile names what cannot be read: {path} ({error.strerror})."
        ) from None
    except UnicodeDecodeError:
        raise flags.UsageError(
            f"A flag file must be text in UTF-8. Received {path}. Save it so."
        ) from None
    words = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith(("#", "//")):
            words.append(_word(line, f"{path}, line {number}"))
    return words


def _word(line, where):
    """A line as a word of a command line."""
    if not line.startswith("-"):
        raise flags.UsageError(
            f"A line of a flag file must be --name=value. Received {line!r} "
            f"({where})."
        )
    name, *value = line.split(None, 1)
    if "=" not in name and value:
        line = f"{name}={value[0].removeprefix('=').lstrip()}"
    text = line.partition("=")[2]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        raise flags.UsageError(
            "No shell reads a flag file: quotes would be part of the value. "
            f"Received {line!r} ({where}). Write it without them."
        )
    return line
