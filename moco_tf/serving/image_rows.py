"""A batch of encoded images, of which some may not be readable."""

import tensorflow as tf

from moco_tf.data import decode


def decode_rows(contents, view, size):
    """Decodes a batch; a row that cannot be read does not fail the others.

    Args:
      contents: string [n], n may be 0.
      view: uint8 [H, W, 3] -> uint8 [size, size, 3].
      size: int, pixels.

    Returns:
      uint8 [n, size, size, 3], zeros where a row could not be read.
      bool [n], which rows could be read.
    """
    count = tf.size(contents, tf.int64)
    zeros = tf.zeros([1, size, size, 3], tf.uint8)

    def read(row):
        image = view(decode.decode(contents[row]))
        return tf.ensure_shape(image, [size, size, 3]), row

    # Only rows that could be read come out of this, so each one brings its
    # number; the last, of no row, leaves no batch empty.
    rows = (
        tf.data.Dataset.range(count)
        .map(read, tf.data.AUTOTUNE, deterministic=True)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors((zeros[0], count)))
    )
    images, found = rows.batch(count + 1).get_single_element()
    last = tf.size(found) - 1
    place = tf.tensor_scatter_nd_update(
        tf.fill([count + 1], last), found[:, tf.newaxis], tf.range(last + 1)
    )[:-1]
    images = tf.ensure_shape(images, [None, size, size, 3])
    return tf.gather(images, place), place < last
