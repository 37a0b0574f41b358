"""A linear classifier on stored features, for many learning rates at once.

The same optimisation as the published protocol (MoCo v1, Sec. 4.1): SGD with
momentum on raw features, a rate that drops at milestones, weights that start
from N(0, 0.01). All rates see the same batches, so their products are one.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

CHUNK = 65_536  # rows in memory at once: 512 MB of 2048 features
IN_MEMORY = 2**30  # bytes of features that are read once for all epochs


class Recipe(NamedTuple):
    """How a probe is trained."""

    rates: tuple  # of learning
    epochs: int
    milestones: tuple  # epochs at which the rate drops
    factor: float  # what each milestone multiplies the rate by
    momentum: float
    weight_decay: float  # coupled: gradient + weight_decay * weight
    batch_size: int
    seed: int


def initial_weights(features, classes, seed):
    """N(0, 0.01) weights and zero biases, float32 [F + 1, classes]."""
    weights = 0.01 * tf.random.stateless_normal(
        [features, classes], [seed, 0], alg="philox"
    )
    return tf.concat([weights, tf.zeros([1, classes])], axis=0)


def train(tables, labels, kept, classes, recipe):
    """Trains one linear classifier for each rate, in one pass.

    Args:
      tables: list of float32 [n, F] arrays, in memory or mapped from disk:
        features of one or more views of the same images.
      labels: int64 [n]. kept: bool [n], the images to train on.
      classes: int. recipe: Recipe.

    Returns:
      float32 [rates, F + 1, classes]: weights, and the bias as the last row.
    """
    size = tables[0].shape[1]
    batch = min(recipe.batch_size, int(kept.sum()))
    start = initial_weights(size, classes, recipe.seed)
    weights = tf.Variable(tf.tile(start[tf.newaxis], [len(recipe.rates), 1, 1]))
    velocity = tf.Variable(tf.zeros_like(weights))
    rates = np.array(recipe.rates, np.float32)
    steps = _make_steps(weights, velocity, recipe, batch)
    random = np.random.Generator(np.random.PCG64(recipe.seed))
    blocks = _blocks(tables, labels, kept)
    for epoch in range(recipe.epochs):
        drops = sum(epoch >= milestone for milestone in recipe.milestones)
        rate = tf.constant(rates * recipe.factor**drops)
        for place in random.permutation(len(blocks)):
            rows, block_labels = blocks[place]()
            count = len(rows) // batch * batch
            order = random.permutation(len(rows))[:count]
            steps(rows, block_labels, tf.constant(order, tf.int32), rate)
    return weights.numpy()


def _blocks(tables, labels, kept):
    """Functions that read the kept rows and labels of a block each.

    What fits in memory is one block and read once. Else blocks are read anew
    in every epoch, in random order, and shuffled within themselves. A block
    holds every n-th row: rows often come class by class, and steps on a few
    classes at a time are others than those of the published way.
    """

    def read(table, block):
        chosen = kept[block]
        return (
            tf.constant(np.asarray(table[block])[chosen]),
            tf.constant(labels[block][chosen]),
        )

    whole = slice(0, len(labels))
    if sum(table.nbytes for table in tables) <= IN_MEMORY:
        parts = [read(table, whole) for table in tables]
        rows, own = (tf.concat(x, axis=0) for x in zip(*parts, strict=True))
        return [lambda: (rows, own)]
    count = -(-len(labels) // CHUNK)
    return [
        functools.partial(read, table, slice(start, None, count))
        for table in tables
        for start in range(count)
        if kept[start::count].any()
    ]


def _make_steps(weights, velocity, recipe, batch):
    """A function that takes all steps of one block, in the graph."""
    classes = weights.shape[2]
    models = weights.shape[0]

    @tf.function(reduce_retracing=True)
    def steps(rows, labels, chosen, rates):
        rates = rates[:, tf.newaxis, tf.newaxis]
        for step in tf.range(tf.size(chosen) // batch):
            places = chosen[step * batch : (step + 1) * batch]
            x = tf.gather(rows, places)  # [b, F]
            x = tf.concat([x, tf.ones_like(x[:, :1])], axis=1)
            target = tf.one_hot(tf.gather(labels, places), classes)
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
            weights.assign_sub(rates * velocity)

    return steps


def scores(rows, weights):
    """Logits float32 [models, n, classes] of rows [n, F], in blocks."""
    found = []
    for first in range(0, len(rows), CHUNK):
        block = np.ascontiguousarray(rows[first : first + CHUNK])
        found.append(
            tf.einsum("nf,rfc->rnc", block, weights[:, :-1]) + weights[:, -1:]
        )
    return np.concatenate(found, axis=1)


def top1(rows, labels, chosen, weights):
    """Top-1 fraction of each model on the chosen images; 0 if it diverged.

    Args:
      rows: float32 [n, F]. labels: int64 [n]. chosen: bool [n].
      weights: float32 [models, F + 1, classes].

    Returns:
      list of floats in 0..1.
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
