"""The parts of a report that need images, ready for the page."""

import base64
import io
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import threadpoolctl
from PIL import Image
from sklearn import decomposition, manifold

from moco_tf.reporting import samples
from moco_tf.training import checkpoints

_QUALITIES = (80, 60, 40, 25)


def address(image, side=None, quality=85):
    """An image as a data address.

    Args:
      image: uint8 [H, W, 3].
      side: int, pixels; a longer image is made as small; None: as it is.
      quality: of WebP, 1 to 100.

    Returns:
      str.
    """
    picture = Image.fromarray(np.asarray(image))
    if side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _encode(picture, quality)


def sheet(images, side, most=1_500_000):
    """Many images as one picture, row after row.

    Args:
      images: list of uint8 [S, S, 3], squares of any size.
      side: int, pixels of each in the picture.
      most: int, letters of the address; quality falls until it fits, to a
        floor of 25.

    Returns:
      dict: address, columns, rows, side.
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    tiles = [Image.fromarray(np.asarray(image)) for image in images]
    tiles = [
        tile
        if tile.size == (side, side)
        else tile.resize((side, side), Image.Resampling.LANCZOS)
        for tile in tiles
    ]
    canvas = samples.grid(tiles, columns, rows, side, background="black")
    for quality in _QUALITIES:
        found = _encode(canvas, quality)
        if len(found) <= most:
            break
    return {"address": found, "columns": columns, "rows": rows, "side": side}


def _encode(picture, quality):
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=quality, method=4)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{text}"


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


def lay_out(rows):
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


_SIDE = 112  # of a picture in a grid, pixels
_TILE = 64  # of a picture of the map, pixels
_PALETTE = (
    "#4e79a7", "#f28e2b", "#e15759", "#50a8a0", "#59a14f",
    "#d3a91f", "#b07aa1", "#f7819f", "#9c755f", "#8a8a8a",
)  # fmt: skip
# What data that has gone, or an encoder that does not fit, ends in.
_FAILURES = (ValueError, OSError, tf.errors.OpError)


class Sheets:
    """Pictures that are in the page once, however many runs show them."""

    def __init__(self, most):
        """Holds none yet; `most` is the size of one, letters."""
        self.found = []
        self._most = most
        self._known = {}

    def add(self, key, images, side):
        """Returns the number of a sheet of these images; `key` names them."""
        if key not in self._known:
            self._known[key] = len(self.found)
            self.found.append(sheet(images, side, self._most))
        return self._known[key]


def of_run(run, checkpoint, most, sheets, alone=True):
    """Makes the pictures of one run.

    Args:
      run: page.Run. checkpoint: as `frozen.find_checkpoint` takes it.
      most: int, images on the map. sheets: Sheets, which it adds to.
      alone: as `samples.encode`.

    Returns:
      dict: "map", "near" and "pairs", each a dict for the template; one that
      cannot be made is {"missing": why}.
    """
    found = {"pairs": _attempt(_pairs, run)}
    if checkpoint == "latest" and not checkpoints.complete(run.workdir):
        none = {
            "missing": "This run has no checkpoint yet. The first one brings "
            "the features that are shown here."
        }
        return {**found, "map": none, "near": none}
    test = _attempt(samples.encode, run, checkpoint, most, alone)
    if isinstance(test, dict):
        return {**found, "map": test, "near": test}
    found["map"] = _attempt(_map, test, sheets)
    found["near"] = _attempt(_near, test)
    return found


def _attempt(make, *arguments):
    try:
        return make(*arguments)
    except _FAILURES as error:
        words = getattr(error, "message", None) or str(error)
        return {"missing": words}


def _pairs(run):
    source = samples.open_source(run, run.config.data.source)
    return {
        "spec": run.config.data.source,
        "total": len(source),
        "changed": bool(
            run.fingerprint and source.fingerprint() != run.fingerprint
        ),
        "small": run.config.data.image_size < _TILE,
        "rows": [
            {
                "name": pair.name,
                "pictures": [
                    (words, address(image, _SIDE))
                    for words, image in (
                        ("image", pair.whole),
                        ("query", pair.query),
                        ("key", pair.key),
                    )
                ],
            }
            for pair in samples.pairs(run.config, source)
        ],
    }


def _map(test, sheets):
    if len(test.images) < 2:
        raise ValueError("A map needs two images or more that can be read.")
    planes = lay_out(test.held.rows[samples.LAYER])
    side = min(_TILE, len(test.images[0]))
    key = (test.held.about["fingerprint"], test.held.index.tobytes(), side)
    labels, names = test.held.labels, []
    if labels is not None:
        present, labels = np.unique(labels, return_inverse=True)
        classes = test.held.class_names
        names = [classes[x] if classes else str(x) for x in present.tolist()]
    counts = np.bincount(labels) if names else []
    return {
        "spec": test.spec,
        "total": test.total,
        "checkpoint": test.judged.title,
        "planes": planes,
        "points": {x.way: x.points.tolist() for x in planes},
        "notes": {x.way: x.note for x in planes},
        "sheet": sheets.add(key, test.images, side),
        "labels": labels.tolist() if names else [],
        "names": list(test.held.names),
        "classes": [
            {"name": name, "colour": colour, "count": int(count)}
            for name, colour, count in zip(
                names, colours(len(names)), counts, strict=True
            )
        ],
    }


def _near(test):
    found = samples.find_neighbours(test)
    if found is None:
        raise ValueError("A single image has no neighbours.")
    wanted = np.unique(
        [*test.held.index[found.query], *test.bank.index[found.index.ravel()]]
    )
    images = test.views(wanted)

    def picture(held, row, cosine=None, same=None):
        index = int(held.index[row])
        image = images.get(index)
        return {
            "address": None if image is None else address(image, _SIDE),
            "name": held.names[row],
            "class": held.class_of(row),
            "cosine": cosine,
            "same": same,
        }

    return {
        "bank": len(test.bank.index),
        "small": len(test.images[0]) < _TILE,
        "share": None if found.same is None else float(found.same.mean()),
        "rows": [
            {
                "query": picture(test.held, own),
                "near": [
                    picture(
                        test.bank,
                        row,
                        float(found.cosine[place, rank]),
                        None
                        if found.same is None
                        else bool(found.same[place, rank]),
                    )
                    for rank, row in enumerate(found.index[place])
                ],
            }
            for place, own in enumerate(found.query)
        ],
    }


def colours(count):
    """Colours of so many classes, CSS; alike ones are far apart."""
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    # The golden angle: neighbours in the list are far apart on the wheel.
    return [f"hsl({n * 137.508 % 360:.0f} 55% 52%)" for n in range(count)]
