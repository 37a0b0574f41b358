"""Warnings about a run: the rules.

A warning has a name, a cause and a remedy. The rules (Watch) read rows of
metrics.csv and nothing else, so that they can be tried on the rows of any run.
They are about collapse, a key encoder that stands still or follows too fast, a
loss at chance, keys that show their age, statistics that give the key away,
kNN that falls or stays below that of the start, large queues, slow input and
images that cannot be read.
"""

import itertools
import math
from typing import NamedTuple

_TURNOVERS = 4  # of the queue; before, its first random keys still count
_SETTLED = 200  # steps; before, everything moves
_AT_CHANCE = 0.99  # of ln(K + 1)
_CONSTANT = 2.0  # effective rank; nearly all keys on one line
_NARROW = 6.0  # effective rank; runs that learn have had 8 and more
_ONE = 1.1  # clusters that the targets divide the images into
_FEW = 2.0  # the same, while the loss is at chance; 1.3 where SwAV stood still
_EQUAL = 0.05  # spread of targets, of 1
_FOLLOWS = 0.1  # of the way to the query encoder in one step: momentum 0.9
_FRESH = 2  # steps, whose keys are nearly as new as those of the last
_STILL = 0.2  # of 1 - momentum, the part of that way in a step
_SOLVED = 0.95  # of instance_top1 over an epoch
_STALLED = 0.02  # kNN gained since the start, or below it
_FALLEN = 0.05  # kNN lost, of the mean of two measurements
_DEVIATIONS = 6  # standard errors of that mean, that accidents do not reach
_AGED = 0.75  # of key_age_auc over an epoch; 0.48 to 0.52 where keys are new
_RENEWED = 0.02  # that it falls from one epoch to the next where a run learns
_NEAR_CHANCE = 0.9  # of ln(K + 1)
_LARGE = 0.1  # keys of the queue per image
_WAITING = 0.3  # of the time
_IN_A_ROW = 3  # reports; one may be an accident
# Columns whose means over an epoch the rules read, and those it has once.
_MEANS = ("loss", "instance_top1", "key_age_auc")
_ONCE = (
    *("epoch", "knn_backbone", "start_backbone"),
    *("knn_projection", "start_projection"),
    *("neighbour_stability", "start_neighbour_stability", "stability_error"),
    *("effective_rank", "start_effective_rank"),
)
# A run goes on with the recipe that it was started with.
_ELSEWHERE = ", in another --workdir"


class Notice(NamedTuple):
    """A warning: its name, and cause and remedy in words."""

    name: str
    text: str


class Watch:
    """The rules: reads the figures of one run and gives each warning once."""

    def __init__(
        self, run, settings, chance=None, *, known=(), rows=(), queries=0,
        warmup_epochs=0, layer="backbone",
    ):  # fmt: skip
        """Stores the settings of the run, and its figures so far.

        Args:
          run: methods.two_views.Run.
          settings: object with the fields of the method's section of a
            configuration as attributes.
          chance: loss of guessing, nats; None: the method has no such loss.
          known: names of warnings that the run has had before.
          rows: of metrics.csv, of the run so far.
          queries: int, images that kNN classifies; 0: not known.
          warmup_epochs: int, of rate and momentum.
          layer: str, whose kNN decides, of knn.features.
        """
        self._run = run
        self._settings = vars(settings)
        self._warmup = warmup_epochs * run.images // run.batch_size  # steps
        self._chance = chance
        self._layer = layer
        self._known = set(known)
        self._in_a_row = dict.fromkeys(
            ("still", "follows", "waiting", "narrow", "one cluster", "worse"), 0
        )
        error = (0.25 / queries / 2) ** 0.5 if queries else 0.0
        self._fallen = max(_FALLEN, _DEVIATIONS * error)
        self._below_by = max(_STALLED, _DEVIATIONS / 2 * error)
        groups = itertools.groupby(rows, lambda row: row["epoch"])
        ended = [x for _, y in groups if (x := list(y))[-1].get("epoch_loss")]
        epochs = [self._of_layer(epoch_figures(rows)) for rows in ended]
        self._age = epochs[-1]["key_age_auc"] if epochs else None
        self._epochs = [x for x in epochs if x["knn"] is not None]

    def _of_layer(self, epoch):
        """The figures of an epoch, with "knn" and "start" of the layer."""
        names = ("knn", "start")
        return epoch | {x: epoch[f"{x}_{self._layer}"] for x in names}

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

    def epoch(self, figures):
        """Warnings of an epoch, a list.

        Args:
          figures: dict, of `epoch_figures`; names may be missing.
        """
        epoch = {**dict.fromkeys((*_ONCE, *_MEANS)), **figures}
        epoch = self._of_layer(epoch)
        if epoch["knn"] is not None:
            self._epochs.append(epoch)
        notices = self._stale(epoch)
        if epoch["knn"] is not None:
            return [
                *notices,
                *self._leak(epoch),
                *self._falls(),
                *self._worse_than_start(),
            ]
        return [*notices, *self._worse_without_labels(epoch)]

    def _start_and_gain(self):
        """kNN at the start, and the most that it has gained since.

        The start is the starting encoder, where it was measured, else the first
        epoch: a plateau far above the starting encoder is no standstill.
        """
        knn = [epoch["knn"] for epoch in self._epochs]
        known = self._epochs[-1]["start"]
        start = knn[0] if known is None else known
        return start, max(knn) - start

    def _gain_words(self):
        """`_start_and_gain` as part of a sentence."""
        start, gained = self._start_and_gain()
        return (
            f"kNN went from {100 * start:.1f} % at the start to "
            f"{100 * (start + gained):.1f} % at most"
        )

    def _measurements(self):
        """How many figures of kNN there are, with the starting encoder's."""
        known = self._epochs[-1]["start"] is not None
        return len(self._epochs) + known

    def _stale(self, epoch):
        """The warning of queued keys that show their age, a list.

        That the nearest queued key is nearer than the own one is no sign of
        it: so it is in runs that learn.
        """
        age, loss = epoch["key_age_auc"], epoch["loss"]
        before, self._age = self._age, age
        has_queue = "batch_negatives" in self._settings
        if not has_queue or age is None or age < _AGED:
            return []
        # The published run of CIFAR-10 begins with 0.99, and falls.
        if before is not None and age < before - _RENEWED:
            return []
        if epoch["knn"] is not None:
            _, gained = self._start_and_gain()
            if len(self._epochs) < _IN_A_ROW or gained >= _STALLED:
                return []
            sign = self._gain_words()
        else:
            epochs = epoch["epoch"] or 0
            if self._epochs or epochs < _IN_A_ROW or not self._chance:
                return []
            if loss < _NEAR_CHANCE * self._chance:
                return []
            sign = f"the loss {loss:.3f} is near that of guessing"
        name = self._run.method
        remedy = f"Set config.{name}.batch_negatives=true"
        if self._settings["batch_negatives"]:
            remedy = f"Lower config.{name}.queue_size"
        return self._warn(
            "stale-negatives",
            f"newer and older keys of the queue can be told apart in "
            f"{100 * age:.0f} % of pairs (key_age_auc), and {sign}: the key "
            "encoder moves faster than the queue is renewed, and queries may "
            "find their key by its age. "
            f"{remedy}, or raise config.{name}.momentum, or lower "
            f"config.optimizer.learning_rate{_ELSEWHERE}",
        )

    def _leak(self, epoch):
        """The warning of statistics that give the key away, a list."""
        top1 = epoch["instance_top1"]
        _, gained = self._start_and_gain()
        if (
            self._measurements() < _IN_A_ROW
            or (top1 or 0.0) <= _SOLVED
            or gained >= _STALLED
        ):
            return []
        # Of methods without keys in another order, all share statistics.
        remedy = "Set config.model.sync_bn=true, or stronger views"
        if "shuffle" in self._settings:
            remedy = (
                f"Keep config.{self._run.method}.shuffle=auto, and raise "
                "config.model.bn_groups (2 groups or more) with "
                "config.model.sync_bn=false"
            )
        loss = ""
        if self._chance and epoch["loss"] is not None:
            loss = (
                f", the loss is {epoch['loss']:.3f} where guessing has "
                f"{self._chance:.3f},"
            )
        return self._warn(
            "batch-norm-leak",
            f"instance_top1 is {top1:.3f} (queries find their own key){loss} "
            f"while {self._gain_words()}: statistics of BatchNorm may tell "
            f"which key belongs to which query. {remedy}{_ELSEWHERE}",
        )

    def _falls(self):
        """The warning of kNN that falls while the task is learnt, a list."""
        if len(self._epochs) < 4:
            return []
        pairs = [
            (left["knn"] + right["knn"]) / 2
            for left, right in itertools.pairwise(self._epochs)
        ]
        best = max(range(len(pairs) - 2), key=pairs.__getitem__)
        lost = pairs[best] - pairs[-1]
        column = "instance_top1"
        if self._epochs[-1][column] is None:
            column = "loss"
        then, now = self._epochs[best][column], self._epochs[-1][column]
        if lost < self._fallen or None in (then, now):
            return []
        if (now > then) is (column == "loss"):
            return []  # the task is not learnt either
        peak = max(self._epochs, key=lambda epoch: epoch["knn"])
        remedy = "Strengthen"
        if peak["knn"] > (peak["start"] or 0.0):  # else the best is the start
            remedy = (
                "Pass --checkpoint=best to use an earlier encoder, or "
                "strengthen"
            )
        return self._warn(
            "knn-falls",
            f"kNN has fallen from {100 * peak['knn']:.1f} % to "
            f"{100 * self._epochs[-1]['knn']:.1f} %, while {column} "
            f"went from {then:.3f} to {now:.3f}: what solves the task does not "
            f"tell classes. {remedy} the views, by data.strength or data.views"
            f"{_ELSEWHERE}",
        )

    def _worse_than_start(self):
        """The warning of kNN that stays below the starting encoder's."""
        start = self._epochs[-1]["start"]
        knn = [epoch["knn"] for epoch in self._epochs]
        last = knn[-_IN_A_ROW:]
        if start is None or len(last) < _IN_A_ROW:
            return []
        if (
            max(last) > start - self._below_by
            or last[-1] - min(last) >= _STALLED
        ):
            return []  # it is there, or on its way
        return self._warn(
            "worse-than-start",
            f"kNN is {100 * knn[-1]:.1f} % after {len(knn)} measurements and "
            f"does not rise; the encoder had {100 * start:.1f} % before "
            "training: what is learnt tells less than what it began with. "
            f"{self._gentler()}",
        )

    def _worse_without_labels(self, epoch):
        """The same by neighbours and directions, where there is no kNN."""
        stability = epoch["neighbour_stability"]
        start = epoch["start_neighbour_stability"]
        error = epoch["stability_error"]
        if None in (stability, start, error):
            return []
        rank, before = epoch["effective_rank"], epoch["start_effective_rank"]
        is_worse = start - stability > _DEVIATIONS / 2 * error and rank < before
        if not self._repeated("worse", is_worse):
            return []
        return self._warn(
            "worse-than-start",
            f"two views of an image share {100 * stability:.1f} % of their "
            f"neighbours, {100 * start:.1f} % before training, and the "
            f"features use {rank:.1f} directions, {before:.1f} then: they tell "
            "less than what the encoder began with, as far as can be seen "
            f"without labels. {self._gentler()}",
        )

    def _gentler(self):
        """The remedy for an encoder that gets worse: other or smaller steps."""
        remedy = "Lower config.optimizer.learning_rate"
        if self._settings.get("batch_negatives") is False:
            remedy = (
                f"Set config.{self._run.method}.batch_negatives=true, or lower "
                "config.optimizer.learning_rate"
            )
        return f"{remedy}{_ELSEWHERE}"

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
        if self._repeated("follows", pace > _FOLLOWS and not self._fresh()):
            notices += self._warn(
                "key-encoder-follows",
                f"the key encoder goes {100 * pace:.0f} % of the way to the "
                f"query encoder at each step: {outputs} are of different "
                f"encoders (momentum {momentum}). Use "
                f"config.{self._run.method}.momentum=0.99 to 0.9999"
                f"{_ELSEWHERE}",
            )
        return notices

    def _keys_of_a_step(self):
        """How many keys a step makes, int."""
        symmetric = self._settings.get("symmetric", False)
        return self._run.batch_size * (2 if symmetric else 1)

    def _fresh(self):
        """Whether all keys are of a few steps, the newest among the negatives.

        Such a run learns with any momentum: its keys are of nearly one encoder.
        """
        settings = self._settings
        return bool(
            settings.get("batch_negatives")
            and settings["queue_size"] <= _FRESH * self._keys_of_a_step()
        )

    def _contrast(self, row):
        """Warnings of loss and keys, once the queue holds real keys alone."""
        settings, step = self._settings, row["step"]
        keys = self._keys_of_a_step()
        # Without a queue the dictionary is new at every step.
        turnovers = step * keys / (settings.get("queue_size") or keys)
        if turnovers < _TURNOVERS or step < _SETTLED:
            return []
        notices = []
        chance = self._chance
        learns = bool(self._epochs) and self._start_and_gain()[1] >= _STALLED
        learns |= step <= self._warmup  # fast keys, so the loss is high
        if chance and row["loss"] >= _AT_CHANCE * chance and not learns:
            notices += self._warn(
                "chance-loss",
                f"the loss {row['loss']:.3f} is that of guessing, "
                f"{chance:.3f}, though the dictionary has turned over "
                f"{turnovers:.0f} times: nothing is learnt. "
                f"{self._vague(row)}Lower config.optimizer.learning_rate, add "
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
        rank, dim = row.get("key_rank"), self._run.dim
        if rank is not None and rank < min(_CONSTANT, dim):
            notices += self._warn(
                "collapse",
                f"the keys have an effective rank of {rank:.2f}: all images "
                f"get nearly the same features. {self._slower()}",
            )
        narrow = rank is not None and rank < min(_NARROW, dim / 8)
        has_keys = "batch_negatives" in settings
        if self._repeated("narrow", narrow and has_keys):
            notices += self._warn(
                "narrow-keys",
                f"the keys have an effective rank of {rank:.1f} of {dim}: they "
                "lie in few directions, and few images differ. Use "
                "config.model.head=simclr, which has BatchNorm, or raise "
                f"config.{self._run.method}.momentum{_ELSEWHERE}",
            )
        return [*notices, *self._prototypes(row)]

    def _vague(self, row):
        """The remedy for SwAV's codes that are nearly even, or ""."""
        clusters = row.get("clusters")
        if "epsilon" not in self._settings or clusters is None:
            return ""
        if clusters >= _FEW:
            return ""
        return (
            f"The codes divide a batch into {clusters:.2f} clusters only: "
            "lower config.swav.epsilon first. "
        )

    def _prototypes(self, row):
        """The warning of targets that are the same for all images, a list."""
        clusters, name = row.get("clusters"), self._run.method
        if clusters is None:
            return []
        # An untrained encoder's features are nearly equal, and targets as well.
        epochs = row["step"] * self._run.batch_size / self._run.images
        begun = epochs >= self._settings.get("frozen_epochs", 0) + 1
        if not self._repeated("one cluster", begun and clusters < _ONE):
            return []
        remedy = "Lower config.swav.epsilon, or raise config.swav.frozen_epochs"
        if "teacher_temperature" in self._settings:
            remedy = (
                "Lower config.dino.teacher_temperature and "
                "config.dino.first_teacher_temperature"
            )
            if row["teacher_entropy"] < 0.5 * (self._chance or 0.0):
                remedy = "Lower config.dino.center_momentum"
        return self._warn(
            "prototype-collapse",
            f"{name} divides the images of a batch into {clusters:.2f} "
            "clusters: all get nearly the same target, which tells nothing. "
            f"{remedy}, or lower config.optimizer.learning_rate{_ELSEWHERE}",
        )

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


def epoch_figures(rows):
    """What the rules read of an epoch.

    Args:
      rows: list of dicts, of one epoch, of metrics.csv.

    Returns:
      dict: columns of which the epoch has one figure, and means over its steps;
      None where there is none.
    """
    figures = {
        name: [row[name] for row in rows if row.get(name) is not None]
        for name in _ONCE
    }
    once = {name: some[-1] if some else None for name, some in figures.items()}
    return once | {name: _mean(rows, name) for name in _MEANS}


def _mean(rows, name):
    """The mean of a column over the steps of the rows that have it, or None."""
    rows = [row for row in rows if row.get(name) is not None]
    steps = sum(row["steps"] for row in rows)
    if not steps:
        return None
    return math.fsum(row[name] * row["steps"] for row in rows) / steps
