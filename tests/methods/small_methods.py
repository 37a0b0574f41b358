"""Linear encoders, batches and steps for tests of methods against NumPy."""

import numpy as np
import tensorflow as tf

from moco_tf.training import optimizers

BATCH = 4
RATE, DECAY = 0.1, 0.01


def backbone():
    """A linear backbone for 8 x 8 images."""
    layers = tf.keras.layers
    images = tf.keras.Input([8, 8, 3])
    features = layers.Dense(6)(layers.Flatten()(images))
    return tf.keras.Model(images, features)


def compiled(method, rate=RATE, decay=DECAY):
    """The method with the published optimiser."""
    method.compile(optimizers.MomentumSGD(rate, 0.9, decay))
    return method


def batches(count, dtype=np.float32, index_step=100, small=0):
    """Batches of related views in slot order, each with other samples.

    With `small`, so many small views: as large, for the backbone's sake.
    """
    rng = np.random.default_rng(0)
    shape = [BATCH, 8, 8, 3]
    for number in range(count):
        query = rng.standard_normal(shape)
        key = query + 0.5 * rng.standard_normal(shape)
        if dtype == np.uint8:
            query, key = (np.clip(60 * x + 128, 0, 255) for x in (query, key))
        more = {}
        if small:
            noise = rng.standard_normal([BATCH, small, *shape[1:]])
            views = query[:, np.newaxis] + noise
            more["small"] = views.astype(dtype)
        yield more | {
            "query": query.astype(dtype),
            "key": key.astype(dtype),
            "index": index_step * number + np.arange(BATCH),
            "order": rng.permutation(BATCH),
            "valid": np.array([True, True, True, number != 1]),
        }


def deal(batch):
    """The batch as a stream with shuffle_keys="address" gives it."""
    return batch | {"key": batch["key"][batch["order"]]}


def train(method, some_batches):
    """Steps through the compiled function; returns the logged columns."""
    some_batches = list(some_batches)
    stacked = {
        name: np.stack([batch[name] for batch in some_batches])
        for name in some_batches[0]
    }
    iterator = iter(tf.data.Dataset.from_tensor_slices(stacked))
    step = method.make_train_function()
    for _ in some_batches:
        step(iterator)
    return method.step_log.read(0, len(some_batches))


def values(variables):
    """Their values, a list of arrays."""
    return [variable.numpy() for variable in variables]


def descend(weights, velocities, gradients):
    """The published SGD on lists of arrays, in place."""
    for place, gradient in enumerate(gradients):
        velocity = 0.9 * velocities[place] + gradient + DECAY * weights[place]
        velocities[place] = velocity
        weights[place] = weights[place] - RATE * velocity
