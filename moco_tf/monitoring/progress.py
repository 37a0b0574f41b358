"""Progress in words: a bar on a terminal and in a notebook, else plain lines.

Of a run with its figures (Progress), of a count that goes up (Counter), and of
work that nothing counts (Elapsed).
"""

import importlib
import sys
import threading
import time
from typing import Any

import tqdm

from moco_tf.monitoring import listener, metrics_csv

_FIRST_IN_BAR = ("loss", "left", "speed")
_LINE_SECONDS = 15  # between the lines of a Counter
_ROWS = 20  # of metrics.csv, that an earlier session's speed is taken from
_PATIENCE = 3  # seconds that a command may be silent


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


def _file_of_bar(stream):
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
            self._copy(text)
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


def seconds_a_step(rows, batch_size):
    """The time of a step in the newest rows of a run, or None.

    Args:
      rows: list of dicts of metrics.csv. batch_size: images of a step.
    """
    measured = [row for row in rows if row.get("images_per_second")][-_ROWS:]
    steps = sum(row["steps"] for row in measured)
    if not steps:
        return None
    images = [row["steps"] / row["images_per_second"] for row in measured]
    return batch_size * sum(images) / steps


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


class Progress(listener.Listener):
    """Shows where a run stands.

    On a terminal and in a notebook each epoch has a bar, which `update` moves.
    Elsewhere an `update` with figures prints one line.
    """

    def __init__(
        self,
        total_steps,
        steps_per_epoch,
        chance=None,
        stream=None,
        clock=time.monotonic,
        epochs=None,
        batch_size=None,
        step_seconds=None,
    ):
        """Stores what does not change during a run.

        Args:
          total_steps: after which the run stops. steps_per_epoch: steps.
          chance: loss of guessing, nats; None = not shown.
          stream: text stream; None = standard output.
          clock: function that returns seconds.
          epochs: of the schedule; None: those of total_steps.
          batch_size: images of a step; None: the speed of the first figures
            tells nothing of the time left.
          step_seconds: of a step in an earlier session; None: not known.
        """
        self._total = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._epochs = epochs or -(-total_steps // steps_per_epoch)
        self._batch_size = batch_size
        self._step_seconds = step_seconds
        self._chance = chance
        self._stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._bar: Any = None
        self._file: Any = None  # of the bars of all epochs
        self._bar_epoch = None
        self._texts = {}
        # (step, seconds) at the session's start and at its first update: the
        # first steps compile the graph and say nothing about the speed.
        self._started = (0, clock())
        self._first = None

    def on_start(self, method, step):
        self.start(step)
        left = self.seconds_left(step)
        if left is not None:
            self.message(f"{self._left(step, left)} at the speed so far")

    def on_report(self, method, row):
        self.update(row["step"], row)

    def on_epoch(self, method, row):
        epoch = row["step"] // self._steps_per_epoch
        parts = [f"epoch {epoch}/{self._epochs} done"]
        parts.append(f"loss {row['epoch_loss']:.4f}")
        parts += [
            f"kNN ({layer}) {100 * row['knn_' + layer]:.2f} %"
            for layer in metrics_csv.KNN_LAYERS
            if "knn_" + layer in row
        ]
        if "probe_top1" in row:
            parts.append(f"probe {100 * row['probe_top1']:.2f} %")
        if "evaluated_top1" in row:
            parts.append(f"top-1 {100 * row['evaluated_top1']:.2f} %")
        self.message("  ".join(parts))

    def on_end(self, method, step):
        self.close()

    def start(self, step):
        """Starts the clock of this session at `step`, 0 for a new run."""
        self._started = (step, self._clock())
        self._first = None

    def seconds_left(self, step):
        """Estimates the time to the step after which the run stops.

        From this session's time after its first update, since the first steps
        compile; before it from the speed of the newest figures, or of an
        earlier session.

        Returns:
          seconds, or None as long as nothing is known.
        """
        now, steps = self._clock(), self._total - step
        since, when = self._first or (step, now)
        if step > since and now > when:
            return steps * (now - when) / (step - since)
        if self._step_seconds:
            return steps * self._step_seconds
        since, when = self._started
        if step > since and now > when:
            return steps * (now - when) / (step - since)
        return None

    def _left(self, step, seconds):
        """What is left, in epochs and in time."""
        epochs = (self._total - step) / self._steps_per_epoch
        return f"left {round(epochs, 1):g} epochs, {format_duration(seconds)}"

    def update(self, step, values=None):
        """Moves the progress to `step`.

        Args:
          step: int, finished steps of the run.
          values: dict with any of loss (nats), images_per_second, and shares
            0..1: instance_top1, top1, probe_train_top1, input_wait_share,
            knn_backbone and knn_projection; None = no figures.
        """
        values = {k: v for k, v in (values or {}).items() if v is not None}
        texts = self._describe(values)
        if self._batch_size and "images_per_second" in values:
            speed = values["images_per_second"]
            self._step_seconds = self._batch_size / speed
        left = self.seconds_left(step)
        if self._first is None:
            self._first = (step, self._clock())
        if left is not None:
            texts["left"] = self._left(step, left)
        if has_bars(self._stream):
            self._move_bar(step, texts)
        elif values:
            epoch = self._epoch(step)
            parts = [
                f"epoch {epoch}/{self._epochs}",
                f"step {step}/{self._total}",
                *texts.values(),
            ]
            self.message("  ".join(parts))

    def _epoch(self, step):
        """Returns the epoch, from 1, that ends with or holds `step`."""
        return max(1, -(-step // self._steps_per_epoch))

    def _describe(self, values):
        """Writes the figures as texts by name, in the order of the line."""
        texts = {}
        if "loss" in values:
            chance = (
                ""
                if self._chance is None
                else (f" (chance {self._chance:.2f})")
            )
            texts["loss"] = f"loss {float(values['loss']):.2f}{chance}"
        if "instance_top1" in values:
            share = 100 * float(values["instance_top1"])
            texts["instance_top1"] = f"instance_top1 {share:.1f} %"
        if "top1" in values:
            texts["top1"] = f"top-1 {100 * float(values['top1']):.1f} %"
        if "probe_train_top1" in values:
            share = 100 * float(values["probe_train_top1"])
            texts["probe"] = f"probe {share:.1f} %"
        for layer in metrics_csv.KNN_LAYERS:
            if f"knn_{layer}" in values:
                share = 100 * float(values[f"knn_{layer}"])
                texts[layer] = f"kNN {layer} {share:.1f} %"
        if "images_per_second" in values:
            speed = float(values["images_per_second"])
            digits = 1 if speed < 10 else 0
            texts["speed"] = f"{speed:.{digits}f} images/s"
        if "input_wait_share" in values:
            share = 100 * float(values["input_wait_share"])
            texts["wait"] = f"input wait {share:.0f} %"
        return texts

    def _move_bar(self, step, texts):
        epoch = self._epoch(step)
        before = (epoch - 1) * self._steps_per_epoch
        if epoch != self._bar_epoch:
            self.close()
            self._bar_epoch = epoch
            self._file = self._file or _file_of_bar(self._stream)
            self._bar = tqdm.tqdm(
                total=min(self._steps_per_epoch, self._total - before),
                initial=0,
                desc=f"epoch {epoch}/{self._epochs}",
                file=self._file,
                dynamic_ncols=True,
                bar_format="{desc} {percentage:3.0f}%|{bar:10}| "
                "{n_fmt}/{total_fmt}{postfix}",
            )
        # Figures come every few steps; between them the last ones stay.
        self._texts = {**self._texts, **texts}
        # A narrow terminal cuts the end: what matters most comes first.
        first = [name for name in _FIRST_IN_BAR if name in self._texts]
        names = first + [name for name in self._texts if name not in first]
        self._bar.set_postfix_str(
            "  ".join(self._texts[name] for name in names), refresh=False
        )
        self._bar.update(step - before - self._bar.n)
        if step == before + self._bar.total:
            self.close()

    def message(self, text):
        """Prints a line, above the bar if there is one."""
        print_line(text, self._stream)

    def close(self):
        """Ends the bar, if there is one, with its last figures."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None


class Counter:
    """Shows how many of a number of things are done; a context manager."""

    def __init__(
        self,
        total,
        done,
        verb,
        stream,
        clock=time.monotonic,
        unit="images",
        patience=0,
    ):
        """Starts the clock.

        Args:
          total: int. done: int, by earlier sessions. verb: str, "preparing".
          stream: text stream. clock: function that returns seconds.
          unit: what is counted.
          patience: seconds in which nothing is shown; what takes no longer is
            not shown at all.
        """
        self._total = total
        self._first = self._done = done
        self._verb, self._unit = verb, unit
        self._stream = stream
        self._clock = clock
        self._patience = patience
        self._started = self._last_line = clock()
        self._next = self._started + (patience or _LINE_SECONDS)
        self._bar = None
        if has_bars(stream):
            self._bar = tqdm.tqdm(
                total=total,
                initial=done,
                desc=verb,
                unit=f" {unit}",
                file=_file_of_bar(stream),
                dynamic_ncols=True,
                delay=patience,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shown = not self._patience or self._last_line > self._started
        if self._bar is not None:
            self._bar.close()
        elif self._done > self._first and shown:
            self._line()

    def add(self, count):
        """Counts some more."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._clock() >= self._next:
            # A last line comes at the end, if there was one before.
            if not self._patience or self._done < self._total:
                self._line()

    def _line(self):
        self._last_line = self._clock()
        self._next = self._last_line + _LINE_SECONDS
        new, seconds = self._done - self._first, self._last_line - self._started
        text = f"{self._verb} {self._done}/{self._total}"
        if seconds > 0:
            rate = new / seconds
            left = format_duration((self._total - self._done) / rate)
            text += f"  {rate:.1f} {self._unit}/s  left {left}"
        self.message(text)

    def message(self, text):
        """Prints a line, above the bar if there is one."""
        print_line(text, self._stream)


def counted(total, done, verb, unit="images"):
    """A Counter of a command that prints its result: silent for 3 seconds."""
    return Counter(total, done, verb, sys.stdout, unit=unit, patience=_PATIENCE)


class Elapsed:
    """Says what is being done, and for how long, from 3 seconds on.

    A context manager, for work whose parts cannot be counted.
    """

    def __init__(self, verb, stream=None, patience=_PATIENCE):
        """Stores the words: "exporting"; stream None: standard output."""
        self._verb = verb
        self._stream = sys.stdout if stream is None else stream
        self._patience = patience
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self):
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _show(self):
        patience = self._patience
        while not self._over.wait(patience):
            minutes, seconds = divmod(
                round(time.monotonic() - self._started), 60
            )
            text = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
            print(f"{self._verb} ...  {text}", file=self._stream, flush=True)
            patience = _LINE_SECONDS
