import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import batch_norm

EPSILON = 1e-5


def random(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (2.0 * rng.standard_normal(shape) + 1.0).astype(np.float32)


def oracle(x, gamma, beta):
    """Batch normalisation in float64, over all axes but the last."""
    x = x.astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    return gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta


def oracle_gradient(x, dy, gamma):
    """Gradients of `oracle` to x, gamma and beta (arXiv:1502.03167, sec. 3)."""
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    scale = 1 / np.sqrt(x.var(axes) + EPSILON)
    normal = (x - x.mean(axes)) * scale
    dgamma, dbeta = (dy * normal).sum(axes), dy.sum(axes)
    count = x.size // x.shape[-1]
    dx = gamma * scale * (dy - (normal * dgamma + dbeta) / count)
    return dx, dgamma, dbeta


def layer_with_parameters(channels, **arguments):
    layer = batch_norm.BatchNorm(**arguments)
    layer.build([None, None, None, channels])
    layer.gamma.assign(np.linspace(0.5, 1.5, channels))
    layer.beta.assign(np.linspace(-1.0, 1.0, channels))
    return layer


@pytest.mark.parametrize("splits", [1, 2, 4])
def test_each_group_is_normalised_by_its_own_statistics(splits):
    x = random([8, 3, 5, 4])
    layer = layer_with_parameters(4, splits=splits)
    expected = np.concatenate(
        [
            oracle(group, layer.gamma.numpy(), layer.beta.numpy())
            for group in np.split(x, splits)
        ]
    )
    np.testing.assert_allclose(layer(x, training=True), expected, atol=2e-5)


@pytest.mark.parametrize("splits", [1, 2])
def test_gradients_are_those_of_the_paper(splits):
    x, dy = random([4, 3, 3, 5]), random([4, 3, 3, 5], seed=1)
    layer = layer_with_parameters(5, splits=splits)
    images = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(images)
        y = layer(images, training=True)
    gradients = tape.gradient(
        y, [images, layer.gamma, layer.beta], output_gradients=dy
    )
    groups = [
        oracle_gradient(*pair, layer.gamma.numpy())
        for pair in zip(np.split(x, splits), np.split(dy, splits), strict=True)
    ]
    dx, dgamma, dbeta = zip(*groups, strict=True)
    np.testing.assert_allclose(gradients[0], np.concatenate(dx), atol=2e-5)
    np.testing.assert_allclose(gradients[1], sum(dgamma), rtol=1e-4)
    np.testing.assert_allclose(gradients[2], sum(dbeta), rtol=1e-4)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_moving_statistics_follow_the_mean_unbiased_ones(splits, dtype):
    x = tf.cast(random([8, 3, 5, 4]), dtype)
    layer = batch_norm.BatchNorm(
        splits,
        momentum=0.75,
        dtype=dtype if dtype == "float32" else f"mixed_{dtype}",
    )
    layer(x, training=True)
    layer(x, training=True)
    groups = np.split(tf.cast(x, tf.float32).numpy(), splits)
    mean = np.mean([g.mean((0, 1, 2)) for g in groups], 0)
    variance = np.mean([g.var((0, 1, 2), ddof=1) for g in groups], 0)
    # Two updates from 0 and 1: 0.75**2 = 0.5625 of the start is left.
    np.testing.assert_allclose(layer.moving_mean, 0.4375 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        layer.moving_variance, 0.5625 + 0.4375 * variance, rtol=1e-5
    )


def test_inference_uses_the_moving_statistics_and_keeps_them():
    x = random([2, 3, 3, 2])
    layer = batch_norm.BatchNorm(splits=2)
    layer.build(x.shape)
    layer.moving_mean.assign([1.0, -1.0])
    layer.moving_variance.assign([4.0, 0.25])
    expected = (x - [1.0, -1.0]) / np.sqrt(np.add([4.0, 0.25], EPSILON))
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, [1.0, -1.0])
    np.testing.assert_array_equal(layer.moving_variance, [4.0, 0.25])


def test_epsilon_is_not_raised():
    """tf.nn.fused_batch_norm would make 1e-5 of the variance 1.001e-5."""
    layer = batch_norm.BatchNorm()
    layer.build([None, 1, 1, 1])
    layer.moving_variance.assign([0.0])
    y = layer(np.ones([1, 1, 1, 1], np.float32))
    np.testing.assert_allclose(y, np.sqrt(1e5) * np.ones([1, 1, 1, 1]), 1e-5)


def test_training_uses_the_batch_even_when_not_trainable():
    x = random([8, 2, 2, 3])
    layer = batch_norm.BatchNorm(trainable=False)
    y = layer(x, training=True).numpy()
    np.testing.assert_allclose(y, oracle(x, 1.0, 0.0), atol=2e-5)
    assert layer.trainable_weights == []
    assert np.abs(layer.moving_mean.numpy()).min() > 0


def test_bfloat16_keeps_float32_variables_and_is_near_float32():
    x = random([8, 4, 4, 3])
    layer = batch_norm.BatchNorm(splits=2, dtype="mixed_bfloat16")
    y = layer(x, training=True)
    assert y.dtype == tf.bfloat16
    assert {weight.dtype for weight in layer.weights} == {tf.float32}
    expected = np.concatenate([oracle(g, 1.0, 0.0) for g in np.split(x, 2)])
    # bfloat16 has 8 bits: 2**-8 of the input's largest value, 7.
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=0.03)


@pytest.mark.parametrize("shape", [[6, 5], [6, 4, 5], [6, 2, 2, 2, 5]])
def test_any_rank_is_normalised_over_the_last_axis(shape):
    x = random(shape)
    layer = batch_norm.BatchNorm(splits=2)
    y = layer(x, training=True)
    expected = np.concatenate([oracle(g, 1.0, 0.0) for g in np.split(x, 2)])
    np.testing.assert_allclose(y, expected, atol=3e-5)
    np.testing.assert_allclose(layer(x, training=False).shape, shape)


def test_one_traced_function_takes_any_batch():
    layer = batch_norm.BatchNorm()
    signature = [tf.TensorSpec([None, None, None, 3])]
    run = tf.function(
        lambda x: layer(x, training=True), input_signature=signature
    )
    for size in (1, 3):
        x = random([size, 4, size + 1, 3])
        np.testing.assert_allclose(run(x), oracle(x, 1.0, 0.0), atol=2e-5)


def test_a_batch_that_the_groups_do_not_divide_is_refused():
    layer = batch_norm.BatchNorm(splits=4, name="bn7")
    run = tf.function(lambda x: layer(x, training=True))
    with pytest.raises(ValueError, match="batch of 6 and splits=4 at .* bn7"):
        run.get_concrete_function(tf.TensorSpec([6, 2, 2, 3]))
    assert layer(random([6, 2, 2, 3]), training=False).shape == [6, 2, 2, 3]


@pytest.mark.parametrize("shape", [[4, 1, 1, 3], [4, 3]])
def test_groups_of_a_single_value_are_refused(shape):
    layer = batch_norm.BatchNorm(splits=4)
    with pytest.raises(ValueError, match="more than one value per channel"):
        layer(random(shape), training=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"splits": 0}, "splits=0"),
        ({"splits": 1.5}, "splits=1.5"),
        ({"momentum": 1.1}, "momentum=1.1"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_norm.BatchNorm(**arguments)


def test_the_config_makes_an_equal_layer():
    layer = batch_norm.BatchNorm(
        2, 0.8, 1e-3, center=False, scale=False, name="x", dtype="mixed_float16"
    )
    config = layer.get_config()
    assert batch_norm.BatchNorm.from_config(config).get_config() == config
    assert (config["splits"], config["momentum"]) == (2, 0.8)
    assert (config["epsilon"], config["name"]) == (1e-3, "x")
    assert not config["center"] and not config["scale"]
