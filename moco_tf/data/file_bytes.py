"""Bytes of a file as numbers, in the graph, and checks of them."""

import tensorflow as tf

# A header may claim any size; memory is reserved before a pixel is read.
MAX_PIXELS = 89_478_485


def apart(function, *kinds):
    """A function that stays one node of the graphs that call it.

    The nodes of a branch cost time where it is not taken, too.

    Args:
      function: of tensors, all scalars. kinds: their dtypes; none: a string.
    """
    return tf.function(
        function,
        [tf.TensorSpec([], kind) for kind in kinds or [tf.string]],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def read_bytes(contents, start, count):
    """Some bytes of a file, as numbers.

    Args:
      contents: string scalar, the bytes of the file.
      start: int32 scalar, position of the first; clipped to the file.
      count: int.

    Returns:
      int32 [count]; zeros beyond the end of the file.
    """
    octets = tf.io.decode_raw(
        slice_of(contents, start, count), tf.uint8, fixed_length=count
    )
    return tf.ensure_shape(tf.cast(octets, tf.int32), [count])


def slice_of(contents, start, count):
    """Some bytes of a file, as a string; fewer where the file ends.

    Args:
      contents: string scalar. start, count: int32 scalars.
    """
    start = tf.clip_by_value(start, 0, tf.strings.length(contents))
    return tf.strings.substr(contents, start, count)


def starts_with(contents, first):
    """Whether a string begins with some bytes: bool scalar."""
    return tf.equal(tf.strings.substr(contents, 0, len(first)), first)


def join_bytes(octets, little_endian=True, dtype=tf.int32):
    """Integers of several bytes each.

    Args:
      octets: int32 [..., 2 or 4], bytes. little_endian: bool scalar.
      dtype: tf.int32, where the highest bit is the sign, or tf.int64.

    Returns:
      `dtype` [...].
    """
    weights = [1 << 8 * number for number in range(octets.shape[-1])]
    weights = tf.where(
        little_endian,
        tf.constant(weights, dtype),
        tf.constant(weights[::-1], dtype),
    )
    return tf.reduce_sum(tf.cast(octets, dtype) * weights, -1)


def require(holds, *message):
    """Ops that fail unless a bool scalar holds; none where ops run at once.

    Args:
      holds: bool scalar. message: texts and scalars, of the error.
    """
    check = tf.debugging.Assert(holds, list(message))
    return [] if check is None else [check]


def check_size(height, width):
    """Ops that fail for more than MAX_PIXELS; int scalars."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return require(
        pixels <= MAX_PIXELS,
        f"An image must not have more than {MAX_PIXELS} pixels. Received",
        height,
        width,
    )
