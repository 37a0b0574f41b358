"""What happens around the steps of `fit`: reports, kNN and checkpoints."""

import math
import time
from typing import Any

from moco_tf.training import checkpoints, reports


class PretrainCallback(reports.ReportingCallback):
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
          pace: of the key encoder's steps (evaluation/dictionary.py).
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
        row = {"epoch_loss": reports.epoch_mean(rows, "loss")}
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
                row["instance_top1"] = reports.epoch_mean(rows, "instance_top1")
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
