"""Images that occur twice: to the pixel, or to the eye.

Two 64-bit hashes that differ in at most REACH bits, cut at the same places into
BLOCKS blocks, have BLOCKS - REACH blocks or more in common. So each choice of
that many blocks is a table of its own: images that agree there become
neighbours when they are sorted, and only neighbours are compared. Work and
memory grow with N, not with its square.
"""

import itertools

import numpy as np

from moco_tf.doctor import fingerprints

REACH = 8  # bits in which hashes of alike images may differ
LIKENESS = 0.95  # correlation of their little copies at least

_BLOCKS = 11
# In a crowd (frames of one film) an image meets as many of its neighbours: the
# chain of pairs joins them all the same.
_NEIGHBOURS = 32
# Of 64 bits: every second one, two of four, four of eight, one of eight.
_ODD, _PAIRS, _NIBBLES, _OCTETS = (
    np.uint64(int(f"0x{octet * 8}", 16)) for octet in ("55", "33", "0f", "01")
)
_ROWS = 65536  # pairs whose little copies are compared at a time


def exact_copies(pixels):
    """Groups images of the same pixels.

    Args:
      pixels: int64 [N], the same for the same pixels.

    Returns:
      int64 [N], the first place with the same value.
    """
    _, first, places = np.unique(pixels, return_index=True, return_inverse=True)
    return first[places]


def alike(looks, little):
    """Groups images that look the same.

    Args:
      looks: int64 [N], perceptual hashes (fingerprints.perceptual_hash).
      little: uint8 [N, 256], luminance of the little copies.

    Returns:
      int64 [N], the first place of the group of each.
    """
    looks = np.ascontiguousarray(looks).view(np.uint64)
    groups = np.arange(len(looks))
    for mask in _masks():
        keys = looks & mask
        order = np.lexsort((looks, keys))
        keys, sorted_looks = keys[order], looks[order]
        for apart in range(1, min(_NEIGHBOURS, len(looks) - 1) + 1):
            here = np.flatnonzero(keys[:-apart] == keys[apart:])
            if not len(here):
                break
            bits = distance(sorted_looks[here], sorted_looks[here + apart])
            here = here[bits <= REACH]
            left, right = order[here], order[here + apart]
            new = groups[left] != groups[right]
            _join(groups, *_confirm(little, left[new], right[new]))
    return groups


def _masks():
    """The bits that each table sorts by: uint64 scalars."""
    edges = np.linspace(0, fingerprints.BITS, _BLOCKS + 1).astype(int)
    blocks = [
        ((1 << high) - 1) ^ ((1 << low) - 1)
        for low, high in itertools.pairwise(edges.tolist())
    ]
    chosen = itertools.combinations(blocks, _BLOCKS - REACH)
    return [np.uint64(sum(some)) for some in chosen]


def distance(left, right):
    """Bits in which hashes differ.

    Args:
      left, right: uint64 [n].

    Returns:
      int64 [n], 0..64.
    """
    both = left ^ right
    # Sums of bits in fields of 2, 4 and 8 bits; then of the eight fields.
    both = both - (both >> np.uint64(1) & _ODD)
    both = (both & _PAIRS) + (both >> np.uint64(2) & _PAIRS)
    both = both + (both >> np.uint64(4)) & _NIBBLES
    return (both * _OCTETS >> np.uint64(56)).astype(np.int64)


def likeness(left, right):
    """Correlation of little copies, which no change of contrast alters.

    Args:
      left, right: uint8 [n, 256].

    Returns:
      float32 [n] in -1..1; 0 where one is of one tone.
    """
    left, right = left.astype(np.float32), right.astype(np.float32)
    left -= left.mean(axis=1, keepdims=True)
    right -= right.mean(axis=1, keepdims=True)
    sizes = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.einsum("nc,nc->n", left, right) / np.maximum(sizes, 1e-6)


def _confirm(little, left, right):
    """Those of the pairs whose little copies are alike too."""
    kept = np.zeros(len(left), bool)
    for start in range(0, len(left), _ROWS):
        rows = slice(start, start + _ROWS)
        found = likeness(little[left[rows]], little[right[rows]])
        kept[rows] = found >= LIKENESS
    return left[kept], right[kept]


def _join(groups, left, right):
    """Joins the groups of pairs, in place: each ends as its first place."""
    while len(left):
        low = np.minimum(groups[left], groups[right])
        # The least of all pairs of an image, whatever their order.
        np.minimum.at(groups, groups[left], low)
        np.minimum.at(groups, groups[right], low)
        _settle(groups)
        open_pairs = groups[left] != groups[right]
        left, right = left[open_pairs], right[open_pairs]


def _settle(groups):
    """Follows the places to the first of each group, in place."""
    while True:
        onward = groups[groups]
        if np.array_equal(onward, groups):
            return
        groups[:] = onward
