"""Whether a run's encoder is better than the one it started from.

The rules read rows of metrics.csv and nothing else, so a run that was killed
and resumed, its report and a copy of its folder come to the same verdict.

With labels the same queries were classed by the starting encoder and by each
checkpoint. A paired bootstrap over them gives the interval of the difference of
their kNN; a verdict is given only where the interval does not hold 0.

* The last checkpoint comes first: nothing chose it; its interval is of 95 %.
* Only where it is not better, the best of the n that were measured is asked.
  It was chosen by the same queries, so its figure is too good; its interval is
  of 1 - 0.05 / n (Bonferroni): all n together miss in at most 5 of 100 cases,
  and so does the one that was chosen, whichever it is.

A kNN that is no better than guessing, before and after, is of labels that do
not belong to the images: no difference is called one.

Without labels nothing says which encoder is of more use. What can be said is
that features have lost: their neighbours are less alike in two views of an
image, and they spread in fewer directions. More of both is no proof of more
use, since that is what training asks for.
"""

from typing import Any, NamedTuple

import numpy as np

from moco_tf.evaluation import paired

_LEVEL = 0.95
_TAILS, _MOST = 5_000, 1_000_000  # resamples: for each checkpoint, and at most
_Z = 1.959963984540054  # of a two-sided interval of 95 %
_GUESSES = 4  # standard errors above chance, that luck of labels reaches
KEPT, START, NONE, OPEN = "kept", "start", "no difference", "open"
_UNKNOWN = (
    "no verdict: the starting encoder was not measured by the same votes as "
    "the last checkpoint. knn.baseline=true measures it, in a new --workdir"
)
_TREND = (4, 0.01, 2.0)  # measurements; of kNN, risen; standard errors


class Verdict(NamedTuple):
    """What came of a run.

    Attributes:
      kind: KEPT, a checkpoint is better than the start; START, the start is
        better; NONE, no difference is seen; OPEN, it cannot be told.
      words: str, the verdict with its numbers.
      measure: column that it is of, or "".
      step: int, of the checkpoint that it is of; None where there is none.
      is_last: bool, whether that is the last one that was measured.
      gain, low, high: floats, of the measure over the start, and the interval
        of that; None where there is none.
      measurements: int, of checkpoints.
    """

    kind: str
    words: str
    measure: str = ""
    step: int | None = None
    is_last: bool = True
    gain: Any = None
    low: Any = None
    high: Any = None
    measurements: int = 0

    @property
    def tone(self):
        """How it is to be taken: "good", "plain" or "warn"."""
        return {KEPT: "good", START: "warn"}.get(self.kind, "plain")


def change(gained, lost, queries, choices=1):
    """The paired difference of two encoders, by how many queries changed.

    Drawing queries anew draws these counts anew, so they are all that the
    interval depends on.

    Args:
      gained, lost: ints, queries that the second, or the first, alone classes
        right. queries: int, of both.
      choices: int, checkpoints that this one was chosen from.

    Returns:
      paired.Difference; a function of the arguments.
    """
    same = [0] * (queries - gained - lost)
    return paired.difference(
        np.array([0] * gained + [1] * lost + same),
        np.array([1] * gained + [0] * lost + same),
        # So that a hundred of them lie beyond each end of the interval.
        resamples=min(_TAILS * (choices + 1), _MOST),
        level=1 - (1 - _LEVEL) / choices,
    )


def of_rows(rows, layer="backbone", start="the start"):
    """The verdict on a run so far.

    Args:
      rows: list of dicts of metrics.csv. layer: whose kNN chooses the best.
      start: words for the starting encoder.

    Returns:
      Verdict; None before the first measurement.
    """
    measured = [row for row in rows if row.get(f"knn_{layer}") is not None]
    if not measured:
        return _without_labels(rows, start)
    if measured[-1].get(f"gained_{layer}") is None:
        return Verdict(OPEN, _UNKNOWN)
    compared = [r for r in measured if r.get(f"gained_{layer}") is not None]
    count = len(compared)
    last = _knn_verdict(compared[-1], layer)
    last = last._replace(measurements=count)
    if _is_guess(compared, layer):
        words = (
            f"no difference seen: {_checkpoint(last)} over {start}, but no kNN "
            f"is clearly above chance, {100 * compared[-1]['knn_chance']:.1f} "
            "%, so these labels say nothing of the images"
        )
        return last._replace(kind=NONE, words=words)
    if last.low > 0:
        words = f"kept: {_checkpoint(last)} over {start}"
        return last._replace(kind=KEPT, words=words)
    row = max(compared, key=lambda each: each[f"knn_{layer}"])
    best = _knn_verdict(row, layer, count)
    best = best._replace(measurements=count, is_last=False)
    if row is not compared[-1] and best.low > 0:
        words = (
            f"kept: {_checkpoint(best, f', wide for the best of {count}')} "
            f"over {start}; the last, step {last.step:,}, has "
            f"{100 * last.gain:+.1f}. Pass --checkpoint=best to use it"
        )
        return best._replace(kind=KEPT, words=words)
    if last.high < 0:
        words = f"the start was better: do not use this run ({_against(last)})"
        return last._replace(kind=START, words=words)
    words = f"no difference seen: {_checkpoint(last)} over {start}"
    return last._replace(kind=NONE, words=words)


def _is_guess(rows, layer):
    """Whether no kNN, the start's among them, is clearly above chance.

    With labels that do not belong to the images, queries of one neighbourhood
    are right or wrong together, by the labels that happen to lie there: so the
    queries are no independent draws, and their interval is too narrow.
    """
    chance = rows[-1].get("knn_chance")
    known = [row[f"knn_{layer}"] for row in rows]
    known += [row.get(f"start_{layer}") or 0.0 for row in rows[-1:]]
    if chance is None:
        return False
    error = (chance * (1 - chance) / rows[-1]["knn_queries"]) ** 0.5
    return max(known) <= chance + _GUESSES * error


def _knn_verdict(row, layer, choices=1):
    """The gain of a row over the start and its interval, kind still open."""
    gained, lost = (int(row[f"{x}_{layer}"]) for x in ("gained", "lost"))
    gain, low, high, *_ = change(gained, lost, int(row["knn_queries"]), choices)
    return Verdict(
        *(OPEN, "", f"knn_{layer}", row["step"], True, gain, low, high)
    )


def _checkpoint(each, of_choice=""):
    """A checkpoint and its gain in words."""
    return (
        f"step {each.step:,}, {100 * each.gain:+.1f} points kNN "
        f"(95 % interval {_span(each)}{of_choice})"
    )


def _against(each):
    """How far a checkpoint is below the start, in words."""
    return (
        f"step {each.step:,}, {100 * each.gain:+.1f} points kNN, "
        f"95 % interval {_span(each)}"
    )


def _span(each):
    return f"{100 * each.low:.1f} to {100 * each.high:.1f}"


def _without_labels(rows, start):
    """What can be said by neighbours and directions alone, or None."""
    name = "neighbour_stability"
    measured = [row for row in rows if row.get(name) is not None]
    if not measured:
        return None
    row = measured[-1]
    if row.get("stability_error") is None:
        return Verdict(OPEN, _UNKNOWN)
    gain = row[name] - row[f"start_{name}"]
    reach = _Z * row["stability_error"]
    rank, before = row["effective_rank"], row["start_effective_rank"]
    each = Verdict(
        *(OPEN, "", name, row["step"], True, gain, gain - reach, gain + reach),
        measurements=len(measured),
    )
    seen = (
        f"step {each.step:,}, two views of an image share "
        f"{100 * row[name]:.1f} % of their neighbours, {start} had "
        f"{100 * row[f'start_{name}']:.1f} % (95 % interval of the difference "
        f"{_span(each)}); effective rank {rank:.1f}, it had {before:.1f}"
    )
    if each.high < 0 and rank < before:
        words = "the start was better, as far as can be seen without labels: "
        return each._replace(kind=START, words=f"{words}{seen}")
    if each.low <= 0 <= each.high:
        words = "no difference seen, without labels: "
        return each._replace(kind=NONE, words=f"{words}{seen}")
    words = (
        f"no verdict without labels: {seen}. Which is of more use, some "
        "labelled images in knn.bank and knn.query would tell"
    )
    return each._replace(words=words)


def trend(rows, layer, queries):
    """Where kNN is going, at the end of a run.

    From the mean of the two last measurements and of the two a quarter of the
    run before them. A rise or fall counts from a point on, and from two
    standard errors of their difference.

    Args:
      rows: list of dicts of metrics.csv. layer: str.
      queries: int, that kNN classes; 0: not known.

    Returns:
      1, still rising; -1, falling; 0, level; None: too few measurements.
    """
    knn = [row.get(f"knn_{layer}") for row in rows]
    knn = [value for value in knn if value is not None]
    least, rise, errors = _TREND
    if len(knn) < least:
        return None
    back = max(2, len(knn) // 4)
    now, then = np.mean(knn[-2:]), np.mean(knn[-2 - back : -back])
    error = (0.25 / queries / 2) ** 0.5 if queries else 0.0
    if abs(now - then) < max(rise, errors * error):
        return 0
    return 1 if now > then else -1
