"""LARS by hand: ratio, decay, velocity, and what is left alone."""

import numpy as np
import tensorflow as tf

from moco_tf.training import optimizers


def test_two_steps_by_hand():
    weight = tf.Variable([[3.0, 4.0]])
    bias = tf.Variable([2.0])
    optimizer = optimizers.LARS(0.5, momentum=0.9, weight_decay=0.1)
    optimizer.build([weight, bias])
    gradients = [tf.constant([[0.0, 0.6]]), tf.constant([1.0])]
    optimizer.apply_gradients(zip(gradients, [weight, bias], strict=True))
    # g = (0, 0.6) + 0.1 (3, 4) = (0.3, 1), |w| = 5, |g| = sqrt(1.09).
    velocity = 0.5 * 0.001 * 5 / np.sqrt(1.09) * np.array([0.3, 1.0])
    expected = np.array([3.0, 4.0]) - velocity
    np.testing.assert_allclose(weight[0], expected, rtol=1e-6)
    np.testing.assert_allclose(bias, [1.5], rtol=1e-6)  # no decay, ratio 1
    optimizer.apply_gradients(zip(gradients, [weight, bias], strict=True))
    slope = np.array([0.0, 0.6]) + 0.1 * expected
    ratio = 0.001 * np.linalg.norm(expected) / np.linalg.norm(slope)
    velocity = 0.9 * velocity + 0.5 * ratio * slope
    np.testing.assert_allclose(weight[0], expected - velocity, rtol=1e-6)
    np.testing.assert_allclose(bias, [1.5 - 0.95], rtol=1e-6)


def test_a_weight_of_zeros_leaves_zero():
    weight = tf.Variable([[0.0, 0.0]])
    optimizer = optimizers.LARS(0.5)
    optimizer.build([weight])
    optimizer.apply_gradients([(tf.constant([[1.0, 0.0]]), weight)])
    np.testing.assert_allclose(weight, [[-0.5, 0.0]])  # the ratio is 1
