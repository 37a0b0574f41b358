"""Gaussian blur, edges extended; the kernel ends at three sigma, rounded up."""

import math

import tensorflow as tf

MAX_SIGMA = 2.0  # of `blur_short` and `blur_batch`
_RADIUS = math.ceil(3 * MAX_SIGMA)
_BLOCK = 32  # rows of one product


def blur_rows(matrix, sigma):
    """Blurs float32 [n, m] along n; sigma, a float32 scalar > 0, is in rows.

    As a product with a banded matrix, block by block: a whole [n, n] matrix is
    five times the work at 224 pixels.
    """
    radius = tf.cast(tf.math.ceil(3.0 * sigma), tf.int32)
    height = tf.shape(matrix)[0]
    blocks = (height + _BLOCK - 1) // _BLOCK
    first = tf.range(blocks)[:, tf.newaxis] * _BLOCK - radius
    rows = first + tf.range(_BLOCK + 2 * radius)
    rows = tf.clip_by_value(rows, 0, height - 1)  # this extends the edges
    tiles = tf.gather(matrix, rows)
    blurred = tf.matmul(_band(sigma, radius, _BLOCK, radius), tiles)
    blurred = tf.reshape(blurred, [blocks * _BLOCK, tf.shape(matrix)[1]])
    return blurred[:height]


def blur_short(image, sigma):
    """As `blur_rows`, up to MAX_SIGMA, of a known shape [n, ...], for XLA."""
    rows = image.shape[0]
    radius = tf.cast(tf.math.ceil(3.0 * sigma), tf.int32)
    kernel = _band(sigma, radius, 1, _RADIUS)[0]
    padded = tf.gather(image, _extended(rows))
    return tf.add_n(
        [kernel[k] * padded[k : k + rows] for k in range(2 * _RADIUS + 1)]
    )


def blur_batch(planes, sigma):
    """Blurs images along both axes, each with its own sigma, under XLA too.

    Args:
      planes: float32 [..., b, S, S], planes of b images.
      sigma: float32 [b], 0..MAX_SIGMA pixels; 0 leaves the image as it is.
    """
    size = planes.shape[-1]
    # So small that the neighbours' weights are exactly zero.
    sigma = tf.maximum(sigma, 1e-3)[:, tf.newaxis, tf.newaxis]
    radius = tf.cast(tf.math.ceil(3.0 * sigma), tf.int32)
    band = _band(sigma, radius, size, _RADIUS)  # [b, S, S + 12]
    planes = tf.matmul(band, tf.gather(planes, _extended(size), axis=-2))
    planes = tf.gather(planes, _extended(size), axis=-1)
    return tf.matmul(planes, band, transpose_b=True)


def _extended(size):
    """Places of `size` rows and of those that extend the edges."""
    rows = tf.range(-_RADIUS, size + _RADIUS)
    return tf.clip_by_value(rows, 0, size - 1)


def _band(sigma, radius, rows, margin):
    """Kernels of rows that follow one another, [..., rows, rows + 2 margin]."""
    row = tf.range(rows)[:, tf.newaxis]
    column = tf.range(rows + 2 * margin)[tf.newaxis]
    distance = column - row - margin
    inside = tf.cast(tf.abs(distance) <= radius, tf.float32)
    distance = tf.cast(distance, tf.float32) / sigma
    band = inside * tf.exp(-0.5 * distance * distance)
    return band / tf.reduce_sum(band, axis=-1, keepdims=True)
