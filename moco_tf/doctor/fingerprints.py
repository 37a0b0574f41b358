"""What is kept of an image: size, colour, and what it looks like.

All in the graph; about 300 bytes for an image.
"""

import numpy as np
import tensorflow as tf

from moco_tf.data import planes

BITS = 64  # of a perceptual hash
LITTLE = 16  # pixels of the side of the smallest copy

_SIDE = 32  # pixels of the thumbnail that the hash is made of
_FREQUENCIES = 12  # of them, those with the lowest sums are taken
_KEY = (1911, 5722)  # any two numbers


def measure(image):
    """Measures one image.

    Args:
      image: uint8 [H, W, 3].

    Returns:
      dict. height, width: int32, pixels. spread: float32, levels, the largest
      distance between the channels of a place; 0 is grey. contrast: int32,
      levels, the largest range of a channel. pixels: int64, the same for the
      same pixels. look: int64, 64 bits, nearly the same for images that look
      the same. little: uint8 [LITTLE * LITTLE], luminance.
    """
    shape = tf.shape(image)
    small = _shrink(image, _SIDE)  # [32, 32, 3]
    extent = tf.reduce_max(image, [0, 1]) - tf.reduce_min(image, [0, 1])
    spread = tf.reduce_max(small, -1) - tf.reduce_min(small, -1)
    grey = tf.constant(planes.LUMINANCE)
    luminance = tf.tensordot(small, grey, 1)  # [32, 32]
    halves = tf.reshape(luminance, [LITTLE, 2, LITTLE, 2])
    little = tf.round(tf.reduce_mean(halves, [1, 3]))
    return {
        "height": shape[0],
        "width": shape[1],
        "spread": tf.reduce_max(spread),
        "contrast": tf.cast(tf.reduce_max(extent), tf.int32),
        "pixels": tf.strings.to_hash_bucket_strong(
            tf.io.serialize_tensor(image),  # holds the shape too
            2**63 - 1,
            _KEY,
        ),
        "look": perceptual_hash(luminance),
        "little": tf.reshape(tf.cast(little, tf.uint8), [LITTLE * LITTLE]),
    }


def _shrink(image, side):
    """The whole image in little: float32 [side, side, 3], levels.

    Every pixel counts, so rescaled copies give nearly the same.
    """
    small = tf.image.resize(image[tf.newaxis], [side, side], "area")[0]
    return tf.ensure_shape(small, [side, side, 3])


def perceptual_hash(luminance):
    """Signs of the lowest frequencies of an image (a DCT hash).

    Another brightness moves the constant frequency alone, which is left out;
    another contrast scales all others alike.

    Args:
      luminance: float32 [32, 32].

    Returns:
      int64, of 64 bits.
    """
    middles = (np.arange(_SIDE) + 0.5) / _SIDE
    cosines = np.cos(np.pi * np.outer(np.arange(_FREQUENCIES), middles))
    basis = tf.constant(cosines, tf.float32)
    found = tf.matmul(
        tf.matmul(basis, luminance), basis, transpose_b=True
    )  # [12, 12]
    signs = tf.gather_nd(found, _places()) > 0  # [64]
    # The last bit is the sign of int64, so the sum wraps nowhere.
    values = np.left_shift(np.uint64(1), np.arange(BITS, dtype=np.uint64))
    values = tf.constant(values.view(np.int64))
    return tf.reduce_sum(tf.where(signs, values, tf.zeros_like(values)))


def _places():
    """The lowest frequencies but the constant one: int [64, 2]."""
    places = np.indices([_FREQUENCIES] * 2).reshape(2, -1).T[1:]
    order = np.lexsort((places[:, 0], places.sum(axis=1)))
    return places[order][:BITS]
