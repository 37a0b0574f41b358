"""The momentum update by hand arithmetic."""

import numpy as np
import tensorflow as tf

from moco_tf.methods import momentum


def _layer(weight, statistic):
    layer = tf.keras.layers.Layer()
    layer.add_weight("w", (), initializer=tf.constant_initializer(weight))
    layer.add_weight(
        "s",
        (),
        initializer=tf.constant_initializer(statistic),
        trainable=False,
    )
    return layer


def test_key_weights_move_by_one_minus_momentum_towards_the_query():
    key, query = _layer(1.0, 5.0), _layer(3.0, 7.0)
    momentum.update_momentum(key, query, 0.75)
    np.testing.assert_allclose(key.weights[0], 0.75 * 1.0 + 0.25 * 3.0)


def test_statistics_and_the_query_stay():
    key, query = _layer(1.0, 5.0), _layer(3.0, 7.0)
    momentum.update_momentum(key, query, 0.5)
    np.testing.assert_allclose(key.weights[1], 5.0)
    np.testing.assert_allclose(query.weights[0], 3.0)


def test_a_momentum_of_one_keeps_the_key_and_zero_copies_the_query():
    for rate, expected in ((1.0, 1.0), (0.0, 3.0)):
        key, query = _layer(1.0, 0.0), _layer(3.0, 0.0)
        momentum.update_momentum(key, query, rate)
        np.testing.assert_allclose(key.weights[0], expected)
