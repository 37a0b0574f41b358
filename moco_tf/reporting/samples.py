"""The test set of a report: images, features, neighbours."""

import contextlib
import os
import pathlib
import tempfile
from concurrent import futures
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf import plan
from moco_tf.data import sources, unreadable, views
from moco_tf.evaluation import embeddings, features, frozen, neighbours


class Pair(NamedTuple):
    """An image and the two views of it; of two files the first."""

    name: str
    whole: np.ndarray  # uint8 [H, W, 3]
    query: np.ndarray  # uint8 [S, S, 3]
    key: np.ndarray  # uint8 [S, S, 3]


def open_source(run, spec):
    """Opens a source of a run, also from another folder than it ran in.

    Args:
      run: page.Run. spec: of the source.

    Raises:
      ValueError: if it cannot be opened.
    """
    kind, _, rest = spec.partition(":")
    if run.starts and sources.absolute(spec) != spec:
        directory = run.starts[-1].get("directory", "")
        paths = rest.split(",") if kind == "pairs" else [rest]
        paths = [_found(os.path.expanduser(x), directory) for x in paths]
        spec = f"{kind}:{','.join(paths)}"
    return plan.open_source(run.config, spec)


def _found(path, directory):
    """A path, or the same from another directory, if it is only there."""
    then = os.path.join(directory, path)
    return then if os.path.exists(then) and not os.path.exists(path) else path


def pairs(config, source, count=8, step=0):
    """The first samples of a step, as training sees them.

    Args:
      config: ConfigDict of a run. source: that it trains on.
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
    found: list = []
    for position, index in zip(positions.numpy(), indices, strict=True):
        if len(found) == count:
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
        shown = [x[..., :3] for x in (image.numpy(), query, key)]
        found.append(Pair(source.name(int(index)), *shown))
    return found


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
    """What an encoder sees of some images, in inference, as often as wanted.

    One trace serves all calls. A tf.data pipeline would optimise its functions
    anew for each, which takes half a second.
    """

    def __init__(self, source, recipe, size):
        """Reads nothing yet.

        Args:
          source: Source. recipe: views.Recipe. size: int, pixels.
        """
        self._source, self._recipe, self._size = source, recipe, size
        place = tf.TensorSpec([], tf.int64)
        self._view = tf.function(self._view_of, [place], autograph=False)

    def __call__(self, places):
        """Views of images.

        Args:
          places: int64 [n], in the source.

        Returns:
          dict place -> uint8 [size, size, 3] (of two files the first), without
          those that cannot be read.
        """
        places = np.unique(places)
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            found = zip(places, pool.map(self._read, places), strict=True)
            return {int(place): x for place, x in found if x is not None}

    def _read(self, place):
        try:
            return self._view(tf.constant(place)).numpy()[..., :3]
        except unreadable.FAILURES:
            return None

    def _view_of(self, place):
        image = unreadable.image_at(self._source, place)
        return self._recipe.evaluate(image, self._size)


LAYER = "backbone"
_BATCH = 64  # images at once


class Encoded(NamedTuple):
    """Images of a test set with their features.

    Attributes:
      source: Source. spec: of it. total: images in the source.
      images: list of uint8 [S, S, 3], the evaluation views.
      held: embeddings.Embeddings of the same images.
      bank: Embeddings in which neighbours are looked for, these or more.
      judged: the encoder. views: of any images of the source.
    """

    source: object
    spec: str
    total: int
    images: list
    held: embeddings.Embeddings
    bank: embeddings.Embeddings
    judged: frozen.FrozenEncoder
    views: EvaluationViews


def encode(run, checkpoint, most, alone=True):
    """Encodes the test set, or evenly spaced images of it.

    Features that another command has stored are used; then neighbours are
    looked for in the whole set.

    Args:
      run: page.Run. checkpoint: "latest", "best", a step or a path.
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
    source = open_source(run, spec)
    count = min(most, len(source))
    places = sources.evenly_spaced(len(source), count)
    with _folder(run.workdir) as folder:
        whole = features.load_from_disk(judged, source, folder)
        part = sources.Subset(source, places)
        if whole:
            stored = whole
        else:
            stored = features.extract_to_disk(
                judged, part, folder, min(_BATCH, count)
            )
            stored = stored._replace(index=part.indices[stored.index])
        rows = np.flatnonzero(np.isin(stored.index, places))
        views = EvaluationViews(source, judged.recipe, judged.image_size)
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
      neighbours.Neighbours; its `index` are rows of `test.bank`. None for a
      single image.
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
        spread = sources.evenly_spaced(len(spread), queries)
    return neighbours.search(test.bank, test.held, k, LAYER, spread)


def _embeddings(judged, source, stored, rows=None):
    """Stored features as the search for neighbours takes them."""
    held, index = stored.rows[LAYER], stored.index
    if rows is not None:
        # A copy, which may outlive the folder of features.
        held, index = np.array(held[rows]), index[rows]
    return embeddings.Embeddings(
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
