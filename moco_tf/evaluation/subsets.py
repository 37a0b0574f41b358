"""Fixed, class-balanced choices of labelled images.

A choice is a function of the labels, the fraction and the seed alone. It draws
raw numbers of Philox, whose stream NumPy keeps the same on every platform and
in every version; that of its own permutations it does not.
"""

import numpy as np

_SUBSET, _HOLDOUT = 0, 1  # separate draws of one seed


def balanced(labels, fraction, seed):
    """Chooses the same fraction of every class (the "1 %" of labels).

    Of a class of n images it takes fraction * n, rounded, at least 1. Of one
    seed, a smaller choice is part of every larger one.

    Args:
      labels: int [N]. fraction: float above 0, at most 1. seed: int, 0 or more.

    Returns:
      int64 [n], places in the labels, rising.

    Raises:
      ValueError: for no labels or a fraction outside its range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(
            "A fraction of labels must lie above 0 and be at most 1. Received "
            f"{fraction}."
        )
    ranks, sizes = _ranks(labels, seed, _SUBSET)
    wanted = np.maximum(_rounded(fraction, sizes), 1)
    return np.flatnonzero(ranks < wanted)


def split(labels, holdout, seed):
    """Splits labelled images in those to train on and those to choose by.

    Of a class of n images holdout * n are held out, rounded, at least 1; at
    least 1 is kept, so a class of a single image is never held out.

    Args:
      labels: int [N]. holdout: float, at least 0, below 1. seed: int, 0 or
        more.

    Returns:
      kept, held: int64 [n], places in the labels, rising. With holdout 0,
      nothing is held.

    Raises:
      ValueError: for no labels or a holdout outside its range.
    """
    if not 0 <= holdout < 1:
        raise ValueError(
            "holdout must be at least 0 and below 1. Received "
            f"holdout={holdout}."
        )
    ranks, sizes = _ranks(labels, seed, _HOLDOUT)
    wanted = np.clip(_rounded(holdout, sizes), int(holdout > 0), sizes - 1)
    held = ranks < wanted
    return np.flatnonzero(~held), np.flatnonzero(held)


def _ranks(labels, seed, purpose):
    """Each image's place in a random order of its class, and its class' size.

    Returns:
      ranks, sizes: int64 [N].
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels):
        raise ValueError(
            "A choice of labelled images needs labels [N], at least one. "
            f"Received labels of shape {labels.shape}."
        )
    philox = np.random.Philox(key=np.array([seed, purpose], np.uint64))
    order = np.lexsort((philox.random_raw(len(labels)), labels))
    _, firsts, counts = np.unique(
        labels[order], return_index=True, return_counts=True
    )
    ranks, sizes = np.empty([2, len(labels)], np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(firsts, counts)
    sizes[order] = np.repeat(counts, counts)
    return ranks, sizes


def _rounded(fraction, sizes):
    """fraction * sizes to the nearest whole number, halves up."""
    return np.floor(fraction * sizes + 0.5).astype(np.int64)
