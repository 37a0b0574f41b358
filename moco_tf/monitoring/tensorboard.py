"""What TensorBoard shows: event files, no point of them twice, and a trace."""

import contextlib
import errno
import glob
import io
import os
import time

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import event_file_writer, record_writer

from moco_tf import paths
from moco_tf.monitoring import listener, metrics_csv

# Figure of a row -> its tag. TensorBoard sorts the groups, which are the parts
# before "/", by name, and opens the first two: numbers put them in the order in
# which a person asks.
TAGS = {
    "loss": "1 loss/contrastive",
    "chance": "1 loss/chance",
    "epoch_loss": "1 loss/epoch",
    "unreadable": "7 speed/unreadable images",
    "instance_top1": "4 keys/instance accuracy",
    "learning_rate": "8 optimizer/learning_rate",
    "images_per_second": "7 speed/images per second",
    "input_wait_share": "7 speed/share of waiting for images",
    "knn_backbone": "2 kNN/backbone",
    "knn_projection": "2 kNN/projection",
    **{name: f"2 kNN/{words}" for name, words in metrics_csv.BASELINES.items()},
    "probe_loss": "3 probe/loss",
    "probe_train_top1": "3 probe/top-1 of training views",
    "probe_top1": "3 probe/top-1 of knn.query",
    "alignment": "6 representation/alignment",
    "uniformity": "6 representation/uniformity",
    "effective_rank": "6 representation/effective_rank",
    "feature_norm": "6 representation/feature_norm",
    "neighbour_stability": "6 representation/neighbour_stability",
    **{
        name: f"6 representation/{of} of the starting encoder"
        for name, of in metrics_csv.STARTS.items()
    },
    "positive": "4 keys/similarity of own key",
    "hardest_negative": "4 keys/similarity of nearest queued key",
    "spread": "6 representation/spread of targets",
    "teacher_entropy": "1 loss/entropy of the teacher",
    "clusters": "6 representation/clusters that the targets divide images into",
    "queue_fill": "5 queue/fill",
    "key_age": "5 queue/mean age of keys (steps)",
    "same_image": "5 queue/keys of images of the next batch",
    "key_rank": "5 queue/effective rank",
    "key_age_auc": "5 queue/how well keys show their age (AUC)",
    "key_drift": "5 queue/drift of key encoder",
}
_NOT_CHARTED = (
    *("step", "steps", "epoch", "stability_error"),
    *metrics_csv.COUNTS,
)


@contextlib.contextmanager
def _errors_of_files():
    """Raises TensorFlow's error of a full disk as OSError."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise OSError(errno.ENOSPC, error.message) from error


def _event_files(logdir, prefix=""):
    """Paths of the event files of a folder, in the order of their names."""
    return sorted(
        glob.glob(
            os.path.join(glob.escape(logdir), f"events.out.tfevents.{prefix}*")
        )
    )


def _cut_back(logdir, purge_step):
    """Takes the points from `purge_step` on out of the event files.

    A session start (see EventWriter) tells readers to forget them, but
    TensorBoard's faster reader, its default, looks at each chart's own points
    only and would keep those before the chart's next one.
    """
    # Not filesystem's name for a part: it would hold the name of an event file,
    # and a TensorBoard that is running would read it.
    temporary = os.path.join(logdir, "cut_back.tmp")
    for path in filter(os.path.isfile, _event_files(logdir)):
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


class EventWriter(listener.Listener):
    """Writes the events of one run to a folder of event files.

    A run that resumes takes what was logged after its checkpoint out of the
    earlier files and opens a new one. It begins with a session start at the
    step after the checkpoint's, upon which a TensorBoard that has the earlier
    points in memory forgets them.
    """

    @_errors_of_files()
    def __init__(self, logdir, resumed_step=0, chance=None):
        """Opens a new event file.

        Args:
          logdir: folder; made if missing.
          resumed_step: step of the checkpoint the run resumes from, in
            optimiser steps; 0 for a new run. Later points of earlier
            sessions are dropped from the files.
          chance: loss of guessing, nats; drawn beside the loss.
        """
        self._chance = chance
        logdir = os.fspath(logdir)
        os.makedirs(logdir, exist_ok=True)
        purge_step = resumed_step + 1 if resumed_step else 0
        with paths.plain(logdir) as plain:
            _cut_back(plain, purge_step)
            _wait_for_a_later_name(plain)
            self._writer = event_file_writer.EventFileWriter(plain)
            self._writer.flush()  # the file is open from now on
        # Every session says so: readers take the first start of a folder as
        # the run's beginning and purge at the following ones only.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(
            event_pb2.Event(
                wall_time=time.time(), step=purge_step, session_log=start
            )
        )
        self._writer.flush()

    @_errors_of_files()
    def write(self, row):
        """Writes the figures of one step and flushes.

        Args:
          row: dict with "step", finished optimiser steps, and scalars by name
            of TAGS or by full tag ("group/name"). None is left out.

        Raises:
          ValueError: for a name that is neither.
        """
        values = {k: v for k, v in row.items() if k not in _NOT_CHARTED}
        if "loss" in values and self._chance is not None:
            values["chance"] = self._chance
        points = []
        for name, value in values.items():
            if name not in TAGS and "/" not in name:
                raise ValueError(
                    "A scalar is named by a known figure or by a tag "
                    f'"group/name". Received {name!r}; known figures: '
                    f"{', '.join(TAGS)}."
                )
            if value is not None:
                points.append(
                    summary_pb2.Summary.Value(
                        tag=TAGS.get(name, name), simple_value=float(value)
                    )
                )
        for point in points:
            self._add(row["step"], summary_pb2.Summary(value=[point]))
        self._writer.flush()

    @_errors_of_files()
    def image(self, tag, step, picture):
        """Writes a picture.

        Args:
          tag: "group/name". step: int. picture: PIL image, RGB.
        """
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=90)  # PNG: ten times as large
        image = summary_pb2.Summary.Image(
            width=picture.width,
            height=picture.height,
            colorspace=3,
            encoded_image_string=data.getvalue(),
        )
        point = summary_pb2.Summary.Value(tag=tag, image=image)
        self._add(step, summary_pb2.Summary(value=[point]))
        self._writer.flush()

    @_errors_of_files()
    def histogram(self, tag, step, fractions, low, high):
        """Writes a histogram with bins of equal width.

        Args:
          tag: "group/name". step: int.
          fractions: float [bins], of all values in each bin; all 0: nothing is
            written.
          low, high: outer edges.
        """
        if not fractions.any():
            return
        edges = np.linspace(low, high, len(fractions) + 1)
        middles = (edges[:-1] + edges[1:]) / 2
        filled = np.flatnonzero(fractions)
        # The first limit closes an empty bin: else TensorBoard draws from
        # minus infinity.
        point = summary_pb2.Summary.Value(
            tag=tag,
            histo=summary_pb2.HistogramProto(
                min=edges[filled[0]],
                max=edges[filled[-1] + 1],
                num=float(np.sum(fractions)),
                sum=float(np.sum(fractions * middles)),
                sum_squares=float(np.sum(fractions * middles**2)),
                bucket_limit=edges.tolist(),
                bucket=[0.0, *map(float, fractions)],
            ),
        )
        self._add(step, summary_pb2.Summary(value=[point]))

    @_errors_of_files()
    def summary(self, summary):
        """Writes a summary of the run itself, at step 0.

        Args:
          summary: Summary, TensorBoard's or TensorFlow's (the same format).
        """
        data = summary.SerializeToString()
        self._add(0, summary_pb2.Summary.FromString(data))
        self._writer.flush()

    @_errors_of_files()
    def graph(self, graph):
        """Writes a tf.Graph for the Graphs tab."""
        data = graph.as_graph_def().SerializeToString()
        self._writer.add_event(
            event_pb2.Event(wall_time=time.time(), graph_def=data)
        )
        self._writer.flush()

    def _add(self, step, summary):
        self._writer.add_event(
            event_pb2.Event(wall_time=time.time(), step=step, summary=summary)
        )

    def on_report(self, method, row):
        self.write(row)

    def on_epoch(self, method, row):
        self.write(row)

    def close(self):
        """Flushes and closes the file."""
        self._writer.close()


class Profile(listener.Listener):
    """Traces the steps first..last of a run, once.

    The Profile tab of the package tensorboard-plugin-profile shows it.
    """

    def __init__(self, folder, first, last, events=None):
        """Stores the steps.

        Args:
          folder: of TensorBoard's files.
          first, last: int, steps (from 1); the first steps of a session also
            compile.
          events: EventWriter, which the step's graph is written to, or None.

        Raises:
          ValueError: if last is below first, or first below 1.
        """
        if not 1 <= first <= last:
            raise ValueError(
                "--profile_steps are a first and a last step, from 1. Received "
                f"{first},{last}. Pass, for example, --profile_steps=10,20."
            )
        self._folder = os.fspath(folder)
        self._first, self._last = first, last
        self._events = events
        self._on = False
        self._open = contextlib.ExitStack()

    def before_step(self, step):
        if step == self._first:
            os.makedirs(self._folder, exist_ok=True)
            # The trace is written at the end, where it was begun.
            plain = self._open.enter_context(paths.plain(self._folder))
            tf.profiler.experimental.start(plain)
            self._on = True

    def on_step(self, method, step):
        if step >= self._last:
            self._stop()

    def on_end(self, method, step):
        self._stop()
        if self._events and method.step_graph:
            self._events.graph(method.step_graph)

    def close(self):
        self._stop()

    def _stop(self):
        """Writes the trace, if one is on."""
        if self._on:
            self._on = False
            with self._open:
                tf.profiler.experimental.stop()
