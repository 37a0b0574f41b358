"""Pixel operations: pure functions, of values in 0..255.

Colours follow torchvision's operations on PIL images, which MoCo was trained
with. Deviation: values stay float between operations, where PIL rounds each
result to 8 bits; `to_uint8` rounds once, at the end.

The arithmetic of colours is written once, on planes: a tuple of red, green and
blue, each float32 [..., H, W], of one image, or of a batch with a factor
[b, 1, 1] for each. It is plain arithmetic that XLA fuses. `adjust_brightness`
and its like do the same on one array float32 [H, W, 3].
"""

import functools
import math

import numpy as np
import tensorflow as tf

from moco_tf.data import resize

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R 601
MAX_SIGMA = 2.0  # pixels, of `blur_first_axis` and `blur_batch`

_RADIUS = math.ceil(3 * MAX_SIGMA)
_BLOCK = 32  # rows of one product
_TRIES = 10
BOX_UNIFORMS = 2 * _TRIES + 2  # what `sample_box` consumes


def to_uint8(image):
    """Rounds an image to uint8, same shape; 0..255 is enforced."""
    image = tf.clip_by_value(image + 0.5, 0.0, 255.0)
    # By way of int32: the direct cast goes pixel by pixel.
    return tf.cast(tf.cast(image, tf.int32), tf.uint8)


def normalize(images, mean, std):
    """Turns stored pixels into a network's input, (x / 255 - mean) / std.

    Args:
      images: uint8 [..., C]; a float tensor counts as normalised already.
      mean, std: per channel, of pixels in 0..1; where C is larger, they come
        again.

    Returns:
      float32 [..., C]; a float tensor is returned unchanged.
    """
    if images.dtype.is_floating:
        return images
    scale = (1.0 / (255.0 * np.asarray(std))).astype(np.float32)
    offset = (np.asarray(mean) / np.asarray(std)).astype(np.float32)
    # By rows: kernels are slow at spreading three numbers.
    width = (images.shape[-2] if images.shape.rank > 1 else 1) or 1
    length = images.shape[-1] * width
    rows = tf.cast(tf.reshape(images, [-1, length]), tf.float32)
    rows = rows * np.resize(scale, length) - np.resize(offset, length)
    return tf.reshape(rows, tf.shape(images))


def luminance(planes):
    """The weighted mean of the colours, one plane."""
    red, green, blue = (w * x for w, x in zip(LUMINANCE, planes, strict=True))
    return red + green + blue


def mean_luminance(planes):
    """Mean grey level, a whole number as PIL rounds it, [..., 1, 1]."""
    # Whole numbers: the sum is the same in whatever order threads add it.
    grey = tf.cast(tf.round(luminance(planes)), tf.int64)
    pixels = grey.shape[-2:].num_elements()
    if pixels is None:
        pixels = tf.reduce_prod(tf.shape(grey, tf.int64)[-2:])
    total = tf.reduce_sum(grey, axis=(-2, -1), keepdims=True)
    return tf.cast((2 * total + pixels) // (2 * pixels), tf.float32)


def blend(planes, other, factor):
    """factor * planes + (1 - factor) * other, cut off at 0 and 255."""
    rest = (1.0 - factor) * other
    return tuple(
        tf.clip_by_value(plane * factor + rest, 0.0, 255.0) for plane in planes
    )


def brightness(planes, factor):
    """Blends with black: factor 0 is black, 1 the image."""
    return blend(planes, 0.0, factor)


def contrast(planes, factor):
    """Blends with the image's mean grey level."""
    return blend(planes, mean_luminance(planes), factor)


def saturation(planes, factor):
    """Blends with the grey image: factor 0 is grey, 1 the image."""
    return blend(planes, luminance(planes), factor)


def shift_hue(planes, turns):
    """Shifts the hue of HSV by a fraction of the colour circle, -1..1."""
    red, green, blue = planes
    # torchvision's shift is a whole number of 1/255 turns, towards zero.
    shift = tf.cast(tf.cast(turns * 255.0, tf.int32), tf.float32) * (6 / 255)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    inverse = tf.math.divide_no_nan(1.0, chroma)
    # Not by `value == red`: XLA computes a colour again for each loop that
    # reads it, to other last bits; what equals none would get any hue.
    hue = tf.where(  # sixths of the circle
        tf.logical_and(red >= green, red >= blue),
        (green - blue) * inverse,
        tf.where(
            green >= blue,
            2.0 + (blue - red) * inverse,
            4.0 + (red - green) * inverse,
        ),
    )
    hue += shift

    def colour(start):
        # 0..6: how far round the circle this colour's ramp has come.
        angle = hue + start
        angle -= 6.0 * tf.floor(angle * (1 / 6))
        ramp = tf.clip_by_value(tf.minimum(angle, 4.0 - angle), 0.0, 1.0)
        return value - chroma * ramp

    return colour(5.0), colour(3.0), colour(1.0)


def grey(planes):
    """The luminance on all three planes."""
    return (luminance(planes),) * 3


def adjust_brightness(image, factor):
    """`brightness` of an image float32 [H, W, 3]."""
    return _by_planes(brightness, image, factor)


def adjust_contrast(image, factor):
    """`contrast` of an image float32 [H, W, 3]."""
    return _by_planes(contrast, image, factor)


def adjust_saturation(image, factor):
    """`saturation` of an image float32 [H, W, 3]."""
    return _by_planes(saturation, image, factor)


def adjust_hue(image, turns):
    """`shift_hue` of an image float32 [H, W, 3]."""
    return _by_planes(shift_hue, image, turns)


def grayscale(image):
    """`grey` of an image float32 [H, W, 3]: three equal channels."""
    return _by_planes(grey, image)


def color_jitter(image, order, brightness, contrast, saturation, hue):
    """Applies the four colour operations in any order.

    Args:
      image: float32 [H, W, 3].
      order: int32 [4], a permutation of 0..3, in the order of the arguments.
      brightness, contrast, saturation: float32 scalars, factors >= 0.
      hue: float32 scalar, turns.
    """
    adjust = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    factors = (brightness, contrast, saturation, hue)
    for number in tf.unstack(order):
        branches = [
            functools.partial(operation, image, factor)
            for operation, factor in zip(adjust, factors, strict=True)
        ]
        image = tf.switch_case(number, branches)
    return image


def _by_planes(operation, image, *arguments):
    planes = operation(tf.unstack(image, axis=-1), *arguments)
    return tf.stack(planes, axis=-1)


def gaussian_blur(image, sigma):
    """Convolves with a Gaussian, edges extended; sigma > 0 is in pixels."""
    sigma = tf.convert_to_tensor(sigma, tf.float32)
    for _ in range(2):  # rows, then columns
        shape = tf.shape(image)
        rows = tf.reshape(image, [shape[0], -1])
        image = tf.reshape(_blur_rows(rows, sigma), shape)
        image = tf.transpose(image, [1, 0, 2])
    return image


def _blur_rows(matrix, sigma):
    """Blurs float32 [n, m] along n; sigma, a float32 scalar > 0, is in rows.

    As a product with a banded matrix, block by block: one [n, n] matrix would
    be five times the work at 224 pixels.
    """
    radius = tf.cast(tf.math.ceil(3.0 * sigma), tf.int32)
    height = tf.shape(matrix)[0]
    blocks = (height + _BLOCK - 1) // _BLOCK
    first = tf.range(blocks)[:, tf.newaxis] * _BLOCK - radius
    rows = first + tf.range(_BLOCK + 2 * radius)
    rows = tf.clip_by_value(rows, 0, height - 1)  # this extends the edges
    tiles = tf.gather(matrix, rows)
    blurred = tf.matmul(_band(sigma, _BLOCK, radius), tiles)
    blurred = tf.reshape(blurred, [blocks * _BLOCK, tf.shape(matrix)[1]])
    return blurred[:height]


def blur_first_axis(image, sigma):
    """Blurs an image of a known shape along its first axis, for XLA.

    Args:
      image: float32 [n, ...].
      sigma: float32 scalar, above 0, at most MAX_SIGMA, in rows.
    """
    rows = image.shape[0]
    kernel = _band(sigma, 1, _RADIUS)[0]
    padded = tf.gather(image, _extended(rows))
    return tf.add_n(
        [kernel[k] * padded[k : k + rows] for k in range(2 * _RADIUS + 1)]
    )


def blur_batch(planes, sigma):
    """Blurs images along both axes, each with its own sigma, under XLA too.

    Args:
      planes: float32 [..., b, S, S], planes of b images.
      sigma: float32 [b], 0..MAX_SIGMA pixels; 0 leaves the image as it is.
    """
    size = planes.shape[-1]
    # So small that the neighbours' weights are exactly zero.
    sigma = tf.maximum(sigma, 1e-3)[:, tf.newaxis, tf.newaxis]
    band = _band(sigma, size, _RADIUS)  # [b, S, S + 12]
    planes = tf.matmul(band, tf.gather(planes, _extended(size), axis=-2))
    planes = tf.gather(planes, _extended(size), axis=-1)
    return tf.matmul(planes, band, transpose_b=True)


def _extended(size):
    """Numbers of `size` rows, and of the edges' in place of those outside."""
    rows = tf.range(-_RADIUS, size + _RADIUS)
    return tf.clip_by_value(rows, 0, size - 1)


def _band(sigma, rows, margin):
    """Gaussian kernels of consecutive rows, [..., rows, rows + 2 margin].

    Each is cut off at 3 sigma, rounded up to a whole row.
    """
    # In floats: GPUs leave arithmetic of int32 to the host.
    row = tf.cast(tf.range(rows), tf.float32)[:, tf.newaxis]
    column = tf.cast(tf.range(rows + 2 * margin), tf.float32)[tf.newaxis]
    distance = column - row - tf.cast(margin, tf.float32)
    inside = tf.abs(distance) <= tf.math.ceil(3.0 * sigma)
    inside = tf.cast(inside, tf.float32)
    distance = distance / sigma
    band = inside * tf.exp(-0.5 * distance * distance)
    return band / tf.reduce_sum(band, axis=-1, keepdims=True)


def sample_box(shape, uniforms, scale):
    """Draws the box of a random resized crop as torchvision does.

    Width / height is 3/4..4/3, uniform in its logarithm. The first of ten
    tries that fits is taken, else the largest central box of such a ratio.

    Args:
      shape: int32 [2], height and width of the image.
      uniforms: float32 [..., BOX_UNIFORMS] in [0, 1).
      scale: (low, high), area of the box as a fraction of the image's.

    Returns:
      int32 [..., 4]: top, left, height, width, in pixels.
    """
    return box_of(shape, box_numbers(uniforms, scale))


def box_numbers(uniforms, scale):
    """The part of `sample_box` that does not need the image.

    Args:
      uniforms, scale: as of `sample_box`.

    Returns:
      float32 [..., BOX_UNIFORMS]: of each try the area, a fraction of the
      image's, and the square root of the ratio; the corner, in 0..1.
    """
    area, log_ratio, position = tf.split(uniforms, [_TRIES, _TRIES, 2], axis=-1)
    # In float64: the platform's float32 exp depends on the place in a vector.
    half_log = tf.cast((log_ratio - 0.5) * np.log(4 / 3), tf.float64)
    root_ratio = tf.cast(tf.exp(half_log), tf.float32)
    area = scale[0] + (scale[1] - scale[0]) * area
    return tf.concat([area, root_ratio, position], axis=-1)


def box_of(shape, numbers):
    """The box of an image, int32 [..., 4], by `box_numbers`.

    Args:
      shape: int32 [2], height and width of the image.
      numbers: float32 [..., BOX_UNIFORMS].
    """
    area, root_ratio, position = tf.split(numbers, [_TRIES, _TRIES, 2], axis=-1)
    size = tf.cast(shape, tf.float32)
    side = tf.sqrt(area * tf.reduce_prod(size))
    boxes = tf.stack([side / root_ratio, side * root_ratio], axis=-1)
    boxes = tf.round(boxes)  # [..., tries, 2]
    fits = tf.reduce_all((boxes > 0) & (boxes <= size), axis=-1)
    some = tf.reduce_any(fits, axis=-1)[..., tf.newaxis]
    first = tf.argmax(tf.cast(fits, tf.int32), axis=-1, output_type=tf.int32)
    central = tf.round(tf.minimum(size, size[::-1] * (4 / 3)))
    box = tf.gather(boxes, first, batch_dims=first.shape.rank)
    box = tf.where(some, box, central)
    free = size - box
    corner = tf.floor(tf.where(some, position * (free + 1.0), free / 2.0))
    return tf.cast(tf.concat([corner, box], axis=-1), tf.int32)


def resized_crop(image, box, size):
    """Crops, then resizes: what is outside the box has no influence.

    Args:
      image: uint8 or float32 [H, W, C].
      box: int32 [4]: top, left, height, width, inside the image.
      size: int, pixels; the result is float32 [size, size, C].
    """
    return resize.from_planes(resize.crop_to_planes(image, box, size))


def resize_and_centre_crop(image, short_side, size):
    """Resizes the short side and cuts the centre out, the evaluation view.

    Only the pixels of the result are computed, whatever the aspect ratio.

    Args:
      image: uint8 or float32 [H, W, C].
      short_side: int >= size, pixels of the short side after the resize.
      size: int, pixels; the result is float32 [size, size, C].
    """
    shape = tf.cast(tf.shape(image)[:2], tf.int64)
    resized = short_side * shape // tf.reduce_min(shape)
    scale = tf.cast(resized / shape, tf.float32)
    corner = tf.round(tf.cast(resized - size, tf.float64) / 2.0)
    corner = tf.cast(corner, tf.float32)
    planes = resize.to_planes(image, size, scale, -corner)
    return resize.from_planes(planes)


def shrink_to_short_side(image, short_side):
    """Resizes a longer short side, antialiased; a smaller image stays.

    Args:
      image: uint8 [H, W, 3].
      short_side: int >= 1, pixels.

    Returns:
      uint8 [h, w, 3]; the long side is rounded down, as in the evaluation view.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.int64)
    shortest = tf.reduce_min(shape)

    def shrunk():
        resized = tf.cast(short_side * shape // shortest, tf.int32)
        return to_uint8(resize.to_shape(image, resized))

    image = tf.cond(shortest > short_side, shrunk, lambda: image)
    return tf.ensure_shape(image, [None, None, 3])


def flip_horizontal(image, flip=True):
    """Mirrors left and right where `flip` (bool scalar) holds."""
    return tf.raw_ops.Reverse(tensor=image, dims=tf.stack([False, flip, False]))


def cutout(image, centre, length, fill=0.0):
    """Fills a square, cut off at the borders (arXiv:1708.04552).

    Args:
      image: float32 [H, W, 3].
      centre: int32 [2], row and column inside the image.
      length: int, side of the square, pixels; it starts length // 2 before
        the centre.
      fill: float32 scalar or [3].
    """
    shape = tf.shape(image)
    first = centre - length // 2
    row = tf.range(shape[0])[:, tf.newaxis, tf.newaxis]
    column = tf.range(shape[1])[:, tf.newaxis]
    hole = (row >= first[0]) & (row < first[0] + length)
    hole &= (column >= first[1]) & (column < first[1] + length)
    return tf.where(hole, fill, image)


def sobel(image):
    """Magnitude of the luminance's Sobel gradient on three equal channels.

    Edges are extended; an upright edge from 0 to 255 gives 255, the maximum.
    """
    image = tf.pad(image, [[1, 1], [1, 1], [0, 0]], "SYMMETRIC")
    light = luminance(tf.unstack(image, axis=-1))
    down = light[2:] - light[:-2]
    down = down[:, :-2] + 2.0 * down[:, 1:-1] + down[:, 2:]
    right = light[:, 2:] - light[:, :-2]
    right = right[:-2] + 2.0 * right[1:-1] + right[2:]
    edges = tf.sqrt(down * down + right * right) / 4.0
    edges = tf.clip_by_value(edges, 0.0, 255.0)
    return tf.repeat(edges[..., tf.newaxis], 3, axis=-1)
