"""Progress in words: a bar on a terminal, plain lines elsewhere.

Of a run with its figures (Progress), and of a count of images that goes up
(Counter).
"""

import sys
import time
from typing import Any

import tqdm

from moco_tf.monitoring import listener, metrics_csv

_FIRST_IN_BAR = ("loss", "left", "speed")
_LINE_SECONDS = 15  # between the lines of a Counter


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


def _print_line(text, stream):
    """Prints a line; on a terminal above the bar, if there is one."""
    if stream.isatty():
        tqdm.tqdm.write(text, file=stream)
    else:
        print(text, file=stream, flush=True)


class Progress(listener.Listener):
    """Shows where a run stands.

    On a terminal each epoch has a bar, which `update` moves. Elsewhere an
    `update` with figures prints one line.
    """

    def __init__(
        self,
        total_steps,
        steps_per_epoch,
        chance=None,
        stream=None,
        clock=time.monotonic,
        epochs=None,
    ):
        """Stores what does not change during a run.

        Args:
          total_steps: of the run, all sessions. steps_per_epoch: steps.
          chance: loss of guessing, nats; None = not shown.
          stream: text stream; None = standard output.
          clock: function that returns seconds.
          epochs: of the schedule, for the line at an epoch's end; None: those
            of total_steps.
        """
        self._total = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._epochs = -(-total_steps // steps_per_epoch)
        self._scheduled = epochs or self._epochs
        self._chance = chance
        self._stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._bar: Any = None
        self._bar_epoch = None
        self._texts = {}
        # (step, seconds) at the session's start and at its first update: the
        # first steps compile the graph and say nothing about the speed.
        self._started = (0, clock())
        self._first = None

    def on_start(self, method, step):
        self.start(step)

    def on_report(self, method, row):
        self.update(row["step"], row)

    def on_epoch(self, method, row):
        epoch = row["step"] // self._steps_per_epoch
        parts = [f"epoch {epoch}/{self._scheduled} done"]
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
        """Estimates the time to the run's end from this session's speed.

        Returns:
          seconds, or None before the first step of this session.
        """
        now = self._clock()
        for since, when in (self._first or self._started, self._started):
            if step > since and now > when:
                return (self._total - step) * (now - when) / (step - since)
        return None

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
        left = self.seconds_left(step)
        if self._first is None:
            self._first = (step, self._clock())
        if left is not None:
            texts["left"] = f"left {format_duration(left)}"
        if self._stream.isatty():
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
            self._bar = tqdm.tqdm(
                total=min(self._steps_per_epoch, self._total - before),
                initial=0,
                desc=f"epoch {epoch}/{self._epochs}",
                file=self._stream,
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
        _print_line(text, self._stream)

    def close(self):
        """Ends the bar, if there is one, with its last figures."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None


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
        self._started = self._last_line = clock()
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
        elif self._clock() - self._last_line >= _LINE_SECONDS:
            self._line()

    def _line(self):
        self._last_line = self._clock()
        new, seconds = self._done - self._first, self._last_line - self._started
        text = f"{self._verb} {self._done}/{self._total}"
        if seconds > 0:
            rate = new / seconds
            left = format_duration((self._total - self._done) / rate)
            text += f"  {rate:.1f} images/s  left {left}"
        self.message(text)

    def message(self, text):
        """Prints a line, above the bar if there is one."""
        _print_line(text, self._stream)
