"""Recomputation changes what is kept, not what is computed."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import batch_norm, encoder, heads, resnet
from tests import shallow

_network = shallow.fixture((1, 1))


@functools.cache
def _gradients(recompute, cloned=False, stages=()):
    tf.keras.utils.set_random_seed(0)
    two_groups = functools.partial(batch_norm.BatchNorm, splits=2)
    backbone = resnet.resnet(18, 0.125, "cifar", norm=two_groups, image_size=16)
    encoder.freeze(backbone, stages)
    head = heads.projection_head("fc", backbone.output_shape[-1], 4)
    model = encoder.Encoder(backbone, head, recompute=recompute)
    model = model.clone() if cloned else model
    images = tf.random.stateless_normal([4, 16, 16, 3], [1, 2])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True) ** 2)
        return loss, tape.gradient(loss, model.trainable_variables)

    loss, gradients = step()
    return model, step, loss, gradients


def test_loss_gradients_and_moving_statistics_are_the_same():
    plain, _, expected, gradients = _gradients(False)
    again, _, loss, recomputed = _gradients(True)
    assert [w.name for w in again.weights] == [w.name for w in plain.weights]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for a, b in zip(recomputed, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(again.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=b.name)


def test_convolutions_run_again_on_the_way_back():
    def forward_passes(step):
        graph = step.get_concrete_function().graph.as_graph_def()
        return sum(node.op == "Conv2D" for node in graph.node)

    once = forward_passes(_gradients(False)[1])
    twice = forward_passes(_gradients(True, cloned=True)[1])
    assert once == 6  # two blocks of two, the stem and one on a shortcut
    assert twice == 12


@pytest.mark.parametrize("stages", [("stem", "stage1"), ("stage1",)])
def test_frozen_stages_are_neither_trained_nor_moved(stages):
    plain = _gradients(False)[0]
    starts = {"stem": ("conv1", "bn1"), "stage1": ("layer1",)}
    starts = tuple(start for stage in stages for start in starts[stage])
    losses = []
    for recompute in (False, True):
        model, _, loss, gradients = _gradients(recompute, True, stages)
        losses.append(float(loss))
        names = [w.name for w in model.trainable_weights]
        assert not [name for name in names if name.startswith(starts)]
        expected = [w.name for w in plain.trainable_weights]
        assert names == [n for n in expected if not n.startswith(starts)]
        assert len(gradients) == len(names) and None not in gradients
        for weight in model.backbone.weights:
            if weight.name.startswith(starts) and "moving_mean" in weight.name:
                np.testing.assert_array_equal(weight, 0.0)
            elif "moving_mean" in weight.name:
                assert np.abs(weight.numpy()).max() > 0
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_a_frozen_stem_normalises_in_training_as_in_inference():
    model = _gradients(False, True, ("stem",))[0]
    stem = tf.keras.Model(
        model.backbone.input, model.backbone.get_layer("bn1").output
    )
    images = tf.random.stateless_normal([4, 16, 16, 3], [3, 4])
    np.testing.assert_array_equal(
        stem(images, training=True), stem(images, training=False)
    )


@pytest.mark.parametrize(
    ("backbone", "stages", "words"),
    [
        (
            "resnet18",
            ("stem", "stage5"),
            "stem, stage1, stage2, stage3, stage4",
        ),
        ("keras_cv:resnet18", ("stem",), "config.model.freeze="),
    ],
)
def test_stages_that_there_are_not_are_refused(backbone, stages, words):
    with pytest.raises(ValueError, match="model.freeze") as error:
        encoder.check_stages(backbone, stages)
    assert words in str(error.value)


def test_other_backbones_are_refused():
    images = tf.keras.Input([8, 8, 3])
    features = tf.keras.layers.Flatten()(images)
    with pytest.raises(ValueError, match="ResNets alone.*a smaller batch"):
        encoder.Encoder(
            tf.keras.Model(images, features),
            heads.projection_head("fc", 192, 4),
            recompute=True,
        )
