"""The parts of a report that need images, as dicts for its template.

They are the map of a test set (features on a plane, by PCA and t-SNE), nearest
neighbours, and the pairs of views of a training step. Images stand in the page
as data addresses; those of a map as one sheet.
"""

import base64
import io
import math
from typing import NamedTuple

import numpy as np
import threadpoolctl
from PIL import Image
from sklearn import decomposition, manifold

from moco_tf import workdirs
from moco_tf.reporting import samples
from moco_tf.training import checkpoints

_PICTURE = 112  # side of a picture in a row, pixels
_TILE = 64  # side of a picture of the map, pixels
_PALETTE = (
    "#4e79a7", "#f28e2b", "#e15759", "#50a8a0", "#59a14f",
    "#d3a91f", "#b07aa1", "#f7819f", "#9c755f", "#8a8a8a",
)  # fmt: skip

_QUALITIES = (80, 60, 40, 25)  # of WebP, tried until a sheet is small enough
SIDE = 1000  # of the plane of a map, in the page's units
_MARGIN = 20  # of the plane
_DIMENSIONS = 50  # that t-SNE begins with (van der Maaten & Hinton, 2008)
_PERPLEXITY = 30
_MIN_POINTS = 5  # for t-SNE


def draw_run(run, checkpoint, max_images, sheets, is_single=True):
    """Draws the pictures of one run.

    Args:
      run: page.ReportedRun. checkpoint: as `frozen.find_checkpoint` takes it.
      max_images: int, on the map. sheets: Sheets, which it adds to.
      is_single: as `samples.encode`.

    Returns:
      dict: "map", "near" and "pairs", each a dict for the template, or
      {"missing": reason} where it cannot be drawn.
    """
    parts = {"pairs": _attempt(_pairs, run)}
    if checkpoint == "latest" and not checkpoints.complete(run.workdir):
        missing = {
            "missing": "This run has no checkpoint yet. The first one brings "
            "the features that are shown here."
        }
        return {**parts, "map": missing, "near": missing}
    test = _attempt(samples.encode, run, checkpoint, max_images, is_single)
    if isinstance(test, dict):
        return {**parts, "map": test, "near": test}
    parts["map"] = _attempt(_map, test, sheets)
    parts["near"] = _attempt(_near, test)
    return parts


def _attempt(function, *arguments):
    """The result of a function; {"missing": reason} where images fail it."""
    try:
        return function(*arguments)
    except samples.FAILURES as error:
        words = getattr(error, "message", None) or str(error)
        return {"missing": words}


def _pairs(run):
    """The first images of the first step, each with its two views."""
    source = samples.open_source(run, run.config.data.source)
    try:
        data = workdirs.restore_source(source, run.workdir)
        source, changed = data.source, bool(data.describe())
    except ValueError:  # the run would not go on with them
        changed = True
    return {
        "spec": run.config.data.source,
        "total": len(source),
        "changed": changed,
        "small": run.config.data.image_size < _TILE,
        "rows": [
            {
                "name": pair.name,
                "pictures": [
                    (words, data_address(image, _PICTURE))
                    for words, image in (
                        ("image", pair.image),
                        ("query", pair.query),
                        ("key", pair.key),
                    )
                ],
            }
            for pair in samples.pairs(run.config, source)
        ],
    }


def _map(test, sheets):
    """The map of a test set (samples.Encoded)."""
    if len(test.images) < 2:
        raise ValueError("A map needs two images or more that can be read.")
    planes = lay_out(test.shown.rows[samples.LAYER])
    side = min(_TILE, len(test.images[0]))
    key = (test.shown.about["fingerprint"], test.shown.index.tobytes(), side)
    labels, names = test.shown.labels, []
    if labels is not None:
        present, labels = np.unique(labels, return_inverse=True)
        classes = test.shown.class_names
        names = [
            "(no class)" if x < 0 else classes[x] if classes else str(x)
            for x in present.tolist()
        ]
    counts = np.bincount(labels) if names else []
    return {
        "spec": test.spec,
        "total": test.total,
        "checkpoint": test.encoder.title,
        "planes": planes,
        "points": {x.way: x.points.tolist() for x in planes},
        "notes": {x.way: x.note for x in planes},
        "sheet": sheets.add(key, test.images, side),
        "labels": labels.tolist() if names else [],
        "names": list(test.shown.names),
        "classes": [
            {"name": name, "colour": colour, "count": int(count)}
            for name, colour, count in zip(
                names, colours(len(names)), counts, strict=True
            )
        ],
    }


def _near(test):
    """Queries of a test set (samples.Encoded) and their nearest images."""
    nearest = samples.find_neighbours(test)
    if nearest is None:
        raise ValueError("A single image has no neighbours.")
    images = test.views(
        [
            *test.shown.index[nearest.query],
            *test.bank.index[nearest.index.ravel()],
        ]
    )

    def picture(embedded, row, cosine=None, same=None):
        index = int(embedded.index[row])
        image = images.get(index)
        return {
            "address": None if image is None else data_address(image, _PICTURE),
            "name": embedded.names[row],
            "class": embedded.class_of(row),
            "cosine": cosine,
            "same": same,
        }

    return {
        "bank": len(test.bank.index),
        "small": len(test.images[0]) < _TILE,
        "share": nearest.share(),
        "rows": [
            {
                "query": picture(test.shown, query),
                "near": [
                    picture(
                        test.bank,
                        row,
                        float(nearest.cosine[number, rank]),
                        nearest.is_same(number, rank),
                    )
                    for rank, row in enumerate(nearest.index[number])
                ],
            }
            for number, query in enumerate(nearest.query)
        ],
    }


def colours(count):
    """CSS colours of `count` classes; similar ones are far from each other."""
    if count <= len(_PALETTE):
        return list(_PALETTE[:count])
    # The golden angle: neighbours in the list are far apart on the wheel.
    return [f"hsl({n * 137.508 % 360:.0f} 55% 52%)" for n in range(count)]


class Sheets:
    """Sheets of pictures, each once in the page though several runs show it."""

    def __init__(self, max_characters):
        """Starts without sheets; each has at most `max_characters`."""
        self.sheets = []
        self._max_characters = max_characters
        self._known = {}

    def add(self, key, images, side):
        """Returns the number of a sheet of these images; `key` names them."""
        if key not in self._known:
            self._known[key] = len(self.sheets)
            self.sheets.append(draw_sheet(images, side, self._max_characters))
        return self._known[key]


def data_address(image, side=None, quality=85):
    """Writes an image as a data address.

    Args:
      image: uint8 [H, W, 3].
      side: int, pixels; a longer image is shrunk to it; None: as it is.
      quality: of WebP, 1 to 100.

    Returns:
      str.
    """
    picture = Image.fromarray(np.asarray(image))
    if side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _encode(picture, quality)


def draw_sheet(images, side, max_characters=1_500_000):
    """Draws many images as one picture, row after row.

    Args:
      images: list of uint8 [S, S, 3], squares of any size.
      side: int, pixels of each in the picture.
      max_characters: int, of the address; quality falls until it fits, to a
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
        address = _encode(canvas, quality)
        if len(address) <= max_characters:
            break
    return {"address": address, "columns": columns, "rows": rows, "side": side}


def _encode(picture, quality):
    """A PIL image as the data address of a WebP."""
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=quality, method=4)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{text}"


class Plane(NamedTuple):
    """Features as points on a plane, by one method.

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

    Rows are normalised to length 1 first: kNN and the loss compare directions.

    Args:
      rows: float [n, F], n at least 2.

    Returns:
      list of Plane; the same rows give the same planes.

    Raises:
      ValueError: for features that are not finite, or all equal.
    """
    rows = np.asarray(rows, np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(
            "The features are not finite: the encoder has diverged, or its "
            "checkpoint is damaged. Give an earlier --checkpoint."
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
        planes = [] if len(rows) < _MIN_POINTS else [_tsne(components)]
    first, second = 100 * pca.explained_variance_ratio_[:2]
    planes.append(
        Plane(
            "pca",
            "PCA",
            _fit(components[:, :2]),
            "PCA: the two directions in which the features differ most. They "
            f"hold {first:.1f} % and {second:.1f} % of the variance; "
            "distances are true as far as these two show them.",
        )
    )
    return planes


def _tsne(components):
    """The plane of t-SNE, from principal components."""
    perplexity = min(_PERPLEXITY, (len(components) - 1) / 3)
    tsne = manifold.TSNE(
        perplexity=perplexity, init="pca", random_state=0, method="barnes_hut"
    )
    return Plane(
        "tsne",
        "t-SNE",
        _fit(tsne.fit_transform(components), keep_aspect=False),
        "t-SNE: neighbours stay neighbours; distances between groups and "
        f"their sizes mean nothing. Perplexity {perplexity:.3g}.",
    )


def _fit(points, keep_aspect=True):
    """Shifts and scales points into the plane."""
    low, high = points.min(axis=0), points.max(axis=0)
    reach = np.maximum(high - low, 1e-12)
    scale = (SIDE - 2 * _MARGIN) / (reach.max() if keep_aspect else reach)
    centred = (points - (low + high) / 2) * scale * [1, -1]
    return np.round(centred + SIDE / 2, 1)
