"""Features on a plane: PCA and t-SNE."""

from typing import NamedTuple

import numpy as np
import threadpoolctl
from sklearn import decomposition, manifold

SIDE = 1000  # of the plane, in the page's units
_MARGIN = 20
_DIMENSIONS = 50  # that t-SNE begins with (van der Maaten & Hinton, 2008)
_PERPLEXITY = 30
_FEWEST = 5  # points for t-SNE


class Plane(NamedTuple):
    """Points of one way to lay them out.

    Attributes:
      way: "pca" or "tsne". title: for a reader.
      points: float [n, 2] in 0..SIDE, x to the right, y down.
      note: what the axes and the distances mean.
    """

    way: str
    title: str
    points: np.ndarray
    note: str


def planes(rows):
    """Lays out features by t-SNE, if there are enough, and by PCA.

    Rows are brought to length 1 first: kNN and the loss compare directions.

    Args:
      rows: float [n, F], n at least 2.

    Returns:
      list of Plane; the same rows give the same planes.

    Raises:
      ValueError: for features that are not finite, or that are all equal.
    """
    rows = np.asarray(rows, np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(
            "The features are not finite: the encoder has diverged, or its "
            "checkpoint is damaged."
        )
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norms > 0, norms, 1)
    if np.ptp(rows, axis=0).max() < 1e-6:
        raise ValueError(
            "All images have the same features: the encoder has collapsed, so "
            "there is nothing to lay out."
        )
    count = min(_DIMENSIONS, *rows.shape)
    if min(rows.shape) < 2:
        rows = np.pad(rows, [(0, 0), (0, 1)])
    pca = decomposition.PCA(max(count, 2), random_state=0)
    # Threads wait for one another by spinning: where other programs run, two
    # take four times as long as one.
    with threadpoolctl.threadpool_limits(1):
        components = pca.fit_transform(rows)
        found = [] if len(rows) < _FEWEST else [_tsne(components)]
    first, second = 100 * pca.explained_variance_ratio_[:2]
    found.append(
        Plane(
            "pca",
            "PCA",
            _fit(components[:, :2]),
            "PCA: the two directions in which the features differ most. They "
            f"hold {first:.1f} % and {second:.1f} % of the variance; "
            "distances are true as far as these two show them.",
        )
    )
    return found


def _tsne(components):
    perplexity = min(_PERPLEXITY, (len(components) - 1) / 3)
    tsne = manifold.TSNE(
        perplexity=perplexity, init="pca", random_state=0, method="barnes_hut"
    )
    return Plane(
        "tsne",
        "t-SNE",
        _fit(tsne.fit_transform(components), alike=False),
        "t-SNE: neighbours stay neighbours; distances between groups and "
        f"their sizes mean nothing. Perplexity {perplexity:.3g}.",
    )


def _fit(points, alike=True):
    """Shifts and scales points into the plane; `alike`: both axes the same."""
    low, high = points.min(axis=0), points.max(axis=0)
    reach = np.maximum(high - low, 1e-12)
    scale = (SIDE - 2 * _MARGIN) / (reach.max() if alike else reach)
    centred = (points - (low + high) / 2) * scale * [1, -1]
    return np.round(centred + SIDE / 2, 1)
