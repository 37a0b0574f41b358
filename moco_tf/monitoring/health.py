"""Warnings about a run: rules, a listener, and the file warnings.csv.

A warning has a name, a cause and a remedy. The rules (Watch) read rows of
metrics.csv and nothing else, so that they can be tried on the rows of any run.
They are about collapse, a key encoder that stands still or follows too fast, a
loss at chance, statistics that give the key away, large queues, slow input and
images that cannot be read.
"""

import csv
import os
import pathlib
from typing import NamedTuple

from moco_tf import filesystem, state_files
from moco_tf.monitoring import listener

_TURNOVERS = 4  # of the queue; before, its first random keys still count
_SETTLED = 200  # steps; before, everything moves
_AT_CHANCE = 0.99  # of ln(K + 1)
_CONSTANT = 2.0  # effective rank; nearly all keys on one line
_EQUAL = 0.05  # spread of targets, of 1
_FOLLOWS = 0.1  # of the way to the query encoder in one step: momentum 0.9
_STILL = 0.2  # of 1 - momentum, the part of that way in a step
_SOLVED = 0.95  # of instance_top1 over an epoch
_STALLED = 0.02  # kNN gained since the first epoch
_LARGE = 0.1  # keys of the queue per image
_WAITING = 0.3  # of the time
_IN_A_ROW = 3  # reports; one may be an accident
# A run goes on with the recipe that it was started with.
_ELSEWHERE = ", in another --workdir"


class Notice(NamedTuple):
    """A warning: its name, and cause and remedy in words."""

    name: str
    text: str


class Watch:
    """The rules: reads the figures of one run and gives each warning once."""

    def __init__(self, run, settings, chance=None, *, known=(), rows=()):
        """Stores the settings of the run, and its figures so far.

        Args:
          run: methods.two_views.Run.
          settings: object with the fields of the method's section of a
            configuration as attributes.
          chance: loss of guessing, nats; None: the method has no such loss.
          known: names of warnings that the run has had before.
          rows: of metrics.csv, of the run so far.
        """
        self._run = run
        self._settings = vars(settings)
        self._chance = chance
        self._known = set(known)
        self._in_a_row = {"still": 0, "follows": 0, "waiting": 0}
        knn = [row["knn_backbone"] for row in rows]
        self._knn = [top1 for top1 in knn if top1 is not None]

    def start(self):
        """Warnings that need the configuration alone, a list."""
        if "mask_same_image" not in self._settings:  # no queue of negatives
            return []
        queue_size = self._settings["queue_size"]
        share = queue_size / self._run.images
        if share > _LARGE and not self._settings["mask_same_image"]:
            return self._warn(
                "large-queue",
                f"the queue holds {queue_size} keys, {100 * share:.0f} % "
                f"of the {self._run.images} images: keys of a query's own "
                "image come up as its negatives. Set config."
                f"{self._run.method}.mask_same_image=true, or a queue "
                f"below a tenth of the images{_ELSEWHERE}",
            )
        return []

    def report(self, row):
        """Warnings of a reported row, a list.

        Args:
          row: dict by column of metrics.csv, with "step".
        """
        return [
            *self._contrast(row),
            *self._input(row),
            *self._unreadable(row),
        ]

    def epoch(self, row):
        """Warnings of an epoch: kNN columns, and the mean of "instance_top1".

        A method without keys has no such mean.
        """
        top1 = row.get("knn_backbone")
        if top1 is None:
            return []
        self._knn.append(top1)
        gained = max(self._knn) - self._knn[0]
        if (
            len(self._knn) >= _IN_A_ROW
            and row.get("instance_top1", 0.0) > _SOLVED
            and gained < _STALLED
        ):
            # Of methods without keys in another order, all share statistics.
            remedy = "Set config.model.sync_bn=true, or stronger views"
            if "shuffle" in self._settings:
                remedy = (
                    f"Keep config.{self._run.method}.shuffle=auto, and raise "
                    "config.model.bn_groups (2 groups or more) with "
                    "config.model.sync_bn=false"
                )
            return self._warn(
                "batch-norm-leak",
                f"instance_top1 is {row['instance_top1']:.3f} (queries find "
                "their own key) while kNN has not risen since the first epoch: "
                "statistics of BatchNorm may tell which key belongs to which "
                f"query. {remedy}{_ELSEWHERE}",
            )
        return []

    def pace(self, pace):
        """Warnings of the key encoder's pace, a list.

        Args:
          pace: float, share of the way to the query encoder that one step took
            the key encoder.
        """
        momentum, notices = self._settings["momentum"], []
        outputs = (
            "keys in the queue" if "queue_size" in self._settings else "targets"
        )
        if self._repeated("still", pace <= _STILL * (1 - momentum)):
            notices += self._warn(
                "key-encoder-still",
                "the key encoder does not move: its outputs stay those of the "
                f"start (momentum {momentum}). Use config."
                f"{self._run.method}.momentum below 1{_ELSEWHERE}",
            )
        if self._repeated("follows", pace > _FOLLOWS):
            notices += self._warn(
                "key-encoder-follows",
                f"the key encoder goes {100 * pace:.0f} % of the way to the "
                f"query encoder at each step: {outputs} are of different "
                f"encoders (momentum {momentum}). Use "
                f"config.{self._run.method}.momentum=0.99 to 0.9999"
                f"{_ELSEWHERE}",
            )
        return notices

    def _contrast(self, row):
        """Warnings of loss and keys, once the queue holds real keys alone."""
        settings, step = self._settings, row["step"]
        keys = self._run.batch_size
        keys *= 2 if settings.get("symmetric", False) else 1
        # Without a queue the dictionary is new at every step.
        turnovers = step * keys / (settings.get("queue_size") or keys)
        if turnovers < _TURNOVERS or step < _SETTLED:
            return []
        notices = []
        chance = self._chance
        if chance is not None and row["loss"] >= _AT_CHANCE * chance:
            notices += self._warn(
                "chance-loss",
                f"the loss {row['loss']:.3f} is that of guessing, "
                f"{chance:.3f}, though the dictionary has turned over "
                f"{turnovers:.0f} times: nothing is learnt. Lower "
                "config.optimizer.learning_rate, add "
                f"config.schedule.warmup_epochs{_ELSEWHERE}, or check that the "
                "views show the images",
            )
        spread = row.get("spread")
        if spread is not None and spread < _EQUAL:
            notices += self._warn(
                "collapse",
                f"the targets' spread is {spread:.3f} (1 is even, 0 is "
                "nothing): all images get nearly the same features. "
                + self._slower(),
            )
        rank = row.get("key_rank")
        if rank is not None and rank < min(_CONSTANT, self._run.dim):
            notices += self._warn(
                "collapse",
                f"the keys have an effective rank of {rank:.2f}: all images "
                f"get nearly the same features. {self._slower()}",
            )
        return notices

    def _slower(self):
        """The remedy for features that become one: smaller steps."""
        remedy = "Lower config.optimizer.learning_rate"
        if self._settings.get("momentum", 1) < 1:
            remedy += f" or raise config.{self._run.method}.momentum"
        return f"{remedy}{_ELSEWHERE}"

    def _input(self, row):
        """The warning of a run that waits for its images, a list."""
        share = row.get("input_wait_share")
        if share is None or not self._repeated("waiting", share > _WAITING):
            return []
        return self._warn(
            "input-bound",
            f"{100 * share:.0f} % of the time is spent waiting for images. "
            "`moco-tf benchmark` says which part of the input is slow; "
            "`moco-tf prepare` makes a cache that reads faster",
        )

    def _unreadable(self, row):
        """The warning of a run's first images that cannot be read, a list."""
        count = row.get("unreadable")
        if not count:
            return []
        return self._warn(
            "unreadable",
            f"{count} of the {row['steps'] * self._run.batch_size} samples up "
            f"to step {row['step']} could not be read, and others were taken "
            "in their place. unreadable.csv in the workdir names the files "
            "and the reasons, of later ones too. Mend or remove them: a run "
            "that goes on takes up what was mended",
        )

    def _repeated(self, name, holds):
        """Whether a condition has held in enough rows, one after another."""
        self._in_a_row[name] = self._in_a_row[name] + 1 if holds else 0
        return self._in_a_row[name] >= _IN_A_ROW

    def _warn(self, name, text):
        """The notice, in a list; [] if the run has had it before."""
        if name in self._known:
            return []
        self._known.add(name)
        return [Notice(name, text + ".")]


class Warnings(listener.Listener):
    """The listener that shows the warnings of a run and writes them down."""

    def __init__(self, watch, log, metrics, show, pace=None):
        """Joins the rules and where their warnings go.

        Args:
          watch: Watch. log: WarningLog. metrics: MetricsFile, whose rows of an
            epoch are there when the epoch ends.
          show: function that prints a line.
          pace: meter of the key encoder's steps (evaluation/diagnostics.py), or
            None, of a method without momentum.
        """
        self._watch = watch
        self._log = log
        self._metrics = metrics
        self._show = show
        self._pace = pace

    def on_start(self, method, step):
        self._warn(step, self._watch.start())

    def on_step(self, method, step):
        pace = self._pace and self._pace.end(method)
        if pace is not None:
            self._warn(step, self._watch.pace(pace))

    def on_report(self, method, row):
        self._warn(row["step"], self._watch.report(row))
        if self._pace:
            self._pace.begin(method)

    def on_epoch(self, method, row):
        column = "instance_top1"
        if column in method.METRICS:
            epoch = self._metrics.rows()[-1]["epoch"]
            row = {**row, column: self._metrics.epoch_mean(epoch, column)}
        self._warn(row["step"], self._watch.epoch(row))

    def _warn(self, step, notices):
        for notice in notices:
            self._show(f"Warning: {notice.name}: {notice.text}")
        self._log.add(step, notices)


class WarningLog:
    """The file warnings.csv: the warnings of a run, each with its step."""

    def __init__(self, path, step):
        """Reads the warnings of earlier sessions up to a step.

        Args:
          path: of the file. step: int, of the checkpoint that is resumed.

        Side effects: later warnings are dropped; they will come again.
        """
        self._path = pathlib.Path(path)
        rows, damage = _read(self._path)
        if damage:
            other = state_files.set_aside(self._path)
            state_files.warn(f"{damage}; the file is kept as {other}")
        rows = [row for row in rows if row["step"] <= step]
        self.names = [row["name"] for row in rows]
        if damage or self._path.exists():
            with filesystem.atomic_file(self._path) as part:
                _append(part, rows)

    def add(self, step, warnings):
        """Appends the warnings (Notices) of a step."""
        if warnings:
            rows = [{"step": step, **w._asdict()} for w in warnings]
            _append(self._path, rows)


def _append(path, rows):
    """Appends dicts to a warnings.csv, behind its header."""
    with path.open(
        "a", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.DictWriter(file, ("step", *Notice._fields))
        if not file.tell():
            writer.writeheader()
        writer.writerows(rows)


def read(path):
    """The warnings of a run: dicts of "step", "name" and "text".

    Args:
      path: of warnings.csv; without one, there are none. A torn last line is
        left out.

    Side effects: says which lines are damaged and left out.
    """
    rows, damage = _read(pathlib.Path(path))
    if damage:
        state_files.warn(f"{damage} and are left out")
    return rows


def _read(path):
    """The rows of warnings.csv, and the damage of others in words or ""."""
    if not os.path.lexists(path):
        return [], ""
    columns = ("step", *Notice._fields)
    try:
        table, bad, _ = state_files.read_table(path, columns)
    except state_files.Damaged as error:
        return [], f"{error} Its lines cannot be read"
    # Python's own isdigit takes figures that int does not.
    good = [
        {**{name: row[name] for name in columns}, "step": int(row["step"])}
        for row in table
        if row["step"].isdecimal() and row["text"]
    ]
    lost = len(bad) + len(table) - len(good)
    damage = f"{path}: {lost} of its lines cannot be read" if lost else ""
    return good, damage
