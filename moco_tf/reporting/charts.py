"""The curves of a report: which are drawn, from the rows of metrics.csv."""

import numpy as np

from moco_tf import plan
from moco_tf.monitoring import metrics_csv
from moco_tf.reporting import drawing, findings, published

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
        "How many directions the features really use. Near 1: the encoder is "
        "collapsing.",
    ),
    (
        "neighbour_stability",
        "Stability of neighbours",
        "of the 10 nearest images, %",
        "How many of its nearest images an image keeps in another view of all. "
        "A rise is what training asks for; a fall below the start is a loss.",
    ),
)
KEYS = ("own_key", "key_rank", "key_age", "key_age_auc", "instance_top1")
REPRESENTATION = tuple(key for key, *_ in _REPRESENTATION)

# Key, title, axis, note, factor, unit.
_KEYS = (
    (
        *("key_rank", "Effective rank of the keys", "dimensions in use"),
        "In how many directions the keys of the queue spread. Near 1: "
        "collapse.",
        *(1, ""),
    ),
    (
        *("key_age", "Age of the queue", "steps, mean"),
        "How many steps ago the keys were made: by encoders that old.",
        *(1, ""),
    ),
    (
        *("key_age_auc", "How well keys show their age", "of pairs, %"),
        "Pairs of a newer and an older key that a direction puts in order. "
        "50 %: age does not show; near 100 %: queries may find their key by "
        "its age.",
        *(100, "%"),
    ),
    (
        *("instance_top1", "Instance accuracy", "of queries, %"),
        "How often a query finds its own key in the dictionary. It is not the "
        "accuracy of a classifier, and a high value early in a run is no good "
        "sign.",
        *(100, "%"),
    ),
)

_WITH_LABELS = (  # of `linear` and `finetune`
    ("top1", "Training accuracy", "Of the images that a step trains on."),
    (
        "evaluated_top1",
        "Accuracy on held-out images",
        "Of training images that were kept apart, after each epoch.",
    ),
)

_FEW = 5  # runs of which all curves are drawn


def draw_all(runs):
    """Draws the curves of one or several runs, over the same axes.

    Args:
      runs: list of page.ReportedRun.

    Returns:
      dict key -> drawing.Drawn, without those that have no figures yet.
    """
    charts = [
        _loss(runs),
        _knn(runs),
        _probe(runs),
        _own_key(runs),
        *(
            _column_chart(runs, key, title, axis, note, factor, unit)
            for key, title, axis, note, factor, unit in _KEYS
        ),
        *(
            _column_chart(
                runs, key, title, "top-1, %", note, factor=100, unit="%"
            )
            for key, title, note in _WITH_LABELS
        ),
        _column_chart(
            runs,
            "learning_rate",
            "Learning rate",
            "rate",
            "As the optimiser used it, the schedule included.",
            span=(0.0, 0.0),
        ),
        *(_representation(runs, *row) for row in _REPRESENTATION),
        _column_chart(
            runs,
            "images_per_second",
            "Throughput",
            "images per second",
            "Of all devices together, both views of an image counted once.",
            span=(0.0, 0.0),
        ),
        _column_chart(
            runs,
            "input_wait_share",
            "Waiting for images",
            "of the time, %",
            "Share of the time in which a step had to wait for its images.",
            factor=100,
            unit="%",
            span=(0.0, 10.0),
        ),
    ]
    return {chart.key: drawing.draw(chart) for chart in charts if chart.series}


def x_name(runs):
    """Unit of the horizontal axis: epochs, where all runs know theirs."""
    known = all(run.steps_per_epoch for run in runs if run.rows)
    return "epoch" if known else "step"


def _x_values(runs, run, rows):
    """Positions of rows on the horizontal axis, float64 [n]."""
    if x_name(runs) == "epoch":
        return np.array([run.epoch_of(row) for row in rows], np.float64)
    return np.array([row["step"] for row in rows], np.float64)


def _label(runs, run, words):
    """The name of a curve in the legend; words may be ""."""
    if len(runs) > 1 and words:
        return f"{run.name}: {words}"
    return words or run.name


def _curve(runs, number, column, words, factor=1, **style):
    """A column of a run as a Series, in a list; [] if it has no figures."""
    run = runs[number]
    rows, values = run.column(column)
    if not rows:
        return []
    x, y, low, high = drawing.thin(
        _x_values(runs, run, rows),
        factor * np.array(values, np.float64),
        [row.get("steps") or 1 for row in rows],
    )
    label = _label(runs, run, words)
    style = {"colour": number, **style}
    return [drawing.Series(label, x=x, y=y, low=low, high=high, **style)]


def _column_chart(runs, key, title, axis, note, factor=1, unit="", span=None):
    """A chart of one column."""
    series = []
    for number in range(len(runs)):
        words = title.lower() if len(runs) == 1 else ""
        series += _curve(runs, number, key, words, factor)
    return drawing.Chart(
        key,
        title,
        x_name(runs),
        axis,
        series=series,
        unit=unit,
        note=note,
        span=span,
    )


def _representation(runs, key, title, axis, note):
    """A figure that needs no labels, and where it began."""
    share = key == "neighbour_stability"
    factor, unit = (100, "%") if share else (1, "")
    chart = _column_chart(runs, key, title, axis, note, factor, unit)
    words = {f"start_{key}": "starting encoder"}
    levels = findings.levels_of(runs, words, factor, unit)
    return chart._replace(levels=levels if chart.series else [])


def _own_key(runs):
    """A query's own key against the nearest of the others."""
    series = []
    for number in range(len(runs)):
        series += _curve(runs, number, "positive", "own key")
        series += _curve(
            *(runs, number, "hardest_negative", "nearest other key"),
            colour=number if len(runs) > 1 else 1,
            dashed=len(runs) > 1,
        )
    return drawing.Chart(
        "own_key",
        "Own key and nearest other",
        x_name(runs),
        "cosine with the query",
        series=series,
        note="The nearest other key is above the own one in good short runs "
        "too. Both near 1: the keys are becoming one.",
    )


def _loss(runs):
    series = []
    few = len(runs) <= _FEW
    for number in range(len(runs)):
        words = "mean of an epoch" if few else ""
        means = _curve(runs, number, "epoch_loss", words, points=True)
        if few or not means:
            words = "as logged" if few else ""
            series += _curve(runs, number, "loss", words, quiet=few)
        series += means
    levels = [
        (words, value) for value, words in findings.chance_levels(runs).items()
    ]
    note = "Chance is the loss of features that tell nothing." if levels else ""
    if any(run.is_pretraining and plan.queues_keys(run.config) for run in runs):
        note = (
            "While a queue holds noise the loss is low, and rises as it fills; "
            "while the momentum warms up it may be above chance. Only later "
            f"it falls. {note}"
        )
    if series and _beside_published(runs, published.compares_loss):
        series.append(_published_series(runs, "loss"))
    return drawing.Chart(
        "loss",
        "Loss",
        x_name(runs),
        "loss, nats",
        series=series,
        levels=levels,
        note=note,
    )


def _knn(runs):
    series = []
    for number in range(len(runs)):
        for layer_number, layer in enumerate(_layers(runs, runs[number])):
            colour = number if len(runs) > 1 else layer_number
            series += _curve(
                runs,
                number,
                f"knn_{layer}",
                layer if len(runs) <= _FEW else "",
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
    words = metrics_csv.BASELINES
    levels = findings.levels_of(runs, words, 100, "%") if series else []
    if levels:
        note += " Levels: what the encoder is compared with."
    return drawing.Chart(
        "knn",
        "kNN accuracy",
        x_name(runs),
        "top-1, %",
        series=series,
        levels=levels,
        unit="%",
        note=note,
    )


def _layers(runs, run):
    """The features whose kNN is drawn: of many runs those of the headline."""
    if len(runs) <= _FEW or not run.is_pretraining:
        return metrics_csv.KNN_LAYERS
    return (run.config.knn.features,)


def _probe(runs):
    series = []
    for number in range(len(runs)):
        series += _curve(
            runs, number, "probe_train_top1", "training views", 100, quiet=True
        )
        series += _curve(
            runs, number, "probe_top1", "test images", 100, points=True
        )
    return drawing.Chart(
        "probe",
        "Accuracy of the online probe",
        x_name(runs),
        "top-1, %",
        series=series,
        unit="%",
        note="Of a linear classifier that learns beside the encoder and has no "
        "effect on it. Its test images are those of kNN. A probe of frozen "
        "features, moco-tf linear, is trained to the end.",
    )


def _beside_published(runs, rule):
    """Whether any run may stand beside the published curve."""
    return x_name(runs) == "epoch" and any(
        published.is_cifar10(run.config) and rule(run.config) for run in runs
    )


def _published_series(runs, figure):
    """The published curve with its band, a little beyond the last epoch."""
    last = max(run.epoch_of(run.rows[-1]) for run in runs if run.rows)
    epoch, low, middle, high = published.band(figure, max(3, 1.2 * last))
    return drawing.Series(
        "MoCo, published, 200 epochs",
        colour=7,
        x=epoch,
        y=middle,
        low=low,
        high=high,
        dashed=True,
    )
