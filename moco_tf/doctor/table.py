"""The results of the checks: rows of a table, for people and for scripts."""

import json
import pathlib
import shutil
import sys
import textwrap
from typing import NamedTuple

import tqdm

from moco_tf import paths

OK, WARN, FAIL = "ok", "warn", "fail"
OPEN = "open"  # not known: nothing has looked at it

_SEVERITY = {OPEN: 0, OK: 1, WARN: 2, FAIL: 3}
_WIDTHS = (60, 110)  # characters of a line, at least and at most


class Row(NamedTuple):
    """The result of a check.

    Attributes:
      check: its name. finding: its result, in words.
      verdict: OK, WARN (the run works, but worse than it could), FAIL (it
        cannot work) or OPEN.
      remedy: what to do; "" where there is nothing to do.
      overrides: dict "section.field" -> value, of the configuration.
    """

    check: str
    finding: str
    verdict: str = OK
    remedy: str = ""
    overrides: dict = {}


def overrides(rows):
    """All fields that the rows would change, a dict.

    The last row counts: the one about memory sets the batch, and its rate.
    """
    changes: dict[str, object] = {}
    for row in rows:
        changes |= row.overrides
    return changes


def failures(rows):
    """Names of the checks that failed, a list."""
    return [row.check for row in rows if row.verdict == FAIL]


def flags(changes):
    """Overrides as words of a command line, a list of str."""
    return [
        paths.quote(f"--config.{name}={_text(value)}")
        for name, value in changes.items()
    ]


def _text(value):
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_rows(rows, width=None):
    """The table as text: check, verdict, finding, and the remedy below it.

    Args:
      rows: list of Row. width: characters of a line; None = the terminal's.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    width = min(max(width, _WIDTHS[0]), _WIDTHS[1])
    first = max(len(row.check) for row in rows) + 2
    indent = " " * (first + 6)
    lines = []
    for row in rows:
        head = f"{row.check:<{first}}{row.verdict:<6}"
        for text in (row.finding, row.remedy and f"-> {row.remedy}"):
            lines += textwrap.wrap(
                text,
                width,
                initial_indent=head,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            head = indent
    return "\n".join(lines)


def write_json(path, rows, counts, suggestions):
    """Writes the rows for a script.

    Args:
      path: file to write. rows: list of Row.
      counts: dict kind -> number of images (images.count_faults); {} where no
        image was read.
    """
    keys = ("check", "finding", "verdict", "remedy")
    value = {
        "verdict": max(
            (row.verdict for row in rows), key=_SEVERITY.__getitem__
        ),
        "checks": [{key: getattr(row, key) for key in keys} for row in rows],
        "images": counts,
        "overrides": suggestions,
    }
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In ASCII: the name of a file need not be text.
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def print_text(text, stream=None):
    """Prints text in what the stream can write; other characters by number."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    safe = text.encode(encoding, "backslashreplace").decode(encoding)
    tqdm.tqdm.write(safe, file=stream)  # above a bar, where there is one
    stream.flush()
