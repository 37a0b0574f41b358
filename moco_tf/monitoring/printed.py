"""log.txt of a run: what its processes printed, start after start.

Text is kept in memory until a run is known to begin, so that a start that is
refused writes nothing; from then on each line goes to the file at once. Of a
bar, which is drawn over and over, its last state is kept.
"""

import contextlib
import contextvars
import io
import os
import re
import sys
import traceback
from typing import Any

from moco_tf import paths, state_files

FILE = "log.txt"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what moves a terminal's cursor
_LOG: contextvars.ContextVar = contextvars.ContextVar("log", default=None)


@contextlib.contextmanager
def copied():
    """Copies what the block prints to the log.txt that `keep` names in it.

    Both standard streams are replaced; what C++ code writes is not seen. Also a
    decorator.

    Side effects: an error that nothing prints before the block ends is added.
      Letters that a stream cannot write become escapes.
    """
    log = _Log()
    streams = sys.stdout, sys.stderr
    for stream in streams:
        # A path may hold letters that the terminal cannot write.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (_Copied(stream, log) for stream in streams)
    token = _LOG.set(log)
    try:
        yield
    except Exception as error:
        # Python prints it later, as may who calls the package.
        with contextlib.suppress(OSError):
            sys.stderr.log("".join(traceback.format_exception(error)))
        raise
    finally:
        sys.stdout, sys.stderr = streams
        _LOG.reset(token)
        log.close()


def keep(workdir, title):
    """Names the folder of the log, from now on; without `copied`, nothing.

    Args:
      workdir: path; there. title: str, a line that stands above this start.

    Side effects: log.txt gets the text so far; a warning where it cannot be
    opened. OSError from any later print where the disk is full, once.
    """
    log = _LOG.get()
    if log is not None:
        log.open(os.path.join(workdir, FILE), title)


class _Log:
    """The lines, in memory or in the file.

    Attributes:
      lines: list of str that no file has yet; None where none are wanted.
    """

    def __init__(self):
        self.lines: Any = []
        self._rest: dict = {}  # by stream: a line that has not ended
        self._file: Any = None

    def open(self, path, title):
        """Begins the file, or goes on in it."""
        if self._file is not None:
            return
        try:
            # Without a buffer: closing after a full disk must not write.
            self._file = open(path, "ab", buffering=0)
        except OSError as error:
            state_files.warn(
                f"{path} cannot be written to ({error.strerror}): what is "
                "printed is kept nowhere. Move it away before the next start"
            )
            self.lines = None
            return
        before = "\n" if self._file.tell() else ""
        lines, self.lines = self.lines, None
        self._write([f"{before}== {title}", *lines])

    def add(self, name, text):
        """Takes the text of a stream, which need not end a line."""
        *ended, rest = (self._rest.get(name, "") + text).split("\n")
        # What comes next stands over a line whose start was returned to.
        end = "\r" if rest.endswith("\r") else ""
        self._rest[name] = _last_state(rest) + end
        lines = [_last_state(line).rstrip() for line in ended]
        if lines and self._file is not None:
            self._write(lines)
        elif lines and self.lines is not None:
            self.lines += lines

    def _write(self, lines):
        text = "".join(f"{line}\n" for line in lines)
        try:
            # A path may hold letters that no encoding has.
            self._file.write(text.encode("utf-8", "backslashreplace"))
        except OSError:
            self._file.close()
            self._file = None
            raise

    def close(self):
        """Ends the lines that have begun, and closes the file."""
        with contextlib.suppress(OSError):
            for name, rest in self._rest.items():
                if rest.strip():
                    self.add(name, "\n")
        if self._file is not None:
            self._file.close()


class _Copied:
    """A text stream whose text is also added to a log."""

    def __init__(self, stream, log):
        self._stream, self._log = stream, log

    def write(self, text):
        """Writes to the stream, then to the log; returns the length."""
        count = self._stream.write(text)
        self.log(text)
        return count

    def writelines(self, lines):
        """As `write`, for each."""
        for line in lines:
            self.write(line)

    def log(self, text):
        """Adds text to the log alone."""
        self._log.add(id(self), text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


def _last_state(line):
    """What is seen of a line whose start was returned to (a bar)."""
    states = _ANSI.sub("", line).split("\r")
    if len(states) == 1:
        return states[0]
    return next((text for text in reversed(states) if text.strip()), "")


def title_of(start):
    """The line above a start.

    Args:
      start: dict, as of workdirs.describe.
    """
    return paths.shown(f"{start['started']}  {paths.join(start['command'])}")
