"""Patterns and outlines of the shapes set, one of each per class.

Only operations that IEEE 754 rounds exactly: the same bits everywhere.
"""

import numpy as np

# Patterns: coordinates in periods → 0..1, both about half of the area.


def _wave(value):
    """Triangle wave of period 1, 0 at whole numbers, 1 between."""
    return 1 - np.abs(2 * (value - np.floor(value)) - 1)


def _edge(value, steep=4):
    """Soft step: 0.5 where the value is 0."""
    return np.clip(0.5 + steep * value, 0, 1)


def _near(value):
    """Place between two whole numbers, from their middle: -0.5..0.5."""
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
    whole = np.sqrt(u * u + v * v) - 1
    cut = u - 0.55
    return np.maximum(whole, 0.7 - np.sqrt(cut * cut + v * v))


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
