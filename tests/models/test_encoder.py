import functools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import batch_norm, encoder, heads, resnet
from tests import shallow


def random(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape, dtype=np.float32)


def small_encoder(splits=1, precision="float32"):
    with shallow.network(shallow.ONE_BLOCK):
        backbone = resnet.resnet(
            18,
            0.125,
            "cifar",
            norm=functools.partial(batch_norm.BatchNorm, splits=splits),
            image_size=8,
            precision=precision,
        )
    return encoder.Encoder(backbone, heads.projection_head("mlp", 8, 4))


def plain_backbone(pool=True):
    inputs = tf.keras.Input([8, 8, 3])
    x = tf.keras.layers.Conv2D(5, 3, name="conv")(inputs)
    if pool:
        x = tf.keras.layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(inputs, x, name="plain")


def test_features_are_those_of_backbone_and_head_in_inference():
    model = small_encoder()
    images = random([4, 8, 8, 3])
    model(images, training=True)  # moves the statistics
    features, projection = model.features(images)
    np.testing.assert_array_equal(
        features, model.backbone(images, training=False)
    )
    np.testing.assert_array_equal(projection, model.head(features))
    np.testing.assert_array_equal(projection, model(images, training=False))
    assert np.abs(projection - model(images, training=True)).max() > 1e-3


def test_calls_are_inference_by_default():
    model = small_encoder()
    before = model.get_weights()
    model(random([4, 8, 8, 3]))
    after = model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_outputs_are_float32_in_mixed_precision():
    model = small_encoder(precision="mixed_bfloat16")
    images = random([2, 8, 8, 3])
    assert model(images, training=True).dtype == tf.float32
    assert [x.dtype for x in model.features(images)] == [tf.float32] * 2


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_clone_computes_the_same(precision):
    model = small_encoder(2, precision)
    images = random([4, 8, 8, 3])
    model(images, training=True)
    clone = model.clone()
    for training in (False, True):
        np.testing.assert_array_equal(
            clone(images, training=training), model(images, training=training)
        )
    assert clone.backbone.get_layer("bn1").splits == 2


def test_a_clone_lists_its_variables_in_the_same_order():
    model = small_encoder()
    clone = model.clone()
    names = [weight.name for weight in model.trainable_variables]
    assert [weight.name for weight in clone.trainable_variables] == names
    assert names[-1] == "fc.2/bias:0"


def test_a_clone_shares_no_variable():
    model = small_encoder()
    clone = model.clone()
    before = model.get_weights()
    clone(random([4, 8, 8, 3]), training=True)
    for weight in clone.trainable_variables:
        weight.assign_add(tf.ones_like(weight))
    after = model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    changed = clone.get_weights()
    assert not any(
        np.array_equal(a, b) for a, b in zip(before, changed, strict=True)
    )


def test_a_checkpoint_restores_every_variable(tmp_path):
    model, other = small_encoder(), small_encoder()
    model(random([4, 8, 8, 3]), training=True)
    path = str(tmp_path / "checkpoint")
    tf.train.Checkpoint(encoder=model).write(path)
    status = tf.train.Checkpoint(encoder=other).read(path)
    status.assert_consumed().assert_existing_objects_matched()
    for old, new in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(old, new)


class Subclassed(tf.keras.Model):
    """A backbone in the subclassing way; it has no `training`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.norm = batch_norm.BatchNorm(2)
        self.pool = tf.keras.layers.GlobalAveragePooling2D()
        self.dense = tf.keras.layers.Dense(units)

    def call(self, images):
        return self.dense(self.pool(self.norm(images)))

    def get_config(self):
        return {"name": self.name, "units": self.units}


class Unrepeatable(Subclassed):
    """Its constructor takes what its config does not hold."""

    def get_config(self):
        return {"name": self.name}


def wrapped(model):
    inputs = tf.keras.Input([8, 8, 3])
    return tf.keras.Model(inputs, model(inputs), name="wrapped")


def test_a_wrapped_subclassed_backbone_is_an_encoder():
    backbone = wrapped(Subclassed(6))
    model = encoder.Encoder(backbone, heads.projection_head("fc", 6, 4))
    clone = model.clone()
    images = random([4, 8, 8, 3])
    outputs = model(images, training=True)
    np.testing.assert_array_equal(clone(images, training=True), outputs)
    # Training reaches BatchNorm through a call that does not name it.
    assert np.abs(outputs - model(images)).max() > 1e-4
    assert clone.backbone.layers[1].norm.splits == 2


def test_a_subclassed_backbone_is_refused_with_the_way_to_wrap_it():
    with pytest.raises(ValueError, match="functional.*Subclassed.*Wrap it"):
        encoder.feature_size(Subclassed(6))


def test_a_layer_without_config_cannot_be_cloned():
    backbone = wrapped(Unrepeatable(6))
    model = encoder.Encoder(backbone, heads.projection_head("fc", 6, 4))
    with pytest.raises(ValueError, match="'wrapped' cannot be.*get_config"):
        model.clone()


def test_a_feature_map_is_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"\(None, 6, 6, 5\).*'plain'.*GlobalAveragePooling2D"
    ):
        encoder.Encoder(
            plain_backbone(pool=False), heads.projection_head("fc", 5, 4)
        )


def test_several_outputs_are_refused():
    model = plain_backbone()
    model = tf.keras.Model(model.input, [model.output, model.output])
    with pytest.raises(ValueError, match="one output"):
        encoder.feature_size(model)


def test_a_head_for_other_features_is_refused():
    with pytest.raises(ValueError, match="head for 6 and a backbone of 5"):
        encoder.Encoder(plain_backbone(), heads.projection_head("fc", 6, 4))


def test_feature_size_is_the_last_axis():
    assert encoder.feature_size(plain_backbone()) == 5


def test_resnets_are_built_by_name():
    model = encoder.build_backbone(
        "resnet18",
        width=0.125,
        stem="cifar",
        norm=functools.partial(batch_norm.BatchNorm, splits=4),
        image_size=16,
    )
    assert model.input_shape == (None, 16, 16, 3)
    assert model.output_shape == (None, 64)
    assert model.get_layer("bn1").splits == 4


def test_names_cover_resnets_and_keras_cv():
    names = encoder.backbone_names()
    assert {"resnet18", "resnet152", "keras_cv:efficientnetv2_s"} <= set(names)
    assert len(names) == len(set(names)) == 12


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "resnet20"}, "one of .*'resnet18'.*Received 'resnet20'"),
        ({"name": "keras_cv:resnet51"}, "Received 'keras_cv:resnet51'"),
        ({"name": "keras_cv:resnet50", "width": 2.0}, "width=2.0"),
        ({"name": "keras_cv:resnet50", "stem": "cifar"}, "stem='cifar'"),
        (
            {"name": "keras_cv:resnet50", "precision": "float16"},
            "Received 'float16'",
        ),
    ],
)
def test_bad_names_and_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        encoder.build_backbone(**arguments)
