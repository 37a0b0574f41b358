"""Linear classifiers on features that are there: many rates in one pass.

SGD with momentum on raw features, rates on one schedule, weights that start
from N(0, 0.01): the published optimisation (MoCo v1, Sec. 4.1) without its
crops. All rates see the same batches, so their matrix products are one.
Features are read in blocks, from memory or from the disk.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import counting
from moco_tf.evaluation import supervised

CHUNK = 65_536  # rows in memory at once: 512 MB of 2048 features
IN_MEMORY = 2**30  # bytes; no more are read once for all epochs


class Recipe(NamedTuple):
    """The hyper-parameters of the training on cached features."""

    rates: tuple  # learning rates, each of a classifier
    epochs: int
    schedule: Callable  # steps of an epoch -> factor of the rates, by the step
    momentum: float
    weight_decay: float  # coupled: gradient + weight_decay * weight
    batch_size: int
    seed: int


def hold_out(labels, kept, share, seed):
    """Chooses images by which one of several rates is chosen.

    Args:
      labels: int64 [n]. kept: bool [n], whether an image may be trained on.
      share: float, of the kept images of each class. seed: int.

    Returns:
      bool [n], none of them where no class has two kept images or more.
    """
    rows = np.flatnonzero(kept)
    _, chosen = supervised.split(labels[rows], share, seed)
    return np.isin(np.arange(len(labels)), rows[chosen])


def choose_and_train(tables, plain, labels, kept, held_out, classes, recipe):
    """Chooses a rate by held-out images, and trains with it on all kept ones.

    Args:
      tables, labels, kept, classes, recipe: as of `train_probe`.
      plain: float32 [n, F], on which the rates are compared.
      held_out: bool [n], of `hold_out`. With none the first rate is taken.

    Returns:
      weights float32 [1, F + 1, classes]; the rate; and the accuracy of each
      rate on the held-out images, [] without them.
    """
    rate, accuracies = recipe.rates[0], []
    if held_out.any():
        weights = train_probe(tables, labels, kept & ~held_out, classes, recipe)
        accuracies = top1(plain, labels, held_out, weights)
        rate = recipe.rates[int(np.argmax(accuracies))]
    # Held-out images served the choice alone: the chosen rate trains on all.
    recipe = recipe._replace(rates=(rate,))
    weights = train_probe(tables, labels, kept, classes, recipe)
    return weights, rate, accuracies


def initial_weights(features, classes, seed):
    """Draws N(0, 0.01) weights and zero biases, float32 [F + 1, classes]."""
    weights = 0.01 * tf.random.stateless_normal(
        [features, classes], [seed, 0], alg="philox"
    )
    return tf.concat([weights, tf.zeros([1, classes])], axis=0)


def train_probe(tables, labels, kept, classes, recipe):
    """Trains one linear classifier for each rate, in one pass.

    Args:
      tables: list of float32 [n, F] arrays, in memory or mapped from disk:
        features of one or more views of the same images.
      labels: int64 [n]. kept: bool [n], whether an image is trained on.
      classes: int. recipe: Recipe.

    Returns:
      float32 [rates, F + 1, classes]: weights, and last the bias.
    """
    batch = min(recipe.batch_size, int(kept.sum()))
    start = initial_weights(tables[0].shape[1], classes, recipe.seed)
    weights = tf.Variable(tf.tile(start[tf.newaxis], [len(recipe.rates), 1, 1]))
    velocity = tf.Variable(tf.zeros_like(weights))
    steps = _make_steps(weights, velocity, recipe, batch)
    random = np.random.Generator(np.random.PCG64(recipe.seed))
    blocks = _blocks(tables, labels, kept)
    counts = [block.rows // batch for block in blocks]
    schedule, step = recipe.schedule(sum(counts)), 0
    rates = np.float32(recipe.rates)
    with counting.counted(recipe.epochs, 0, "training", "epochs") as bar:
        for _ in range(recipe.epochs):
            for number in random.permutation(len(blocks)):
                rows, block_labels = blocks[number].read()
                order = random.permutation(len(rows))[: counts[number] * batch]
                order = tf.constant(order, tf.int32)
                factors = schedule(tf.range(step, step + counts[number]))
                steps(rows, block_labels, order, factors[:, tf.newaxis] * rates)
                step += counts[number]
            bar.add(1)
    return weights.numpy()


class _Block(NamedTuple):
    """Images to train on, so many that they fit in memory."""

    rows: int
    read: Callable  # () -> rows float32 [m, F], labels int64 [m]


def _blocks(tables, labels, kept):
    """Splits tables into blocks that fit in memory.

    Tables that fit are one block, read once. Larger ones are read block by
    block in every epoch. A block holds every n-th row: rows often come class
    by class, and steps on a few classes at a time are others than those of
    the published way.

    Args:
      tables, labels, kept: as `train_probe`.

    Returns:
      list of _Block.
    """

    def read(table, block):
        chosen = kept[block]
        return (
            tf.constant(np.asarray(table[block])[chosen]),
            tf.constant(labels[block][chosen]),
        )

    if sum(table.nbytes for table in tables) <= IN_MEMORY:
        read_all = [read(table, slice(0, len(labels))) for table in tables]
        rows, row_labels = (
            tf.concat(part, axis=0) for part in zip(*read_all, strict=True)
        )
        return [_Block(len(rows), lambda: (rows, row_labels))]
    count = -(-len(labels) // CHUNK)
    parts = [slice(start, None, count) for start in range(count)]
    return [
        _Block(int(kept[part].sum()), functools.partial(read, table, part))
        for table in tables
        for part in parts
        if kept[part].any()
    ]


def _make_steps(weights, velocity, recipe, batch):
    """Makes a function that takes all steps of one block, in the graph.

    Args:
      weights, velocity: variables float32 [rates, F + 1, classes].
      recipe: Recipe. batch: int, rows of a step.

    Returns:
      tf.function of rows float32 [n, F], labels int64 [n], the order of the
      rows int32 [steps * batch], and the rates float32 [steps, rates].
    """
    classes = weights.shape[2]
    models = weights.shape[0]

    @tf.function(reduce_retracing=True)
    def steps(rows, labels, order, rates):
        rates = rates[..., tf.newaxis, tf.newaxis]
        for step in tf.range(tf.size(order) // batch):
            chosen = order[step * batch : (step + 1) * batch]
            x = tf.gather(rows, chosen)  # [b, F]
            x = tf.concat([x, tf.ones_like(x[:, :1])], axis=1)
            target = tf.one_hot(tf.gather(labels, chosen), classes)
            # One product for all rates: [b, F + 1] x [F + 1, R * classes].
            flat = tf.reshape(
                tf.transpose(weights, [1, 0, 2]), [x.shape[1], -1]
            )
            logits = tf.reshape(x @ flat, [-1, models, classes])
            error = tf.nn.softmax(logits) - target[:, tf.newaxis]
            error = tf.reshape(error, [-1, models * classes])
            gradient = tf.matmul(x, error, transpose_a=True) / batch
            gradient = tf.reshape(gradient, [-1, models, classes])
            gradient = tf.transpose(gradient, [1, 0, 2])
            gradient += recipe.weight_decay * weights
            velocity.assign(recipe.momentum * velocity + gradient)
            weights.assign_sub(rates[step] * velocity)

    return steps


def scores(rows, weights):
    """Applies linear classifiers to features, block by block.

    Args:
      rows: float32 [n, F], in memory or mapped from the disk.
      weights: float32 [models, F + 1, classes].

    Returns:
      logits float32 [models, n, classes].
    """
    logits = []
    for first in range(0, len(rows), CHUNK):
        block = np.ascontiguousarray(rows[first : first + CHUNK])
        logits.append(
            tf.einsum("nf,rfc->rnc", block, weights[:, :-1]) + weights[:, -1:]
        )
    return np.concatenate(logits, axis=1)


@counting.timed("testing")
def top1(rows, labels, chosen, weights):
    """Measures the top-1 of each classifier on the chosen images.

    Args:
      rows: float32 [n, F]. labels: int64 [n]. chosen: bool [n].
      weights: float32 [models, F + 1, classes].

    Returns:
      list of floats in 0..1; 0 for a classifier that has diverged.
    """
    correct = np.zeros(len(weights), np.int64)
    for first in range(0, len(labels), CHUNK):
        block = slice(first, first + CHUNK)
        part = np.asarray(rows[block])[chosen[block]]
        if len(part):
            best = scores(part, weights).argmax(axis=2)
            correct += (best == labels[block][chosen[block]]).sum(axis=1)
    finite = np.isfinite(weights).all(axis=(1, 2))
    return (correct * finite / chosen.sum()).tolist()
