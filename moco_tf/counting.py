"""Signs of life of work that takes long, and numbers in words.

A count that goes up (Counter), work that nothing counts (Elapsed): a bar on a
terminal and in a notebook, else plain lines.
"""

import contextlib
import functools
import importlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import tqdm

LINE_SECONDS = 15  # between plain lines
_PATIENCE = 3  # seconds that a command may be silent
_PARTING = 2  # seconds that the work waits for a sign of life that hangs

_Function = TypeVar("_Function", bound=Callable)


def format_duration(seconds):
    """Writes a duration in its two largest units: "5 h 12 min", "40 s"."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(hours + minutes / 60), 24)
    return f"{days} d {hours} h"


def format_bytes(size):
    """Writes a number of bytes: "31 MB", "1.2 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def has_bars(stream):
    """Whether a bar can be drawn over itself: on a terminal, in a notebook."""
    return _is_of_notebook(stream) or stream.isatty()


def _is_of_notebook(stream):
    own = stream in (sys.stdout, sys.stderr)
    return own and "ipykernel" in sys.modules


def file_of_bar(stream):
    """What tqdm writes a bar to, for a stream that has bars."""
    return _Cell(stream) if _is_of_notebook(stream) else stream


class _Cell:
    """A line of a notebook's output that is drawn over itself.

    Text that returns to the start of its line is a line for each state of a
    bar wherever nobody looks on: in a notebook that is run as a whole.
    """

    encoding = "utf-8"  # tqdm asks: the bar is of blocks

    def __init__(self, stream):
        """Shows nothing yet; what is copied of `stream` is copied of this."""
        self._display: Any = None
        self._copy = getattr(stream, "log", None)  # of printed.copied

    def write(self, text):
        """Shows the line that tqdm draws."""
        if self._copy:
            self._copy(text, part="bar")  # no warning stands in its line
        line = text.strip("\r\n ")
        if not line:
            return
        data = {"text/plain": line}
        if self._display is None:
            # There, since a kernel runs this; no package of ours needs it.
            display = importlib.import_module("IPython.display").display
            self._display = display(data, raw=True, display_id=True)
        else:
            self._display.update(data, raw=True)

    def flush(self):
        """Does nothing: a line is shown at once."""


def print_line(text, stream=None):
    """Prints a line; above the bar, where there can be one.

    Args:
      text: str. stream: text file; None: standard output.
    """
    stream = stream or sys.stdout
    if has_bars(stream) and not _is_of_notebook(stream):
        tqdm.tqdm.write(text, file=stream)
    else:
        print(text, file=stream, flush=True)


class Bar(tqdm.tqdm):
    """A bar whose lock is free after an interruption, and that ends as it was.

    tqdm's own `refresh` and `clear` keep the lock of all bars where Ctrl-C
    meets them, so that every thread that prints waits for ever; and its `close`
    leaves a bar with a delay as it stands, if no count has drawn it.
    """

    shown = False  # whether it was ever drawn

    def refresh(self, nolock=False, lock_args=None):
        """Draws the bar; args as of tqdm."""
        del nolock, lock_args
        with self.get_lock():  # the same thread may have it
            self.shown = True
            super().refresh(nolock=True)

    def clear(self, nolock=False):
        """Takes the bar away; args as of tqdm."""
        del nolock
        with self.get_lock():
            super().clear(nolock=True)

    def close(self):
        """Ends the bar, on a line of its own where it stays."""
        if self.shown:
            self.delay = 0
        super().close()


class _Heart:
    """Calls `_beat` while its block runs; the base of what shows signs of life.

    First after `patience` seconds, then every `pause` seconds, from a thread.
    """

    def __init__(self, patience, pause):
        self._patience, self._pause = patience, pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C: nobody would end it
            self._over.set()
            raise
        return self

    def __exit__(self, *_):
        self._over.set()
        if self._thread.ident:  # it was started
            self._thread.join(_PARTING)  # not for ever: its stream may hang

    def _run(self):
        wait = self._patience
        # Where nobody reads any more, the work's own next word meets the error.
        with contextlib.suppress(OSError, ValueError):
            while not self._over.wait(wait):
                self._beat()
                wait = self._pause

    def _beat(self):
        """Shows that the work goes on."""
        raise NotImplementedError


class Counter(_Heart):
    """Shows how many of a number of things are done; a context manager.

    Also while none gets done: one may take minutes.
    """

    def __init__(
        self,
        total,
        done,
        verb,
        stream,
        clock=time.monotonic,
        unit="images",
        brief=False,
        leave=True,
    ):
        """Starts the clock.

        Args:
          total: int; 0: nothing is ever shown. done: int, by earlier
            sessions. verb: str, "preparing".
          stream: text stream. clock: function that returns seconds.
          unit: what is counted.
          brief: True shows nothing of what takes no longer than 3 seconds.
          leave: whether a bar stays when it has ended.
        """
        has_bar = bool(total) and has_bars(stream)
        super().__init__(_PATIENCE, _PATIENCE if has_bar else LINE_SECONDS)
        self._total = total
        self._first = self._done = done
        self._verb, self._unit = verb, unit
        self._stream = stream
        self._clock = clock
        self._brief = brief
        self._started = self._last_line = clock()
        self._next = self._started + _PATIENCE
        self._lock = threading.Lock()
        self._bar = None
        if has_bar:
            self._bar = Bar(
                total=total,
                initial=done,
                desc=verb,
                unit=f" {unit}",
                file=file_of_bar(stream),
                dynamic_ncols=True,
                delay=_PATIENCE if brief else 0,
                leave=leave,
            )

    def __exit__(self, *details):
        super().__exit__(*details)
        shown = not self._brief or self._last_line > self._started
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._first and shown:
            self._line()

    def add(self, count):
        """Counts some more."""
        with self._lock:
            self._done += count
            if self._bar is not None:
                self._bar.update(count)
            elif self._clock() >= self._next and self._done < self._total:
                self._line()  # a last one comes at the end

    def _beat(self):
        with self._lock:
            if self._bar is not None:
                self._bar.refresh()
            elif self._clock() >= self._next and self._total:
                self._line()

    def describe(self, subject):
        """Names what is counted now on the bar; False where there is none."""
        if self._bar is None:
            return False
        self._bar.set_description(subject, refresh=self._bar.shown)
        return True

    def _line(self):
        self._last_line = self._clock()
        self._next = self._last_line + LINE_SECONDS
        new, seconds = self._done - self._first, self._last_line - self._started
        text = f"{self._verb} {self._done}/{self._total}"
        if seconds > 0 and new:
            rate = new / seconds
            left = format_duration((self._total - self._done) / rate)
            text += f"  {rate:.1f} {self._unit}/s  left {left}"
        elif seconds > 0:
            text += f" {self._unit}  {format_duration(seconds)}"
        self.message(text)

    def message(self, text):
        """Prints a line, above the bar if there is one."""
        print_line(text, self._stream)


def counted(total, done, verb, unit="images"):
    """A Counter of a command that prints its result: silent for 3 seconds."""
    return Counter(total, done, verb, sys.stdout, unit=unit, brief=True)


class Elapsed(_Heart):
    """Says what is being done, and for how long, from 3 seconds on.

    A context manager, for work whose parts cannot be counted. In a notebook in
    one output that changes. A terminal has lines: what is printed meanwhile
    would stand behind one that changes.
    """

    def __init__(self, verb, stream=None):
        """Stores the words: "exporting"; stream None: standard output."""
        self._stream = sys.stdout if stream is None else stream
        self._changes = _is_of_notebook(self._stream)
        pause = _PATIENCE if self._changes else LINE_SECONDS
        super().__init__(_PATIENCE, pause)
        self._verb = verb
        self._line: Any = None

    def __enter__(self):
        self._started = time.monotonic()
        return super().__enter__()

    def __exit__(self, *details):
        super().__exit__(*details)
        if self._line is not None:
            self._line.close()

    def _beat(self):
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        text = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        text = f"{self._verb} ...  {text}"
        if not self._changes:
            print_line(text, self._stream)
        elif self._line is None:
            self._line = Bar(
                desc=text,
                bar_format="{desc}",
                file=file_of_bar(self._stream),
                leave=False,
            )
        else:
            self._line.set_description_str(text)


def timed(verb: str) -> Callable[[_Function], _Function]:
    """A decorator: each call says what is being done, as Elapsed does."""

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def call(*args, **kwargs):
            with Elapsed(verb):
                return function(*args, **kwargs)

        return call

    return decorate
