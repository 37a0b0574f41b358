"""What a run and a task with labels have in common: figures and checkpoints."""

import math

from moco_tf.training import checkpoints, steps


class ReportingCallback(steps.StepCallback):
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
                raise steps.NotFinite(
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
