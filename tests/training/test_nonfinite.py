"""The step that is looked into is the one that was made."""

import numpy as np
import tensorflow as tf

from moco_tf.data import photometric
from moco_tf.methods import moco
from moco_tf.training import nonfinite
from tests.methods import small_methods

WHITE = np.full([4, 8, 8, 3], 255, np.uint8)


class OneBatch:
    """A stream of one batch."""

    def __init__(self, batch):
        self._batch = batch

    def distribute(self, strategy, step):
        assert step == 0
        return tf.data.Dataset.from_tensors(self._batch)


class Logarithm(tf.keras.layers.Layer):
    """No number for black."""

    def call(self, images):
        return tf.math.log(images)


class OfTwoRows(tf.keras.layers.Layer):
    """No number for four rows."""

    def call(self, images):
        rows = tf.cast(tf.shape(images)[0], tf.float32)
        return images / (4.0 - rows)


def _sentence(layer, more=None, **arguments):
    """What is said of a first step whose backbone begins with a layer."""
    images = tf.keras.Input([8, 8, 3])
    values = layer(name="suspect")(images)
    features = tf.keras.layers.Flatten()(values)
    method = moco.MoCo(
        tf.keras.Model(images, features),
        queue_size=8,
        head="fc",
        dim=3,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        **arguments,
    )
    batch = next(iter(small_methods.batches(1)))
    batch |= {"query": WHITE, "key": WHITE, **(more or {})}
    return nonfinite.find(
        small_methods.compiled(method),
        OneBatch(batch),
        tf.distribute.get_strategy(),
        None,
        1,
    )


def test_views_that_the_device_finishes_are_finished_first():
    steps = tf.tile([[0, photometric.NONE]], [4, 1])  # brightness alone
    steps = tf.pad(
        steps,
        [[0, 0], [0, photometric.STEPS - 2]],
        constant_values=photometric.NONE,
    )
    factors = tf.tile([[0.0, 1.0, 1.0, 0.0]], [4, 1])
    none = tf.zeros([4])
    rows = photometric.Distortion(steps, factors, none, none).to_row().numpy()
    names = ("query_distortion", "key_distortion")
    said = _sentence(Logarithm, dict.fromkeys(names, rows))
    # The crops are white, log(1); without brightness they become log(0).
    assert "the output of layer 'suspect' of the query" in said


def test_layers_see_the_micro_batches_of_the_step():
    assert "all layers were finite" in _sentence(OfTwoRows, micro_batches=2)
