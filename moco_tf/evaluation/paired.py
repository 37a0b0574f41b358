"""Differences between two encoders on the same images, with their intervals.

Two accuracies of the same queries are no independent samples: most queries are
easy, or hard, for both. So the queries are resampled, each with both outcomes
(the paired bootstrap: Efron & Tibshirani, "An Introduction to the Bootstrap",
1993, Sec. 13.3). The interval is about other queries of the same kind: not
about other seeds of the training.
"""

import math
from typing import NamedTuple

import numpy as np

_ROWS = 2**22  # numbers that are drawn at once


class Difference(NamedTuple):
    """How much better the second of two encoders is, per query.

    Attributes:
      mean: float, of second - first.
      low, high: floats, the interval of 95 % of the mean.
      better, worse: int, queries on which the second has more, and less.
      queries: int.
    """

    mean: float
    low: float
    high: float
    better: int
    worse: int
    queries: int

    @property
    def verdict(self):
        """One of "better", "worse" and "no difference", if it reaches 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference"

    def describe(self, scale=100.0, unit="points"):
        """The verdict in words, as "better by 4.2 points (95 %: 3.1 to 5.3)".

        Args:
          scale: float, of one in the unit. unit: str.
        """
        low, high = scale * self.low, scale * self.high
        if self.verdict == "no difference":
            text = f"no difference ({scale * self.mean:+.2f} {unit}; 95 %:"
            return f"{text} {low:+.2f} to {high:+.2f})"
        if self.verdict == "worse":
            low, high = -high, -low
        return (
            f"{self.verdict} by {scale * abs(self.mean):.2f} {unit} (95 %: "
            f"{low:.2f} to {high:.2f})"
        )


def difference(first, second, resamples=10_000, seed=0, level=0.95):
    """The mean of second - first over the same queries, and its interval.

    The interval is of the percentiles of the paired bootstrap. Of outcomes 0
    and 1 it also holds 0 wherever the exact test of the queries on which the
    two differ does not exclude it (McNemar, "Note on the sampling error of the
    difference between correlated proportions", 1947): of a few such queries
    the percentiles alone are too narrow.

    Args:
      first, second: bool or float [n], outcomes of the same n queries in the
        same order; n at least 1.
      resamples: int, of the bootstrap. seed: int, of its draws.
      level: share of cases that the interval is to hold, 0..1.

    Returns:
      Difference. The same arrays give 0 exactly, with the interval 0 to 0.

    Raises:
      ValueError: for arrays that are no outcomes of the same queries.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            "A paired difference needs an outcome of both for each of one or "
            f"more queries. Received the shapes {first.shape} and "
            f"{second.shape}. Measure both on the same images."
        )
    change = second.astype(np.float64) - first.astype(np.float64)
    if not np.isfinite(change).all():
        raise ValueError(
            "Outcomes that are compared must be finite. Received NaN or "
            "infinite ones: the encoder has diverged or its checkpoint is "
            "damaged. Give an earlier checkpoint."
        )
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    means = _resampled(change, resamples, seed)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    is_binary = all(np.isin(x, (0, 1)).all() for x in (first, second))
    if is_binary and sign_test(better, worse) >= 2 * tail:
        low, high = min(low, 0.0), max(high, 0.0)
    mean = float(change.mean())
    # The mean of a skewed sample may lie beside its percentiles; + 0.0: no -0.
    low, high = min(float(low), mean) + 0.0, max(float(high), mean) + 0.0
    return Difference(mean, low, high, better, worse, len(change))


def sign_test(better, worse):
    """The exact two-sided probability of a split as uneven as this one.

    Where two encoders are equally good, each query on which they differ is a
    fair coin.

    Args:
      better, worse: int, queries on which one and the other is right alone.

    Returns:
      float in 0..1; 1 without such queries.
    """
    total, fewer = better + worse, min(better, worse)
    # By logarithms: 2**total has no float from 1024 queries on.
    logs = [
        math.lgamma(total + 1)
        - math.lgamma(i + 1)
        - math.lgamma(total - i + 1)
        - total * math.log(2)
        for i in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _resampled(change, resamples, seed):
    """The means of float64 [n] resampled with replacement, [resamples].

    Those of -change are the same with another sign, so no verdict depends on
    which encoder comes first.
    """
    if len(np.unique(change)) <= 64:  # as of 0 and 1
        half = max(1, resamples // 2)
        return np.concatenate(
            [_by_counts(change, half, seed), -_by_counts(-change, half, seed)]
        )
    random = np.random.Generator(np.random.PCG64(seed))
    means = np.empty(resamples)
    step = max(1, _ROWS // len(change))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        rows = random.integers(len(change), size=(size, len(change)))
        means[start : start + size] = change[rows].mean(axis=1)
    return means


def _by_counts(change, resamples, seed):
    """Means of resamples of few values, by how often each value is drawn."""
    random = np.random.Generator(np.random.PCG64(seed))
    values, counts = np.unique(change, return_counts=True)
    shares = counts / len(change)
    drawn = random.multinomial(len(change), shares, size=resamples)
    return drawn @ values / len(change)
