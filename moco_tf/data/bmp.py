"""BMP files, in the graph."""

import tensorflow as tf

from moco_tf.data import headers

# Masks of red, green and blue of pixels that are stored as B, G, R.
_USUAL_MASKS = (0xFF0000, 0xFF00, 0xFF)
_BITS = (8, 24, 32)


def decode(contents):
    """Decodes a BMP of 8 (with palette), 24 or 32 bits; alpha is dropped.

    Args:
      contents: string scalar, the whole file.

    Returns:
      uint8 [H, W, 3].
    """
    octets = headers.read(contents, 14, 13 * 4)
    size, width, height, planes, compression, *others = tf.unstack(
        headers.join(tf.reshape(octets, [13, 4]))
    )
    bits, colours, masks = planes // 2**16, others[3], others[5:]
    usual = tf.reduce_all(tf.equal(masks, _USUAL_MASKS))
    plain = (compression == 0) | ((compression == 3) & usual)
    known = headers.demand(
        plain & tf.reduce_any(bits == _BITS) & (size >= 40),
        "A BMP must have 8, 24 or 32 bits a pixel, no compression and a header "
        "of 40 bytes or more. Received bits, compression and header",
        bits,
        compression,
        size,
        "Convert it to PNG.",
    )
    rows = tf.abs(tf.cast(height, tf.int64))  # below 0: from the top down
    with tf.control_dependencies([*known, *headers.check_size(rows, width)]):
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
    palette = tf.reshape(headers.read(contents, start, 256 * 4), [256, 4])
    palette = tf.cast(palette[:colours, 2::-1], tf.uint8)
    return tf.gather(palette, tf.cast(image[..., 0], tf.int32))
