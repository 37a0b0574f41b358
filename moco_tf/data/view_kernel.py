"""Views of images as compiled code: crop, colours, blur and flip in one call.

Numba compiles what is here and in `distortion_kernel`; `compiled_views` calls
it. A crop is computed as resize.py does, which is the reference, with the same
bits. Fast mathematics is off: nothing is contracted or reordered, so the bits
are the same for any number of threads, and for vectors of any width.
"""

import math

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from moco_tf.data import distortion_kernel as distortion
from moco_tf.data import image_ops

_compiled = njit(nogil=True, error_model="numpy", boundscheck=False)

_F = np.float32
_ZERO, _HALF, _ONE = _F(0), _F(0.5), _F(1)
_TINY = _F(1000) * np.finfo(np.float32).tiny  # below it, no weight is there
_WIDEST = _F(4 / 3)  # ratio of a box's sides
_TRIES = (image_ops.BOX_UNIFORMS - 2) // 2
_FLIP = image_ops.BOX_UNIFORMS  # column of a choice
_LANES = 4  # of a pixel: three colours, and one that is not used
_VECTOR = ir.VectorType(ir.FloatType(), _LANES)


# Resizing, as resize.py.


@_compiled
def _weigh(scale, offset, length, starts, weights):
    """Weights of an axis: those of TensorFlow's triangle with antialiasing.

    Args:
      scale, offset: float32, of a pixel's place in the result.
      length: int, pixels of the axis that is resized.
      starts: int32 [S], filled: the first pixel of each of the result.
      weights: float32 [S, K], filled: the weights from there on, then zeros.

    Returns:
      the most pixels that one of the result needs.
    """
    inverse = _ONE / scale
    shift = -inverse * offset
    reach = max(inverse, _ONE)
    inverse_reach = _ONE / reach
    most = 1
    weights[:] = _ZERO
    for x in range(starts.shape[0]):
        starts[x] = 0
        centre = (_F(x) + _HALF) * inverse + shift
        if centre < _ZERO or centre > _F(length):
            continue
        first = min(max(math.ceil(centre - reach - _HALF), 0), length - 1)
        last = min(max(math.floor(centre + reach - _HALF), 0), length - 1)
        total = _ZERO
        for k in range(last + 1 - first):
            distance = abs((_F(first + k) + _HALF - centre) * inverse_reach)
            weights[x, k] = max(_ONE - distance, _ZERO)
            total += weights[x, k]
        inverse_total = _ONE / total if total >= _TINY else _ZERO
        for k in range(last + 1 - first):
            weights[x, k] *= inverse_total
        starts[x] = first
        most = max(most, last + 1 - first)
    return most


@_compiled
def _taps(scale, length):
    """Pixels that one of the result can need at most."""
    return min(2 * math.ceil(max(_ONE / scale, _ONE)) + 1, length)


@_compiled
def _sum_one(p, a, row):
    for x in range(row.shape[0]):
        row[x] = a * _F(p[x])


@_compiled
def _sum_two(p, q, a, b, row):
    for x in range(row.shape[0]):
        row[x] = a * _F(p[x]) + b * _F(q[x])


@_compiled
def _sum_three(p, q, r, a, b, c, row):
    for x in range(row.shape[0]):
        row[x] = a * _F(p[x]) + b * _F(q[x]) + c * _F(r[x])


@_compiled
def _add_one(p, a, row):
    for x in range(row.shape[0]):
        row[x] += a * _F(p[x])


@_compiled
def _add_two(p, q, a, b, row):
    for x in range(row.shape[0]):
        row[x] = row[x] + a * _F(p[x]) + b * _F(q[x])


@_compiled
def _resize_down(rows, first, last, weights, taps, row):
    """One row of an image resized along its height.

    Args:
      rows: uint8 [taps or more, W * C]. first, last: columns in use.
      weights: float32 [taps or more]. row: float32 [last - first], filled.
    """
    p = rows[0, first:last]
    if taps == 1:
        _sum_one(p, weights[0], row)
    elif taps == 2:
        _sum_two(p, rows[1, first:last], weights[0], weights[1], row)
    else:
        q, r = rows[1, first:last], rows[2, first:last]
        _sum_three(p, q, r, weights[0], weights[1], weights[2], row)
    k = 3
    while k < taps - 1:
        p, q = rows[k, first:last], rows[k + 1, first:last]
        _add_two(p, q, weights[k], weights[k + 1], row)
        k += 2
    if k < taps:
        _add_one(rows[k, first:last], weights[k], row)


# Of LLVM, which makes no vectors by itself of pixels that lie anywhere.


def _shuffled(builder, one, other, order):
    lanes = ir.VectorType(ir.IntType(32), _LANES)
    return builder.shuffle_vector(one, other, ir.Constant(lanes, order))


def _vector_at(builder, start):
    return builder.bitcast(start, _VECTOR.as_pointer())


def _sum_pixels(builder, pixels, step, shares, taps):
    """Sums of `taps` pixels, `step` apart, each times its share of the sum.

    Args:
      pixels, shares: lists of pointers, to the first of each sum.

    Returns:
      a list of vectors: the colours of a pixel, and one that is not used.
    """
    zero = ir.Constant(_VECTOR, [0.0] * _LANES)
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    totals = [cgutils.alloca_once_value(builder, zero) for _ in pixels]
    with cgutils.for_range(builder, taps) as loop:
        moved = builder.mul(loop.index, step)
        for pixel, share, total in zip(pixels, shares, totals, strict=True):
            weight = builder.load(builder.gep(share, [loop.index]))
            lane = ir.Constant(ir.IntType(32), 0)
            weight = builder.insert_element(nothing, weight, lane)
            weight = _shuffled(builder, weight, nothing, [0] * _LANES)
            here = _vector_at(builder, builder.gep(pixel, [moved]))
            product = builder.fmul(weight, builder.load(here, align=4))
            grown = builder.fadd(builder.load(total), product)
            builder.store(grown, total)
    return [builder.load(total) for total in totals]


def _turned(builder, a, b, c, d):
    """Red, green and blue of four pixels, a vector each."""
    low, high = [0, 4, 1, 5], [2, 6, 3, 7]
    first, third = (_shuffled(builder, a, b, order) for order in (low, high))
    second, fourth = (_shuffled(builder, c, d, order) for order in (low, high))
    return (
        _shuffled(builder, first, second, [0, 1, 4, 5]),
        _shuffled(builder, first, second, [2, 3, 6, 7]),
        _shuffled(builder, third, fourth, [0, 1, 4, 5]),
    )


@intrinsic
def _resize_four(typing, row, at, step, weights, j, taps, colours):
    """Four pixels of a row, resized along its width, colour by colour.

    colours[c, j + n] = the sum over k < taps of weights[j + n, k] *
    row[at[j + n] + k * step + c], for n of 0..3 and c of 0..2.
    """

    def generate(context, builder, signature, arguments):
        row, at, weights, colours = (
            context.make_array(signature.args[n])(
                context, builder, arguments[n]
            )
            for n in (0, 1, 3, 6)
        )
        step, j, taps = (arguments[n] for n in (2, 4, 5))
        _, most = cgutils.unpack_tuple(builder, weights.shape)
        _, length = cgutils.unpack_tuple(builder, colours.shape)
        pixels, shares = [], []
        for n in range(_LANES):
            here = builder.add(j, ir.Constant(j.type, n))
            place = builder.load(builder.gep(at.data, [here]))
            pixels.append(builder.gep(row.data, [place]))
            here = builder.mul(here, most)
            shares.append(builder.gep(weights.data, [here]))
        sums = _sum_pixels(builder, pixels, step, shares, taps)
        for number, values in enumerate(_turned(builder, *sums)):
            start = builder.mul(length, ir.Constant(length.type, number))
            start = builder.gep(colours.data, [builder.add(start, j)])
            builder.store(values, _vector_at(builder, start), align=4)
        return context.get_dummy_value()

    return types.void(row, at, step, weights, j, taps, colours), generate


@_compiled
def _in_fours(starts, before, channels, weights, flip):
    """Places and weights of a row's pixels for `_resize_four`.

    Args:
      starts, weights: of `_weigh`. before: int, the first pixel of the row.
      flip: bool, whether the result is mirrored.

    Returns:
      at, weights: of `_resize_across`. What fills the last four is not used.
    """
    size, most = weights.shape
    length = (size + _LANES - 1) // _LANES * _LANES
    at = np.zeros(length, np.int64)
    ordered = np.zeros((length, most), np.float32)
    for j in range(size):
        place = size - 1 - j if flip else j
        at[place] = channels * (starts[j] - before)
        ordered[place] = weights[j]
    return at, ordered


@_compiled
def _resize_across(row, at, weights, taps, colours, planes, i):
    """A row resized along its width, into row i of the planes.

    Args:
      row: float32, pixels of C colours side by side.
      at, weights: of `_in_fours`, [L] and [L, K]. taps: int, of the K in use.
      colours: float32 [3, L], scratch. planes: float32 [C, S, S].
    """
    channels, size = planes.shape[:2]
    for c in range(0, channels, 3):
        for j in range(0, size, _LANES):
            _resize_four(row[c:], at, channels, weights, j, taps, colours)
        for colour in range(3):
            values, result = colours[colour], planes[c + colour, i]
            for j in range(result.shape[0]):
                result[j] = values[j]


# Views.


@_compiled
def _box(height, width, choice):
    """The box of a crop: top, left, height, width (see image_ops.box_of)."""
    tall, wide = _F(height), _F(width)
    pixels = tall * wide
    for number in range(_TRIES):
        side = np.sqrt(choice[number] * pixels)
        ratio = choice[_TRIES + number]
        rows, columns = np.rint(side / ratio), np.rint(side * ratio)
        if _ZERO < rows <= tall and _ZERO < columns <= wide:
            top = choice[2 * _TRIES] * (tall - rows + _ONE)
            left = choice[2 * _TRIES + 1] * (wide - columns + _ONE)
            return int(top), int(left), int(rows), int(columns)
    rows = np.rint(min(tall, wide * _WIDEST))
    columns = np.rint(min(wide, tall * _WIDEST))
    top, left = (tall - rows) * _HALF, (wide - columns) * _HALF
    return int(top), int(left), int(rows), int(columns)


@_compiled
def _evaluation_place(height, width, short_side, size):
    """Scale and offset, pairs of float32, of the evaluation view."""
    shortest = min(height, width)
    tall, wide = short_side * height // shortest, short_side * width // shortest
    scale = _F(tall / height), _F(wide / width)
    top, left = np.rint((tall - size) / 2.0), np.rint((wide - size) / 2.0)
    return scale, (-_F(top), -_F(left))


@_compiled
def _make_view(image, box, scale, offset, flip, distorts, choice, planes, view):
    """A view of a box of an image.

    Args:
      image: uint8 [H, W, C]. box: ints: top, left, height, width.
      scale, offset: float32 pairs, of the axes (see resize.to_planes).
      flip, distorts: bool. choice: float32 [CHOICE], of the distortion.
      planes: float32 [C, S, S], scratch. view: uint8 [S, S, C], filled.
    """
    top, left, height, width = box
    channels, size = planes.shape[:2]
    starts = np.empty((2, size), np.int32)
    down = np.empty((size, _taps(scale[0], height)), np.float32)
    across = np.empty((size, _taps(scale[1], width)), np.float32)
    tall = _weigh(scale[0], offset[0], height, starts[0], down)
    taps = _weigh(scale[1], offset[1], width, starts[1], across)
    before = starts[1].min()
    behind = min(starts[1].max() + taps, width)
    used = channels * (behind - before)
    # Weights of zero reach behind the last pixel.
    row = np.zeros(used + channels * taps + _LANES, np.float32)
    at, weights = _in_fours(starts[1], before, channels, across, flip)
    colours = np.empty((3, at.shape[0]), np.float32)
    rows = image.reshape(image.shape[0], image.shape[1] * channels)
    first = channels * (left + before)
    rest = distortion.begin(choice, distorts, size)
    for i in range(size):
        start = starts[0, i]
        _resize_down(
            rows[top + start :],
            first,
            first + used,
            down[i],
            min(tall, height - start),
            row[:used],
        )
        _resize_across(row, at, weights, taps, colours, planes, i)
        rest = distortion.go_on(planes, choice, rest, i + 1)
    distortion.finish(planes, choice, rest, view)


@_compiled
def make_views(images, choices, first, distorts, short_side, views):
    """Makes views of each image: some by its choices, or that of evaluation.

    Args:
      images: uint8 [n, H, W, C]; C is 3, or 6 where nothing is distorted.
      choices: float32 [n, V, CHOICE] (see augmentation.Augmentation.choose).
      first: int, the first of the V that is made. distorts: bool, whether
        colours and sharpness change; else views are cropped and flipped.
      short_side: int, pixels; above 0, the view is that of
        image_ops.resize_and_centre_crop, and no choice is looked at.
      views: uint8 [n * v, S, S, C], filled: v of each image.
    """
    size, channels = views.shape[2], views.shape[3]
    height, width = images.shape[1], images.shape[2]
    several = views.shape[0] // images.shape[0]
    planes = np.empty((channels, size, size), np.float32)
    for number in range(views.shape[0]):
        image = images[number // several]
        choice = choices[number // several, first + number % several]
        if short_side > 0:
            box = np.int64(0), np.int64(0), height, width
            scale, offset = _evaluation_place(height, width, short_side, size)
            flip = False
        else:
            box = _box(height, width, choice)
            scale = _F(size) / _F(box[2]), _F(size) / _F(box[3])
            offset = _ZERO, _ZERO
            flip = choice[_FLIP] > _ZERO
        view = views[number]
        _make_view(
            image, box, scale, offset, flip, distorts, choice, planes, view
        )


def signature():
    """The types of the arguments of `make_views`, to compile it for."""
    images = types.Array(types.uint8, 4, "C", readonly=True)
    choices = types.Array(types.float32, 3, "C", readonly=True)
    views = types.Array(types.uint8, 4, "C")
    whole = types.int64
    return images, choices, whole, types.boolean, whole, views
