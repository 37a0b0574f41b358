"""Antialiased bilinear resizing of one image, a row at a time.

The platform's kernel goes through the columns of an image pixel by pixel but
through its rows as vectors. So each axis is resized as rows, with a
transpose in between: a third of the time, and the same bits.
"""

import tensorflow as tf


def crop_to_planes(image, box, size):
    """Crops, then resizes: what is outside the box has no influence.

    Args:
      image: uint8 or float32 [H, W, C].
      box: int32 [4]: top, left, height, width, inside the image.
      size: int, S, pixels of the result's sides.

    Returns:
      float32 [S (columns), C, S (rows)]: the view on its side, its colours in
      planes, which is how the work is cheapest; see `from_planes`.
    """
    top, left, height, width = tf.unstack(box)
    image = tf.convert_to_tensor(image)
    channels = image.shape[-1]
    # As a matrix: a slice is then a few long copies.
    rows = tf.reshape(image, [tf.shape(image)[0], -1])
    rows = rows[top : top + height, channels * left : channels * (left + width)]
    scale = size / tf.cast(box[2:], tf.float32)
    return _planes(rows, size, scale, tf.zeros([2]), channels)


def to_planes(image, size, scale, offset):
    """Resizes an image; only the pixels of the result are computed.

    Args:
      image: uint8 or float32 [H, W, C].
      size: int, S, pixels of the result's sides.
      scale: float32 [2], of the height and the width.
      offset: float32 [2], down and right, pixels of the result.

    Returns:
      float32 [S, C, S], as `crop_to_planes`.
    """
    image = tf.convert_to_tensor(image)
    rows = tf.reshape(image, [tf.shape(image)[0], -1])
    return _planes(rows, size, scale, offset, image.shape[-1])


def from_planes(planes):
    """Planes [columns, C, rows] -> an upright image [rows, columns, C]."""
    columns, channels, rows = planes.shape
    matrix = tf.reshape(planes, [columns * channels, rows])
    return tf.reshape(tf.transpose(matrix), [rows, columns, channels])


def to_shape(image, shape):
    """Resizes an image to any height and width.

    Args:
      image: uint8 or float32 [H, W, 3].
      shape: int32 [2], h and w, pixels.

    Returns:
      float32 [h, w, 3].
    """
    before, shape = tf.shape(image), tf.convert_to_tensor(shape)
    scale = tf.cast(shape / before[:2], tf.float32)
    rows = tf.reshape(image, [before[0], -1])
    rows = _resize_rows(rows, shape[0], scale[0], 0.0)  # [h, W * 3]
    columns = tf.reshape(tf.transpose(rows), [before[1], -1])  # [W, 3 * h]
    columns = _resize_rows(columns, shape[1], scale[1], 0.0)  # [w, 3 * h]
    upright = tf.transpose(tf.reshape(columns, [-1, shape[0]]))
    return tf.reshape(upright, [shape[0], shape[1], 3])


def crop_batch(images, boxes, size):
    """Crops and resizes images of one size, as products with their weights.

    Args:
      images: uint8 [n, H, W, 3].
      boxes: int32 [n, 4]: top, left, height, width, inside the images.
      size: int, S, pixels of the results' sides.

    Returns:
      float32 [n, S, S, 3].
    """
    count, height, width = images.shape[:3]
    boxes = tf.cast(boxes, tf.float32)
    down = _weights(boxes[:, 0], boxes[:, 2], height, size)  # [n, S, H]
    across = _weights(boxes[:, 1], boxes[:, 3], width, size)  # [n, S, W]
    rows = tf.reshape(tf.cast(images, tf.float32), [count, height, width * 3])
    rows = tf.reshape(tf.matmul(down, rows), [count, size, width, 3])
    columns = tf.reshape(
        tf.transpose(rows, [0, 2, 1, 3]), [count, width, size * 3]
    )
    columns = tf.reshape(tf.matmul(across, columns), [count, size, size, 3])
    return tf.transpose(columns, [0, 2, 1, 3])


def _weights(first, length, pixels, size):
    """Triangle weights float32 [n, size, pixels] of a stretch of an axis."""
    scale = length / size  # pixels of the image for one of the result
    reach = tf.maximum(scale, 1.0)[:, tf.newaxis, tf.newaxis]
    centre = first[:, tf.newaxis] + scale[:, tf.newaxis] * (
        tf.range(size, dtype=tf.float32) + 0.5
    )
    pixel = tf.range(pixels, dtype=tf.float32)
    distance = tf.abs(pixel + 0.5 - centre[..., tf.newaxis])
    weights = tf.maximum(1.0 - distance / reach, 0.0)
    last = (first + length)[:, tf.newaxis, tf.newaxis]
    inside = (pixel >= first[:, tf.newaxis, tf.newaxis]) & (pixel < last)
    weights = tf.where(inside, weights, 0.0)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def _planes(rows, size, scale, offset, channels):
    resized = _resize_rows(rows, size, scale[0], offset[0])  # [S, W * C]
    # [W, C * S]
    columns = tf.reshape(tf.transpose(resized), [-1, channels * size])
    resized = _resize_rows(columns, size, scale[1], offset[1])
    return tf.reshape(resized, [size, channels, size])


def _resize_rows(rows, size, scale, offset):
    """Resizes [n, m] to float32 [size, m]: a picture one pixel wide."""
    pixel = rows[tf.newaxis, :, tf.newaxis, :]  # the row is its channels
    resized = tf.raw_ops.ScaleAndTranslate(
        images=pixel,
        size=[size, 1],
        scale=tf.stack([scale, 1.0]),
        translation=tf.stack([offset, 0.0]),
        kernel_type="triangle",
        antialias=True,
    )
    return resized[0, :, 0]
