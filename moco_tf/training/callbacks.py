"""Callbacks of `fit`: reports and checkpoints between steps, and the end."""

import math
import time
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf import counting
from moco_tf.methods import method as method_lib
from moco_tf.monitoring import listener
from moco_tf.training import checkpoints


class NotFinite(FloatingPointError):
    """A loss that is not a number, of a step (from 1)."""

    def __init__(self, step, message):
        super().__init__(message)
        self.step = step


# Steps between two looks of workers at whether one of them was asked to leave:
# each look waits for the device, and all must look after the same steps.
LEAVE_EVERY = 16


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
        self._has_asked = False

    def resume(self, method):
        """Takes up a method at its step, before `fit`."""
        self.set_model(method)
        self.step = int(method.step.numpy())

    def on_train_batch_begin(self, batch, logs=None):
        del batch, logs
        if self.guard.cluster and self.guard.asked and not self._has_asked:
            self.model.leave.ask()
            self._has_asked = True

    def on_train_batch_end(self, batch, logs=None):
        del batch
        self.step += 1
        self.guard.step_done(self.step)
        asked = self._is_asked(logs or {})
        finished = self.step >= self.last_step
        self.left = asked and not finished
        self.after_step()
        if asked or finished:
            self.model.stop_training = True

    def _is_asked(self, logs):
        """Whether the run is to leave now; the same on all workers.

        Args:
          logs: dict of the step's results, which may not be computed yet.
        """
        if not self.guard.cluster:
            return self.guard.asked is not None
        if self.step % LEAVE_EVERY or "leave" not in logs:
            return False
        return float(logs["leave"]) > 0

    def after_step(self):
        """What this worker does after a step."""

    def ends_epoch(self):
        """Whether the last finished step ended an epoch."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    def on_epoch_end(self, epoch, logs=None):
        del epoch, logs
        if self.ends_epoch() and not self.left:
            # kNN may take long, on the chief alone.
            self.guard.limit(0, "the evaluation of an epoch")
            self.finish_epoch()

    def finish_epoch(self):
        """What this worker does at the end of an epoch."""


class Cadence(NamedTuple):
    """When a run reports, saves and ends.

    Attributes:
      steps_per_epoch: int. last_step: int, after which the run stops.
      batch_size: images of a step, of all replicas.
      log_every: steps between reports within an epoch, at most 1024.
      save_every: steps between checkpoints within an epoch; 0: at its end only.
      keep: checkpoints that stay.
    """

    steps_per_epoch: int
    last_step: int
    batch_size: int
    log_every: int
    save_every: int = 0
    keep: int = 1


class RunCallback(StepCallback):
    """The chief's callback: reports, saves checkpoints, calls listeners.

    The end of an epoch is reported, then saved, and only then the listeners'
    `on_epoch` is called, where kNN is measured: a run that is killed meanwhile
    repeats the measurement and no step.

    Attributes:
      reported: int, steps that are in metrics.csv.
      unreadable_samples: int, so far.

    Side effects: writes checkpoints; its listeners write their files.
    """

    def __init__(
        self,
        cadence,
        *,
        workdir,
        metrics,
        unreadable,
        guard,
        listeners,
        causes="",
    ):
        """Joins a run's files and listeners.

        Args:
          cadence: Cadence. workdir: Path of the folder of checkpoints/.
          metrics: MetricsFile, one of the listeners; its rows say where an
            earlier session ended.
          unreadable: UnreadableLog. guard: Guard of this process.
          listeners: list of Listener, in the order in which they are called.
          causes: usual causes of a loss that is not finite, in words.
        """
        super().__init__(cadence.steps_per_epoch, cadence.last_step, guard)
        self.cadence = cadence
        self.workdir = workdir
        self.metrics = metrics
        self.unreadable = unreadable
        self.listeners = listeners
        self.causes = causes
        self._clock: Any = None  # (step, seconds) since which speed is taken

    def resume(self, method):
        """Takes up a method at its step, before `fit`.

        Side effects: reports the last step and finishes its epoch where an
        earlier session saved it and did not come to that: its kNN is measured.
        """
        super().resume(method)
        rows = self.metrics.rows()
        self.unreadable_samples = sum(row["unreadable"] for row in rows)
        self._first_step, self._met = self.step, 0
        self.reported = max([row["step"] for row in rows], default=0)
        first = oldest_step(self.step, self.steps_per_epoch)
        first = max(self.reported, first)
        self.reported = method.step_log.written_from(first, self.step)
        if self.step > self.reported and self._owes_report():
            self.report()
            rows = self.metrics.rows()
        if rows and rows[-1]["step"] == self.step and self.ends_epoch():
            if rows[-1]["epoch_loss"] is None:
                self.finish_epoch()

    def _owes_report(self):
        """Whether the last step is one that is reported, or no later one can.

        Of more steps than the step log holds no row can be made: the cadence of
        the reports may be another one than before.
        """
        if self._ends() or self._is_due(self.cadence.log_every):
            return True
        within = self.step % self.steps_per_epoch
        following = within - within % self.cadence.log_every
        following += self.cadence.log_every
        left = min(following, self.steps_per_epoch) - within
        return self.step + left - self.reported > method_lib.StepLog.CAPACITY

    def _ends(self):
        """Whether the last finished step ended an epoch or the run."""
        return self.ends_epoch() or self.step >= self.last_step

    def on_train_begin(self, logs=None):
        del logs
        for each in self.listeners:
            each.on_start(self.model, self.step)

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch, logs)
        for each in self.listeners:
            each.before_step(self.step + 1)

    def after_step(self):
        if self._clock is None:  # the first step also compiles
            self._clock = (self.step, time.perf_counter())
        for each in self.listeners:
            each.on_step(self.model, self.step)
        # No report when the run only leaves: the next start reports the same
        # steps as a run that never left.
        if self._ends() or self._is_due(self.cadence.log_every):
            self.report()
        if self._ends() or self.left or self._is_due(self.cadence.save_every):
            self.save()

    def on_train_end(self, logs=None):
        del logs
        for each in self.listeners:
            each.on_end(self.model, self.step)

    def close(self):
        """Closes the listeners; nothing is reported after."""
        for each in self.listeners:
            each.close()

    def report(self):
        """Reads the steps since the last report and calls the listeners.

        Raises:
          NotFinite: at a loss that is no number.
          ValueError: for too many samples that could not be read.
        """
        self.check_finite()
        window = self.model.step_log.read(self.reported, self.step)
        row = {
            "step": self.step,
            **self._speed(window["input_wait"]),
            **self._figures(window),
        }
        for each in self.listeners:
            each.on_report(self.model, row)
        self.reported = self.step
        self._check_unreadable(row["unreadable"], window["unreadable"])

    def _check_unreadable(self, count, shares):
        """Counts the samples of a report that could not be read.

        Args:
          count: int. shares: of each step's batch; the first steps may have
            been of an earlier session.
        """
        batch, steps = self.cadence.batch_size, self.step - self._first_step
        self.unreadable_samples += count
        own = shares[max(len(shares) - steps, 0) :]
        self._met += round(math.fsum(own) * batch)
        self.unreadable.check(
            self.unreadable_samples,
            self.step * batch,
            session=(self._met, steps * batch),
        )

    def finish_epoch(self):
        """Calls the listeners with the mean loss of an epoch that is saved."""
        epoch = self.step // self.steps_per_epoch
        loss = self.metrics.epoch_mean(epoch, "loss")
        row = {"step": self.step, "epoch_loss": loss}
        for each in self.listeners:
            each.on_epoch(self.model, row)
        if self._clock:
            self._clock = (self.step, time.perf_counter())
        if self.step < self.last_step:  # the other workers wait in the next
            self.guard.step_done(self.step)

    def save(self):
        """Writes a checkpoint of the finished steps.

        Raises:
          NotFinite: at a loss that is no number; nothing is saved after it.
        """
        self.check_finite()
        meta = {
            "epoch": self.step / self.steps_per_epoch,
            "replicas": self.model.replicas,
            "last_step": self.last_step,
        }
        with counting.Elapsed("saving"):
            checkpoints.save(self.model, self.workdir, self.cadence.keep, meta)

    def save_interrupted(self):
        """Saves at Ctrl-C: a step is finished or not begun, never half done."""
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

    def _figures(self, window):
        """The means of a report's steps, by column of metrics.csv.

        Args:
          window: name -> the values of the steps since the last report.

        Side effects: names the samples that could not be read.
        """
        count = self.step - self.reported
        unreadable = window["unreadable"]  # a share of each step's batch
        row = {
            name: math.fsum(window[name]) / count for name in self.model.METRICS
        }
        if self.model.probe is not None:
            row |= self.model.probe.means(window)
        row |= {
            "epoch": 1 + (self.step - 1) // self.steps_per_epoch,
            "steps": count,
            "learning_rate": self._rate(),
            "unreadable": round(
                math.fsum(unreadable) * self.cadence.batch_size
            ),
        }
        if row["unreadable"]:
            numbered = enumerate(unreadable, self.reported)
            batch = self.cadence.batch_size
            self.unreadable.add({s: round(x * batch) for s, x in numbered if x})
        return row

    def _speed(self, waits):
        """Images a second and the share of waiting, from the clock's step."""
        if self._clock is None:  # no step of this session
            return {}
        first, start = self._clock
        seconds = time.perf_counter() - start
        steps = self.step - first
        self._clock = (self.step, time.perf_counter())
        if not steps:
            return {}
        waited = math.fsum(waits[-steps:])
        return {
            "images_per_second": steps * self.cadence.batch_size / seconds,
            "input_wait_share": min(waited / seconds, 1.0),
        }

    def _is_due(self, every):
        """Whether so many steps, or a multiple, are done within the epoch."""
        return bool(every) and self.step % self.steps_per_epoch % every == 0

    def _rate(self):
        rate = self.model.optimizer.learning_rate
        if callable(rate):  # the older optimisers keep the schedule
            rate = rate(max(self.step - 1, 0))
        return float(rate.numpy())


def oldest_step(step, steps_per_epoch):
    """The steps of a checkpoint without which a row can still be made.

    A row is of steps of one epoch that the step log holds.

    Args:
      step: int, of the checkpoint. steps_per_epoch: int.
    """
    epoch = max(step - 1, 0) // steps_per_epoch
    return max(epoch * steps_per_epoch, step - method_lib.StepLog.CAPACITY)


class BestCheckpoint(listener.Listener):
    """Keeps the checkpoint of the epoch with the largest figure of a column.

    It has to be larger than that of the start, where there is one. The listener
    stands between what measures the figure and metrics.csv: without the row of
    an epoch, the epoch is measured again at the next start.
    """

    def __init__(self, workdir, column, rows, start=None):
        """Takes the best figure from an earlier session.

        Args:
          workdir: Path of the folder of checkpoints/. column: str.
          rows: of metrics.csv so far.
          start: function that returns the figure of the starting encoder, or
            None; it is asked when an epoch ends.
        """
        self._workdir = workdir
        self._column = column
        self._best = max(map(self._value, rows), default=-math.inf)
        self._start = start

    def on_epoch(self, method, row):
        value = self._value(row)
        start = self._start and self._start()
        if value > max(self._best, -math.inf if start is None else start):
            self._best = value
            checkpoints.keep_as_best(checkpoints.latest(self._workdir))

    def _value(self, row):
        value = row.get(self._column)
        return -math.inf if value is None else value
