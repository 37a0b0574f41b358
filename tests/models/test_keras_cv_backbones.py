import functools
import sys

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import (
    batch_norm,
    cloning,
    encoder,
    heads,
    keras_cv_backbones,
)

SIZE = 32
TWO_GROUPS = functools.partial(batch_norm.BatchNorm, splits=2)


def images(batch=4):
    rng = np.random.default_rng(0)
    return rng.standard_normal([batch, SIZE, SIZE, 3], dtype=np.float32)


@pytest.fixture(scope="module")
def mobilenet():
    return keras_cv_backbones.build(
        "mobilenetv3_small", norm=TWO_GROUPS, image_size=SIZE
    )


@pytest.fixture
def short(monkeypatch):
    """The name of two stages of EfficientNetV2-B0, three blocks."""
    class_name, arguments = keras_cv_backbones.BACKBONES["efficientnetv2_b0"]
    cut = {
        name: value[2:4] if isinstance(value, list) else value
        for name, value in arguments.items()
    }
    cut["stackwise_num_repeats"] = [1, 2]
    monkeypatch.setitem(
        keras_cv_backbones.BACKBONES, "short", (class_name, cut)
    )
    return "short"


# Figures of the architectures without a classifier, statistics included:
# keras-cv's for EfficientNetV2, keras.applications' for the others. resnet50
# has the arguments of resnet50v2.
@pytest.mark.parametrize(
    "name, count, features",
    [
        ("resnet50v2", 23_564_800, 2048),
        ("efficientnetv2_b0", 5_919_312, 1280),
        ("efficientnetv2_s", 20_331_360, 1280),
        ("densenet121", 7_037_504, 1024),
        ("mobilenetv3_large", 2_996_352, 960),
    ],
)
def test_the_table_holds_the_published_architectures(name, count, features):
    class_name, arguments = keras_cv_backbones.BACKBONES[name]
    keras_cv = pytest.importorskip("keras_cv")
    trunk = getattr(keras_cv.models, class_name)(
        **arguments, include_rescaling=False
    )
    assert trunk.count_params() == count
    assert trunk.output_shape[-1] == features


def test_swapping_keeps_the_number_of_parameters(mobilenet):
    assert mobilenet.count_params() == 939_120  # keras.applications' figure
    assert mobilenet.output_shape == (None, 576)


def test_a_backbone_trains_with_our_batch_norm(mobilenet):
    types = {type(layer) for layer in cloning.sublayers(mobilenet)}
    assert batch_norm.BatchNorm in types
    assert tf.keras.layers.BatchNormalization not in types
    norm = mobilenet.get_layer("Conv_BatchNorm")
    assert (norm.splits, norm.momentum, norm.epsilon) == (2, 0.999, 1e-3)
    with tf.GradientTape() as tape:
        features = mobilenet(images(), training=True)
        loss = tf.reduce_sum(features**2)
    gradients = tape.gradient(loss, mobilenet.trainable_variables)
    assert features.shape == [4, 576] and features.dtype == tf.float32
    assert all(np.isfinite(g).all() for g in gradients)
    assert sum(float(tf.norm(g)) for g in gradients) > 0


def test_a_clone_of_a_backbone_computes_the_same(mobilenet):
    model = encoder.Encoder(mobilenet, heads.projection_head("fc", 576, 4))
    clone = model.clone()
    np.testing.assert_array_equal(
        clone(images(), training=True), model(images(), training=True)
    )


def test_mixed_precision_reaches_the_layers_inside_layers(short):
    """Also those of a clone, which its blocks make for themselves."""
    model = keras_cv_backbones.build(
        short, image_size=SIZE, precision="mixed_bfloat16"
    )
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    for copy in (model, cloning.clone(model)):
        computed = {
            layer.compute_dtype
            for layer in cloning.sublayers(copy)
            if layer.weights
        }
        assert computed == {"bfloat16"}
        assert {weight.dtype for weight in copy.weights} == {tf.float32}
    assert model(images()).dtype == tf.float32


def test_blocks_with_batch_norm_inside_are_swapped_and_cloned(short):
    """EfficientNetV2's blocks hold theirs as attributes."""
    model = keras_cv_backbones.build(short, norm=TWO_GROUPS, image_size=SIZE)
    clone = cloning.clone(model)
    for copy in (model, clone):
        types = [type(layer) for layer in cloning.sublayers(copy)]
        assert types.count(batch_norm.BatchNorm) > 8
        assert tf.keras.layers.BatchNormalization not in types
    first, again, cloned = (
        network(images(), training=True) for network in (model, model, clone)
    )
    np.testing.assert_array_equal(cloned, first)
    np.testing.assert_array_equal(again, first)  # nothing is dropped at random


def test_an_absent_keras_cv_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(ValueError, match="needs keras-cv 0.9"):
        keras_cv_backbones.build("resnet50")


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="Received 'resnet51'"):
        keras_cv_backbones.build("resnet51")
