"""The test set of a report: images, features, neighbours."""

import contextlib
import os
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np

from moco_tf.data import sources
from moco_tf.evaluation import (
    embedding_files,
    feature_store,
    features,
    frozen,
    neighbours,
)
from moco_tf.reporting import samples

LAYER = "backbone"
_BATCH = 64  # images at once


class Encoded(NamedTuple):
    """Images of a test set with their features.

    Attributes:
      source: Source. spec: of it. total: images in the source.
      images: list of uint8 [S, S, 3], the evaluation views.
      held: embedding_files.Embeddings of the same images.
      bank: Embeddings in which neighbours are looked for, these or more.
      judged: the encoder. views: of any images of the source.
    """

    source: object
    spec: str
    total: int
    images: list
    held: embedding_files.Embeddings
    bank: embedding_files.Embeddings
    judged: frozen.Frozen
    views: samples.EvaluationViews


def encode(run, checkpoint, most, alone=True):
    """Encodes the test set, or evenly spaced images of it.

    Features that another command has stored are used; then neighbours are
    looked for in the whole set.

    Args:
      run: runs.Run. checkpoint: "latest", "best", a step or a path.
      most: int, images to show.
      alone: False where other runs stand beside: neighbours are looked for
        among the images shown, which all of them have.

    Returns:
      Encoded.

    Raises:
      ValueError: without a checkpoint, or images.

    Side effects: features are stored in the workdir, if that can be written.
    """
    judged = frozen.open_frozen(run.workdir, checkpoint)
    spec = run.config.knn.query or run.config.data.source
    source = samples.open_source(run, spec)
    count = min(most, len(source))
    places = sources.spread(len(source), count)
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
        views = samples.EvaluationViews(
            source, judged.recipe, judged.image_size
        )
        images = views(stored.index[rows])
        # One that was readable when it was encoded may have gone since.
        rows = [row for row in rows if int(stored.index[row]) in images]
        held = _embeddings(judged, source, stored, np.array(rows, np.int64))
        # A whole set stays on disk, in the workdir; it may be large.
        bank = _embeddings(judged, source, stored) if whole and alone else held
    return Encoded(
        source,
        spec,
        len(source),
        [images[int(index)] for index in held.index],
        held,
        bank,
        judged,
        views,
    )


def find_neighbours(test, queries=8, k=8):
    """Queries of as many classes as can be, and their nearest images.

    Args:
      test: Encoded. queries, k: int, at most so many.

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
        spread = sources.spread(len(spread), queries)
    return neighbours.search(test.bank, test.held, k, LAYER, spread)


def _embeddings(judged, source, stored, rows=None):
    """Stored features as the search for neighbours takes them."""
    held, index = stored.rows[LAYER], stored.index
    if rows is not None:
        # A copy, which may outlive the folder of features.
        held, index = np.array(held[rows]), index[rows]
    return embedding_files.Embeddings(
        {LAYER: held},
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


def _folder(workdir):
    """The folder of stored features, or one that goes when it is left."""
    path = pathlib.Path(workdir) / "features"
    place = path if path.is_dir() else path.parent
    if os.access(place, os.W_OK):
        return contextlib.nullcontext(path)
    return tempfile.TemporaryDirectory()
