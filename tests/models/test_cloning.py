import functools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import batch_norm, cloning

TWO_GROUPS = functools.partial(batch_norm.BatchNorm, splits=2)


def random(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (2.0 * rng.standard_normal(shape) + 1.0).astype(np.float32)


def keras_model(scale=True, center=True, axis=-1):
    inputs = tf.keras.Input([4, 4, 3])
    x = tf.keras.layers.Conv2D(6, 3, name="conv")(inputs)
    x = tf.keras.layers.BatchNormalization(
        axis, 0.7, 2e-3, scale=scale, center=center, name="norm"
    )(x)
    model = tf.keras.Model(inputs, tf.keras.layers.ReLU()(x))
    for seed, weight in enumerate(model.weights):
        weight.assign(np.abs(random(weight.shape, seed)))
    return model


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_a_swapped_model_computes_the_same_in_inference(scale, center):
    model = keras_model(scale, center)
    swapped = cloning.swap_batch_norm(model, norm=TWO_GROUPS)
    x = random([4, 4, 4, 3])
    np.testing.assert_allclose(swapped(x), model(x), atol=1e-5)
    layer = swapped.get_layer("norm")
    assert isinstance(layer, batch_norm.BatchNorm)
    assert (layer.splits, layer.momentum, layer.epsilon) == (2, 0.7, 2e-3)
    assert (layer.gamma is not None, layer.beta is not None) == (scale, center)


def test_a_swapped_model_shares_nothing_with_the_original():
    model = keras_model()
    before = [weight.numpy() for weight in model.weights]
    swapped = cloning.swap_batch_norm(model, norm=TWO_GROUPS)
    swapped(random([4, 4, 4, 3]), training=True)
    swapped.get_layer("conv").kernel.assign_add(
        tf.ones_like(swapped.get_layer("conv").kernel)
    )
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)


def test_swapping_reaches_nested_models():
    inner = keras_model()
    inputs = tf.keras.Input([4, 4, 3])
    model = tf.keras.Model(inputs, inner(inputs))
    swapped = cloning.swap_batch_norm(model)
    x = random([2, 4, 4, 3])
    np.testing.assert_allclose(swapped(x), model(x), atol=1e-5)
    types = [type(layer) for layer in cloning.sublayers(swapped)]
    assert batch_norm.BatchNorm in types
    assert tf.keras.layers.BatchNormalization not in types


class Block(tf.keras.layers.Layer):
    """A layer that holds others, in an order that swapping must keep."""

    def __init__(self, listed=False, **kwargs):
        super().__init__(**kwargs)
        self.listed = listed
        self.first = tf.keras.layers.BatchNormalization(name="first")
        self.dense = tf.keras.layers.Dense(3, name="dense")
        self.second = tf.keras.layers.BatchNormalization(name="second")
        self.more = (
            [tf.keras.layers.BatchNormalization(name="hidden")]
            if listed
            else []
        )

    def call(self, inputs):
        x = self.second(self.dense(self.first(inputs)))
        return self.more[0](x) if self.more else x

    def get_config(self):
        return {**super().get_config(), "listed": self.listed}


def block_model(listed):
    inputs = tf.keras.Input([3])
    model = tf.keras.Model(inputs, Block(listed, name="block")(inputs))
    for seed, weight in enumerate(model.weights):
        weight.assign(np.abs(random(weight.shape, seed)))
    return model


def test_swapping_reaches_the_attributes_of_a_layer():
    model = block_model(listed=False)
    swapped = cloning.swap_batch_norm(model, norm=TWO_GROUPS)
    x = random([4, 3])
    np.testing.assert_allclose(swapped(x), model(x), atol=1e-5)
    block = swapped.get_layer("block")
    assert isinstance(block.first, batch_norm.BatchNorm)
    again = cloning.clone(swapped)
    assert isinstance(again.get_layer("block").second, batch_norm.BatchNorm)
    np.testing.assert_array_equal(
        again(x, training=True), swapped(x, training=True)
    )


def test_a_layer_out_of_reach_is_refused_by_name():
    with pytest.raises(ValueError, match=r"cannot be replaced: \['hidden'\]"):
        cloning.swap_batch_norm(block_model(listed=True))


def test_another_axis_is_refused():
    with pytest.raises(ValueError, match="axis=1 at layer norm"):
        cloning.swap_batch_norm(keras_model(axis=1))


def test_a_model_that_is_not_functional_is_refused():
    class Subclassed(tf.keras.Model):
        pass

    with pytest.raises(ValueError, match="functional keras.Model"):
        cloning.swap_batch_norm(Subclassed())


class Unlike(tf.keras.layers.Layer):
    """A layer whose config forgets its size."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight("kernel", [self.units])

    def call(self, inputs):
        return inputs * tf.reduce_sum(self.kernel)

    def get_config(self):
        return {"name": self.name}


def test_a_copy_with_other_variables_is_refused():
    inputs = tf.keras.Input([3])
    model = tf.keras.Model(inputs, Unlike(5)(inputs), name="net")
    with pytest.raises(
        ValueError, match=r"'net'.*\('kernel', \(2,\)\) in place of .*\(5,\)"
    ):
        cloning.clone(model)
