"""Frozen features of a whole data set, in order."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from moco_tf.data import views


class Features(NamedTuple):
    """Features of the readable images of a source, in the source's order."""

    backbone: np.ndarray  # float32 [N, F]
    projection: np.ndarray | None  # float32 [N, C]; None for raw pixels
    labels: np.ndarray | None  # int64 [N]; None for a source without labels
    index: np.ndarray  # int64 [N], place in the source
    skipped: list[str]  # names of the images that could not be read


def evaluation_batches(source, recipe, image_size, batch_size, threads=0):
    """Yields the evaluation view of every image once, in order.

    An image that cannot be read is left out; its index is missing.

    Args:
      source: Source. recipe: views.Recipe; `recipe.evaluate` is applied.
      image_size: side of the views, pixels. batch_size: images per batch.
      threads: parallel decodes; 0 = as many as the machine has cores.

    Returns:
      tf.data.Dataset of (uint8 [n, S, S, 3], int64 [n] index), n equal to
      batch_size but for the last batch.
    """
    workers = threads or tf.data.AUTOTUNE

    def view(record, index):
        image = recipe.evaluate(source.image(record), image_size)
        return tf.ensure_shape(image, [image_size, image_size, 3]), index

    dataset = tf.data.Dataset.range(len(source)).batch(batch_size)
    dataset = dataset.map(lambda index: (source.records(index), index))
    dataset = dataset.unbatch()
    dataset = dataset.map(view, workers, deterministic=True)
    if source.may_fail:
        # Before the batch: one bad image takes no other with it.
        dataset = dataset.ignore_errors()
    return dataset.batch(batch_size).prefetch(2)


@tf.function
def _encode(encoder, images, mean, std):
    # At module level with the encoder as an argument: one trace per encoder
    # and batch shape serves every evaluation of a run.
    return encoder.features(views.normalize(images, mean, std))


def _missing_names(source, index, total):
    """Names the images that are not in `index`, and warns of them."""
    present = np.zeros(total, bool)
    present[index] = True
    skipped = [source.name(int(i)) for i in np.flatnonzero(~present)]
    if skipped:
        shown = ", ".join(skipped[:10]) + (", ..." if skipped[10:] else "")
        logging.warning(
            "%d of %d images cannot be read and are left out of the "
            "evaluation: %s",
            len(skipped),
            total,
            shown,
        )
    return skipped


def _collect(source, recipe, image_size, batch_size, encode):
    """Runs `encode` over all batches.

    Args:
      encode: uint8 [batch_size, S, S, 3] -> tuple of float32 [batch_size, F].

    Returns:
      list with one [N, F] array per output, index int64 [N], skipped names.
    """
    outputs, indices = [], []
    for images, index in evaluation_batches(
        source, recipe, image_size, batch_size
    ):
        rows = len(index)
        # One batch shape, one trace: the last batch is filled and cut.
        images = tf.pad(
            images, [[0, batch_size - rows], [0, 0], [0, 0], [0, 0]]
        )
        outputs.append([np.asarray(x)[:rows] for x in encode(images)])
        indices.append(index.numpy())
    if not outputs:
        raise ValueError(
            "An evaluation needs at least one image that can be read. "
            f"Received {len(source)} images, none readable"
            + (f", the first is {source.name(0)}." if len(source) else ".")
        )
    index = np.concatenate(indices)
    skipped = _missing_names(source, index, len(source))
    return (
        [np.concatenate(x) for x in zip(*outputs, strict=True)],
        index,
        skipped,
    )


def _labels_of(source, index):
    if source.labels is None:
        return None
    return np.asarray(source.labels, np.int64)[index]


def extract(encoder, source, recipe, image_size, batch_size):
    """Encodes every readable image of a source in inference mode.

    Args:
      encoder: encoder.Encoder. source: Source. recipe: views.Recipe.
      image_size: side of the images, pixels.
      batch_size: images per forward pass; does not change the result.

    Returns:
      Features. Images that cannot be read are in `skipped` by name, and a
      warning tells of them.

    Raises:
      ValueError: when no image can be read.
    """
    (backbone, projection), index, skipped = _collect(
        source,
        recipe,
        image_size,
        batch_size,
        lambda images: _encode(encoder, images, recipe.mean, recipe.std),
    )
    return Features(
        backbone, projection, _labels_of(source, index), index, skipped
    )


def raw_pixels(source, recipe, size, batch_size=256):
    """Takes the normalised pixels themselves as features, for comparison.

    Args:
      source: Source. recipe: views.Recipe.
      size: side of the evaluation view, pixels. An image takes 12 * size**2
        bytes: 32 suffices to compare and keeps 50,000 images under 700 MB.
      batch_size: images per batch; does not change the result.

    Returns:
      Features with `backbone` float32 [N, size * size * 3], no projection.

    Raises:
      ValueError: when no image can be read.
    """

    def flatten(images):
        images = views.normalize(images, recipe.mean, recipe.std)
        return (tf.reshape(images, [len(images), -1]),)

    (pixels,), index, skipped = _collect(
        source, recipe, size, batch_size, flatten
    )
    return Features(pixels, None, _labels_of(source, index), index, skipped)


def common_labels(bank_source, query_source):
    """Returns the query set's labels in the bank's numbering, and the count.

    Class folders are numbered by name, so a query set that lacks a class
    numbers the others differently; names, where both have them, decide.

    Returns:
      labels: int64 [len(query_source)]. classes: number of classes.

    Raises:
      ValueError: for a source without labels, or a class the bank lacks.
    """
    for name, source in (("bank", bank_source), ("query", query_source)):
        if source.labels is None:
            raise ValueError(
                f"kNN needs labels. The {name} has none: give a folder of "
                "class folders or a data set that has labels."
            )
    labels = np.asarray(query_source.labels, np.int64)
    known, asked = bank_source.class_names, query_source.class_names
    if known is not None and asked is not None:
        missing = sorted(set(asked) - set(known))
        if missing:
            raise ValueError(
                "kNN's bank must hold every class of the query set. Missing "
                f"in the bank: {', '.join(missing)}. Give a bank of the same "
                "classes."
            )
        number = {name: place for place, name in enumerate(known)}
        labels = np.array([number[name] for name in asked], np.int64)[labels]
        return labels, len(known)
    highest = max(np.max(bank_source.labels), np.max(labels))
    return labels, int(highest) + 1
