"""The images of a report and of TensorBoard.

They are the views that training takes of its images, and a test set with its
features and nearest neighbours. Reading a workdir changes nothing in it, but
that features are stored where the folder can be written.
"""

import contextlib
import os
import pathlib
import tempfile
from concurrent import futures
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf import cores, plan
from moco_tf.data import sources, specs, unreadable, views
from moco_tf.evaluation import embeddings, features, frozen, neighbours

# What data that has gone, or an encoder that does not fit, ends in: a picture
# is never worth a run or a report.
FAILURES = (ValueError, OSError, tf.errors.OpError)

LAYER = "backbone"  # whose features are shown
_MOVED = (
    "Or, where the images have moved, give the run's `pretrain` command once "
    "with the new place (--config.data.source=SPEC, --config.knn.query=SPEC): "
    "it is noted, and a finished run trains no more."
)
_BATCH = 64  # images that are encoded at once


class Pair(NamedTuple):
    """An image and the two views of it; of two files the first."""

    name: str
    image: np.ndarray  # uint8 [H, W, 3]
    query: np.ndarray  # uint8 [S, S, 3]
    key: np.ndarray  # uint8 [S, S, 3]


def open_source(run, spec):
    """Opens a source of a run, also from another folder than it ran in.

    Args:
      run: page.ReportedRun. spec: of the source.

    Raises:
      ValueError: if it cannot be opened.
    """
    if run.starts and not specs.exists(spec):
        directory = run.starts[-1].get("directory", "")
        there = specs.absolute(spec, directory)
        spec = there if specs.exists(there) else spec
    try:
        return plan.open_source(run.config, spec)
    except ValueError as error:
        if specs.exists(spec):
            raise
        raise ValueError(f"{error} {_MOVED}") from error


def pairs(config, source, count=8, step=0):
    """The first samples of a step, as training sees them.

    Args:
      config: ConfigDict of a run. source: Source that it trains on.
      count: int, images at most. step: int.

    Returns:
      list of Pair; an image that cannot be read is left out.

    Raises:
      ValueError: if the source is smaller than a batch.
    """
    stream = plan.make_stream(config, source)
    recipe = views.recipe(config.data.views, config.data.strength)
    positions = stream.positions(step)
    indices = stream.samples(positions).numpy()
    result: list = []
    for position, index in zip(positions.numpy(), indices, strict=True):
        if len(result) == count:
            break
        image, _ = unreadable.read(source, index)
        if image is None:
            continue
        # The stream's own seeds: 2 p for the query, 2 p + 1 for the key.
        query, key = (
            augment(
                image,
                config.data.image_size,
                tf.constant([config.seed, 2 * position + view], tf.int64),
            ).numpy()
            for view, augment in enumerate(recipe.both)
        )
        first = [x[..., :3] for x in (image.numpy(), query, key)]
        result.append(Pair(source.name(int(index)), *first))
    return result


def grid(pictures, columns, rows, side, gap=0, background="white"):
    """Pastes square pictures into one, row after row.

    Args:
      pictures: list of PIL images of side x side pixels; None leaves a cell
        empty.
      columns, rows, side: ints. gap: int, pixels around all pictures.
      background: name of a colour.

    Returns:
      PIL image.
    """
    step = side + gap
    size = (columns * step + gap, rows * step + gap)
    canvas = Image.new("RGB", size, background)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        if picture is not None:
            canvas.paste(picture, (column * step + gap, row * step + gap))
    return canvas


class EvaluationViews:
    """The views of a source's images that an encoder has in inference.

    One trace serves all calls. A tf.data pipeline would optimise its functions
    anew for each, which takes half a second.
    """

    def __init__(self, source, recipe, size):
        """Reads nothing yet.

        Args:
          source: Source. recipe: views.Recipe. size: int, pixels.
        """
        self._source, self._recipe, self._size = source, recipe, size
        index = tf.TensorSpec([], tf.int64)
        self._view = tf.function(self._view_of, [index], autograph=False)

    def __call__(self, indices):
        """Views of images.

        Args:
          indices: int64 [n], of images in the source.

        Returns:
          dict index -> uint8 [size, size, 3] (of two files the first), without
          those that cannot be read.
        """
        indices = np.unique(indices)
        with futures.ThreadPoolExecutor(cores.count()) as pool:
            read = zip(indices, pool.map(self._read, indices), strict=True)
            return {int(index): x for index, x in read if x is not None}

    def _read(self, index):
        """The view of an image; None if it cannot be read."""
        try:
            return self._view(tf.constant(index)).numpy()[..., :3]
        except unreadable.FAILURES:
            return None

    def _view_of(self, index):
        image = unreadable.image_at(self._source, index)
        return self._recipe.evaluate(image, self._size)


class Encoded(NamedTuple):
    """Images of a test set with their features.

    Attributes:
      source: Source. spec: of it. total: images in the source.
      images: list of uint8 [S, S, 3], the evaluation views.
      shown: embeddings.Embeddings of the same images.
      bank: Embeddings in which neighbours are looked for, these or more.
      encoder: whose features they are. views: of any images of the source.
    """

    source: object
    spec: str
    total: int
    images: list
    shown: embeddings.Embeddings
    bank: embeddings.Embeddings
    encoder: frozen.FrozenEncoder
    views: EvaluationViews


def encode(run, checkpoint, max_images, is_single=True):
    """Encodes the test set, or evenly spaced images of it.

    Features that another command has stored are used; then neighbours are
    looked for in the complete set.

    Args:
      run: page.ReportedRun. checkpoint: "latest", "best", a step or a path.
      max_images: int, images to show.
      is_single: False where the report compares runs: neighbours are looked
        for among the shown images, which all runs have.

    Returns:
      Encoded.

    Raises:
      ValueError: without a checkpoint, or images.

    Side effects: features are stored in the workdir, if that can be written.
    """
    encoder = frozen.open_frozen(run.workdir, checkpoint)
    spec = run.config.knn.query or run.config.data.source
    source = open_source(run, spec)
    count = min(max_images, len(source))
    indices = sources.evenly_spaced(len(source), count)
    with _folder(run.workdir) as folder:
        stored = features.load_from_disk(encoder, source, folder)
        is_complete = stored is not None
        if not is_complete:
            part = sources.Subset(source, indices)
            stored = features.extract_to_disk(
                encoder, part, folder, min(_BATCH, count)
            )
            stored = stored._replace(index=part.indices[stored.index])
        rows = np.flatnonzero(np.isin(stored.index, indices))
        view = EvaluationViews(source, encoder.recipe, encoder.image_size)
        images = view(stored.index[rows])
        # One that was readable when it was encoded may have gone since.
        rows = [row for row in rows if int(stored.index[row]) in images]
        shown = _embeddings(encoder, source, stored, np.array(rows, np.int64))
        bank = shown
        if is_complete and is_single:
            # It stays on disk, in the workdir; it may be large.
            bank = _embeddings(encoder, source, stored)
    return Encoded(
        source=source,
        spec=spec,
        total=len(source),
        images=[images[int(index)] for index in shown.index],
        shown=shown,
        bank=bank,
        encoder=encoder,
        views=view,
    )


def find_neighbours(test, queries=8, k=8):
    """Queries of as many classes as can be, and their nearest images.

    Args:
      test: Encoded. queries, k: int, both at most.

    Returns:
      neighbours.Neighbours; its `index` are rows of `test.bank`. None for a
      single image.
    """
    k = min(k, len(test.bank.index) - 1)
    if k < 1:
        return None
    labels = test.shown.labels
    if labels is not None:
        # The first of each class, then the second of each, …
        order = np.argsort(labels, kind="stable")
        _, start = np.unique(labels[order], return_index=True)
        rank = np.arange(len(order)) - np.repeat(
            start, np.diff([*start, len(order)])
        )
        rows = order[np.lexsort((labels[order], rank))][:queries]
    else:
        rows = sources.evenly_spaced(len(test.shown.index), queries)
    return neighbours.search(test.bank, test.shown, k, LAYER, rows)


def _embeddings(encoder, source, stored, rows=None):
    """Stored features, or some rows of them, as Embeddings."""
    values, index = stored.rows[LAYER], stored.index
    if rows is not None:
        # A copy, which may outlive the folder of features.
        values, index = np.array(values[rows]), index[rows]
    return embeddings.Embeddings(
        rows={LAYER: values},
        index=index,
        names=_Names(source, index),
        labels=features.labels_of(source, index),
        class_names=source.class_names,
        about={
            "fingerprint": source.fingerprint(),
            "encoder": encoder.identity,
        },
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
    """The folder of stored features; a temporary one if it is read-only."""
    path = pathlib.Path(workdir) / "features"
    existing = path if path.is_dir() else path.parent
    if os.access(existing, os.W_OK):
        return contextlib.nullcontext(path)
    return tempfile.TemporaryDirectory()
