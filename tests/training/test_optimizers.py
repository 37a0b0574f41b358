"""SGD and LARS as published, by hand arithmetic and by a NumPy loop."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import encoder, heads
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


class _Rates(tf.keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return tf.gather(tf.constant([0.5, 0.1, 2.0]), step)


def test_decay_goes_through_the_velocity():
    weight = tf.Variable(1.0)
    optimizer = optimizers.MomentumSGD(0.5, momentum=0.9, weight_decay=0.1)
    optimizer.apply_gradients([(tf.constant(0.0), weight)])
    np.testing.assert_allclose(weight, 1 - 0.5 * 0.1)  # v = 0.1
    optimizer.apply_gradients([(tf.constant(0.0), weight)])
    # v = 0.9 * 0.1 + 0.1 * 0.95
    np.testing.assert_allclose(weight, 0.95 - 0.5 * 0.185, rtol=1e-6)


def test_the_velocity_does_not_contain_the_rate():
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((3, 2)).astype(np.float32)
    weight = tf.Variable(expected)
    optimizer = optimizers.MomentumSGD(_Rates(), 0.9, 0.01)
    velocity = np.zeros((3, 2))
    for rate in (0.5, 0.1, 2.0):
        gradient = rng.standard_normal((3, 2)).astype(np.float32)
        velocity = 0.9 * velocity + gradient + 0.01 * expected
        expected = expected - rate * velocity
        optimizer.apply_gradients([(tf.constant(gradient), weight)])
        np.testing.assert_allclose(weight, expected, rtol=1e-5)


def test_the_velocity_of_lars_contains_the_rate():
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, 2, 4)).astype(np.float32)
    weight = tf.Variable(kernel)
    optimizer = optimizers.LARS(_Rates(), 0.9, 0.01)
    velocity = np.zeros(kernel.shape)
    for rate in (0.5, 0.1, 2.0):
        gradient = rng.standard_normal(kernel.shape).astype(np.float32)
        slope = gradient + 0.01 * kernel
        # One ratio for the whole kernel, of the norms over all its axes.
        ratio = 0.001 * np.sqrt(np.sum(kernel**2) / np.sum(slope**2))
        velocity = 0.9 * velocity + rate * ratio * slope
        kernel = kernel - velocity
        optimizer.apply_gradients([(tf.constant(gradient), weight)])
        np.testing.assert_allclose(weight, kernel, rtol=1e-6, atol=1e-6)


def test_lars_leaves_batch_norm_and_biases_alone():
    layers = tf.keras.layers
    backbone = encoder.build_backbone("resnet18", width=0.125, stem="cifar")
    dense = layers.Dense(3)
    dense.build([None, 64])
    head = heads.projection_head("byol", 64, 4)
    weights = [
        *backbone.trainable_variables,
        *head.trainable_variables,
        *dense.trainable_variables,
    ]
    before = [weight.numpy() for weight in weights]
    # Where the gradient is 0, only decay moves a weight.
    optimizers.LARS(0.5, weight_decay=0.1).apply_gradients(
        [(tf.zeros_like(weight), weight) for weight in weights]
    )
    moved = {
        weight.name
        for weight, value in zip(weights, before, strict=True)
        if np.any(weight.numpy() != value)
    }
    kernels = {w.name for w in weights if "kernel" in w.name}
    assert len(kernels) < len({w.name for w in weights})
    assert moved == kernels


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_it_is_made_from_its_config(name):
    made = optimizers.make_optimizer(name, 0.25, 0.8, 0.01)
    again = type(made).from_config(made.get_config())
    assert (again.momentum, again.coupled_decay) == (0.8, 0.01)
    assert float(again.learning_rate) == 0.25


def test_a_variable_may_have_a_larger_rate():
    slow, fast = tf.Variable(1.0), tf.Variable(1.0)
    optimizer = optimizers.MomentumSGD(
        0.5, momentum=0.9, weight_decay=0.1, rate_factors=[(fast, 3.0)]
    )
    zero = tf.constant(0.0)
    for _ in range(2):
        optimizer.apply_gradients([(zero, slow), (zero, fast)])
    # v = 0.1, then 0.9 * 0.1 + 0.1 * w: the decay is not multiplied twice.
    np.testing.assert_allclose(slow, 0.95 - 0.5 * 0.185, rtol=1e-6)
    np.testing.assert_allclose(fast, 0.85 - 1.5 * 0.175, rtol=1e-6)


def test_an_unknown_name_is_refused():
    names = "'sgd', 'lars', 'lamb', 'sgdw' or 'adam'"
    with pytest.raises(ValueError, match=f"{names}.*rmsprop"):
        optimizers.make_optimizer("rmsprop", 0.1, 0.9, 0.0)


@pytest.mark.parametrize("name", ["sgd", "lars", "lamb", "sgdw", "adam"])
def test_each_optimiser_lowers_a_quadratic(name):
    weight = tf.Variable([3.0, -2.0])
    optimizer = optimizers.make_optimizer(name, 0.05, 0.9, 1e-4)
    before = float(tf.reduce_sum(weight**2))
    for _ in range(20):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weight**2)
        optimizer.minimize(loss, [weight], tape=tape)
    assert float(tf.reduce_sum(weight**2)) < 0.5 * before
