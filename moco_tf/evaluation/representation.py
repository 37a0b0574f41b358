"""Figures of a representation that need no labels."""

import numpy as np
import tensorflow as tf

from moco_tf import counting

# Rows per block: a block of distances is 2048 x 2048 floats, 16 MB, and a
# block of rows 2048 x F, however many rows there are.
BLOCK = 2048
_NEIGHBOURS = 10  # of an image, that two views are compared by
# A singular value below this share of all is float32 noise, not a dimension.
_NOISE = 1e-6


def alignment(first, second):
    """E ||f(x) - f(y)||^2 of two views' unit rows (arXiv:2005.10242, Sec. 4.1).

    Args:
      first, second: float [n, F], row i of both is of one image; n at least 1.
        They need not be normalised; the paper's alpha is 2.

    Returns:
      float in 0..4; 0: all views of an image have one direction.

    Raises:
      ValueError: for shapes that differ, or rows that are not finite.
    """
    _check(first, 1)
    if np.shape(first) != np.shape(second):
        raise ValueError(
            "Alignment needs two views of the same images. Received rows of "
            f"the shapes {np.shape(first)} and {np.shape(second)}."
        )
    total = 0.0
    for rows in _blocks(len(first)):
        difference = _unit(first[rows]) - _unit(second[rows])
        total += float(np.sum(np.square(difference), dtype=np.float64))
    return total / len(first)


@counting.timed("measuring uniformity")
def uniformity(rows, t=2.0):
    """log E exp(-t ||f(x) - f(y)||^2), unit rows (arXiv:2005.10242, Sec. 4.1).

    The mean is over all pairs of different rows.

    Args:
      rows: float [n, F], n at least 2; need not be normalised.
      t: positive float; the paper's experiments use 2.

    Returns:
      float, at least -4 t; 0: all rows have one direction, lower is more
      uniform.

    Raises:
      ValueError: for fewer than two rows, or rows that are not finite.
    """
    _check(rows, 2)
    count, total = len(rows), 0.0
    blocks = list(_blocks(count))
    scale = tf.constant(t, tf.float32)
    for number, block in enumerate(blocks):
        left = tf.constant(_unit(rows[block]))
        total += float(_kernel_within(left, scale)) / 2
        for other in blocks[number + 1 :]:
            right = tf.constant(_unit(rows[other]))
            total += float(_kernel_between(left, right, scale))
    return float(np.log(total / (count * (count - 1) / 2)))


def shared_neighbours(first, second):
    """How many nearest neighbours each image keeps in another view.

    The neighbours of a row among the others of its view, by cosine. Of equals
    one view takes the first and the other the last: features that are all the
    same agree in nothing.

    Args:
      first, second: float [n, F], row i of both is of one image.

    Returns:
      shared: int64 [n]. most: int, neighbours of each: 10, of few images a
      quarter of them; 0, and all shared 0, for fewer than 8 images.

    Raises:
      ValueError: for rows that are not finite.
    """
    count = len(first)
    most = min(_NEIGHBOURS, count // 4) if count >= 8 else 0
    if not most:
        return np.zeros(count, np.int64), 0
    near = []
    for rows, order in ((first, 1), (second, -1)):
        unit = _unit(rows)
        similarity = unit @ unit.T
        np.fill_diagonal(similarity, -np.inf)
        columns = np.arange(count)[::order]
        ranks = np.argsort(-similarity[:, columns], axis=1, kind="stable")
        is_near = np.zeros([count, count], bool)
        np.put_along_axis(is_near, columns[ranks[:, :most]], True, axis=1)
        near.append(is_near)
    return np.sum(near[0] & near[1], axis=1), most


def effective_rank(rows):
    """exp(entropy of the normalised singular values), of the centred rows.

    Roy & Vetterli, "The effective rank" (EUSIPCO 2007).

    Args:
      rows: float [n, F], n at least 1.

    Returns:
      float, 1..F; 0 when all rows are equal.

    Raises:
      ValueError: for rows that are not finite.
    """
    _check(rows, 1)
    size = np.shape(rows)[1]
    mean, energy = np.zeros(size), 0.0
    for block in _blocks(len(rows)):
        values = _finite(rows[block]).astype(np.float64)
        mean += values.sum(axis=0) / len(rows)
        energy += float(np.sum(np.square(values)))
    # The mean is subtracted before the product: afterwards, rounding would
    # hide the spread of features far from 0.
    product = np.zeros([size, size])
    for block in _blocks(len(rows)):
        centred = rows[block] - mean
        product += centred.T @ centred
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(product), 0.0))
    singular = singular[singular > _NOISE * np.sqrt(energy)]
    if not len(singular):
        return 0.0
    share = singular / singular.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


@counting.timed("measuring lengths")
def mean_norm(rows):
    """Mean L2 norm of float [n, F], n at least 1."""
    _check(rows, 1)
    total = sum(
        float(np.linalg.norm(_finite(rows[block]), axis=1).sum())
        for block in _blocks(len(rows))
    )
    return total / len(rows)


def describe(rows):
    """Computes the figures that one view of each image suffices for.

    Args:
      rows: float [n, F], n at least 2, one row an image.

    Returns:
      dict: uniformity, effective_rank and feature_norm, floats.

    Raises:
      ValueError: for fewer than two rows, or rows that are not finite.
    """
    return {
        "uniformity": uniformity(rows),
        "effective_rank": effective_rank(rows),
        "feature_norm": mean_norm(rows),
    }


def _check(rows, least):
    """Refuses rows that are not [n, F] with n of `least` or more."""
    if np.ndim(rows) != 2 or len(rows) < least:
        raise ValueError(
            f"A representation is described by {least} rows of features or "
            f"more, [n, F]. Received the shape {np.shape(rows)}."
        )


def _blocks(count):
    for start in range(0, count, BLOCK):
        yield slice(start, start + BLOCK)


def _finite(rows):
    rows = np.asarray(rows, np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(
            "A representation must be finite. Received NaN or infinite "
            "features: the encoder has diverged or its checkpoint is damaged. "
            "Give an earlier --checkpoint."
        )
    return rows


def _unit(rows):
    """The rows, L2-normalised; a zero row stays zero."""
    rows = _finite(rows)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1)


@tf.function(reduce_retracing=True)
def _kernel_between(left, right, t):
    """Sum over all pairs of exp(-t ||x - y||^2), float64 scalar."""
    return _sum(_kernel(left, right, t))


@tf.function(reduce_retracing=True)
def _kernel_within(rows, t):
    """As `_kernel_between` over the pairs of different rows, both orders."""
    kernel = _kernel(rows, rows, t)
    return _sum(tf.linalg.set_diag(kernel, tf.zeros_like(rows[:, 0])))


def _kernel(left, right, t):
    # ||x||^2 is 1, or 0 for a zero row.
    squared = tf.reduce_sum(left**2, 1)[:, tf.newaxis]
    squared += tf.reduce_sum(right**2, 1)
    squared -= 2.0 * tf.matmul(left, right, transpose_b=True)
    return tf.exp(-t * squared)


def _sum(kernel):
    """Sums rows in float32 and their sums, of very different size, in 64."""
    return tf.reduce_sum(tf.cast(tf.reduce_sum(kernel, 1), tf.float64))
