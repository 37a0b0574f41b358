"""The images of a report, and the views that training takes of them."""

import os
from concurrent import futures
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import assembly
from moco_tf.data import sources, unreadable, views


class Pair(NamedTuple):
    """An image and the two views of it; of two files the first."""

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
        directory = run.starts[-1].get("directory", "")
        paths = rest.split(",") if kind == "pairs" else [rest]
        paths = [_found(os.path.expanduser(x), directory) for x in paths]
        spec = f"{kind}:{','.join(paths)}"
    return assembly.open_source(run.config, spec)


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
    stream = assembly.make_stream(config, source)
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
