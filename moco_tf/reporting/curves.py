"""Which curves a report draws, from the rows of metrics.csv."""

import numpy as np

from moco_tf import assembly
from moco_tf.reporting import charts, published

_LAYERS = ("backbone", "projection")
# Key, title, axis, note.
_REPRESENTATION = (
    (
        "alignment",
        "Alignment",
        "distance of two views, squared",
        "0: two views of an image have the same features. A run that is "
        "collapsing has a low value too: read it with uniformity.",
    ),
    (
        "uniformity",
        "Uniformity",
        "log mean kernel",
        "Lower: features are spread more evenly over the sphere. 0: all "
        "images have the same features, the encoder has collapsed.",
    ),
    (
        "effective_rank",
        "Effective rank",
        "dimensions in use",
        "How many directions the features of the test set really use. Near "
        "1: the encoder is collapsing.",
    ),
)


def draw_all(runs):
    """Draws the curves of one or several runs, over the same axes.

    Args:
      runs: list of runs.Run.

    Returns:
      dict key -> charts.Drawn, without those that have no figures yet.
    """
    made = [
        _loss(runs),
        _knn(runs),
        _plain(
            runs,
            "instance_top1",
            "Instance accuracy",
            "of queries, %",
            "How often a query finds its own key in the dictionary. It is not "
            "the accuracy of a classifier, and a high value early in a run is "
            "no good sign.",
            100,
            "%",
        ),
        _plain(
            runs,
            "learning_rate",
            "Learning rate",
            "rate",
            "As the optimiser used it, the schedule included.",
            span=(0.0, 0.0),
        ),
        *(
            _plain(runs, key, title, axis, note)
            for key, title, axis, note in _REPRESENTATION
        ),
        _plain(
            runs,
            "images_per_second",
            "Throughput",
            "images per second",
            "Of all devices together, both views of an image counted once.",
            span=(0.0, 0.0),
        ),
        _plain(
            runs,
            "input_wait_share",
            "Waiting for images",
            "of the time, %",
            "Share of the time in which a step had to wait for its images.",
            100,
            "%",
            (0.0, 10.0),
        ),
    ]
    return {c.key: charts.draw(c) for c in made if c.series}


def x_name(runs):
    """What the horizontal axis counts: epochs, where all runs know theirs."""
    known = all(run.steps_per_epoch for run in runs if run.rows)
    return "epoch" if known else "step"


def _across(runs, run, rows):
    """Places of rows on the horizontal axis, float64 [n]."""
    if x_name(runs) == "epoch":
        return np.array([run.epoch_of(row) for row in rows], np.float64)
    return np.array([row["step"] for row in rows], np.float64)


def _label(runs, run, words):
    return (
        f"{run.name}: {words}"
        if len(runs) > 1 and words
        else (words or run.name)
    )


def _curve(runs, number, column, words, factor=1, **style):
    """A column of a run as a Series, in a list; [] if it has no figures."""
    run = runs[number]
    rows, values = run.column(column)
    if not rows:
        return []
    x, y, low, high = charts.thin(
        _across(runs, run, rows),
        factor * np.array(values, np.float64),
        [row["steps"] or 1 for row in rows],
    )
    label = _label(runs, run, words)
    style = {"colour": number, **style}
    return [charts.Series(label, x=x, y=y, low=low, high=high, **style)]


def _plain(runs, key, title, axis, note, factor=1, unit="", span=None):
    """A chart of one column."""
    series = []
    for number in range(len(runs)):
        words = title.lower() if len(runs) == 1 else ""
        series += _curve(runs, number, key, words, factor)
    return charts.Chart(
        key, title, x_name(runs), axis, series, [], unit, note, span
    )


def _loss(runs):
    series = []
    for number in range(len(runs)):
        series += _curve(runs, number, "loss", "as logged", quiet=True)
        series += _curve(
            runs, number, "epoch_loss", "mean of an epoch", points=True
        )
    levels = [(words, value) for value, words in _chances(runs).items()]
    note = "Chance is the loss of features that tell nothing." if levels else ""
    if any(_queues_keys(run.config) for run in runs):
        note = (
            "With a queue the loss begins low while it holds noise, rises as "
            f"it fills with keys, and falls only later. {note}"
        )
    if series and _beside_published(runs, published.compares_loss):
        series.append(_published_series(runs, "loss"))
    return charts.Chart(
        "loss", "Loss", x_name(runs), "loss, nats", series, levels, "", note
    )


def _knn(runs):
    series = []
    for number in range(len(runs)):
        for place, layer in enumerate(_LAYERS):
            colour = number if len(runs) > 1 else place
            series += _curve(
                runs,
                number,
                f"knn_{layer}",
                layer,
                100,
                colour=colour,
                points=True,
                dashed=layer == "projection" and len(runs) > 1,
            )
    note = (
        "How many test images the nearest training images classify rightly. "
        "It needs no training of its own: the figure to watch."
    )
    if series and _beside_published(runs, lambda config: True):
        series.append(_published_series(runs, "knn"))
        note += " The published curve is of the projection."
    return charts.Chart(
        "knn", "kNN accuracy", x_name(runs), "top-1, %", series, [], "%", note
    )


def _queues_keys(config):
    section = config[config.method]
    return "queue_size" in section and "momentum" in section


def _chances(runs):
    """Loss at chance -> its words; runs of one queue share it."""
    found: dict[float, list] = {}
    for run in runs:
        chance = assembly.chance_loss(run.config)
        if chance is not None:
            found.setdefault(chance, []).append(run.name)
    if len(found) == 1:
        return {value: f"chance, {value:.3f}" for value in found}
    return {
        value: f"chance of {', '.join(names)}, {value:.3f}"
        for value, names in found.items()
    }


def _beside_published(runs, rule):
    """Whether any run may stand beside the published curve."""
    return x_name(runs) == "epoch" and any(
        published.is_cifar10(run.config) and rule(run.config) for run in runs
    )


def _published_series(runs, figure):
    last = max(run.epoch_of(run.rows[-1]) for run in runs if run.rows)
    epoch, low, middle, high = published.band(figure, max(3, 1.2 * last))
    return charts.Series(
        "MoCo, published, 200 epochs",
        7,
        epoch,
        middle,
        low,
        high,
        dashed=True,
    )
