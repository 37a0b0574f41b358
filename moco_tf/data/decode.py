"""Encoded bytes → uint8 RGB images, in the graph."""

import tensorflow as tf

# A header may claim any size; memory is reserved before a pixel is read.
MAX_PIXELS = 89_478_485

JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"

# First bytes of what is refused by its name: (name, offset, bytes).
_OTHER_FORMATS = (
    ("GIF", 0, b"GIF8"),
    ("BMP", 0, b"BM"),
    ("WebP", 8, b"WEBP"),
    ("TIFF", 0, b"II*\x00"),
    ("TIFF", 0, b"MM\x00*"),
    ("AVIF", 4, b"ftypavif"),
    ("HEIC", 4, b"ftypheic"),
    ("JPEG 2000", 4, b"jP  "),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("HTML", 0, b"<"),
)


# Traced once a process: every data set calls the same graph.
@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decode(contents):
    """Decodes a JPEG or PNG, told by its first bytes and not by its name.

    Grey becomes RGB; alpha is dropped; 16 bits become 8 (the upper ones);
    CMYK is converted. JPEGs take the accurate inverse DCT: the platform's
    default is the fast one, which differs from other readers by some levels.

    Args:
      contents: string scalar, the whole file.

    Returns:
      uint8 [H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: when run, for an empty, truncated or
        damaged file, another format, or more than MAX_PIXELS.
    """
    image = tf.cond(
        starts(contents, 0, JPEG),
        lambda: _decode_jpeg(contents),
        lambda: tf.cond(
            starts(contents, 0, _PNG),
            lambda: _decode_png(contents),
            lambda: _refuse(contents),
        ),
    )
    return tf.ensure_shape(image, [None, None, 3])


def starts(contents, offset, prefix):
    """Whether a string scalar holds the bytes `prefix` at `offset` < 16."""
    # A pad makes the slice legal for files shorter than it.
    head = tf.strings.substr(contents, 0, 16) + b"\x00" * 16
    return tf.equal(tf.strings.substr(head, offset, len(prefix)), prefix)


def check_size(height, width):
    """An op that fails for more than MAX_PIXELS; int scalars."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return tf.debugging.assert_less_equal(
        pixels,
        tf.constant(MAX_PIXELS, tf.int64),
        message=f"An image must not have more than {MAX_PIXELS} pixels.",
    )


def _decode_jpeg(contents):
    shape = tf.image.extract_jpeg_shape(contents)
    with tf.control_dependencies([check_size(shape[0], shape[1])]):
        return tf.io.decode_jpeg(
            contents, channels=3, dct_method="INTEGER_ACCURATE"
        )


def _decode_png(contents):
    # Width and height are big-endian at bytes 16 to 23 of every PNG. The pad
    # keeps a cut header from failing here: the decoder names the fault.
    header = tf.strings.substr(contents + b"\x00" * 24, 16, 8)
    size = tf.io.decode_raw(header, tf.int32, little_endian=False)
    with tf.control_dependencies([check_size(size[1], size[0])]):
        return tf.io.decode_png(contents, channels=3)


def _refuse(contents):
    name = tf.constant("an unknown format")
    for known, offset, prefix in _OTHER_FORMATS:
        name = tf.where(starts(contents, offset, prefix), known, name)
    empty = tf.equal(tf.strings.length(contents), 0)
    name = tf.where(empty, "an empty file", name)
    # Never true here: only a check whose value is not known beforehand is
    # left for the run.
    readable = tf.logical_or(
        starts(contents, 0, JPEG), starts(contents, 0, _PNG)
    )
    refusal = tf.debugging.Assert(
        readable, ["An image must be a JPEG or a PNG. Received", name]
    )
    with tf.control_dependencies([refusal] if refusal is not None else []):
        return tf.zeros([1, 1, 3], tf.uint8)
