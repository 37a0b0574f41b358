"""The stage that makes views: the same views however they are made."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from moco_tf.data import (
    augmentation,
    image_ops,
    photometric,
    stream,
    view_stage,
    views,
)

SIZE = 24


def _stage(parts, augment_on="host"):
    return view_stage.ViewStage(parts, SIZE, view_stage.NAMES, augment_on)


def _images(count, height=33, width=29):
    """Smooth pictures with an edge: neither noise nor flat."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, [count, 5, 5, 3]).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, [height, width]), tf.uint8)


def _always(images, stage):
    """All views of all images, one image at a time."""
    choices = stage.choose(3, tf.range(10, 10 + len(images), dtype=tf.int64))
    wanted = tf.constant([True, True])

    @tf.function(autograph=False)
    def views_of(image, choice):
        return stage.of_image(
            image, choice, wanted, lambda w, make, skip: make()
        )

    made = [views_of(*pair) for pair in zip(images, choices, strict=True)]
    return choices, {
        name: np.stack([m[name].numpy() for m in made]) for name in made[0]
    }


@pytest.mark.parametrize("name", views.RECIPES)
def test_a_batch_of_small_images_has_the_views_of_each_image(name):
    parts = views.RECIPES[name].both
    stage = _stage(parts)
    images = _images(24)
    choices, single = _always(images, stage)
    batch = stage.of_batch(images, choices)
    for view in view_stage.NAMES:
        apart = np.abs(single[view] - batch[view].numpy().astype(int))
        # Sums in another order end on the other side of a half.
        assert apart.max() <= 1
        assert np.mean(apart > 0) < 1e-3


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["v2", "byol"])
def test_the_device_finishes_views_as_the_host_does(name, compiled):
    parts = views.RECIPES[name].both
    images = _images(24)
    _, host = _always(images, _stage(parts))
    _, crops = _always(images, _stage(parts, "device"))
    distort = tf.function(photometric.distort_batch, jit_compile=compiled)
    for view in view_stage.NAMES:
        rows = tf.constant(crops[f"{view}_distortion"])
        found = distort(tf.constant(crops[view]), rows)
        found = image_ops.to_uint8(found).numpy().astype(int)
        apart = np.abs(found - host[view])
        # The crop was rounded to travel. Contrast and saturation stretch
        # that by up to 1.4 each, a whole 1/255 turn of hue by more.
        assert np.quantile(apart, 0.99) <= 2
        assert apart.mean() < 0.5


@pytest.mark.parametrize("name", ["v2", "byol"])
def test_choices_are_those_of_each_views_seed(name):
    parts = views.RECIPES[name].both
    positions = tf.range(6, 9, dtype=tf.int64)
    choices = _stage(parts).choose(5, positions)
    for row, position in enumerate(positions.numpy()):
        for view, augment in enumerate(parts):
            seed = tf.constant([5, 2 * position + view], tf.int64)
            np.testing.assert_array_equal(
                choices[row, view], augment.choose(seed, 1)[0]
            )


def test_a_function_gets_its_views_seed():
    def seed_as_pixels(image, size, seed):
        del image
        return tf.cast(tf.fill([size, size, 3], seed[0] + seed[1]), tf.uint8)

    stage = _stage((augmentation.in_parts(seed_as_pixels),) * 2)
    _, made = _always(_images(3), stage)  # seed 3, positions 10, 11, 12
    assert made["query"][:, 0, 0, 0].tolist() == [23, 25, 27]
    assert made["key"][:, 0, 0, 0].tolist() == [24, 26, 28]


def test_byols_views_are_blurred_and_solarised_as_published():
    query, key = views.RECIPES["byol"].both
    rows = 4000
    seed = tf.constant([1, 0], tf.int64)
    found = []
    for augment in (query, key):
        row = augment.distortions(augment.choose(seed, rows))
        found.append(photometric.Distortion.from_row(row))
    shares = [[np.mean(d.sigma > 0), np.mean(d.solarize > 0)] for d in found]
    # 0.1 of 4,000 has a standard deviation of 0.005.
    np.testing.assert_allclose(shares[0], [1.0, 0.0])
    np.testing.assert_allclose(shares[1], [0.1, 0.2], atol=0.03)


def test_solarise_is_pillows():
    image = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    expected = ImageOps.solarize(Image.fromarray(image), threshold=128)
    found = photometric.solarize(tf.constant(image))
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_a_recipes_strength_reaches_colour_alone():
    recipe = views.recipe("byol", 2.5)
    query, key = recipe.both
    np.testing.assert_allclose(query.reach, (1.0, 1.0, 0.5, 0.25))
    assert key == query._replace(blur=0.1, solarize=0.2)
    assert query._replace(reach=()) == views.RECIPES["byol"].augment._replace(
        reach=()
    )
    assert views.recipe("v2") is views.RECIPES["v2"]


class Pictures:
    """Small pictures of one size in memory."""

    may_fail = False

    def __init__(self, count):
        self._images = _images(count)

    def __len__(self):
        return len(self._images)

    def records(self, indices):
        return tf.gather(self._images, indices)

    def image(self, record):
        return record


def _step(replicas, shuffle_keys, augment_on):
    made = stream.Stream(
        Pictures(40),
        views.RECIPES["v2"],
        SIZE,
        16,
        seed=2,
        shuffle_keys=shuffle_keys,
        augment_on=augment_on,
    )
    batches = list(made.batches(replicas, 3, 4))
    names = batches[0].keys() - {"order"}
    step = {n: np.concatenate([b[n] for b in batches]) for n in names}
    return step, batches[0]["order"].numpy()


@pytest.mark.parametrize("replicas", [1, 4])
def test_distortions_are_dealt_with_their_crops(replicas):
    slots, order = _step(1, "gather", "device")
    dealt, _ = _step(replicas, "address", "device")
    for name in ("key", "key_distortion"):
        np.testing.assert_array_equal(dealt[name], slots[name][order])
    for name in ("query", "query_distortion", "index"):
        np.testing.assert_array_equal(dealt[name], slots[name])


def test_on_the_host_no_distortion_travels():
    step, _ = _step(1, "gather", "host")
    assert step.keys() == {"query", "key", "index", "valid"}


def test_what_the_device_cannot_finish_is_refused():
    plain = views.RECIPES["v2"]._replace(
        augment=lambda image, size, seed: image
    )
    with pytest.raises(ValueError, match="needs a recipe made of Augment"):
        stream.Stream(Pictures(9), plain, SIZE, 8, augment_on="device")
    with pytest.raises(ValueError, match="Received augment_on='gpu'"):
        stream.Stream(Pictures(9), plain, SIZE, 8, augment_on="gpu")
