"""Colour operations on the three planes of an image, of any layout.

`planes` is a tuple of red, green and blue, float32 [..., S, S] in 0..255: of
one image, or of a batch with a factor [b, 1, 1] for each. Plain arithmetic on
whole planes, which XLA fuses. Colours follow torchvision's operations on PIL
images; see image_ops.py for the same on one array with a channel axis.
"""

import tensorflow as tf

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R 601


def luminance(planes):
    """The weighted mean of the colours, one plane."""
    red, green, blue = (w * x for w, x in zip(LUMINANCE, planes, strict=True))
    return red + green + blue


def mean_luminance(planes):
    """Mean grey level, a whole number as PIL rounds it, [..., 1, 1]."""
    # Whole numbers: the sum is the same in whatever order threads add it.
    grey = tf.cast(tf.round(luminance(planes)), tf.int64)
    pixels = planes[0].shape[-2] * planes[0].shape[-1]
    total = tf.reduce_sum(grey, axis=(-2, -1), keepdims=True)
    return tf.cast((2 * total + pixels) // (2 * pixels), tf.float32)


def blend(planes, other, factor):
    """factor * planes + (1 - factor) * other, cut off at 0 and 255."""
    rest = (1.0 - factor) * other
    return tuple(
        tf.clip_by_value(plane * factor + rest, 0.0, 255.0) for plane in planes
    )


def shift_hue(planes, turns):
    """Shifts the hue of HSV by a fraction of the colour circle, -1..1."""
    red, green, blue = planes
    # torchvision's shift is a whole number of 1/255 turns, towards zero.
    shift = tf.cast(tf.cast(turns * 255.0, tf.int32), tf.float32) * (6 / 255)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    inverse = tf.math.divide_no_nan(1.0, chroma)
    hue = tf.where(  # sixths of the circle
        tf.equal(value, red),
        (green - blue) * inverse,
        tf.where(
            tf.equal(value, green),
            2.0 + (blue - red) * inverse,
            4.0 + (red - green) * inverse,
        ),
    )
    hue += shift

    def colour(start):
        # 0..6: how far round the circle this colour's ramp has come.
        place = hue + start
        place -= 6.0 * tf.floor(place * (1 / 6))
        ramp = tf.clip_by_value(tf.minimum(place, 4.0 - place), 0.0, 1.0)
        return value - chroma * ramp

    return colour(5.0), colour(3.0), colour(1.0)
