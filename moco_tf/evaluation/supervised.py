"""Training with labels: resumable epochs of a Classifier."""

import math
import pathlib
import time

from moco_tf import config_rules
from moco_tf.cluster import guard as guards
from moco_tf.data import unreadable
from moco_tf.monitoring import metrics_csv, progress
from moco_tf.training import checkpoints, reports

COLUMNS = (
    "epoch",
    "steps",
    "loss",
    "top1",
    "learning_rate",
    "images_per_second",
    "input_wait_share",
    "unreadable",
    "epoch_loss",
    "evaluated_top1",
)


def check_schedule(config):
    """Refuses a schedule that does not fit the epochs (ValueError)."""
    config_rules.check_schedule(config.schedule, config.train.epochs)


def train(method, batches, config, output, strategy, evaluate=None, patience=0):
    """Trains a compiled Classifier, or goes on from its last checkpoint.

    Args:
      method: Classifier, compiled in the strategy's scope, optimiser built.
      batches: Stream without key views.
      config: ConfigDict of the task.
      output: folder of metrics.csv, checkpoints/ and unreadable.csv.
      strategy: tf.distribute.Strategy.
      evaluate: () -> top-1 fraction, called after every epoch, or None.
      patience: epochs without a better evaluation, after which training ends;
        0: never.

    Returns:
      path of the checkpoint to use: the best evaluated one with patience, else
      the last.

    Raises:
      Left: when asked to leave; all is saved.
      FloatingPointError: at a loss that is not finite.
      ValueError: above max_corrupt_fraction.
    """
    guard = guards.Guard()
    guard.take_signals()
    output = pathlib.Path(output)
    last_step = config.train.epochs * batches.steps_per_epoch
    path = checkpoints.latest(output)
    step = checkpoints.restore(method, path) if path else 0
    metrics = metrics_csv.MetricsFile(output / "metrics.csv", COLUMNS)
    metrics.cut_back(step)
    log = unreadable.UnreadableLog(
        output / "unreadable.csv", batches, config.data.max_corrupt_fraction
    )
    callback = TaskCallback(
        config,
        output,
        batches.steps_per_epoch,
        last_step,
        metrics,
        progress.Progress(last_step, batches.steps_per_epoch),
        log,
        guard,
    )
    callback.evaluate, callback.patience = evaluate, patience
    callback.resume(method)
    if step < last_step and not callback.is_enough():
        method.start_at(*divmod(step, batches.steps_per_epoch))
        try:
            method.fit(
                batches.distribute(strategy, step),
                epochs=config.train.epochs,
                steps_per_epoch=batches.steps_per_epoch,
                callbacks=[callback],
                verbose=0,
            )
        except KeyboardInterrupt:
            callback.save_interrupted()
            raise
        finally:
            callback.progress.close()
            metrics.close()
        if callback.left:
            raise guards.Left(callback.step, guard.status())
    best = checkpoints.best(output) if patience else None
    return best or checkpoints.latest(output)


class TaskCallback(reports.ReportingCallback):
    """Reports, evaluates and saves at every epoch's end.

    Attributes, set after: evaluate, patience, as of `train`.

    Side effects: writes metrics.csv and checkpoints.
    """

    causes = "Usual cause: a learning rate too high for these features."

    def resume(self, method):
        super().resume(method)
        self.clock = time.perf_counter()
        rows = self.metrics.rows()
        if rows and self.ends_epoch() and rows[-1]["epoch_loss"] is None:
            self.finish_epoch()  # killed between checkpoint and evaluation

    def after_step(self):
        ends = self.ends_epoch() or self.step >= self.last_step
        in_epoch = self.step % self.steps_per_epoch
        if ends or self.left or in_epoch % self.config.log.every_steps == 0:
            self.report()
        if ends or self.left:
            self.save()

    def save_interrupted(self):
        self.step = int(self.model.step.numpy())
        if self.step > self.reported:
            self.report()
        super().save_interrupted()

    def report(self):
        """Reads the steps since the last report; stops at a bad loss."""
        self.check_finite()
        window = self.model.step_log.read(self.reported, self.step)
        seconds = time.perf_counter() - self.clock
        images = (self.step - self.reported) * self.config.train.batch_size
        row = {
            **self.figures(window),
            "step": self.step,
            "images_per_second": images / seconds,
            "input_wait_share": min(
                math.fsum(window["input_wait"]) / seconds, 1.0
            ),
        }
        self.metrics.append(row)
        self.note(row)
        self.clock = time.perf_counter()

    def finish_epoch(self):
        epoch = self.step // self.steps_per_epoch
        rows = [row for row in self.metrics.rows() if row["epoch"] == epoch]
        mean = reports.epoch_mean(rows, "loss")
        row = {"step": self.step, "epoch_loss": mean}
        text = f"epoch {epoch}/{self.config.train.epochs} done  loss {mean:.4f}"
        if self.evaluate:
            row["evaluated_top1"] = self.evaluate()
            text += f"  top-1 {100 * row['evaluated_top1']:.2f} %"
            earlier = [r["evaluated_top1"] for r in self.metrics.rows()]
            known = [value for value in earlier if value is not None]
            if row["evaluated_top1"] > max(known, default=-1.0):
                checkpoints.keep_as_best(checkpoints.latest(self.workdir))
        self.metrics.append(row)
        self.progress.message(text)
        self.clock = time.perf_counter()
        if self.is_enough():
            self.progress.message(
                f"no better evaluation for {self.patience} epochs: stopped"
            )
            self.model.stop_training = True

    def is_enough(self):
        """Whether the best evaluation is `patience` epochs old."""
        found = [r["evaluated_top1"] for r in self.metrics.rows()]
        values = [value for value in found if value is not None]
        if not self.patience or not values:
            return False
        return len(values) - 1 - values.index(max(values)) >= self.patience
