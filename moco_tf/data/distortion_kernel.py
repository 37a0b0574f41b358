"""The distortion of a view as compiled code: colours, blur, rounding.

Part of `view_kernel`. The reference is photometric.py with the arithmetic of
image_ops.py, from which a view is at most one level away: operations that XLA
contracts are not contracted here.

Rows are taken in blocks that stay in the nearest cache. Inner loops run along
one colour of a row, of which LLVM makes vectors.
"""

import math

import numpy as np
from numba import njit

from moco_tf.data import image_ops, photometric

_compiled = njit(nogil=True, error_model="numpy", boundscheck=False)

_F = np.float32
_ZERO, _HALF, _ONE, _MOST = _F(0), _F(0.5), _F(1), _F(255)
_RED, _GREEN, _BLUE = (_F(x) for x in image_ops.LUMINANCE)
_SIXTHS = _F(6)  # of the colour circle
_PER_255TH = _F(6 / 255)
_WHOLE = _F(1.5 * 2**23)  # added and taken away, it rounds to a whole number
_NEXT, _COLOURS = np.uint64(1), np.uint64(3)
_STEPS = image_ops.BOX_UNIFORMS + 1  # columns of a choice
_FACTORS = _STEPS + photometric.STEPS
_SIGMA = _FACTORS + 4
_SOLARIZE = _SIGMA + 1
_COUNT = photometric.STEPS
_BRIGHTNESS, _CONTRAST = photometric.BRIGHTNESS, photometric.CONTRAST
_SATURATION, _HUE = photometric.SATURATION, photometric.HUE
_GREY = photometric.GREY
_BLOCK = 1024  # pixels at least that take their colours at once


# Colours, each of them a row of float32 [n] in 0..255.


@_compiled
def _cut(value):
    return min(max(value, _ZERO), _MOST)


@_compiled
def _luminance(red, green, blue):
    return _RED * red + _GREEN * green + _BLUE * blue


@_compiled
def _blend(red, green, blue, factor, other):
    """Brightness and contrast: with one grey level."""
    rest = (_ONE - factor) * other
    for x in range(red.shape[0]):
        red[x] = _cut(red[x] * factor + rest)
        green[x] = _cut(green[x] * factor + rest)
        blue[x] = _cut(blue[x] * factor + rest)


@_compiled
def _saturate(red, green, blue, factor):
    for x in range(red.shape[0]):
        grey = _luminance(red[x], green[x], blue[x])
        rest = (_ONE - factor) * grey
        red[x] = _cut(red[x] * factor + rest)
        green[x] = _cut(green[x] * factor + rest)
        blue[x] = _cut(blue[x] * factor + rest)


@_compiled
def _ramp(angle):
    """How much of its chroma a colour lacks, at an angle of -6..18 sixths."""
    if angle < _ZERO:
        angle += _SIXTHS
    if angle >= _SIXTHS:
        angle -= _SIXTHS
    if angle >= _SIXTHS:
        angle -= _SIXTHS
    return min(max(min(angle, _F(4) - angle), _ZERO), _ONE)


@_compiled
def _shift_hue(red, green, blue, turns):
    shift = _F(np.int32(turns * _MOST)) * _PER_255TH
    for x in range(red.shape[0]):
        r, g, b = red[x], green[x], blue[x]
        value = max(max(r, g), b)
        chroma = value - min(min(r, g), b)
        inverse = _ONE / chroma if chroma > _ZERO else _ZERO
        if value == r:
            hue = (g - b) * inverse
        elif value == g:
            hue = _F(2) + (b - r) * inverse
        else:
            hue = _F(4) + (r - g) * inverse
        hue += shift
        red[x] = value - chroma * _ramp(hue + _F(5))
        green[x] = value - chroma * _ramp(hue + _F(3))
        blue[x] = value - chroma * _ramp(hue + _ONE)


@_compiled
def _to_grey(red, green, blue):
    for x in range(red.shape[0]):
        grey = _luminance(red[x], green[x], blue[x])
        red[x] = grey
        green[x] = grey
        blue[x] = grey


@_compiled
def _sum_of_grey(red, green, blue):
    """Sum of the grey levels, each a whole number."""
    total = np.int64(0)
    for x in range(red.shape[0]):
        grey = _luminance(red[x], green[x], blue[x])
        total += np.int32((grey + _WHOLE) - _WHOLE)
    return total


@_compiled
def _colour(planes, first, last, choice, begin, end, mean):
    """Steps begin to end of a choice, on pixels first to last.

    Args:
      planes: float32 [3, S * S]. choice: float32 [CHOICE].
      mean: float32, the mean grey level that contrast blends with.
    """
    red, green = planes[0, first:last], planes[1, first:last]
    blue = planes[2, first:last]
    for number in range(begin, end):
        step = np.int32(choice[_STEPS + number])
        if step == _BRIGHTNESS:
            _blend(red, green, blue, choice[_FACTORS + step], _ZERO)
        elif step == _CONTRAST:
            _blend(red, green, blue, choice[_FACTORS + step], mean)
        elif step == _SATURATION:
            _saturate(red, green, blue, choice[_FACTORS + step])
        elif step == _HUE:
            _shift_hue(red, green, blue, choice[_FACTORS + step])
        elif step == _GREY:
            _to_grey(red, green, blue)


# Sharpness and the end, as image_ops.py and photometric.py.


@_compiled
def _gaussian(sigma):
    """Weights of a pixel and its neighbours on one side, float32 [1 + r]."""
    radius = math.ceil(_F(3) * sigma) if sigma > _ZERO else 0
    weights = np.ones(1 + radius, np.float32)
    total = 1.0
    for d in range(1, 1 + radius):
        weights[d] = _F(math.exp(-0.5 * (d / sigma) ** 2))
        total += 2.0 * weights[d]
    for d in range(1 + radius):
        weights[d] = _F(weights[d] / total)
    return weights


@_compiled
def _set_one(row, weight, result):
    for x in range(result.shape[0]):
        result[x] = weight * row[x]


@_compiled
def _add_pair(before, after, weight, result):
    for x in range(result.shape[0]):
        result[x] += weight * (before[x] + after[x])


@_compiled
def _add_pairs(before, after, weight, further, beyond, other, result):
    for x in range(result.shape[0]):
        result[x] += weight * (before[x] + after[x])
        result[x] += other * (further[x] + beyond[x])


@_compiled
def _blur_row(plane, i, weights, wide, row):
    """Row i of a plane, blurred along both axes.

    Args:
      plane: float32 [S, S], edges extended. weights: of `_gaussian`.
      wide: float32 [S + 2 r], scratch. row: float32 [S], filled.
    """
    size, radius = row.shape[0], weights.shape[0] - 1
    end = size - 1
    middle = wide[radius : radius + size]
    _set_one(plane[i], weights[0], middle)
    d = 1
    while d < radius:
        up, down = plane[max(i - d, 0)], plane[min(i + d, end)]
        above, below = plane[max(i - d - 1, 0)], plane[min(i + d + 1, end)]
        _add_pairs(up, down, weights[d], above, below, weights[d + 1], middle)
        d += 2
    if d == radius:
        up, down = plane[max(i - d, 0)], plane[min(i + d, end)]
        _add_pair(up, down, weights[d], middle)
    for d in range(radius):
        wide[d] = middle[0]
        wide[radius + size + d] = middle[end]
    _set_one(middle, weights[0], row)
    for d in range(1, 1 + radius):
        left = wide[radius - d : radius - d + size]
        right = wide[radius + d : radius + d + size]
        _add_pair(left, right, weights[d], row)


@_compiled
def _write(red, green, blue, solarizes, pixels):
    """Rounds a row of three colours to uint8, side by side.

    The distance of two pixels is a constant: else LLVM makes no vectors.
    """
    for x in range(np.uint64(red.shape[0])):  # unsigned: not from the end
        place = _COLOURS * x
        pixels[place] = np.uint8(np.int32(_cut(red[x] + _HALF)))
        place += _NEXT
        pixels[place] = np.uint8(np.int32(_cut(green[x] + _HALF)))
        place += _NEXT
        pixels[place] = np.uint8(np.int32(_cut(blue[x] + _HALF)))
    if solarizes:
        for x in range(pixels.shape[0]):
            pixels[x] = min(pixels[x], np.uint8(255) - pixels[x])


@_compiled
def _write_apart(pixels, channels, row):
    """Copies three colours side by side to `channels` apart."""
    for x in range(pixels.shape[0] // 3):
        for c in range(3):
            row[channels * x + c] = pixels[3 * x + c]


@_compiled
def begin(choice, distorts, size):
    """How the distortion of a view of so many rows begins.

    Returns:
      ints: the steps that are taken row by row (those before contrast, which
      waits for the mean of all rows), rows that took them, the sum of their
      grey levels, and rows of a block.
    """
    pivot = 0
    while distorts and pivot < _COUNT and choice[_STEPS + pivot] != _CONTRAST:
        pivot += 1
    nothing = np.int64(0)
    return (pivot if distorts else -1), nothing, nothing, max(1, _BLOCK // size)


@_compiled
def go_on(planes, choice, state, ready):
    """Takes the steps before contrast, once a block of rows is ready.

    Args:
      planes: float32 [3, S, S]. choice: float32 [CHOICE].
      state: of `begin`. ready: int, rows that are cropped.

    Returns:
      the state.
    """
    pivot, taken, total, block = state
    size = planes.shape[1]
    if pivot < 0 or (ready < taken + block and ready < size):
        return state
    flat = planes.reshape(planes.shape[0], size * size)
    first, last = taken * size, ready * size
    _colour(flat, first, last, choice, np.int64(0), pivot, _ZERO)
    if pivot < _COUNT:
        red, green, blue = (
            flat[0, first:last],
            flat[1, first:last],
            flat[2, first:last],
        )
        total += _sum_of_grey(red, green, blue)
    return pivot, ready, total, block


@_compiled
def finish(planes, choice, state, view):
    """Takes the other steps, blurs, rounds and solarises.

    Args:
      planes: float32 [C, S, S]. choice: float32 [CHOICE]. state: of `go_on`.
      view: uint8 [S, S, C], filled.
    """
    pivot, _, total, block = state
    channels, size = planes.shape[0], planes.shape[1]
    n = size * size
    flat, rows = (
        planes.reshape(channels, n),
        view.reshape(size, size * channels),
    )
    mean = _F((2 * total + n) // (2 * n))
    ready = 0 if 0 <= pivot < _COUNT else size
    weights = _gaussian(choice[_SIGMA] if pivot >= 0 else _ZERO)
    radius = weights.shape[0] - 1
    solarizes = pivot >= 0 and choice[_SOLARIZE] > _ZERO
    wide = np.empty(size + 2 * radius, np.float32)
    blurred = np.empty((3, size), np.float32)
    pixels = np.empty(3 * size, np.uint8)
    for i in range(size):
        while ready < min(i + radius + 1, size):
            last = min(ready + block, size)
            begun, ended = ready * size, last * size
            _colour(flat, begun, ended, choice, pivot, np.int64(_COUNT), mean)
            ready = last
        for c in range(0, channels, 3):
            red, green, blue = planes[c, i], planes[c + 1, i], planes[c + 2, i]
            if radius:
                for colour in range(3):
                    _blur_row(planes[colour], i, weights, wide, blurred[colour])
                red, green, blue = blurred[0], blurred[1], blurred[2]
            if channels == 3:
                _write(red, green, blue, solarizes, rows[i])
            else:
                _write(red, green, blue, solarizes, pixels)
                _write_apart(pixels, channels, rows[i, c:])
