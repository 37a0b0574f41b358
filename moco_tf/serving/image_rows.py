"""A batch of encoded images, of which some may not be readable."""

import tensorflow as tf

from moco_tf.data import decode, pairs


def decode_rows(contents, view, size):
    """Decodes a batch; a row that cannot be read does not fail the others.

    Args:
      contents: string [n], or [n, 2] of pairs of files; n may be 0.
      view: uint8 [H, W, C] -> uint8 [size, size, C].
      size: int, pixels.

    Returns:
      uint8 [n, size, size, C], zeros where a row could not be read.
      bool [n], which rows could be read.
    """
    count = tf.shape(contents, tf.int64)[0]
    of_pairs = contents.shape.rank == 2
    shape = [size, size, pairs.CHANNELS if of_pairs else 3]
    zeros = tf.zeros([1, *shape], tf.uint8)

    def read(row):
        files = contents[row]
        if of_pairs:
            image = pairs.join(decode.decode, files)
        else:
            image = decode.decode(files)
        return tf.ensure_shape(view(image), shape), row

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
    images = tf.ensure_shape(images, [None, *shape])
    return tf.gather(images, place), place < last
