"""TensorBoard scalars that survive kills and resumes without doubles."""

import glob
import os
import time

from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import event_file_writer, record_writer

# Figure of a row -> its tag; the part before "/" groups the charts.
TAGS = {
    "loss": "loss/contrastive",
    "chance": "loss/chance (ln K+1)",
    "epoch_loss": "loss/epoch",
    "unreadable": "input/unreadable",
    "instance_top1": "contrast/instance_top1",
    "learning_rate": "optimizer/learning_rate",
    "images_per_second": "speed/images_per_second",
    "input_wait_share": "speed/input_wait_share",
    "knn_backbone": "knn/backbone",
    "knn_projection": "knn/projection",
    "alignment": "representation/alignment",
    "uniformity": "representation/uniformity",
    "effective_rank": "representation/effective_rank",
    "feature_norm": "representation/feature_norm",
}
_NOT_CHARTED = ("step", "steps", "epoch")


def _event_files(logdir, prefix=""):
    return sorted(
        glob.glob(
            os.path.join(glob.escape(logdir), f"events.out.tfevents.{prefix}*")
        )
    )


def _cut_back(logdir, purge_step):
    """Takes the points from `purge_step` on out of the event files.

    A session start (see ScalarWriter) tells readers to forget them, but
    TensorBoard's faster reader, its default, looks at each chart's own points
    only and would keep those before the chart's next one.
    """
    temporary = os.path.join(logdir, "cut_back.tmp")
    for path in _event_files(logdir):
        records = list(event_file_loader.RawEventFileLoader(path).Load())
        events = map(event_pb2.Event.FromString, records)
        kept = [
            record
            for record, event in zip(records, events, strict=True)
            if not (event.HasField("summary") and event.step >= purge_step)
        ]
        if len(kept) < len(records):
            with open(temporary, "wb") as file:
                writer = record_writer.RecordWriter(file)
                for record in kept:
                    writer.write(record)
            os.replace(temporary, path)


def _wait_for_a_later_name(logdir):
    """Waits until a new event file sorts after those already there.

    TensorBoard reads the files of a run in the order of their names, which
    begin with the time in whole seconds.
    """
    if _event_files(logdir, f"{int(time.time()):010d}."):
        time.sleep(1.0 - time.time() % 1.0)


class ScalarWriter:
    """Writes scalars of one run to a folder of event files.

    A run that resumes takes what was logged after its checkpoint out of the
    earlier files and opens a new one. That begins with a session start at the
    step after the checkpoint's, upon which a TensorBoard that has the earlier
    points in memory forgets them.
    """

    def __init__(self, logdir, resumed_step=0, chance=None):
        """Opens a new event file.

        Args:
          logdir: folder; made if missing.
          resumed_step: step of the checkpoint the run resumes from, in
            optimiser steps; 0 for a new run. Later points of earlier
            sessions are dropped from the files.
          chance: loss of guessing, ln(K + 1), nats; drawn beside the loss.
        """
        self._chance = chance
        logdir = os.fspath(logdir)
        os.makedirs(logdir, exist_ok=True)
        purge_step = resumed_step + 1 if resumed_step else 0
        _cut_back(logdir, purge_step)
        _wait_for_a_later_name(logdir)
        self._writer = event_file_writer.EventFileWriter(logdir)
        # Every session says so: readers take the first start of a folder as
        # the run's beginning and purge at the following ones only.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(
            event_pb2.Event(
                wall_time=time.time(), step=purge_step, session_log=start
            )
        )
        self._writer.flush()

    def write(self, row):
        """Writes the figures of one step and flushes.

        Args:
          row: dict with "step", optimiser steps done, and scalars by name of
            TAGS or by full tag ("group/name"). None is left out.

        Raises:
          ValueError: for a name that is neither.
        """
        values = {k: v for k, v in row.items() if k not in _NOT_CHARTED}
        if "loss" in values and self._chance is not None:
            values["chance"] = self._chance
        for name, value in values.items():
            if name not in TAGS and "/" not in name:
                raise ValueError(
                    "A scalar is named by a known figure or by a tag "
                    f'"group/name". Received {name!r}; known figures: '
                    f"{', '.join(TAGS)}."
                )
            if value is None:
                continue
            point = summary_pb2.Summary.Value(
                tag=TAGS.get(name, name), simple_value=float(value)
            )
            self._writer.add_event(
                event_pb2.Event(
                    wall_time=time.time(),
                    step=row["step"],
                    summary=summary_pb2.Summary(value=[point]),
                )
            )
        self._writer.flush()

    def close(self):
        """Flushes and closes the file."""
        self._writer.close()
