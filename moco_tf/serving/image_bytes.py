"""Encoded bytes of four formats → images, in the graph of a SavedModel."""

import tensorflow as tf

from moco_tf.data import decode, pairs

_GIF, _BMP = b"GIF8", b"BM"

# Marks between the blocks of a GIF.
_EXTENSION, _FRAME = 0x21, 0x2C

# Masks of red, green and blue of a BMP whose pixels are stored as B, G, R.
_USUAL_MASKS = (0xFF0000, 0xFF00, 0xFF)


def decode_any(contents):
    """Decodes a JPEG, a PNG, the first frame of a GIF, or a BMP.

    JPEG and PNG are decoded as in training (moco_tf.data.decode). BMPs are of
    8 (with palette), 24 or 32 bits a pixel, not compressed; alpha is dropped.

    Args:
      contents: string scalar, the whole file.

    Returns:
      uint8 [H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: when run, for an empty, truncated or
        damaged file, another format, or more than decode.MAX_PIXELS.
    """
    image = tf.cond(
        decode.starts(contents, 0, _GIF),
        lambda: _decode_gif(contents),
        lambda: tf.cond(
            decode.starts(contents, 0, _BMP),
            lambda: _decode_bmp(contents),
            lambda: decode.decode(contents),
        ),
    )
    return tf.ensure_shape(image, [None, None, 3])


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
    shape = [size, size, 6 if of_pairs else 3]
    zeros = tf.zeros([1, *shape], tf.uint8)

    def read(row):
        files = contents[row]
        image = pairs.join(decode_any, files) if of_pairs else decode_any(files)
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


def _decode_gif(contents):
    """Decodes the first frame, whatever the canvas around it."""
    # The platform's decoder reads all frames into memory, of any claimed size.
    return tf.io.decode_gif(_first_frame(contents))[0]


def _first_frame(contents):
    """The bytes of a GIF up to its first frame's end, the frame at 0, 0."""
    octets = tf.cast(tf.io.decode_raw(contents, tf.uint8), tf.int32)
    size = tf.size(octets)
    octets = tf.pad(octets, [[0, 16]])  # reads after a cut end give zeros
    # Parts have up to 255 bytes; many tiny ones would take seconds.
    budget = 256 + size // 32

    def table(flags):  # bytes of a table of colours
        entries = tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
        return tf.where(flags >= 0x80, 3 * entries, 0)

    def data_end(place, left):  # after parts that begin with their length
        place, left = tf.while_loop(
            lambda place, left: (octets[place] > 0) & (left > 0),
            lambda place, left: [
                tf.minimum(place + 1 + octets[place], size),
                left - 1,
            ],
            [tf.minimum(place, size), left],
        )
        return [place + 1, left]

    start = tf.minimum(13 + table(octets[10]), size)
    place, left = tf.while_loop(
        lambda place, left: (octets[place] == _EXTENSION) & (left > 0),
        lambda place, left: data_end(place + 2, left - 1),
        [start, budget],
    )
    found = _demand(octets[place] == _FRAME, "A GIF must hold a frame.")
    width = octets[place + 5] + 256 * octets[place + 6]
    height = octets[place + 7] + 256 * octets[place + 8]
    with tf.control_dependencies([*found, decode.check_size(height, width)]):
        end, left = data_end(place + 11 + table(octets[place + 9]), left)
    whole = _demand((end <= size) & (left > 0), "A GIF must not be cut.")
    with tf.control_dependencies(whole):
        head = tf.strings.substr(contents, 0, place + 1)
    rest = tf.strings.substr(contents, place + 5, end - place - 5)
    return tf.strings.join([head, b"\x00" * 4, rest, b";"])


def _demand(holds, message):
    """Ops that fail unless a bool scalar holds; none where it is known."""
    check = tf.debugging.Assert(holds, [message])
    return [] if check is None else [check]


def _decode_bmp(contents):
    padded = contents + b"\x00" * 66
    numbers = tf.io.decode_raw(tf.strings.substr(padded, 14, 52), tf.int32)
    header, width, height = numbers[0], numbers[1], numbers[2]
    compression, masks = numbers[4], numbers[10:13]
    plain = (compression == 0) | (
        (compression == 3) & tf.reduce_all(masks == _USUAL_MASKS)
    )
    known = _demand(plain & (header >= 40), "A BMP must not be compressed.")
    rows = tf.abs(tf.cast(height, tf.int64))  # below 0: from the top down
    with tf.control_dependencies([*known, decode.check_size(rows, width)]):
        image = tf.io.decode_bmp(contents)
    return tf.cond(
        tf.shape(image)[2] == 1,
        lambda: _look_up(image, padded, 14 + header, numbers[8]),
        lambda: image[..., :3],
    )


def _look_up(image, padded, start, colours):
    """Colours of a BMP of one byte a pixel, from the palette at `start`."""
    colours = tf.where(colours == 0, 256, colours)
    palette = tf.strings.substr(padded, start, 4 * colours)
    palette = tf.reshape(tf.io.decode_raw(palette, tf.uint8), [-1, 4])
    return tf.gather(palette[:, 2::-1], tf.cast(image[..., 0], tf.int32))
