"""Encoded bytes → uint8 RGB images, in the graph alone.

The decoder of served encoders: JPEG, PNG, GIF (the first frame) and BMP, turned
upright as their metadata say. Training and evaluation have the same pixels,
with less work (`host_decode`). Before a pixel is read, the header is checked.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data import metadata, orientation
from moco_tf.data.file_bytes import (
    apart,
    check_size,
    describe_kind,
    first_fit,
    join_bytes,
    octets_at,
    read_bytes,
    require,
    slice_of,
)

FORMATS = ("JPEG", "PNG", "GIF", "BMP")  # that are read in the graph
FORMAT_NAMES = "JPEG, PNG, GIF or BMP"
DCT_METHOD = "INTEGER_ACCURATE"  # of JPEGs: the pixels of other readers
OF_APPLE = (
    "A PNG must be one that all programs read. Received a CgBI file, of Apple. "
    "Convert it: pngcrush -revert-iphone-optimizations IN OUT"
)

# Formats by their first bytes: (name, offset, bytes). First those that are
# read, in the order of their numbers.
_KNOWN = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF8"),
    ("BMP", 0, b"BM"),
    ("WebP", 8, b"WEBP"),
    ("TIFF", 0, b"II*\x00"),
    ("TIFF", 0, b"MM\x00*"),
    ("TIFF", 0, b"II\x00*"),
    ("TIFF", 0, b"MM*\x00"),
    ("TIFF", 0, b"II+\x00"),  # BigTIFF
    ("TIFF", 0, b"MM\x00+"),
    ("another", 0, b""),
)
_NAMES = [name for name, _, _ in _KNOWN]
_NUMBERS = [list(dict.fromkeys(_NAMES)).index(name) for name in _NAMES]


def decode(contents):
    """Decodes a file of one of FORMATS, recognised by its first bytes.

    Grey becomes RGB; alpha is dropped; 16 bits become 8 (the upper ones);
    CMYK is converted; an animation gives its first frame. A JPEG or PNG is
    turned upright as its EXIF data or XMP packet say. JPEGs take the accurate
    inverse DCT: the platform's default is the fast one, which differs from
    other readers by some levels.

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
    decoders = [_decode_jpeg, _decode_png, _decode_gif, _decode_bmp, _refuse]
    if not tf.executing_eagerly():
        decoders = [apart(decoder) for decoder in decoders]
    image = tf.switch_case(
        tf.minimum(format_of(contents), len(FORMATS)),
        [functools.partial(decoder, contents) for decoder in decoders],
    )
    return tf.ensure_shape(image, [None, None, 3])


# Half a second that only the first graph of a process pays.
_traced_once = tf.function(
    _decode, [tf.TensorSpec([], tf.string)], autograph=False
)


def format_of(contents):
    """Number of a file's format, int32: its place in `host_decode.FORMATS`.

    Others have higher ones.
    """
    patterns = [octets_at(offset, first) for _, offset, first in _KNOWN]
    return tf.gather(_NUMBERS, first_fit(contents, patterns))


def _refuse(contents):
    refusal = require(
        format_of(contents) < len(FORMATS),  # never
        f"An image must be a {FORMAT_NAMES}. Received",
        describe_kind(contents),
    )
    with tf.control_dependencies(refusal):
        return tf.zeros([1, 1, 3], tf.uint8)


# An Adobe marker of four inks. A later one of the file's own counts instead.
_INVERTED_INKS = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


def _decode_jpeg(contents):
    about = metadata.of_jpeg(contents)
    known = require(
        about.followed,
        "A JPEG must not have hundreds of segments before its pixels. Save it "
        "again.",
    )
    with tf.control_dependencies(known):
        image = jpeg_pixels(contents)
    return orientation.turn_upright(image, about.orientation)


def jpeg_pixels(contents):
    """Decodes a JPEG, as it is stored.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      uint8 [H, W, 3].
    """
    shape = tf.image.extract_jpeg_shape(contents)
    # As Pillow has it: those who write four inks invert them, marker or no.
    inverted = (
        b"\xff\xd8"
        + _INVERTED_INKS
        + slice_of(contents, 2, tf.strings.length(contents))
    )
    with tf.control_dependencies(check_size(shape[0], shape[1])):
        contents = tf.where(shape[2] == 4, inverted, contents)
    return tf.io.decode_jpeg(contents, channels=3, dct_method=DCT_METHOD)


def _decode_png(contents):
    octets = read_bytes(contents, 12, 12)
    checks = require(
        ~tf.reduce_all(octets[:4] == list(b"CgBI")),
        OF_APPLE,
    )
    # Width and height are big-endian at bytes 16 to 23 of every other PNG.
    width, height = tf.unstack(
        join_bytes(tf.reshape(octets[4:], [2, 4]), little_endian=False)
    )
    with tf.control_dependencies([*checks, *check_size(height, width)]):
        about = metadata.of_png(tf.identity(contents))
    known = require(
        about.followed,
        "A PNG must not be cut, nor have thousands of chunks or more than "
        "64 KB of packed metadata. Save it again.",
    )
    with tf.control_dependencies(known):
        image = tf.io.decode_png(about.contents, channels=3)
    return orientation.turn_upright(image, about.orientation)


# The first frame of a GIF.

# Marks between the blocks of a GIF.
_EXTENSION, _FRAME, _GIF_END = 0x21, 0x2C, 0x3B
_CONTROL = 0xF9  # an extension
_ALL_COLOURS = b"\xf7"  # flags: a table of 256
_INTERLACED = 0x40  # a flag of a frame
_RAMP = np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes()


class _GifFrame(NamedTuple):
    """Where the first frame of a GIF lies; int32 but for the colours.

    Attributes:
      start: position of its mark. data: of its pixels. end: behind them.
      corner, size: [2], rows and columns, on the canvas. canvas: [2].
      flags: of the frame. clear: index of the colour beside it.
      colours: string scalar, 256 of them.
    """

    start: tf.Tensor
    data: tf.Tensor
    end: tf.Tensor
    corner: tf.Tensor
    size: tf.Tensor
    canvas: tf.Tensor
    flags: tf.Tensor
    clear: tf.Tensor
    colours: tf.Tensor


def _decode_gif(contents):
    """Decodes the first frame on its canvas, as it is seen first.

    Beside the frame is its transparent colour, or its first. The platform's
    decoder would read all frames, of any claimed size, into memory, and leave
    transparent pixels black: so it gets the frame alone, with all its colours.
    """
    frame = _first_frame(contents)
    size = slice_of(contents, frame.start + 5, 4)
    is_interlaced = tf.bitwise.bitwise_and(frame.flags, _INTERLACED) > 0
    alone = tf.strings.join(
        [
            b"GIF89a", size, _ALL_COLOURS, b"\0\0", frame.colours,
            b",\0\0\0\0", size, tf.where(is_interlaced, b"\x40", b"\0"),
            slice_of(contents, frame.data, frame.end - frame.data), b";",
        ]
    )  # fmt: skip
    image = tf.io.decode_gif(alone)[0]

    def on_canvas():
        rest = frame.canvas - frame.corner - frame.size
        paddings = tf.stack([frame.corner, rest], axis=1)
        colour = read_bytes(frame.colours, 3 * frame.clear, 3)
        colour = tf.cast(colour, tf.uint8)
        channels = [
            tf.pad(image[..., i], paddings, constant_values=colour[i])
            for i in range(3)
        ]
        return tf.stack(channels, axis=-1)

    fills = tf.reduce_all(frame.size == frame.canvas)
    return tf.cond(fills, lambda: image, on_canvas)


def _table_size(flags):
    """Bytes of a table of colours, by the flags before it."""
    entries = tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
    return tf.where(flags >= 0x80, 3 * entries, 0)


def _data_end(contents, position, left):
    """Passes over parts that begin with their length, the last one empty.

    Args:
      contents: string scalar. position, left: int32 scalars; parts that may
        still be passed over.

    Returns:
      the position behind them, and how many are left.
    """

    def octet(position):
        return read_bytes(contents, position, 1)[0]

    position, _, left = tf.while_loop(
        lambda position, length, left: (length > 0) & (left > 0),
        lambda position, length, left: [
            position + 1 + length,
            octet(position + 1 + length),
            left - 1,
        ],
        [position, octet(position), left],
    )
    return [position + 1, left]


def _find_frame(contents, start):
    """Passes over what stands before the first frame of a GIF.

    Args:
      contents: string scalar. start: int32 scalar, behind the header.

    Returns:
      int32 scalars: the position of the frame's mark, the parts that may still
      be passed over, the index of the transparent colour, 0 without one.
    """
    size = tf.strings.length(contents)
    # Parts have up to 255 bytes; many tiny ones would take seconds.
    budget = 256 + size // 32

    def goes_on(position, left, clear):
        mark = read_bytes(contents, position, 1)[0]
        is_end = (mark == _FRAME) | (mark == _GIF_END)
        return ~is_end & (left > 0) & (position < size)

    def follow(position, left, clear):
        octets = read_bytes(contents, position, 7)
        is_extension = octets[0] == _EXTENSION
        is_control = is_extension & (octets[1] == _CONTROL) & (octets[2] >= 4)
        has_clear = is_control & (octets[3] % 2 == 1)
        position, left = tf.cond(
            is_extension,
            lambda: _data_end(contents, position + 2, left - 1),
            lambda: [position + 1, left - 1],  # a stray byte
        )
        return [position, left, tf.where(has_clear, octets[6], clear)]

    return tf.while_loop(goes_on, follow, [start, budget, 0])


def _first_frame(contents):
    """Finds the first frame of a GIF, and checks that it is there.

    Returns:
      _GifFrame.
    """
    head = read_bytes(contents, 6, 5)
    common = _table_size(head[4])
    first, left, clear = _find_frame(contents, 13 + common)
    frame = read_bytes(contents, first, 10)
    numbers = join_bytes(tf.reshape(frame[1:9], [4, 2]))
    corner, extent = numbers[1::-1], numbers[:1:-1]
    canvas = join_bytes(tf.reshape(head[:4], [2, 2]))[::-1]
    canvas = tf.maximum(canvas, corner + extent)
    own = _table_size(frame[9])
    data = first + 10 + own
    checks = require(frame[0] == _FRAME, "A GIF must have a frame.")
    with tf.control_dependencies([*checks, *check_size(canvas[0], canvas[1])]):
        end, left = _data_end(contents, data + 1, left)
    is_whole = (end <= tf.strings.length(contents)) & (left > 0)
    complete = require(is_whole, "A GIF must not be cut.")
    with tf.control_dependencies(complete):
        table = slice_of(
            contents,
            tf.where(own > 0, first + 10, 13),
            tf.where(own > 0, own, common),
        )
    # What a table does not name is black; with a ramp of grey, or no table,
    # the ramp goes on.
    named = tf.strings.length(table)
    is_ramp = table == tf.strings.substr(_RAMP, 0, named)
    others = tf.where(is_ramp, _RAMP, bytes(len(_RAMP)))
    colours = table + tf.strings.substr(others, named, len(_RAMP))
    return _GifFrame(
        first, data, end, corner, extent, canvas, frame[9], clear, colours
    )


# BMP files.

# Masks of red, green and blue of pixels that are stored as B, G, R.
_USUAL_MASKS = (0xFF0000, 0xFF00, 0xFF)
_BITS = (8, 24, 32)
_HEADERS = (40, 52, 56, 64, 108, 124)  # bytes


def _decode_bmp(contents):
    """Decodes a BMP of 8 (with palette), 24 or 32 bits; alpha is dropped."""
    octets = read_bytes(contents, 10, 14 * 4)
    start, size, width, height, planes, compression, *others = tf.unstack(
        join_bytes(tf.reshape(octets, [14, 4]))
    )
    bits, colours, masks = planes // 2**16, others[3], others[5:]
    usual = tf.reduce_all(tf.equal(masks, _USUAL_MASKS)) & (bits > 8)
    plain = (compression == 0) | ((compression == 3) & usual)
    has_palette = bits == 8
    known = require(
        plain
        & tf.reduce_any(bits == _BITS)
        & tf.reduce_any(size == _HEADERS)
        # Some say that the pixels begin where the palette does.
        & ~(has_palette & (start <= 14 + size)),
        "A BMP must have 8, 24 or 32 bits a pixel, no compression and a header "
        "of 40 bytes or more. Received bits, compression and header",
        bits,
        compression,
        size,
        "Convert it to PNG.",
    )
    rows = tf.abs(tf.cast(height, tf.int64))  # below 0: from the top down
    row = (tf.cast(width, tf.int64) * tf.cast(bits, tf.int64) + 31) // 32 * 4
    with tf.control_dependencies([*known, *check_size(rows, width)]):
        end = tf.cast(start, tf.int64) + row * rows
    # The platform refuses files with more bytes.
    end = tf.cast(tf.minimum(end, tf.int32.max), tf.int32)
    image = tf.io.decode_bmp(tf.strings.substr(contents, 0, end))
    return tf.cond(
        has_palette,
        lambda: _look_up(image, contents, 14 + size, colours),
        lambda: image[..., :3],
    )


def _look_up(image, contents, start, colours):
    """Colours of a BMP of one byte a pixel, from the palette at `start`.

    A palette may have fewer than 256 colours; the others are black, or go on
    with a ramp of grey.
    """
    colours = tf.where((colours <= 0) | (colours > 256), 256, colours)
    palette = tf.reshape(read_bytes(contents, start, 256 * 4), [256, 4])
    palette = palette[:, 2::-1]
    ramp = tf.range(256)[:, tf.newaxis]
    named = ramp < colours
    is_ramp = tf.reduce_all((palette == ramp) | ~named)
    palette = tf.where(named, palette, tf.where(is_ramp, ramp, 0))
    return tf.gather(
        tf.cast(palette, tf.uint8), tf.cast(image[..., 0], tf.int32)
    )
