"""The views of a step: the same however they are computed."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from moco_tf.data import (
    augmentation,
    image_ops,
    photometric,
    stream,
    views,
)
from moco_tf.methods import method

SIZE = 24


def _stage(parts, augment_on="host", small=None):
    return augmentation.ViewStage(
        parts=parts,
        size=SIZE,
        names=augmentation.VIEW_NAMES,
        augment_on=augment_on,
        small=small,
    )


def _images(count, height=33, width=29):
    """Smooth pictures with an edge: neither noise nor flat."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, [count, 5, 5, 3]).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, [height, width]), tf.uint8)


def _one_by_one(images, stage):
    """Choices, and all views of all images, one image at a time."""
    choices = stage.choose(3, tf.range(10, 10 + len(images), dtype=tf.int64))
    wanted = tf.constant([True, True])

    @tf.function(autograph=False)
    def views_of(image, choice):
        return stage.views_of_image(
            image, choice, wanted, lambda w, make, skip: make()
        )

    per_image = [
        views_of(image, {name: rows[i] for name, rows in choices.items()})
        for i, image in enumerate(images)
    ]
    return choices, {
        name: np.stack([row[name].numpy() for row in per_image])
        for name in per_image[0]
    }


@functools.cache
def _views_of(name, augment_on="host", small=None):
    """Choices and views of a recipe's 24 images; traced once for all tests."""
    stage = _stage(views.RECIPES[name].both, augment_on, small)
    return _one_by_one(_images(24), stage)


@pytest.mark.parametrize("name", views.RECIPES)
def test_the_kernels_views_are_at_most_a_level_from_the_graphs(name):
    small = SMALL if name == "dino" else None
    _, kernel = _views_of(name, "host", small)
    _, graph = _views_of(name, "graph", small)
    assert kernel.keys() == graph.keys()
    for view, made in kernel.items():
        distance = np.abs(made - graph[view].astype(int))
        assert distance.max() <= (0 if name in ("cmc", "cpc") else 1)
        assert np.mean(distance > 0) < 1e-3


@pytest.mark.parametrize("name", views.RECIPES)
def test_the_kernel_takes_a_batch_at_once(name):
    choices, single = _views_of(name)
    batch = _stage(views.RECIPES[name].both).views_of_batch(
        _images(24), choices
    )
    for view in augmentation.VIEW_NAMES:
        np.testing.assert_array_equal(batch[view], single[view])


@pytest.mark.parametrize("name", views.RECIPES)
def test_a_batch_of_small_images_has_the_views_of_each_image(name):
    # Crops alone: equal weights of whole numbers often end on a half.
    limit = 5e-3 if name in ("cmc", "cpc") else 1e-3
    choices, single = _views_of(name, "graph")
    stage = _stage(views.RECIPES[name].both, "graph")
    batch = stage.views_of_batch(_images(24), choices)
    for view in augmentation.VIEW_NAMES:
        distance = np.abs(single[view] - batch[view].numpy().astype(int))
        # Sums in another order end on the other side of a half.
        assert distance.max() <= 1
        assert np.mean(distance > 0) < limit


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["v2", "byol"])
def test_the_device_finishes_views_as_the_host_does(name, compiled):
    _, host = _views_of(name)
    _, crops = _views_of(name, "device")
    distort = tf.function(photometric.distort_batch, jit_compile=compiled)
    for view in augmentation.VIEW_NAMES:
        rows = tf.constant(crops[f"{view}_distortion"])
        finished = distort(tf.constant(crops[view]), rows)
        finished = image_ops.to_uint8(finished).numpy().astype(int)
        distance = np.abs(finished - host[view])
        # The crop was rounded to travel. Contrast and saturation stretch
        # that by up to 1.4 each, a 1/255 turn of hue by more.
        assert np.quantile(distance, 0.99) <= 2
        assert distance.mean() < 0.5


@pytest.mark.parametrize("name", ["v2", "byol"])
def test_choices_are_those_of_each_views_seed(name):
    parts = views.RECIPES[name].both
    positions = tf.range(6, 9, dtype=tf.int64)
    choices = _stage(parts).choose(5, positions)
    for row, position in enumerate(positions.numpy()):
        for view, augment in enumerate(parts):
            seed = tf.constant([5, 2 * position + view], tf.int64)
            np.testing.assert_array_equal(
                choices["pair"][row, view], augment.choose(seed, 1)[0]
            )


def test_a_function_gets_its_views_seed():
    def seed_as_pixels(image, size, seed):
        del image
        return tf.cast(tf.fill([size, size, 3], seed[0] + seed[1]), tf.uint8)

    stage = _stage((augmentation.in_parts(seed_as_pixels),) * 2)
    _, pair = _one_by_one(_images(3), stage)  # seed 3, positions 10, 11, 12
    assert pair["query"][:, 0, 0, 0].tolist() == [23, 25, 27]
    assert pair["key"][:, 0, 0, 0].tolist() == [24, 26, 28]


def test_byols_views_are_blurred_and_solarised_as_published():
    query, key = views.RECIPES["byol"].both
    rows = 4000
    seed = tf.constant([1, 0], tf.int64)
    rates = []
    for augment in (query, key):
        row = augment.distortions(augment.choose(seed, rows))
        drawn = photometric.Distortion.from_row(row)
        rates.append([np.mean(drawn.sigma > 0), np.mean(drawn.solarize > 0)])
    # 0.1 of 4,000 has a standard deviation of 0.005.
    np.testing.assert_allclose(rates[0], [1.0, 0.0])
    np.testing.assert_allclose(rates[1], [0.1, 0.2], atol=0.03)


def test_solarise_is_pillows():
    image = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    expected = ImageOps.solarize(Image.fromarray(image), threshold=128)
    solarized = photometric.solarize(tf.constant(image))
    np.testing.assert_array_equal(solarized, np.asarray(expected))


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
    channels = 3

    def __init__(self, count):
        self._images = _images(count)

    def __len__(self):
        return len(self._images)

    def records(self, indices):
        return tf.gather(self._images, indices)

    def image(self, record):
        return record


@functools.cache
def _step(replicas, shuffle_keys, augment_on, small=None, workers=1):
    batches = stream.Stream(
        Pictures(40),
        views.RECIPES["v2"],
        SIZE,
        16,
        seed=2,
        shuffle_keys=shuffle_keys,
        augment_on=augment_on,
        small=small,
    )
    batches = [
        batch
        for worker in range(workers)
        for batch in batches.batches(
            replicas, 3, 4, worker=worker, workers=workers
        )
    ]
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


SMALL = views.RECIPES["dino"].small(3, 12, (0.05, 0.14))


def test_small_views_of_a_batch_are_those_of_each_image():
    choices, single = _views_of("dino", "graph", SMALL)
    stage = _stage(views.RECIPES["dino"].both, "graph", SMALL)
    batch = stage.views_of_batch(_images(24), choices)["small"].numpy()
    assert batch.shape == (24, 3, 12, 12, 3)
    distance = np.abs(single["small"] - batch.astype(int))
    assert distance.max() <= 1
    assert np.mean(distance > 0) < 5e-3


def test_small_views_show_a_small_part_of_the_image():
    parts = SMALL.parts
    choices = parts.choose(tf.constant([7, 0], tf.int64), 400)
    boxes = parts.boxes(_images(1, 200, 160)[0], choices).numpy()
    areas = boxes[:, 2] * boxes[:, 3] / (200 * 160)
    # Sides are whole pixels of about 50.
    assert 0.048 < areas.min() < 0.06
    assert 0.13 < areas.max() < 0.143


def test_small_views_leave_the_others_as_they_are():
    _, alone = _views_of("dino")
    choices, beside = _views_of("dino", "host", SMALL)
    for name in augmentation.VIEW_NAMES:
        np.testing.assert_array_equal(alone[name], beside[name])
    # Unrelated numbers: no box is another's.
    pair = choices["pair"].numpy().reshape(24 * 2, -1)
    small = choices["small"].numpy().reshape(24 * 3, -1)
    boxes = np.concatenate([pair, small])[:, 0]
    assert len(np.unique(boxes)) == 24 * 5


FEW = views.RECIPES["dino"].small(1, 12, (0.05, 0.14))  # sooner traced


@pytest.mark.parametrize(
    ("augment_on", "replicas", "workers"),
    [("host", 2, 2), ("device", 4, 1), ("device", 4, 4)],
)
def test_small_views_go_where_the_query_goes(augment_on, replicas, workers):
    slots, _ = _step(1, "gather", augment_on, FEW)
    dealt, _ = _step(replicas, "address", augment_on, FEW, workers)
    names = {"query", "small", "index"}
    if augment_on == "device":
        names |= {"small_distortion"}
    for name in names:
        np.testing.assert_array_equal(dealt[name], slots[name])


def test_the_device_finishes_small_views():
    host, _ = _step(1, "gather", "host", FEW)
    device, _ = _step(1, "gather", "device", FEW)
    batch = method.finished_views(
        {n: tf.constant(v) for n, v in device.items()}
    )
    assert batch["small"].shape == [16, 1, 12, 12, 3]
    distance = np.abs(batch["small"].numpy() - host["small"].astype(int))
    assert np.quantile(distance, 0.99) <= 2


def test_small_views_of_a_function_are_refused():
    plain = views.RECIPES["v2"]._replace(
        augment=lambda image, size, seed: image
    )
    with pytest.raises(ValueError, match="Small views need a recipe made of"):
        plain.small(2, 12, (0.05, 0.14))


def test_on_the_host_no_distortion_travels():
    step, _ = _step(1, "gather", "host")
    assert step.keys() == {"query", "key", "index", "valid"}


def test_a_function_beside_a_published_view_is_refused():
    mixed = views.RECIPES["byol"]._replace(
        augment=lambda image, size, seed: image
    )
    with pytest.raises(ValueError, match="Replace augment_key too"):
        stream.Stream(Pictures(9), mixed, SIZE, 8)


def test_what_the_device_cannot_finish_is_refused():
    plain = views.RECIPES["v2"]._replace(
        augment=lambda image, size, seed: image
    )
    with pytest.raises(ValueError, match="needs a recipe made of Augment"):
        stream.Stream(Pictures(9), plain, SIZE, 8, augment_on="device")
    with pytest.raises(ValueError, match="Received augment_on='gpu'"):
        stream.Stream(Pictures(9), plain, SIZE, 8, augment_on="gpu")
