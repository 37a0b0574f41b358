"""A count that goes up: a bar on a terminal, plain lines elsewhere."""

import time

import tqdm

from moco_tf.monitoring import progress

_LINE_SECONDS = 15


def format_bytes(size):
    """Writes a number of bytes: "31 MB", "1.2 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


class Counter:
    """Shows how many of a number of images are done; a context manager."""

    def __init__(self, total, done, verb, stream, clock=time.monotonic):
        """Starts the clock.

        Args:
          total: int. done: int, by earlier sessions. verb: str, "preparing".
          stream: text stream. clock: function that returns seconds.
        """
        self._total = total
        self._first = self._done = done
        self._verb = verb
        self._stream = stream
        self._clock = clock
        self._started = self._told = clock()
        self._bar = None
        if stream.isatty():
            self._bar = tqdm.tqdm(
                total=total,
                initial=done,
                desc=verb,
                unit=" images",
                file=stream,
                dynamic_ncols=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._first:
            self._line()

    def add(self, count):
        """Counts some more images."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._clock() - self._told >= _LINE_SECONDS:
            self._line()

    def _line(self):
        self._told = self._clock()
        new, seconds = self._done - self._first, self._told - self._started
        text = f"{self._verb} {self._done}/{self._total}"
        if seconds > 0:
            rate = new / seconds
            left = progress.format_duration((self._total - self._done) / rate)
            text += f"  {rate:.1f} images/s  left {left}"
        self.message(text)

    def message(self, text):
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            tqdm.tqdm.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)
