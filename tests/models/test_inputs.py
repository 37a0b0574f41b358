"""Lab by known colours, patches by slicing, halves by what they see."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import cloning, encoder, inputs, resnet
from tests import shallow

_network = shallow.fixture(shallow.ONE_BLOCK)
FEATURES = 8  # of such a network
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _normalized(pixels):
    return ((pixels - MEAN) / STD).astype(np.float32)


def _resnet(size):
    def make(channels, name):
        return encoder.build_backbone(
            "resnet18",
            width=0.125,
            image_size=size,
            channels=channels,
            model_name=name,
            norm=resnet.layer_norm,
        )

    return make


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        # Of sRGB under D65, as tables of colours have them.
        ((0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (100, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
        ((3, 3, 3), (0.82, 0, 0)),
    ],
)
def test_lab_of_known_colours(colour, expected):
    lab = inputs.to_lab(tf.constant(colour, tf.float32) / 255)
    np.testing.assert_allclose(lab, expected, atol=0.02)


def test_each_half_sees_its_channels_alone():
    backbone = inputs.lab_backbone(_resnet(16), 16, MEAN, STD)
    assert backbone.output_shape[-1] == 2 * FEATURES
    rng = np.random.default_rng(0)
    grey = rng.uniform(0.2, 0.8, [2, 16, 16, 1]) * np.ones(3)
    features = backbone(_normalized(grey)).numpy()
    # Grey images have no colour: one answer for all.
    np.testing.assert_allclose(
        features[0, FEATURES:], features[1, FEATURES:], atol=1e-3
    )
    lightness = features[:, :FEATURES]
    assert np.abs(lightness[0] - lightness[1]).max() > 1e-2


def test_each_file_of_a_pair_has_a_network():
    backbone = inputs.pair_backbone(_resnet(16), 16)
    features = backbone.output_shape[-1] // 2
    images = np.random.default_rng(0).standard_normal([1, 16, 16, 6])
    others = images.copy()
    others[..., 3:] += 1
    one, two = (
        backbone(x.astype(np.float32)).numpy() for x in (images, others)
    )
    np.testing.assert_array_equal(one[:, :features], two[:, :features])
    assert np.abs(one[:, features:] - two[:, features:]).max() > 1e-2


def test_each_half_has_a_head():
    def make(features):
        entry = tf.keras.Input([features])
        return tf.keras.Model(entry, tf.keras.layers.Dense(3)(entry))

    head = inputs.half_heads(make, 8)
    assert head.output_shape == (None, 6)
    rows = np.random.default_rng(0).standard_normal([1, 8])
    other = rows.copy()
    other[:, 4:] += 1
    one, two = head(rows).numpy(), head(other).numpy()
    np.testing.assert_array_equal(one[:, :3], two[:, :3])
    assert (one[:, 3:] != two[:, 3:]).all()


def test_patches_overlap_by_half_and_lie_row_by_row():
    grey = np.arange(2 * 12 * 12, dtype=np.float32).reshape(2, 12, 12, 1)
    patches = inputs._Patches(4)(grey).numpy()
    assert inputs.patches_a_side(12, 4) == 5
    assert patches.shape == (50, 4, 4, 1)
    for image, row, column in ((0, 0, 0), (0, 1, 3), (1, 4, 2)):
        np.testing.assert_array_equal(
            patches[25 * image + 5 * row + column],
            grey[image, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4],
        )


def test_features_of_a_grid_are_the_mean_over_its_patches():
    backbone = inputs.grid_backbone(_resnet(16), 32, 16, MEAN, STD)
    pixels = np.random.default_rng(0).uniform(size=[2, 32, 32, 3])
    images = _normalized(pixels)
    grid = tf.keras.Model(backbone.input, backbone.get_layer("grid").output)(
        images
    ).numpy()
    assert grid.shape == (2, 3, 3, FEATURES)
    np.testing.assert_allclose(
        backbone(images), grid.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5
    )
    grey = pixels @ [0.299, 0.587, 0.114]
    patch = (grey[1, 8:24, 16:32] - MEAN[1]) / STD[1]
    expected = backbone.get_layer("patch")(patch[np.newaxis, ..., np.newaxis])
    np.testing.assert_allclose(grid[1, 1, 2], expected[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["halves", "grid"])
def test_copies_compute_the_same(kind):
    if kind == "halves":
        backbone = inputs.lab_backbone(_resnet(None), None, MEAN, STD)
    else:
        backbone = inputs.grid_backbone(_resnet(16), 32, 16, MEAN, STD)
    copy = cloning.clone(backbone)
    images = tf.random.stateless_normal([2, 32, 32, 3], [0, 1])
    np.testing.assert_array_equal(backbone(images), copy(images))
    assert not set(map(id, backbone.weights)) & set(map(id, copy.weights))


def test_a_backbone_that_cannot_see_parts_is_refused():
    with pytest.raises(ValueError, match="options of the ResNets alone"):
        encoder.build_backbone("keras_cv:resnet50", channels=1)
