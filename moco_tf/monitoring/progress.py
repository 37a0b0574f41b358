"""Where a run stands, with its figures: bars of epochs, or plain lines."""

import contextlib
import sys
import time
from typing import Any

from moco_tf import counting
from moco_tf.monitoring import listener, metrics_csv

_FIRST_IN_BAR = ("loss", "left", "speed")
# Lines of figures that all are printed, where there are no bars; then one of
# each kind in LINE_SECONDS: 800 short epochs would be 1600 lines in minutes.
_PLENTY = 60
_ROWS = 20  # of metrics.csv, that an earlier session's speed is taken from


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


class Progress(listener.Listener):
    """Shows where a run stands.

    On a terminal and in a notebook each epoch has a bar, which `update` moves.
    Elsewhere an `update` with figures prints one line. After many lines most
    are left out where they come fast.
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
        log_every=None,
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
          log_every: steps between figures within an epoch; None: not known.
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
        self._log_every = log_every or total_steps
        self._lines = 0
        self._last_lines = {}  # when each kind was printed last
        self._last_figures = clock()  # printed or left out
        self._skips = False
        # (step, seconds) at the session's start and at its first update: the
        # first steps compile the graph and say nothing about the speed.
        self._started = (0, clock())
        self._first = None
        self._compiling: Any = None  # until the first step is done

    def on_start(self, method, step):
        self.start(step)
        left = self.seconds_left(step)
        if left is not None:
            self.message(f"{self._left(step, left)} at the speed so far")
        self._compiling = contextlib.ExitStack()
        self._compiling.enter_context(
            counting.Elapsed("compiling the first step", self._stream)
        )

    def on_step(self, method, step):
        self._end_of_compiling()
        within = step % self._steps_per_epoch  # 0: an epoch's end
        if within % self._log_every == 0 or step >= self._total:
            return  # figures come
        if counting.has_bars(self._stream):
            self._move_bar(step, {})
        elif self._clock() >= self._last_figures + counting.LINE_SECONDS:
            self._last_figures = self._clock()
            self.message(self._place(step))

    def _end_of_compiling(self):
        if self._compiling is not None:
            self._compiling.close()
            self._compiling = None

    def on_report(self, method, row):
        self.update(row["step"], row)

    def on_epoch(self, method, row):
        epoch = row["step"] // self._steps_per_epoch
        parts = [f"epoch {epoch}/{self._epochs} done"]
        parts.append(f"loss {row['epoch_loss']:.4f}")
        accuracies = [
            f"kNN ({layer}) {100 * row['knn_' + layer]:.2f} %"
            for layer in metrics_csv.KNN_LAYERS
            if "knn_" + layer in row
        ]
        if "probe_top1" in row:
            accuracies.append(f"probe {100 * row['probe_top1']:.2f} %")
        if "evaluated_top1" in row:
            accuracies.append(f"top-1 {100 * row['evaluated_top1']:.2f} %")
        kind = "accuracy" if accuracies else "epoch"
        self._figures(kind, row["step"], "  ".join(parts + accuracies))

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
        duration = counting.format_duration(seconds)
        return f"left {round(epochs, 1):g} epochs, {duration}"

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
        if counting.has_bars(self._stream):
            self._move_bar(step, texts)
        elif values:
            parts = [self._place(step), *texts.values()]
            self._figures("report", step, "  ".join(parts))

    def _place(self, step):
        """Which step of which epoch it is, in words."""
        epoch = self._epoch(step)
        return f"epoch {epoch}/{self._epochs}  step {step}/{self._total}"

    def _figures(self, kind, step, text):
        """Prints a line of figures, unless there were many a moment ago.

        A kind's clock is its own: else of lines that come in pairs, one kind
        would take all places.
        """
        self._lines += 1
        now = self._last_figures = self._clock()
        last = self._last_lines.get(kind, -counting.LINE_SECONDS)
        fast = now < last + counting.LINE_SECONDS
        if self._lines > _PLENTY and fast and step < self._total:
            if not self._skips:
                self._skips = True
                self.message(
                    "Lines come fast: from here on one of a kind in "
                    f"{counting.LINE_SECONDS} s; metrics.csv has all figures"
                )
            return
        self._last_lines[kind] = now
        self.message(text)

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
            self._file = self._file or counting.file_of_bar(self._stream)
            self._bar = counting.Bar(
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
        counting.print_line(text, self._stream)

    def close(self):
        """Ends the bar, if there is one, with its last figures."""
        self._end_of_compiling()
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None
