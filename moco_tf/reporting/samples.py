"""The images of a report: what the encoder saw, and what it makes of them."""

import os
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import assembly
from moco_tf.data import sources, views
from moco_tf.evaluation import (
    embedding_files,
    feature_store,
    features,
    frozen,
    neighbours,
)

LAYER = "backbone"
_BATCH = 64  # images at once where few are asked for


class TestSet(NamedTuple):
    """Images of the test set with their features.

    Attributes:
      spec: of the source. total: images in the source.
      images: list of uint8 [S, S, 3], the evaluation views.
      held: embedding_files.Embeddings of the same images.
      bank: Embeddings in which neighbours are looked for, these or more.
      checkpoint: path of it, text.
    """

    __test__ = False  # pytest takes the name for one of its own

    spec: str
    total: int
    images: list
    held: embedding_files.Embeddings
    bank: embedding_files.Embeddings
    checkpoint: str


class Pair(NamedTuple):
    """An image and the two views of it that training compares."""

    name: str
    whole: np.ndarray  # uint8 [H, W, 3]
    query: np.ndarray  # uint8 [S, S, 3]
    key: np.ndarray  # uint8 [S, S, 3]


def open_source(run, spec):
    """Opens a source of a run, also from another folder than it ran in.

    Args:
      run: runs.Run. spec: of the source.

    Raises:
      ValueError: if it cannot be opened.
    """
    kind, _, rest = spec.partition(":")
    if run.starts and sources.absolute(spec) != spec:
        rest = os.path.expanduser(rest)
        then = os.path.join(run.starts[-1].get("directory", ""), rest)
        if not os.path.exists(rest) and os.path.exists(then):
            spec = f"{kind}:{then}"
    return sources.open_source(spec)


def pairs(run, source, count=8):
    """The first samples of the first step, as training sees them.

    Args:
      run: runs.Run. source: that it trains on. count: int, images at most.

    Returns:
      list of Pair; an image that cannot be read is left out.

    Raises:
      ValueError: if the source is smaller than a batch.
    """
    config = run.config
    stream = assembly.make_stream(config, source)
    recipe = views.RECIPES[config.data.views]
    positions = stream.positions(0)
    indices = stream.samples(positions).numpy()
    found = []
    for position, index in zip(positions.numpy(), indices, strict=True):
        if len(found) == count:
            break
        try:
            image = _read(source, index)
        except tf.errors.OpError:
            continue
        # The stream's own seeds: 2 p for the query, 2 p + 1 for the key.
        query, key = (
            recipe.augment(
                image,
                config.data.image_size,
                tf.constant([config.seed, 2 * position + view], tf.int64),
            ).numpy()
            for view in (0, 1)
        )
        found.append(Pair(source.name(int(index)), image.numpy(), query, key))
    return found


def test_set(run, checkpoint, most):
    """Encodes the test set, or evenly spaced images of it.

    Features that another command has stored are used; then neighbours are
    looked for in the whole set.

    Args:
      run: runs.Run. checkpoint: "latest", "best", a step or a path.
      most: int, images to show.

    Returns:
      TestSet.

    Raises:
      ValueError: without a checkpoint, or images.

    Side effects: features are stored in the workdir, if that can be written.
    """
    judged = frozen.open_frozen(run.workdir, checkpoint)
    spec = run.config.knn.query or run.config.data.source
    source = open_source(run, spec)
    count = min(most, len(source))
    places = np.linspace(0, len(source) - 1, count).astype(np.int64)
    with _folder(run.workdir) as folder:
        whole = feature_store.find(judged, source, folder)
        part = sources.Subset(source, places)
        if whole:
            stored = whole
        else:
            stored = feature_store.extract(
                judged, part, folder, min(_BATCH, count)
            )
            stored = stored._replace(index=part.indices[stored.index])
        rows = np.flatnonzero(np.isin(stored.index, places))
        images = _evaluated(judged, source, stored.index[rows])
        # One that was readable when it was encoded may have gone since.
        rows = [row for row in rows if int(stored.index[row]) in images]
        bank = _embeddings(judged, source, stored)
        held = _embeddings(judged, source, stored, np.array(rows, np.int64))
    return TestSet(
        spec,
        len(source),
        [images[int(index)] for index in held.index],
        held,
        bank,
        judged.title,
    )


def find_neighbours(test, queries=8, k=8):
    """Queries of as many classes as can be, and their nearest images.

    Args:
      test: TestSet. queries, k: int, at most so many.

    Returns:
      neighbours.Found; its `index` are rows of `test.bank`. None for a single
      image.
    """
    k = min(k, len(test.bank.index) - 1)
    if k < 1:
        return None
    labels = test.held.labels
    spread = np.arange(len(test.held.index))
    if labels is not None:
        # The first of each class, then the second of each, …
        order = np.argsort(labels, kind="stable")
        _, start = np.unique(labels[order], return_index=True)
        rank = np.arange(len(order)) - np.repeat(
            start, np.diff([*start, len(order)])
        )
        spread = order[np.lexsort((labels[order], rank))][:queries]
    else:
        spread = spread[
            np.linspace(0, len(spread) - 1, min(queries, len(spread))).astype(
                int
            )
        ]
    return neighbours.search(test.bank, test.held, k, LAYER, spread)


def images_of(run, test, indices):
    """Evaluation views by place in the source, dict int -> uint8 [S, S, 3]."""
    source = open_source(run, test.spec)
    config = run.config
    return _views(
        source,
        views.RECIPES[config.data.views],
        config.data.image_size,
        indices,
    )


def _evaluated(judged, source, indices):
    return _views(source, judged.recipe, judged.image_size, indices)


def _views(source, recipe, size, indices):
    part = sources.Subset(source, np.unique(indices))
    found = {}
    for batch, places in features.evaluation_batches(part, recipe, size, _BATCH):
        for image, place in zip(batch.numpy(), places.numpy(), strict=True):
            found[int(part.indices[place])] = image
    return found


def _embeddings(judged, source, stored, rows=None):
    """Stored features as the search for neighbours takes them."""
    rows = np.arange(len(stored.index)) if rows is None else rows
    index = stored.index[rows]
    return embedding_files.Embeddings(
        # A copy: the folder may go, and files of features are large.
        {LAYER: np.array(stored.rows[LAYER][rows])},
        index,
        _Names(source, index),
        features.labels_of(source, index),
        source.class_names,
        {"fingerprint": source.fingerprint(), "encoder": judged.identity},
    )


class _Names:
    """Names of images by row, asked for one by one: a set may be large."""

    def __init__(self, source, index):
        self._source, self._index = source, index

    def __len__(self):
        return len(self._index)

    def __getitem__(self, row):
        return self._source.name(int(self._index[row]))


def _read(source, index):
    """One whole image, uint8 [H, W, 3] tensor."""
    records = source.records(tf.constant([index], tf.int64))
    return source.image(tf.nest.map_structure(lambda rows: rows[0], records))


def _folder(workdir):
    """The folder of stored features, or one that goes when it is left."""
    path = pathlib.Path(workdir) / "features"
    place = path if path.is_dir() else path.parent
    if os.access(place, os.W_OK):
        return _Kept(path)
    return tempfile.TemporaryDirectory()


class _Kept:
    """A folder that stays."""

    def __init__(self, path):
        self._path = path

    def __enter__(self):
        return self._path

    def __exit__(self, *error):
        return None
