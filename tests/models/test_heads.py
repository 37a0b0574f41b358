"""Heads against NumPy, and which rows of a grid a context knows."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import batch_norm, cloning, heads


@pytest.mark.parametrize("blocks", [1, 3])
def test_no_context_knows_what_is_below(blocks):
    tf.keras.utils.set_random_seed(0)
    network = heads.context_network(7, 4, blocks)
    rng = np.random.default_rng(0)
    grid = rng.standard_normal([1, 7, 7, 4]).astype(np.float32)
    other = grid.copy()
    other[:, 3] += 1
    difference = np.abs(network(grid) - network(other)).max(axis=(0, 2, 3))
    assert (difference[:3] == 0).all()
    assert (difference[3 : 4 + blocks] > 0).all()
    assert (difference[4 + blocks :] == 0).all()


def test_a_place_knows_its_neighbours_in_the_row():
    tf.keras.utils.set_random_seed(0)
    network = heads.context_network(7, 4, 2)
    grid = np.random.default_rng(0).standard_normal([1, 7, 7, 4])
    other = grid.copy()
    other[:, 2, 3] += 1
    difference = np.abs(network(grid) - network(other)).max(axis=(0, 3))
    assert (difference[2, 1:6] > 0).all()
    assert (difference[2, [0, 6]] == 0).all()


def test_fc_is_one_linear_layer():
    head = heads.projection_head("fc", 6, 4)
    assert [w.name for w in head.weights] == ["fc/kernel:0", "fc/bias:0"]
    kernel, bias = (w.numpy() for w in head.weights)
    x = np.random.default_rng(0).standard_normal([3, 6], dtype=np.float32)
    np.testing.assert_allclose(head(x), x @ kernel + bias, atol=1e-6)


def test_mlp_has_a_hidden_relu_as_wide_as_the_features():
    head = heads.projection_head("mlp", 6, 4)
    assert [w.name for w in head.weights] == [
        "fc.0/kernel:0",
        "fc.0/bias:0",
        "fc.2/kernel:0",
        "fc.2/bias:0",
    ]
    first, first_bias, second, second_bias = (w.numpy() for w in head.weights)
    assert first.shape == (6, 6)
    x = np.random.default_rng(0).standard_normal([3, 6], dtype=np.float32)
    hidden = np.maximum(x @ first + first_bias, 0.0)
    expected = hidden @ second + second_bias
    np.testing.assert_allclose(head(x), expected, atol=1e-6)


def test_weights_and_biases_start_uniform_as_torchs_linear():
    head = heads.projection_head("fc", 400, 1000)
    kernel, bias = (w.numpy() for w in head.weights)
    limit = np.float32(1 / 20)  # 1 / sqrt(400); the bound may be drawn
    for values in (kernel, bias):
        assert np.abs(values).max() <= limit
        assert np.abs(values).max() > 0.98 * limit
        # A uniform variable's deviation is limit / sqrt(3).
        assert abs(values.std() * np.sqrt(3) / limit - 1) < 0.08
        assert abs(values.mean()) < 0.1 * limit


def test_the_head_is_float32_under_any_global_policy():
    with cloning.global_policy("mixed_bfloat16"):
        head = heads.projection_head("mlp", 6, 4)
    assert head(tf.ones([2, 6], tf.bfloat16)).dtype == tf.float32
    assert head.get_layer("fc.0").compute_dtype == "float32"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("linear", 6, 4), "'linear'"),
        (("fc", 0, 4), "features=0"),
        (("mlp", 6, 0), "dim=0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        heads.projection_head(*arguments)


def test_simclrs_head_has_no_bias_and_ends_in_a_batch_norm_without_offset():
    head = heads.projection_head("simclr", 6, 4, hidden=5)
    assert [w.name for w in head.trainable_weights] == [
        "linear_1/kernel:0",
        "bn_1/gamma:0",
        "bn_1/beta:0",
        "linear_2/kernel:0",
        "bn_2/gamma:0",
    ]
    first, gamma, beta, second, last = (
        w.numpy() for w in head.trainable_weights
    )
    assert first.shape == (6, 5)
    x = np.random.default_rng(0).standard_normal([8, 6], dtype=np.float32)

    def normalised(rows):
        return (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)

    hidden = np.maximum(gamma * normalised(x @ first) + beta, 0)
    expected = last * normalised(hidden @ second)
    np.testing.assert_allclose(head(x, training=True), expected, atol=1e-4)


def test_byols_head_is_linear_batch_norm_relu_linear():
    head = heads.projection_head("byol", 6, 4)
    kinds = [type(layer).__name__ for layer in head.layers[1:]]
    assert kinds == ["Dense", "BatchNorm", "ReLU", "Dense"]
    assert [w.shape.as_list() for w in head.trainable_weights] == [
        [6, 6], [6], [6], [6], [6, 4], [4],
    ]  # fmt: skip
    x = np.random.default_rng(0).standard_normal([8, 6], dtype=np.float32)
    assert head(x, training=True).shape == (8, 4)


def test_groups_and_synchronisation_reach_the_heads_batch_norm():
    for kind in ("simclr", "byol"):
        norm = functools.partial(batch_norm.BatchNorm, splits=2)
        head = heads.projection_head(kind, 6, 4, norm=norm)
        assert head.get_layer("bn_1").splits == 2
        norm = functools.partial(batch_norm.BatchNorm, synchronized=True)
        head = heads.projection_head(kind, 6, 4, norm=norm)
        assert head.get_layer("bn_1").synchronized
