"""Encoded bytes → uint8 RGB images, in the graph.

The one decoder of training, evaluation and served encoders.
"""

import functools

import numpy as np
import tensorflow as tf

from moco_tf.data import bmp, gif, headers, orientation

FORMATS = ("JPEG", "PNG", "GIF", "BMP")  # that are read
NAMED = "JPEG, PNG, GIF or BMP"

# What is told by its first bytes: (name, offset, bytes).
_KNOWN = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF8"),
    ("BMP", 0, b"BM"),
    ("WebP", 8, b"WEBP"),
    ("TIFF", 0, b"II*\x00"),
    ("TIFF", 0, b"MM\x00*"),
    ("AVIF", 4, b"ftypavif"),
    ("HEIC", 4, b"ftyphei"),
    ("HEIF", 4, b"ftypmif1"),
    ("JPEG 2000", 4, b"jP  "),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 4, b"JXL "),
    ("HTML or XML", 0, b"<"),
    ("an unknown format", 0, b""),
)
_NAMES = [name for name, _, _ in _KNOWN]
_HEAD = 12  # bytes
_ANY = -1


def decode(contents):
    """Decodes a file of FORMATS, told by its first bytes, not by its name.

    Grey becomes RGB; alpha is dropped; 16 bits become 8 (the upper ones);
    CMYK is converted; of an animation the first frame is taken. A JPEG is
    turned upright as its EXIF data say. JPEGs take the accurate inverse DCT:
    the platform's default is the fast one, which differs from other readers by
    some levels.

    Args:
      contents: string scalar, the whole file.

    Returns:
      uint8 [H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: when run, for an empty, truncated or
        damaged file, another format, or more than headers.MAX_PIXELS.
    """
    if tf.executing_eagerly():
        return _decode(contents)
    return _traced_once(contents)


def _decode(contents):
    decoders = (_decode_jpeg, _decode_png, gif.decode, bmp.decode, _refuse)
    image = tf.switch_case(
        tf.minimum(format_of(contents), len(FORMATS)),
        [functools.partial(own, contents) for own in decoders],
    )
    return tf.ensure_shape(image, [None, None, 3])


# Half a second that only the first data set of a process pays.
_traced_once = tf.function(
    _decode, [tf.TensorSpec([], tf.string)], autograph=False
)


def format_of(contents):
    """Place of a file's format in FORMATS, int32; others have higher ones."""
    wanted = np.full([len(_KNOWN), _HEAD], _ANY)
    for row, (_, offset, first) in zip(wanted, _KNOWN, strict=True):
        row[offset : offset + len(first)] = list(first)
    wanted = tf.constant(wanted, tf.int32)
    fits = (headers.read(contents, 0, _HEAD) == wanted) | (wanted == _ANY)
    return tf.argmax(tf.reduce_all(fits, 1), output_type=tf.int32)


def _decode_jpeg(contents):
    shape = tf.image.extract_jpeg_shape(contents)
    with tf.control_dependencies(headers.check_size(shape[0], shape[1])):
        image = tf.io.decode_jpeg(
            contents, channels=3, dct_method="INTEGER_ACCURATE"
        )
    return orientation.turn_upright(image, orientation.of_file(contents))


def _decode_png(contents):
    # Width and height are big-endian at bytes 16 to 23 of every PNG.
    octets = tf.reshape(headers.read(contents, 16, 8), [2, 4])
    width, height = tf.unstack(headers.join(octets, little_endian=False))
    with tf.control_dependencies(headers.check_size(height, width)):
        return tf.io.decode_png(contents, channels=3)


def _refuse(contents):
    place = format_of(contents)
    empty = tf.strings.length(contents) == 0
    name = tf.where(empty, "an empty file", tf.gather(_NAMES, place))
    refusal = headers.demand(
        place < len(FORMATS),  # never
        f"An image must be a {NAMED}. Received",
        tf.strings.join([name, "."]),
        "Convert it to PNG, or remove it.",
    )
    with tf.control_dependencies(refusal):
        return tf.zeros([1, 1, 3], tf.uint8)
