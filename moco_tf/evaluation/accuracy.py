"""Accuracy of a classification: top-k with intervals, confusion matrix."""

import csv
import functools
import pathlib

import numpy as np

from moco_tf import naming

_Z = 1.959963984540054  # of a two-sided interval of 95 %
_NAMED = 30  # classes whose names fit beside the picture


def wilson(correct, total):
    """Computes the 95 % score interval of a fraction (Wilson, 1927).

    Args:
      correct: int. total: int, at least 1.

    Returns:
      low, high: floats in 0..1.
    """
    share = correct / total
    centre = share + _Z**2 / (2 * total)
    spread = _Z * np.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    scale = 1 + _Z**2 / total
    return float((centre - spread) / scale), float((centre + spread) / scale)


def in_top(scores, labels, k):
    """Says whether the label is among the k best-scored classes.

    Args:
      scores: float [n, classes]; of equal scores the lower class is better.
      labels: int [n]. k: int.

    Returns:
      bool [n].
    """
    label_scores = np.take_along_axis(scores, labels[:, np.newaxis], axis=1)
    lower = np.arange(scores.shape[1]) < labels[:, np.newaxis]
    above = (scores > label_scores) | ((scores == label_scores) & lower)
    return above.sum(axis=1) < k


def summary(scores, labels):
    """Measures top-1 and top-5 with their intervals.

    Args:
      scores: float [n, classes]. labels: int [n].

    Returns:
      dict: images, top1, top1_low, top1_high and, with more than 5 classes,
      the same of top5; fractions in 0..1.

    Raises:
      ValueError: for scores that are not finite, which have no order.
    """
    if not np.isfinite(scores).all():
        raise ValueError(
            "Scores must be finite to be ranked. Received NaN or infinite "
            "ones: the classifier has diverged. Lower "
            "config.optimizer.learning_rate, or config.probe.rates of the "
            "cached way, in another --output."
        )
    result: dict[str, float] = {"images": len(labels)}
    for k in (1, 5) if scores.shape[1] > 5 else (1,):
        correct = int(in_top(scores, labels, k).sum())
        low, high = wilson(correct, len(labels))
        result[f"top{k}"] = correct / len(labels)
        result[f"top{k}_low"], result[f"top{k}_high"] = low, high
    return result


def describe(result):
    """Describes the result of `summary` in one line."""
    parts = []
    for k in (1, 5):
        if f"top{k}" in result:
            low, high = result[f"top{k}_low"], result[f"top{k}_high"]
            parts.append(
                f"top-{k} {100 * result[f'top{k}']:.2f} % "
                f"(95 %: {100 * low:.2f} to {100 * high:.2f})"
            )
    return "  ".join(parts) + f"  of {result['images']} images"


def confusion(predicted, labels, classes):
    """Counts int64 [classes, classes]: row = label, column = prediction."""
    cell = np.asarray(labels) * classes + np.asarray(predicted)
    counts = np.bincount(cell, minlength=classes * classes)
    return counts.reshape(classes, classes)


def write_confusion(folder, predicted, labels, names):
    """Writes confusion.csv, confusion.png and per_class.csv.

    Args:
      folder: that exists.
      predicted, labels: int [n]. names: of all classes, in order.

    Side effects: writes the three files.
    """
    folder = pathlib.Path(folder)
    counts = confusion(predicted, labels, len(names))
    with _open(folder / "confusion.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["label \\ prediction", *names])
        for name, row in zip(names, counts.tolist(), strict=True):
            writer.writerow([name, *row])
    with _open(folder / "per_class.csv") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["class", "images", "correct", "accuracy", "low", "high"]
        )
        for number, name in enumerate(names):
            total = int(counts[number].sum())
            correct = int(counts[number, number])
            if total:
                row = [correct / total, *wilson(correct, total)]
                row = [f"{value:.4f}" for value in row]
            else:
                row = ["", "", ""]  # no test image of this class
            writer.writerow([name, total, correct, *row])
    _draw(folder / "confusion.png", counts, names)


def drawn(name, otherwise):
    """Returns a name as it stands in a picture.

    A font draws the same empty box for each letter that it lacks, so classes
    of such names could not be told from each other.

    Args:
      name: str; bytes that are no text become "?".
      otherwise: str that stands for a name with a letter that the font lacks.
    """
    text = naming.as_text(name)
    is_seen = text.isprintable() and all(
        map(_font().get_char_index, map(ord, text))
    )
    return text if is_seen else otherwise


@functools.cache
def _font():
    """The font that pictures are written in."""
    from matplotlib import font_manager  # half a second of every start

    properties = font_manager.FontProperties()
    return font_manager.get_font(font_manager.findfont(properties))


def _open(path):
    return path.open("w", newline="", encoding="utf-8", errors="replace")


def _draw(path, counts, names):
    """Draws the share of each label's images by prediction."""
    from matplotlib import figure as figures

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(names) <= _NAMED
    side = 2.5 + (0.42 * len(names) if named else 5.5)
    # The object interface: pyplot would keep the figure in a global list.
    figure = figures.Figure(figsize=(side, side), dpi=120)
    axes = figure.add_subplot()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if named:
        ticks = range(len(names))
        # A folder's name may be bytes that are no text, or look like a formula.
        numbered = [f"no. {number + 1}" for number in ticks]
        shown = list(map(drawn, names, numbered))
        if set(shown) & set(numbered):
            axes.set_ylabel("label (no. N: the Nth of confusion.csv)")
        axes.set_xticks(ticks, shown, rotation=60, ha="right")
        axes.set_yticks(ticks, shown)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_parse_math(False)
        for row in ticks:
            for column in ticks:
                dark = shares[row, column] > 0.5
                axes.text(
                    column,
                    row,
                    f"{100 * shares[row, column]:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("% of the label's images")
    figure.savefig(path, bbox_inches="tight")
