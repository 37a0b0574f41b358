"""What the decoders ask of a file's bytes before a pixel is read.

Few operations: each is paid for again in every graph that decodes.
"""

import tensorflow as tf

# A header may claim any size; memory is reserved before a pixel is read.
MAX_PIXELS = 89_478_485


def read(contents, start, count):
    """Bytes of a file, as numbers.

    Args:
      contents: string scalar, the whole file.
      start: int32 scalar, place of the first; clipped to the file.
      count: int.

    Returns:
      int32 [count]; zeros beyond the end of the file.
    """
    start = tf.clip_by_value(start, 0, tf.strings.length(contents))
    piece = tf.strings.substr(contents, start, count)
    octets = tf.io.decode_raw(piece, tf.uint8, fixed_length=count)
    return tf.ensure_shape(tf.cast(octets, tf.int32), [count])


def join(octets, little_endian=True):
    """Numbers that several bytes make together.

    Args:
      octets: int32 [..., 2 or 4], bytes. little_endian: bool scalar.

    Returns:
      int32 [...].
    """
    weights = [1 << 8 * place for place in range(octets.shape[-1])]
    weights = tf.where(little_endian, weights, weights[::-1])
    return tf.reduce_sum(octets * weights, -1)


def demand(holds, *message):
    """Ops that fail unless a bool scalar holds; none where ops run at once.

    Args:
      holds: bool scalar. message: texts and scalars, of the error.
    """
    check = tf.debugging.Assert(holds, list(message))
    return [] if check is None else [check]


def check_size(height, width):
    """Ops that fail for more than MAX_PIXELS; int scalars."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return demand(
        pixels <= MAX_PIXELS,
        f"An image must not have more than {MAX_PIXELS} pixels. Received",
        height,
        width,
    )
