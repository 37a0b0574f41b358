"""log.txt of a run: what its processes printed, start after start.

Of several workers the first writes log.txt, the others log.worker-1.txt and so
on.

Text is kept in memory until a run is there or known to begin, so that a new one
that is refused writes nothing; from then on each line goes to the file at once.
Of a bar, which is drawn over and over, its last state is kept.
"""

import contextlib
import contextvars
import datetime
import io
import os
import re
import sys
import threading
import time
import traceback
from typing import Any

from moco_tf import filesystem, paths, state_files

FILE = "log.txt"
_APPEARS = 10  # seconds after which a network folder shows what others made
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what moves a terminal's cursor
_LOG: contextvars.ContextVar = contextvars.ContextVar("log", default=None)


@contextlib.contextmanager
def copied(interrupted=""):
    """Copies what the block prints to the log.txt that `keep` names in it.

    Both standard streams are replaced; what C++ code writes is not seen. Also a
    decorator.

    Args:
      interrupted: str, printed after Ctrl-C and raised with it; "": whoever
        calls prints something.

    Side effects: an error that nothing prints before the block ends is added.
      Letters that a stream cannot write become escapes.
    """
    log = _Log()
    streams = sys.stdout, sys.stderr
    for stream in streams:
        # A path may hold letters that the terminal cannot write.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    copies = sys.stdout, sys.stderr = [_Copied(x, log) for x in streams]
    token = _LOG.set(log)
    try:
        yield
    except Exception as error:
        # Python prints it later, as may who calls the package.
        with contextlib.suppress(OSError):
            copies[1].log("".join(traceback.format_exception(error)))
        raise
    except KeyboardInterrupt:
        if not interrupted:
            raise
        print(f"\n{interrupted}")
        raise KeyboardInterrupt(interrupted) from None
    finally:
        sys.stdout, sys.stderr = streams
        _LOG.reset(token)
        log.close()


def keep(workdir, title="", worker=0):
    """Names the folder of the log, from now on; without `copied`, nothing.

    Args:
      workdir: path; there.
      title: str, a line that stands above this start; "": time and command.
      worker: int, of the run; each has a file of its own.

    Side effects: the log gets the text so far; a warning where it cannot be
    opened, or written to later. OSError from any later print where the disk is
    full, once.
    """
    log = _LOG.get()
    if log is not None:
        if worker:
            _wait_for(workdir)
        file = f"log.worker-{worker}.txt" if worker else FILE
        log.open(os.path.join(workdir, file), title or _title())


def _wait_for(folder):
    """Waits until a worker sees the folder that the first one made."""
    deadline = time.monotonic() + _APPEARS
    while not os.path.isdir(folder) and time.monotonic() < deadline:
        time.sleep(0.5)


def kept():
    """The path of the log that is written now, or None."""
    log = _LOG.get()
    return log and log.path


class _Log:
    """The lines, in memory or in the file.

    Attributes:
      lines: list of str that no file has yet; None where none are wanted.
      path: of the file, while it is open; else None.
    """

    def __init__(self):
        self.lines: Any = []
        self.path: Any = None
        self._rest: dict = {}  # by part of a stream: a line that has not ended
        self._file: Any = None
        # A handler of signals may print while its own thread writes here.
        self._lock = threading.RLock()

    def open(self, path, title):
        """Begins the file, or goes on in it."""
        with self._lock:
            if self.lines is None:
                return  # open already, or it could not be
            try:
                # Without a buffer: closing after a full disk must not write.
                file = open(path, "ab", buffering=0)
                before = "\n" if file.tell() else ""
            except FileNotFoundError:
                print(
                    f"Warning: {path} cannot be made, since its folder is not "
                    "there: what is printed is kept nowhere. All workers must "
                    "see the same workdir. Put --workdir on a shared file "
                    "system"
                )
                self.lines = None
                return
            except OSError as error:
                state_files.warn(
                    f"{path} cannot be written to ({error.strerror}): what is "
                    "printed is kept nowhere. Move it away before the next "
                    "start"
                )
                self.lines = None
                return
            self._file, self.path = file, path
            lines, self.lines = self.lines, None
            self._write([f"{before}== {title}", *lines])

    def add(self, name, text):
        """Takes the text of a part of a stream, which need not end a line."""
        with self._lock:
            if self._file is None and self.lines is None:
                return  # also of a stream that outlives the log
            *ended, rest = (self._rest.get(name, "") + text).split("\n")
            # What comes next stands over a line whose start was returned to.
            end = "\r" if rest.endswith("\r") else ""
            self._rest[name] = _last_state(rest) + end
            lines = [_last_state(line).rstrip() for line in ended]
            if lines and self._file is not None:
                self._write(lines)
            elif self.lines is not None:
                self.lines += lines

    def _write(self, lines):
        text = "".join(f"{line}\n" for line in lines)
        try:
            # A path may hold letters that no encoding has.
            self._file.write(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            path = self.path
            self._end()
            if error.errno in filesystem.DISK_FULL:
                raise  # as any other file of the run would
            with contextlib.suppress(OSError):  # of the stream
                state_files.warn(
                    f"{path} cannot be written to any more "
                    f"({error.strerror}): what is printed from here on is kept "
                    "nowhere, and the run goes on"
                )

    def _end(self):
        if self._file is not None:
            with contextlib.suppress(OSError):  # NFS writes some of it here
                self._file.close()
        self._file = self.path = self.lines = None

    def close(self):
        """Ends the lines that have begun, and closes the file."""
        with self._lock:
            with contextlib.suppress(OSError):
                for name, rest in list(self._rest.items()):
                    if rest.strip():
                        self.add(name, "\n")
            self._end()


class _Copied:
    """A text stream whose text is also added to a log."""

    def __init__(self, stream, log):
        self._stream, self._log = stream, log

    def write(self, text):
        """Writes to the stream, then to the log; returns the length."""
        try:
            return self._stream.write(text)
        finally:  # nobody may be there to read the stream any more
            self.log(text)

    def writelines(self, lines):
        """As `write`, for each."""
        for line in lines:
            self.write(line)

    def log(self, text, part=""):
        """Adds text to the log alone.

        Args:
          text: str. part: name of what has lines of its own, as a bar that
            stands elsewhere than the stream's.
        """
        self._log.add((id(self), part), text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


def _last_state(line):
    """What is seen of a line whose start was returned to (a bar)."""
    states = _ANSI.sub("", line).split("\r")
    if len(states) == 1:
        return states[0]
    return next((text for text in reversed(states) if text.strip()), "")


def _title():
    """The time and the command of this process."""
    now = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    return paths.shown(f"{now}  {paths.join([sys.executable, *sys.argv])}")
