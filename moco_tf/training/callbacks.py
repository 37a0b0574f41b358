"""What happens around the steps of `fit`: reports, kNN and checkpoints."""

import math
import time
from typing import Any

import tensorflow as tf

from moco_tf.training import checkpoints


class NotFinite(FloatingPointError):
    """A loss that is not a number, of a step (from 1)."""

    def __init__(self, step, message):
        super().__init__(message)
        self.step = step


class StepCallback(tf.keras.callbacks.Callback):
    """Counts steps and ends `fit` after the same step on all workers.

    Attributes:
      step: int, finished steps.
      left: whether the run was asked to leave before its last step.
    """

    # Without this, Keras copies the logs to the host at every step.
    _supports_tf_logs = True

    def __init__(self, steps_per_epoch, last_step, guard):
        """Stores what does not change.

        Args:
          steps_per_epoch: int.
          last_step: int, the step after which the run stops.
          guard: Guard of this process.
        """
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.last_step = last_step
        self.guard = guard
        self.left = False
        self._told = False
        self._leave = None

    def resume(self, method):
        """Takes up a method at its step, before `fit`."""
        self.set_model(method)
        self.step = int(method.step.numpy())

    def on_train_batch_begin(self, batch, logs=None):
        del batch, logs
        if self.guard.asked and not self._told:
            self.model.leave.ask()
            self._told = True

    def on_train_batch_end(self, batch, logs=None):
        del batch
        self.step += 1
        self.guard.step_done(self.step)
        # The word of the step before: waiting for this one's would keep the
        # device idle. It is the same on all workers.
        asked = self._leave is not None and float(self._leave) > 0
        self._leave = (logs or {}).get("leave")
        finished = self.step >= self.last_step
        self.left = asked and not finished
        self.after_step()
        if asked or finished:
            self.model.stop_training = True

    def after_step(self):
        """What this worker does after a step."""

    def ends_epoch(self):
        """Whether the last finished step ended an epoch."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    def on_epoch_end(self, epoch, logs=None):
        del epoch, logs
        if self.ends_epoch() and not self.left:
            # kNN may take long, on the chief alone.
            self.guard.wait(0, "the evaluation of an epoch")
            self.finish_epoch()

    def finish_epoch(self):
        """What this worker does at the end of an epoch."""


class ReportingCallback(StepCallback):
    """Saves finished steps, and reports what they logged: the chief's part.

    Attributes:
      keep: int, checkpoints that stay; causes: text, of a loss that is no
        number. A subclass has its own.
      reported: int, steps that are reported.
      bad: int, unreadable samples so far.
    """

    keep = 1
    causes = ""

    def __init__(
        self,
        config,
        workdir,
        steps_per_epoch,
        last_step,
        metrics,
        progress,
        unreadable,
        guard,
    ):
        """Gathers what is reported to.

        Args:
          config: ConfigDict. workdir: Path of metrics.csv and checkpoints/.
          steps_per_epoch: int. last_step: int, after which the run stops.
          metrics: MetricsFile. progress: Progress. unreadable: UnreadableLog.
          guard: Guard of this process.
        """
        super().__init__(steps_per_epoch, last_step, guard)
        self.config = config
        self.workdir = workdir
        self.metrics = metrics
        self.progress = progress
        self.unreadable = unreadable

    def resume(self, method):
        """Takes up a method at its step, before `fit`."""
        super().resume(method)
        self.reported = self.step
        self.bad = sum(row["unreadable"] for row in self.metrics.rows())

    def on_train_begin(self, logs=None):
        del logs
        self.progress.start(self.step)

    def on_train_end(self, logs=None):
        del logs
        self.progress.close()

    def save(self):
        """Writes a checkpoint of the finished steps.

        Raises:
          NotFinite: at a loss that is none; nothing is saved after it.
        """
        self.check_finite()
        meta = {
            "epoch": self.step / self.steps_per_epoch,
            "replicas": self.model.replicas,
            "last_step": self.last_step,
        }
        checkpoints.save(self.model, self.workdir, self.keep, meta)

    def save_interrupted(self):
        """Saves at Ctrl-C: a step is finished or not begun, never half done."""
        self.progress.close()
        self.step = int(self.model.step.numpy())
        newest = checkpoints.latest(self.workdir)
        done = checkpoints.read_meta(newest)["step"] if newest else 0
        if self.step > done:
            self.save()

    def check_finite(self):
        """Stops the run at a loss that is not a number.

        Raises:
          NotFinite: naming the step.
        """
        losses = self.model.step_log.read(self.reported, self.step)["loss"]
        for step, loss in enumerate(losses, self.reported + 1):
            if not math.isfinite(loss):
                raise NotFinite(
                    step,
                    f"The loss of step {step} is {loss}. Checkpoints from "
                    f"before are intact. {self.causes}",
                )

    def figures(self, window):
        """The row of metrics.csv that steps have in common.

        Args:
          window: name -> the values of the steps since the last report.

        Side effects: names the samples that could not be read.
        """
        count = self.step - self.reported
        shares = window["unreadable"]
        row = {
            name: math.fsum(window[name]) / count for name in self.model.METRICS
        }
        row |= {
            "epoch": 1 + (self.step - 1) // self.steps_per_epoch,
            "steps": count,
            "learning_rate": self._rate(),
            "unreadable": round(
                math.fsum(shares) * self.config.train.batch_size
            ),
        }
        if row["unreadable"]:
            numbered = enumerate(shares, self.reported)
            self.unreadable.add([step for step, share in numbered if share])
        return row

    def note(self, row):
        """Takes the steps of a row that is written for reported.

        Raises:
          ValueError: for too many samples that could not be read.
        """
        self.reported = self.step
        self.bad += row["unreadable"]
        seen = self.step * self.config.train.batch_size
        self.unreadable.check(self.bad, seen)
        self.progress.update(self.step, row)

    def _rate(self):
        rate = self.model.optimizer.learning_rate
        if callable(rate):  # the older optimisers keep the schedule
            rate = rate(max(self.step - 1, 0))
        return float(rate.numpy())


def epoch_mean(rows, name):
    """The mean of a column over an epoch's rows, each of so many steps."""
    count = sum(row["steps"] for row in rows)
    return math.fsum(row[name] * row["steps"] for row in rows) / count


class PretrainCallback(ReportingCallback):
    """Reports every few steps, runs kNN and saves: the chief's part.

    At the end of an epoch: report, checkpoint, kNN. A run that is killed in
    between repeats what its last checkpoint does not hold, and no more.

    Side effects: writes metrics.csv, warnings.csv, TensorBoard files and
    checkpoints.
    """

    causes = (
        "Usual causes: a learning rate too high for the batch, or a "
        "temperature too low."
    )

    def __init__(self, *reported_to):
        """Sets what may be missing to None.

        Args:
          *reported_to: as of ReportingCallback.

        Attributes, set after; each may be None:
          scalars: EventWriter.
          knn: function of an encoder -> dict of figures by column of
            metrics.csv.
          inspector: of the method between steps -> such a dict.
          pace: of the key encoder's steps (evaluation/diagnostics.py).
          watch, warnings: health.Watch and health.WarningLog.
          board: pictures for TensorBoard (reporting/board.py).
          profile: profile.Profile.
        """
        super().__init__(*reported_to)
        self.keep = self.config.checkpoint.keep
        self.scalars: Any = None
        self.knn = self.inspector = self.pace = None
        self.watch: Any = None
        self.warnings: Any = None
        self.board = self.profile = None
        self.clock: Any = None
        self.newest_knn = None  # of this session

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self.watch:
            self._warn(self.watch.start())
        if self.board:
            self.board.start(self.step)

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch, logs)
        if self.profile:
            self.profile.before(self.step + 1)

    def after_step(self):
        if self.profile:
            self.profile.after(self.step)
        if self.clock is None:  # the first step also compiles
            self.clock = (self.step, time.perf_counter())
        pace = self.pace and self.pace.end(self.model)
        if pace is not None:
            self._warn(self.watch.pace(pace))
        ends = self.ends_epoch() or self.step >= self.last_step
        # No report when the run only leaves: the next start reports the same
        # steps as a run that never left.
        if ends or self._is_due("log"):
            self.report()
            if self.pace:
                self.pace.begin(self.model)
        if ends or self.left or self._is_due("checkpoint"):
            self.save()

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self.profile:
            self.profile.stop()
            if self.scalars and self.model.step_graph:
                self.scalars.graph(self.model.step_graph)
        if self.board and self.step >= self.last_step:
            self.board.end()

    def close(self):
        """Closes the files of the run; nothing is reported after."""
        self.metrics.close()
        if self.scalars:
            self.scalars.close()

    def resume(self, method):
        """Takes up a method at its step, before `fit`.

        Side effects: measures what an earlier session did not come to after
        its last checkpoint, the kNN of an epoch.
        """
        super().resume(method)
        if method.momentum is None:
            self.pace = None
        rows = self.metrics.rows()
        self.reported = max([row["step"] for row in rows], default=0)
        if self.step - self.reported > self.config.log.every_steps:
            self.reported = self.step  # metrics.csv was removed or cut
        self.best_knn = max(map(self._judge, rows), default=-math.inf)
        if rows and rows[-1]["step"] == self.step and self.ends_epoch():
            if rows[-1]["epoch_loss"] is None:
                self.finish_epoch()

    def report(self):
        """Reads the steps since the last report and tells all listeners."""
        self.check_finite()
        window = self.model.step_log.read(self.reported, self.step)
        row = {**self._speed(window["input_wait"]), **self.figures(window)}
        if self.inspector:
            row |= self.inspector(self.model)
        if self.board:
            self.board.histograms(self.step, self.model.newest.read())
        self._write(row)
        self.note(row)
        if self.watch:
            self._warn(self.watch.report({"step": self.step, **row}))

    def finish_epoch(self):
        """Epoch means, and kNN if it is due; the epoch is saved already."""
        epoch = self.step // self.steps_per_epoch
        rows = [row for row in self.metrics.rows() if row["epoch"] == epoch]
        row = {"epoch_loss": epoch_mean(rows, "loss")}
        every, epochs = self.config.knn.every_epochs, self.config.train.epochs
        if self.knn and (epoch % every == 0 or epoch == epochs):
            row |= self.knn(self.model.query_encoder)
            self.newest_knn = self._judge(row)
        if self._judge(row) > self.best_knn:
            self.best_knn = self._judge(row)
            checkpoints.keep_as_best(checkpoints.latest(self.workdir))
        # Last: without this row, kNN is measured again at the next start.
        self._write(row)
        self.progress.message(_epoch_line(epoch, epochs, row))
        if self.watch:
            if "instance_top1" in self.model.METRICS:
                row["instance_top1"] = epoch_mean(rows, "instance_top1")
            self._warn(self.watch.epoch(row))
        if self.board:
            self.board.epoch(self.step, last=self.step >= self.last_step)
        if self.clock:
            self.clock = (self.step, time.perf_counter())

    def _is_due(self, section):
        """Whether the section's every_steps is reached within the epoch."""
        every = self.config[section].every_steps
        in_epoch = self.step % self.steps_per_epoch
        return bool(every) and in_epoch % every == 0

    def _speed(self, waits):
        first, start = self.clock
        seconds = time.perf_counter() - start
        steps = self.step - first
        self.clock = (self.step, time.perf_counter())
        if not steps:
            return {}
        waited = math.fsum(waits[-steps:])
        return {
            "images_per_second": steps * self.config.train.batch_size / seconds,
            "input_wait_share": min(waited / seconds, 1.0),
        }

    def _write(self, row):
        row = {"step": self.step, **row}
        self.metrics.append(row)
        if self.scalars:
            self.scalars.write(row)

    def _warn(self, notices):
        for notice in notices:
            self.progress.message(f"Warning: {notice.name}: {notice.text}")
        self.warnings.add(self.step, notices)

    def _judge(self, row):
        value = row.get(f"knn_{self.config.knn.features}")
        return -math.inf if value is None else value


def _epoch_line(epoch, epochs, row):
    """One line for an epoch's end."""
    parts = [f"epoch {epoch}/{epochs} done", f"loss {row['epoch_loss']:.4f}"]
    parts += [
        f"kNN ({layer}) {100 * row['knn_' + layer]:.2f} %"
        for layer in ("backbone", "projection")
        if "knn_" + layer in row
    ]
    return "  ".join(parts)
