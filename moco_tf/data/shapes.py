"""The embedded data set: rendered scenes of ten kinds of patterned shapes.

A class is an outline and a pattern. Colours, contrast, position, size, turn and
background are drawn without regard to the class, so raw pixels say little
about it; crops, flips, blur and changes of colour leave it visible.

The pixels are the same on every machine: only operations that IEEE 754 rounds
exactly (+ - * / sqrt, comparisons) and PCG64 integers and uniforms are used.
"""

import functools
import mmap
import os
import sys
import threading
from concurrent import futures

import numpy as np

from moco_tf import cores

# Patterns: coordinates in periods → 0..1, both about half of the area.


def _wave(value):
    """Triangle wave of period 1, 0 at whole numbers, 1 between."""
    return 1 - np.abs(2 * (value - np.floor(value)) - 1)


def _edge(value, steep=4):
    """Soft step: 0.5 where the value is 0."""
    return np.clip(0.5 + steep * value, 0, 1)


def _near(value):
    """Distance from the middle between two whole numbers: -0.5..0.5."""
    return value - np.floor(value) - np.float32(0.5)


def _stripes(u, v):
    return _edge(_wave(u) - 0.5, 2.5)


def _checks(u, v):
    return _edge((_wave(u * 0.7) - 0.5) * (_wave(v * 0.7) - 0.5), 12)


def _dots(u, v):
    a, b = _near(u), _near(v)
    return _edge(0.12 - a * a - b * b, 8)


def _rings(u, v):
    a, b = _near(u * 0.4), _near(v * 0.4)
    return _edge(_wave(np.sqrt(a * a + b * b) * 2.5) - 0.5, 2)


def _zigzag(u, v):
    return _edge(_wave(u + _wave(v * 0.6)) - 0.5, 2)


def _grid(u, v):
    return _edge(np.maximum(np.abs(_near(u)), np.abs(_near(v))) - 0.36, 7)


def _bricks(u, v):
    row = np.floor(v)
    along = u * 0.5 + (row - 2 * np.floor(row * 0.5)) * 0.5
    gap = np.minimum(0.5 - np.abs(_near(v)), 1 - 2 * np.abs(_near(along)))
    return _edge(gap - 0.14, 6)


def _waves(u, v):
    bend = _near(v * 0.45)
    return _edge(_wave(u + 3 * bend * (0.5 - np.abs(bend)) * 2) - 0.5, 2)


def _crosses(u, v):
    a, b = np.abs(_near(u * 0.8)), np.abs(_near(v * 0.8))
    arm = np.maximum(np.minimum(a, b) - 0.14, np.maximum(a, b) - 0.4)
    return _edge(-arm, 7)


def _scales(u, v):
    row = np.floor(v * 1.2)
    a = _near(u * 0.7 + (row - 2 * np.floor(row * 0.5)) * 0.5) * 2
    b = v * 1.2 - row
    return _edge(0.75 - a * a - b * b, 2.5)


# Outlines: coordinates in radii → about the distance to the edge, > 0 outside.


def _disc(u, v):
    return np.sqrt(u * u + v * v) - 0.9


def _square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) - 0.8


def _triangle(u, v):
    side = np.float32(0.866) * np.abs(u) + 0.5 * v
    return np.maximum(side, -v) - 0.55


def _star(u, v):
    u = np.abs(u)
    # Two triangles that overlap: six points.
    up = np.maximum(np.float32(0.866) * u + 0.5 * v, -v)
    down = np.maximum(np.float32(0.866) * u - 0.5 * v, v)
    return np.minimum(up, down) - 0.55


def _cross(u, v):
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - 1, np.minimum(u, v) - 0.38)


def _ring(u, v):
    return np.abs(np.sqrt(u * u + v * v) - 0.7) - 0.3


def _crescent(u, v):
    disc = np.sqrt(u * u + v * v) - 1
    cut = u - 0.55
    return np.maximum(disc, 0.7 - np.sqrt(cut * cut + v * v))


def _drop(u, v):
    ball = np.sqrt(u * u + (v - 0.25) * (v - 0.25)) - 0.7
    u = np.abs(u)
    cone = np.maximum(np.float32(0.866) * u - 0.5 * v - 0.575, v - 0.25)
    return np.minimum(ball, cone)


def _hexagon(u, v):
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.float32(0.866) * u + 0.5 * v, v) - 0.82


def _bar(u, v):
    return np.maximum(np.abs(u) - 1.1, np.abs(v) - 0.55)


OUTLINES = (
    _disc, _square, _triangle, _star, _cross,
    _ring, _crescent, _drop, _hexagon, _bar,
)  # fmt: skip
PATTERNS = (
    _stripes, _checks, _dots, _rings, _zigzag,
    _grid, _bricks, _waves, _crosses, _scales,
)  # fmt: skip


SIZE = 64
COUNTS = {"train": 20_000, "test": 2_000}
CLASS_NAMES = (
    "striped disc",
    "checked square",
    "dotted triangle",
    "ringed star",
    "zigzag cross",
    "gridded ring",
    "bricked crescent",
    "wavy drop",
    "crossed hexagon",
    "scaled bar",
)

_SEEDS = {"train": 2_003_04297, "test": 1_911_05722}
_TINT = np.float32(0.2)
_CHUNK = 100  # images rendered at once: their planes fit into the cache


def load(split):
    """Renders a split.

    Args:
      split: "train" or "test".

    Returns:
      images uint8 [N, 64, 64, 3], labels int64 [N]; read-only, and cached for
      the next call.

    Raises:
      ValueError: for another split.
    """
    if split not in COUNTS:
        raise ValueError(
            "The shapes set has the splits train and test. Received "
            f"{split!r}. Use shapes:train or shapes:test."
        )
    return _load(split)


# Splits that other processes render -> their numbers, and what they fill.
_ahead: dict[str, tuple[int, mmap.mmap]] = {}


def render_ahead(splits):
    """Renders splits in processes of their own, for the first `load` of each.

    TensorFlow's import keeps one core busy for seconds, in which the others can
    render. A thread could not: it would wait for the interpreter.

    Args:
      splits: of "train" and "test"; others are left to `load`.

    Side effects: none where processes cannot be forked, or not safely: once
    there are threads, as TensorFlow has them.
    """
    is_safe = "tensorflow" not in sys.modules and threading.active_count() == 1
    if not is_safe or not hasattr(os, "fork"):
        return
    for split in set(splits) & set(COUNTS):
        memory = mmap.mmap(-1, COUNTS[split] * SIZE**2 * 3)
        process = os.fork()
        if not process:
            try:
                _in(memory)[:] = render(split, np.arange(COUNTS[split]))
                os._exit(0)
            finally:  # whatever it was, `load` will render, and show it
                os._exit(1)
        _ahead[split] = process, memory


def _in(memory):
    """Mapped memory as images uint8 [N, 64, 64, 3]."""
    return np.frombuffer(memory, np.uint8).reshape(-1, SIZE, SIZE, 3)


def _rendered_ahead(split):
    """The images of `render_ahead`, or None."""
    if split not in _ahead:
        return None
    process, memory = _ahead.pop(split)
    _, status = os.waitpid(process, 0)
    return None if status else _in(memory)


@functools.lru_cache(maxsize=len(COUNTS))
def _load(split):
    images = _rendered_ahead(split)
    if images is None:
        images = render(split, np.arange(COUNTS[split]))
    labels = np.arange(COUNTS[split], dtype=np.int64) % len(CLASS_NAMES)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


def render(split, indices):
    """Renders some images; the class of image i is i modulo 10.

    Args:
      split: "train" or "test".
      indices: int [n].

    Returns:
      uint8 [n, 64, 64, 3].
    """
    indices = np.asarray(indices)
    scenes = _scenes(split)
    images = np.empty((len(indices), SIZE, SIZE, 3), np.uint8)
    parts = []
    for kind in range(len(CLASS_NAMES)):
        rows = np.flatnonzero(indices % len(CLASS_NAMES) == kind)
        for start in range(0, len(rows), _CHUNK):
            parts.append((kind, rows[start : start + _CHUNK]))

    def paint(kind, rows):
        scene = {k: v[indices[rows]] for k, v in scenes.items()}
        images[rows] = _paint(kind, scene)

    with futures.ThreadPoolExecutor(cores.count()) as pool:
        list(pool.map(paint, *zip(*parts, strict=True)))  # raises their errors
    return images


@functools.lru_cache(maxsize=len(COUNTS))
def _scenes(split):
    """Draws the scenes of a split, without regard to the class.

    Returns:
      dict of float32 or int64 arrays [N, ...].
    """
    count = COUNTS[split]
    generator = np.random.Generator(np.random.PCG64(_SEEDS[split]))

    def uniform(low, high, *shape):
        drawn = generator.random((count, *shape), dtype=np.float32)
        return np.float32(low) + np.float32(high - low) * drawn

    def direction():
        # Rounded: the last bits of sine and cosine differ between libraries.
        angle = generator.random(count) * 2 * np.pi
        turn = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return (np.round(turn * 4096) / 4096).astype(np.float32)

    def colours(*shape):
        # Little hue: contrastive training first learns what distinguishes
        # images most easily, and all views keep most of their hue.
        grey = uniform(0, 1, *shape, 1)
        return grey + _TINT * uniform(-1, 1, *shape, 3)

    return {
        "centre": uniform(24, 40, 2),
        "radius": uniform(26, 38),
        "turn": direction(),
        "period": uniform(6, 9.5),
        "phase": uniform(0, 1, 2),
        "ink": colours(2),
        "contrast": uniform(0.55, 0.85),
        "swap": generator.integers(0, 2, count).astype(np.float32),
        "sky": colours(2),
        "slope": direction(),
        "blobs": uniform(0, SIZE, 4, 2),
        "blob_sizes": uniform(2, 6, 4),
        "blob_ink": colours(4),
        "noise": generator.integers(0, 192, (count, 2)),
        "noise_gain": uniform(0.03, 0.06),
        "gain": uniform(0.5, 1),
        "offset": uniform(0, 1),
    }


def _paint(kind, scene):
    """Paints n scenes of one class: uint8 [n, 64, 64, 3]."""

    def plane(name, *last):
        return scene[name][(slice(None), *last, None, None)]

    axis = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
    y, x = axis[:, None], axis[None, :]
    # Object frame: turned, in pixels.
    shift_x, shift_y = x - plane("centre", 0), y - plane("centre", 1)
    cos, sin = plane("turn", 0), plane("turn", 1)
    u = shift_x * cos + shift_y * sin
    v = shift_y * cos - shift_x * sin
    radius, period = plane("radius"), plane("period")
    outside = OUTLINES[kind](u / radius, v / radius) * radius
    pattern = PATTERNS[kind](
        u / period + plane("phase", 0), v / period + plane("phase", 1)
    )
    swap = plane("swap")
    pattern = pattern + swap - 2 * pattern * swap

    layers = _layers(scene, x, y, np.clip(0.5 - outside, 0, 1), pattern)
    # Whole numbers below 2^24: exact in float32, in whatever order the
    # matrix product adds, so the pixels are the same on every machine.
    planes = layers.reshape(len(layers), -1, SIZE * SIZE)
    image = _inks(scene) @ planes  # [n, 3, 64 * 64], levels * 256
    image *= 1 / 256
    np.clip(image, 0, 255, out=image)
    image = image.astype(np.uint8).reshape(-1, 3, SIZE, SIZE)
    return image.transpose(0, 2, 3, 1)


def _layers(scene, x, y, cover, pattern):
    """Parts of the layers in each pixel, front to back.

    Returns:
      float32 [n, 9, 64, 64], whole numbers: light and dark ink, four blobs,
      two colours of the sky (these eight sum to 256), grain.
    """
    layers = np.empty((len(cover), 9, SIZE, SIZE), np.float32)
    cover = np.floor(cover * 256)
    layers[:, 0] = np.floor(cover * pattern)
    layers[:, 1] = cover - layers[:, 0]
    left = 256 - cover
    for blob in range(4):
        size = scene["blob_sizes"][:, blob, None, None]
        # Rows and columns separately: small until the sum.
        across = (x - scene["blobs"][:, blob, 0, None, None]) / size
        down = (y - scene["blobs"][:, blob, 1, None, None]) / size
        opacity = (2 - 2 * across * across) - 2 * down * down
        np.clip(opacity, 0, 1, out=opacity)
        opacity *= left
        np.floor(opacity, out=layers[:, 2 + blob])
        left -= layers[:, 2 + blob]
    slope = scene["slope"][:, :, None, None] / SIZE
    ramp = slope[:, 0] * (x - SIZE / 2) + 0.5 + slope[:, 1] * (y - SIZE / 2)
    layers[:, 6] = np.floor(np.clip(ramp, 0, 1) * left)
    layers[:, 7] = left - layers[:, 6]
    layers[:, 8] = _grain(scene)
    return layers


def _inks(scene):
    """Colours of the layers, float32 [n, 3, 9], whole numbers 0..255."""
    contrast = scene["contrast"][:, None]
    light = scene["ink"][:, 0] * (1 - contrast) + contrast
    dark = scene["ink"][:, 1] * (1 - contrast)
    colours = [light, dark, *scene["blob_ink"].swapaxes(0, 1)]
    # The object's mean: seen from afar there is no object.
    middle = (light + dark) / 2
    for sky in scene["sky"].swapaxes(0, 1):
        colours.append(middle + np.float32(0.4) * (sky - np.float32(0.5)))
    colours = np.stack(colours, axis=2)  # [n, 3, 8]
    gain = scene["gain"][:, None, None]
    colours = colours * gain + (1 - gain) * scene["offset"][:, None, None]
    grain = np.broadcast_to(
        scene["noise_gain"][:, None, None], (*colours.shape[:2], 1)
    )
    return np.floor(np.concatenate([colours, grain], axis=2) * 255)


@functools.lru_cache(maxsize=1)
def _sheet():
    """Noise, float32 [256, 256]: whole numbers, mean 0, deviation about 148."""
    generator = np.random.Generator(np.random.PCG64(1))
    drawn = generator.integers(0, 256, (4, 256, 256)).sum(0) - 510
    return drawn.astype(np.float32)


def _grain(scene):
    """Noise of each scene, cut from the sheet: float32 [n, 64, 64]."""
    windows = np.lib.stride_tricks.sliding_window_view(_sheet(), (SIZE, SIZE))
    return windows[scene["noise"][:, 0], scene["noise"][:, 1]]
