"""The first frame of a GIF, in the graph."""

import tensorflow as tf

from moco_tf.data import headers

# Marks between the blocks of a GIF.
_EXTENSION, _FRAME = 0x21, 0x2C


def decode(contents):
    """Decodes the first frame, without the canvas around it.

    Args:
      contents: string scalar, the whole file.

    Returns:
      uint8 [H, W, 3].
    """
    # The platform's decoder reads all frames into memory, of any claimed size.
    return tf.io.decode_gif(_first_frame(contents))[0]


def _first_frame(contents):
    """The bytes of a GIF up to its first frame's end, the frame at 0, 0."""
    size = tf.strings.length(contents)
    # Parts have up to 255 bytes; many tiny ones would take seconds.
    budget = 256 + size // 32

    def octet(place):
        return headers.read(contents, place, 1)[0]

    def table(flags):  # bytes of a table of colours
        entries = tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
        return tf.where(flags >= 0x80, 3 * entries, 0)

    def data_end(place, left):  # after parts that begin with their length
        place, length, left = tf.while_loop(
            lambda place, length, left: (length > 0) & (left > 0),
            lambda place, length, left: [
                place + 1 + length,
                octet(place + 1 + length),
                left - 1,
            ],
            [place, octet(place), left],
        )
        return [place + 1, left]

    start = 13 + table(octet(10))
    place, left = tf.while_loop(
        lambda place, left: (octet(place) == _EXTENSION) & (left > 0),
        lambda place, left: data_end(place + 2, left - 1),
        [start, budget],
    )
    frame = headers.read(contents, place, 10)
    found = headers.demand(frame[0] == _FRAME, "A GIF must hold a frame.")
    width, height = tf.unstack(headers.join(tf.reshape(frame[5:9], [2, 2])))
    with tf.control_dependencies([*found, *headers.check_size(height, width)]):
        end, left = data_end(place + 11 + table(frame[9]), left)
    whole = headers.demand((end <= size) & (left > 0), "A GIF must not be cut.")
    with tf.control_dependencies(whole):
        head = tf.strings.substr(contents, 0, place + 1)
    rest = tf.strings.substr(contents, place + 5, end - place - 5)
    return tf.strings.join([head, b"\x00" * 4, rest, b";"])
