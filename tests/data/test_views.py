"""Recipes: the published distributions, and a function of the seed alone."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter

from moco_tf.data import augmentation, image_ops, views

_REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
_IMAGES = np.load(_REFERENCE / "augment_ops.npz")
_STATISTICS = json.loads((_REFERENCE / "augment_stats.json").read_text())
_QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]
_DRAWS = 3000


def view_seed(number):
    return tf.stack([tf.constant(7, tf.int64), tf.cast(number, tf.int64)])


def views_in_parallel(augment, image, size, count):
    """The views of the seeds (7, 0..count-1), uint8 [count, S, S, 3]."""
    dataset = tf.data.Dataset.range(count).map(
        lambda number: augment(image, size, view_seed(number)),
        num_parallel_calls=2,
    )
    return next(iter(dataset.batch(count))).numpy()


def statistics(pixels):
    """The reference's statistics, one value a draw (its README)."""
    pixels = pixels.astype(np.float32) / 255
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] - 4 * grey[:, 1:-1, 1:-1]
    laplacian += grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    chroma = pixels.max(-1) - pixels.min(-1)
    return {
        "brightness": grey.mean((1, 2)),
        "contrast": grey.std((1, 2)),
        "saturation": chroma.mean((1, 2)),
        "sharpness": laplacian.std((1, 2)),
        "mean": pixels.mean((1, 2)),
        # Float arithmetic may leave a pixel of a grey view one level off.
        "is_gray": chroma.max((1, 2)) < 1.5 / 255,
    }


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_views_have_the_distributions_of_the_published_pipeline(name, image):
    pixels = _IMAGES[f"image_{image}"]
    recipe = views.RECIPES[name]
    ours = statistics(views_in_parallel(recipe.augment, pixels, 64, _DRAWS))
    reference = _STATISTICS[f"{name}_image{image}"]
    rng = np.random.default_rng(0)
    two_samples = np.sqrt(2)  # the reference's figures have an error too
    for statistic in ("brightness", "contrast", "saturation", "sharpness"):
        values = ours[statistic]
        resampled = np.quantile(
            rng.choice(values, (60, _DRAWS)), _QUANTILES, axis=1
        )
        error = two_samples * resampled.std(axis=1)
        off = np.quantile(values, _QUANTILES)
        off -= reference[f"{statistic}_quantiles"]
        assert np.all(np.abs(off) < 6 * error + 1 / 255), (statistic, off)

    error = two_samples * ours["mean"].std(axis=0) / np.sqrt(_DRAWS)
    off = np.abs(ours["mean"].mean(axis=0) - reference["mean"])
    assert np.all(off < 6 * error + 1 / 255)
    error = two_samples * np.sqrt(0.2 * 0.8 / _DRAWS)
    off = ours["is_gray"].mean() - reference["gray_fraction"]
    assert abs(off) < 6 * error


def pil_hue(image, turns):
    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.asarray(hue, np.int32) + int(turns * 255)) % 256
    hue = Image.fromarray(shifted.astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def pil_view(name, pixels, size, draws):
    """The recipe's steps on a PIL image, from the same random numbers."""
    number = {key: np.asarray(u) for key, u in draws._asdict().items()}
    scale = (0.08, 1.0) if name == "cifar" else (0.2, 1.0)
    box = image_ops.sample_box(pixels.shape[:2], draws.box, scale)
    top, left, height, width = map(int, box)
    image = Image.fromarray(pixels)
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((size, size), Image.Resampling.BILINEAR)

    hue_reach = 0.4 if name == "v1" else 0.1
    reach = np.array([0.4, 0.4, 0.4, hue_reach])
    factors = (2 * number["factors"] - 1) * reach + [1, 1, 1, 0]

    def jitter(image):
        order = augmentation._ORDERS[int(number["order"] * 24)]
        for operation in order:
            factor = float(factors[operation])
            if operation == 3:
                image = pil_hue(image, factor)
            else:
                enhance = [
                    ImageEnhance.Brightness,
                    ImageEnhance.Contrast,
                    ImageEnhance.Color,
                ][operation]
                image = enhance(image).enhance(factor)
        return image

    steps = {
        "jitter": (number["jitter"] < 0.8 or name == "v1", jitter),
        "gray": (
            number["gray"] < 0.2,
            lambda image: image.convert("L").convert("RGB"),
        ),
        "blur": (
            number["blur"] < 0.5,
            lambda image: image.filter(
                ImageFilter.GaussianBlur(0.1 + 1.9 * float(number["sigma"]))
            ),
        ),
        "flip": (
            number["flip"] < 0.5,
            lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        ),
    }
    published_order = {
        "v1": ["gray", "jitter", "flip"],
        "v2": ["jitter", "gray", "blur", "flip"],
        "cifar": ["flip", "jitter", "gray"],
    }
    for step in published_order[name]:
        drawn, operation = steps[step]
        image = operation(image) if drawn else image
    return np.asarray(image, np.float32)


@pytest.mark.parametrize("name", ["v1", "v2", "cifar"])
def test_views_are_those_of_pil_from_the_same_draws(name):
    pixels = _IMAGES["image_1"]
    ours = views_in_parallel(views.RECIPES[name].augment, pixels, 32, 40)
    for number, view in enumerate(ours):
        expected = pil_view(name, pixels, 32, views.draw(view_seed(number)))
        off = np.abs(view - expected)
        # PIL rounds, mostly down, after each of up to seven operations.
        assert off.mean() < 3.0, (number, off.mean())


@pytest.mark.parametrize("name", ["v1", "v2", "cifar"])
def test_a_view_is_a_function_of_its_seed(name):
    augment = views.RECIPES[name].augment
    image = _IMAGES["image_0"]
    parallel = views_in_parallel(augment, image, 48, 10)
    eager = [augment(image, 48, view_seed(number)) for number in range(10)]
    np.testing.assert_array_equal(parallel, np.stack(eager))
    serial = tf.data.Dataset.range(9, -1, -1).map(
        lambda number: augment(image, 48, view_seed(number))
    )
    np.testing.assert_array_equal(parallel[::-1], list(serial))


@pytest.mark.parametrize("name", ["v1", "v2", "cifar"])
def test_every_seed_gives_another_view(name):
    augment = views.RECIPES[name].augment
    pixels = views_in_parallel(augment, _IMAGES["image_0"], 16, 60)
    assert len({view.tobytes() for view in pixels}) == 60
    other = augment(_IMAGES["image_0"], 16, tf.constant([8, 0], tf.int64))
    assert np.any(other != pixels[0])


def test_a_view_uses_independent_numbers():
    def numbers(number):
        draws = views.draw(view_seed(number))
        return tf.concat([tf.reshape(u, [-1]) for u in draws], axis=0)

    dataset = tf.data.Dataset.range(2000).map(numbers).batch(2000)
    rows = next(iter(dataset)).numpy()
    assert rows.shape == (2000, 36)
    assert rows.min() >= 0 and rows.max() < 1
    # Six standard errors of a mean and of a correlation.
    assert np.abs(rows.mean(axis=0) - 0.5).max() < 6 / np.sqrt(12 * 2000)
    correlation = np.corrcoef(rows.T) - np.eye(36)
    assert np.abs(correlation).max() < 6 / np.sqrt(2000)


@pytest.mark.parametrize("name", ["v1", "v2", "cifar"])
@pytest.mark.parametrize("size", [1, 17])
def test_views_of_a_plain_image_of_any_shape_are_plain(name, size):
    recipe = views.RECIPES[name]
    augment = tf.function(
        lambda image, seed: recipe.augment(image, size, seed),
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.uint8),
            tf.TensorSpec([2], tf.int64),
        ],
    )
    colour = np.array([30, 160, 220], np.uint8)
    for shape in [(1, 1), (1, 97), (97, 1), (2, 30_000), (33, 31)]:
        image = np.tile(colour, (*shape, 1))
        for number in range(4):
            view = augment(image, view_seed(number)).numpy()
            assert view.shape == (size, size, 3)
            # One level: a blur's weights sum to one only up to rounding.
            assert np.ptp(view.reshape(-1, 3).astype(int), axis=0).max() <= 1
        evaluated = recipe.evaluate(image, size)
        expected = np.tile(colour, (size, size, 1))
        np.testing.assert_array_equal(evaluated, expected)


def test_evaluation_views_keep_the_published_proportions():
    # Column x holds x: the view's mean column is the image's centre, and its
    # span is the share of the short side that the crop keeps.
    image = np.zeros([200, 240, 3], np.uint8)
    image[:] = np.arange(240)[np.newaxis, :, np.newaxis]
    v2 = views.RECIPES["v2"].evaluate(image, 224).numpy().astype(float)
    assert v2.shape == (224, 224, 3)
    assert abs(v2.mean() - 119.5) < 0.5
    assert abs(np.ptp(v2) - 200 * 223 / 256) <= 1
    cifar = views.RECIPES["cifar"].evaluate(image, 100).numpy().astype(float)
    assert abs(np.ptp(cifar) - 200 * 99 / 100) <= 1


def test_evaluation_view_of_a_cifar_image_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    view = views.RECIPES["cifar"].evaluate(image, 32)
    np.testing.assert_array_equal(view, image)


def test_a_recipe_can_use_cutout_and_sobel():
    def augment(image, size, seed):
        draws = views.draw(seed)
        image = views.random_resized_crop(image, size, draws, (0.2, 1.0))
        image = views.sometimes(0.5, draws.gray, image_ops.sobel, image)
        centre = tf.cast(draws.spare[:2] * size, tf.int32)
        image = image_ops.cutout(image, centre, 8, fill=127.0)
        return image_ops.to_uint8(image)

    recipe = views.RECIPES["v2"]._replace(augment=augment)
    pixels = views_in_parallel(recipe.augment, _IMAGES["image_1"], 32, 12)
    for number, view in enumerate(pixels):
        draws = views.draw(view_seed(number))
        row, column = (int(u) for u in draws.spare[:2] * 32)
        hole = view[max(row - 4, 0) : row + 4, max(column - 4, 0) : column + 4]
        assert np.all(hole == 127)
        is_gray = np.all(view[..., 0] == view[..., 2])
        assert is_gray == bool(draws.gray < 0.5)
