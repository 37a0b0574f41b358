"""Encoded bytes → uint8 RGB images, in the graph.

The one decoder of training, evaluation and served encoders: JPEG (turned
upright as its EXIF data say), PNG, GIF (the first frame) and BMP. Before a
pixel is read, the header is checked. The checks are few operations: each is
paid for again in every graph that decodes.
"""

import functools

import numpy as np
import tensorflow as tf

from moco_tf.data import kind_in_graph

# A header may claim any size; memory is reserved before a pixel is read.
MAX_PIXELS = 89_478_485
UPRIGHT = 1  # of EXIF's orientations, 1..8

FORMATS = ("JPEG", "PNG", "GIF", "BMP")  # that are read
FORMAT_NAMES = "JPEG, PNG, GIF or BMP"

# Formats by their first bytes: (name, offset, bytes).
_KNOWN = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF8"),
    ("BMP", 0, b"BM"),
    ("another", 0, b""),
)
_HEAD = 12  # bytes
_ANY = -1


def decode(contents):
    """Decodes a file of one of FORMATS, recognised by its first bytes.

    Grey becomes RGB; alpha is dropped; 16 bits become 8 (the upper ones);
    CMYK is converted; an animation gives its first frame. A JPEG is
    turned upright as its EXIF data say. JPEGs take the accurate inverse DCT:
    the platform's default is the fast one, which differs from other readers by
    some levels.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      uint8 [H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: when run, for an empty, truncated or
        damaged file, another format, or more than MAX_PIXELS.
    """
    if tf.executing_eagerly():
        return _decode(contents)
    return _traced_once(contents)


def _decode(contents):
    decoders = (_decode_jpeg, _decode_png, decode_gif, decode_bmp, _refuse)
    image = tf.switch_case(
        tf.minimum(format_of(contents), len(FORMATS)),
        [functools.partial(decoder, contents) for decoder in decoders],
    )
    return tf.ensure_shape(image, [None, None, 3])


# Half a second that only the first data set of a process pays.
_traced_once = tf.function(
    _decode, [tf.TensorSpec([], tf.string)], autograph=False
)


def format_of(contents):
    """Number of a file's format in FORMATS, int32; others have higher ones."""
    wanted = np.full([len(_KNOWN), _HEAD], _ANY)
    for row, (_, offset, first) in zip(wanted, _KNOWN, strict=True):
        row[offset : offset + len(first)] = list(first)
    wanted = tf.constant(wanted, tf.int32)
    fits = (read_bytes(contents, 0, _HEAD) == wanted) | (wanted == _ANY)
    return tf.argmax(tf.reduce_all(fits, 1), output_type=tf.int32)


def _decode_jpeg(contents):
    shape = tf.image.extract_jpeg_shape(contents)
    with tf.control_dependencies(check_size(shape[0], shape[1])):
        image = tf.io.decode_jpeg(
            contents, channels=3, dct_method="INTEGER_ACCURATE"
        )
    return turn_upright(image, exif_orientation(contents))


def _decode_png(contents):
    # Width and height are big-endian at bytes 16 to 23 of every PNG.
    octets = tf.reshape(read_bytes(contents, 16, 8), [2, 4])
    width, height = tf.unstack(join_bytes(octets, little_endian=False))
    with tf.control_dependencies(check_size(height, width)):
        return tf.io.decode_png(contents, channels=3)


def _refuse(contents):
    refusal = require(
        format_of(contents) < len(FORMATS),  # never
        f"An image must be a {FORMAT_NAMES}. Received",
        kind_in_graph.describe(contents),
    )
    with tf.control_dependencies(refusal):
        return tf.zeros([1, 1, 3], tf.uint8)


# The orientation that a camera notes in a JPEG (EXIF 2.3).

_SEGMENTS = 32  # that may lie before the EXIF data
_ENTRIES = 64  # of the first directory, in the order of their tags
_ORIENTATION, _SHORT = 0x0112, 3
_JFIF = (0xFF, 0xE0, 0, 16)
# Second bytes of markers.
_APPLICATION, _EXIF, _COMMENT = 0xE0, 0xE1, 0xFE


def exif_orientation(contents):
    """The orientation in which a JPEG is stored; other files are upright.

    The header of a JPEG is a row of segments: FF, a marker, a length. Those of
    applications and comments are skipped up to the EXIF data.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      int32 scalar, 1..8 as in EXIF; UPRIGHT (1) where there is none.
    """
    # Most files have their pixels' tables right behind the JFIF header.
    octets = read_bytes(contents, 2, 20)
    is_jfif = tf.reduce_all(octets[:4] == _JFIF)
    first = tf.where(is_jfif, octets[18:], octets[:2])
    return tf.cond(
        _may_precede(first),
        lambda: _orientation_in_segments(contents),
        lambda: UPRIGHT,
    )


def _may_precede(octets):
    """Whether these bytes begin a segment of an application, or a comment."""
    application = tf.bitwise.bitwise_and(octets[1], 0xF0) == _APPLICATION
    return (octets[0] == 0xFF) & (application | (octets[1] == _COMMENT))


def _orientation_in_segments(contents):
    """The orientation in the first EXIF segment of a JPEG."""

    def head(start):
        return [start, read_bytes(contents, start, 10)]

    def is_exif(octets):
        named = tf.reduce_all(octets[4:] == list(b"Exif\x00\x00"))
        return (octets[0] == 0xFF) & (octets[1] == _EXIF) & named

    start, octets = tf.while_loop(
        lambda _, octets: _may_precede(octets) & ~is_exif(octets),
        lambda start, octets: head(start + 2 + 256 * octets[2] + octets[3]),
        head(2),
        maximum_iterations=_SEGMENTS,
    )
    return tf.cond(
        is_exif(octets),
        lambda: _orientation_in_directory(contents, start + 10),
        lambda: UPRIGHT,
    )


def _orientation_in_directory(contents, start):
    """The orientation in EXIF data whose TIFF header lies at `start`."""
    head = read_bytes(contents, start, 8)
    little_endian = head[0] == ord("I")  # else "M"
    directory = start + join_bytes(head[4:], little_endian)
    # A count, then entries of 12 bytes: tag, type, count (4), value (4).
    octets = read_bytes(contents, directory, 2 + 12 * _ENTRIES)
    numbers = join_bytes(tf.reshape(octets, [-1, 2]), little_endian)
    entries = tf.reshape(numbers[1:], [_ENTRIES, 6])
    wanted = tf.reduce_all(entries[:, :2] == (_ORIENTATION, _SHORT), 1)
    wanted &= tf.range(_ENTRIES) < numbers[0]
    value = tf.reduce_max(tf.where(wanted, entries[:, 4], 0))
    known = (value >= 1) & (value <= 8)
    return tf.where(known, value, UPRIGHT)


def turn_upright(image, orientation):
    """Turns an image by its orientation, so that up is up.

    Args:
      image: uint8 [H, W, 3]. orientation: int32 scalar, 1..8.

    Returns:
      uint8 [H, W, 3], or [W, H, 3] from 5 on.
    """

    def turn():
        sides = tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2])
        # Then reversed: up and down, left and right.
        reverse = [
            tf.reduce_any(orientation == [3, 4, 7, 8]),
            tf.reduce_any(orientation == [2, 3, 6, 7]),
        ]
        return tf.reverse(
            tf.transpose(image, sides), tf.boolean_mask([0, 1], reverse)
        )

    return tf.cond(orientation == UPRIGHT, lambda: image, turn)


# The first frame of a GIF.

# Marks between the blocks of a GIF.
_EXTENSION, _FRAME = 0x21, 0x2C


def decode_gif(contents):
    """Decodes the first frame, without the canvas around it.

    Args:
      contents: string scalar, the bytes of the file.

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

    def octet(position):
        return read_bytes(contents, position, 1)[0]

    def table(flags):  # bytes of a table of colours
        entries = tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
        return tf.where(flags >= 0x80, 3 * entries, 0)

    def data_end(position, left):  # after parts that begin with their length
        position, length, left = tf.while_loop(
            lambda position, length, left: (length > 0) & (left > 0),
            lambda position, length, left: [
                position + 1 + length,
                octet(position + 1 + length),
                left - 1,
            ],
            [position, octet(position), left],
        )
        return [position + 1, left]

    start = 13 + table(octet(10))
    first, left = tf.while_loop(
        lambda position, left: (octet(position) == _EXTENSION) & (left > 0),
        lambda position, left: data_end(position + 2, left - 1),
        [start, budget],
    )
    frame = read_bytes(contents, first, 10)
    checks = require(frame[0] == _FRAME, "A GIF must have a frame.")
    width, height = tf.unstack(join_bytes(tf.reshape(frame[5:9], [2, 2])))
    with tf.control_dependencies([*checks, *check_size(height, width)]):
        end, left = data_end(first + 11 + table(frame[9]), left)
    complete = require((end <= size) & (left > 0), "A GIF must not be cut.")
    with tf.control_dependencies(complete):
        head = tf.strings.substr(contents, 0, first + 1)
    rest = tf.strings.substr(contents, first + 5, end - first - 5)
    return tf.strings.join([head, b"\x00" * 4, rest, b";"])


# BMP files.

# Masks of red, green and blue of pixels that are stored as B, G, R.
_USUAL_MASKS = (0xFF0000, 0xFF00, 0xFF)
_BITS = (8, 24, 32)


def decode_bmp(contents):
    """Decodes a BMP of 8 (with palette), 24 or 32 bits; alpha is dropped.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      uint8 [H, W, 3].
    """
    octets = read_bytes(contents, 14, 13 * 4)
    size, width, height, planes, compression, *others = tf.unstack(
        join_bytes(tf.reshape(octets, [13, 4]))
    )
    bits, colours, masks = planes // 2**16, others[3], others[5:]
    usual = tf.reduce_all(tf.equal(masks, _USUAL_MASKS))
    plain = (compression == 0) | ((compression == 3) & usual)
    known = require(
        plain & tf.reduce_any(bits == _BITS) & (size >= 40),
        "A BMP must have 8, 24 or 32 bits a pixel, no compression and a header "
        "of 40 bytes or more. Received bits, compression and header",
        bits,
        compression,
        size,
        "Convert it to PNG.",
    )
    rows = tf.abs(tf.cast(height, tf.int64))  # below 0: from the top down
    with tf.control_dependencies([*known, *check_size(rows, width)]):
        image = tf.io.decode_bmp(contents)
    return tf.cond(
        bits == 8,
        lambda: _look_up(image, contents, 14 + size, colours),
        lambda: image[..., :3],
    )


def _look_up(image, contents, start, colours):
    """Colours of a BMP of one byte a pixel, from the palette at `start`.

    A palette may have fewer than 256 colours; pixels name no others.
    """
    colours = tf.where(colours == 0, 256, colours)
    palette = tf.reshape(read_bytes(contents, start, 256 * 4), [256, 4])
    palette = tf.cast(palette[:colours, 2::-1], tf.uint8)
    return tf.gather(palette, tf.cast(image[..., 0], tf.int32))


# Bytes of a file as numbers, and checks of them.


def read_bytes(contents, start, count):
    """Some bytes of a file, as numbers.

    Args:
      contents: string scalar, the bytes of the file.
      start: int32 scalar, position of the first; clipped to the file.
      count: int.

    Returns:
      int32 [count]; zeros beyond the end of the file.
    """
    start = tf.clip_by_value(start, 0, tf.strings.length(contents))
    piece = tf.strings.substr(contents, start, count)
    octets = tf.io.decode_raw(piece, tf.uint8, fixed_length=count)
    return tf.ensure_shape(tf.cast(octets, tf.int32), [count])


def join_bytes(octets, little_endian=True):
    """Integers of several bytes each.

    Args:
      octets: int32 [..., 2 or 4], bytes. little_endian: bool scalar.

    Returns:
      int32 [...].
    """
    weights = [1 << 8 * number for number in range(octets.shape[-1])]
    weights = tf.where(little_endian, weights, weights[::-1])
    return tf.reduce_sum(octets * weights, -1)


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
