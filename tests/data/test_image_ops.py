"""Pixel operations against torchvision's figures and NumPy oracles."""

import colorsys
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import image_ops

_FILE = pathlib.Path(__file__).parents[1] / "reference" / "augment_ops.npz"
_REFERENCE = dict(np.load(_FILE))
_OPERATIONS = {
    "brightness": image_ops.adjust_brightness,
    "contrast": image_ops.adjust_contrast,
    "saturation": image_ops.adjust_saturation,
    "hue": image_ops.adjust_hue,
    "gaussian_blur": image_ops.gaussian_blur,
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_image(*shape):
    return np.float32(np.random.default_rng(0).integers(0, 256, shape))


def grey_levels_off(image, reference):
    return np.abs(np.asarray(image) - reference.astype(np.float32)).mean()


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize(
    "case",
    sorted(
        name.rsplit("_", 1)[0]
        for name in _REFERENCE
        if name.endswith("_0") and name.startswith(tuple(_OPERATIONS))
    ),
)
def test_operation_agrees_with_torchvision(case, image):
    name, value = case.rsplit("_", 1)
    pixels = tf.cast(_REFERENCE[f"image_{image}"], tf.float32)
    result = image_ops.to_uint8(_OPERATIONS[name](pixels, float(value)))
    assert grey_levels_off(result, _REFERENCE[f"{case}_{image}"]) < 1.0


def test_grayscale_agrees_with_torchvision():
    pixels = tf.cast(_REFERENCE["image_0"], tf.float32)
    result = image_ops.to_uint8(image_ops.grayscale(pixels))
    assert grey_levels_off(result, _REFERENCE["grayscale_0"]) < 0.01


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("crop", range(4))
def test_resized_crop_agrees_with_torchvision(crop, image):
    *box, size = _REFERENCE[f"resized_crop_box_{crop}_{image}"].tolist()
    result = image_ops.resized_crop(_REFERENCE[f"image_{image}"], box, size)
    expected = _REFERENCE[f"resized_crop_{crop}_{image}"]
    assert result.shape == expected.shape
    assert grey_levels_off(result, expected) < 0.5


@pytest.mark.parametrize("image", [0, 1])
def test_evaluation_view_agrees_with_torchvision(image):
    view = image_ops.resize_and_centre_crop(
        _REFERENCE[f"image_{image}"], 110, 96
    )
    assert grey_levels_off(view, _REFERENCE[f"eval_{image}"]) < 0.5
    view = image_ops.normalize(image_ops.to_uint8(view), _MEAN, _STD)
    expected = _REFERENCE[f"eval_normalised_{image}"]
    assert grey_levels_off(view, expected) < 0.5 / 255 / min(_STD)


def test_brightness_and_saturation_are_blends_cut_off_at_white():
    pixel = tf.constant([[[200.0, 100.0, 50.0]]])
    bright = image_ops.adjust_brightness(pixel, 1.5)
    np.testing.assert_allclose(bright, [[[255.0, 150.0, 75.0]]])
    # Luminance 59.8 + 58.7 + 5.7 = 124.2.
    pale = image_ops.adjust_saturation(pixel, 0.5)
    np.testing.assert_allclose(pale, [[[162.1, 112.1, 87.1]]], rtol=1e-5)


def test_contrast_blends_with_a_whole_grey_level():
    pixels = tf.constant([[[100.0] * 3, [101.0] * 3]])  # mean 100.5 -> 101
    flat = image_ops.adjust_contrast(pixels, 0.0)
    np.testing.assert_array_equal(flat, np.full([1, 2, 3], 101.0))


def test_hue_is_the_rotation_of_hsv():
    pixels = random_image(4, 5, 3)
    turns = 51 / 255
    shifted = image_ops.adjust_hue(tf.constant(pixels), turns).numpy()
    for index in np.ndindex(4, 5):
        pixel, result = pixels[index], shifted[index]
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel / 255)
        expected = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
        np.testing.assert_allclose(result / 255, expected, atol=1e-4)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_jitter_applies_the_operations_in_the_given_order(order):
    pixels = tf.constant(random_image(6, 7, 3))
    factors = [1.3, 0.7, 1.4, 0.2]
    operations = list(_OPERATIONS.values())  # in the order of the arguments
    expected = pixels
    for k in order:
        expected = operations[k](expected, factors[k])
    jitter = tf.function(image_ops.color_jitter)
    result = jitter(pixels, tf.constant(order), *factors)
    np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (33, 70)])
def test_blur_is_a_gaussian_with_extended_edges(shape, sigma):
    pixels = random_image(*shape, 3)
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    expected = pixels.astype(np.float64)
    for axis in (0, 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        expected = np.apply_along_axis(
            lambda line: np.convolve(line, kernel, "valid"),
            axis,
            np.pad(expected, pad, "edge"),
        )
    blurred = tf.function(image_ops.gaussian_blur)(pixels, tf.constant(sigma))
    np.testing.assert_allclose(blurred, expected, atol=1e-3)


def box_by_trying(shape, uniforms, scale):
    """The ten tries of a random resized crop, one after the other."""
    height, width = shape
    uniforms = uniforms.astype(np.float64)
    for k in range(10):
        area = height * width
        area *= scale[0] + (scale[1] - scale[0]) * uniforms[k]
        ratio = (3 / 4) ** (1 - uniforms[10 + k]) * (4 / 3) ** uniforms[10 + k]
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniforms[20] * (height - h + 1))
            left = int(uniforms[21] * (width - w + 1))
            return [top, left, h, w]
    h = min(height, round(width * 4 / 3))
    w = min(width, round(height * 4 / 3))
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize(
    "shape", [(32, 32), (375, 500), (90, 200), (200, 60), (1, 1), (1, 9)]
)
def test_boxes_are_those_of_ten_tries(shape):
    uniforms = np.random.default_rng(0).random((300, 22), np.float32)
    boxes = tf.vectorized_map(
        lambda row: image_ops.sample_box(shape, row, (0.2, 1.0)), uniforms
    )
    expected = [box_by_trying(shape, row, (0.2, 1.0)) for row in uniforms]
    off = np.abs(boxes - np.array(expected))
    assert off.max() <= 1  # float32 may round a half the other way
    assert (off > 0).mean() < 0.01


def test_box_area_and_ratio_have_the_published_distributions():
    uniforms = np.random.default_rng(1).random((3000, 22), np.float32)
    boxes = tf.vectorized_map(
        lambda row: image_ops.sample_box((2000, 2000), row, (0.08, 0.5)),
        uniforms,
    ).numpy()
    top, left, height, width = boxes.T.astype(np.float64)
    # Every first try fits: sqrt(0.5 * 4 / 3) < 1.
    quantiles = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    area = np.quantile(height * width / 2000**2, quantiles)
    np.testing.assert_allclose(area, 0.08 + 0.42 * quantiles, atol=0.025)
    ratio = np.quantile(np.log(width / height), quantiles)
    expected = np.log(3 / 4) + 2 * np.log(4 / 3) * quantiles
    np.testing.assert_allclose(ratio, expected, atol=0.03)
    for first, side in ((top, height), (left, width)):
        position = np.quantile(first / (2000 - side), quantiles)
        np.testing.assert_allclose(position, quantiles, atol=0.05)


def test_box_that_never_fits_is_the_largest_central_one():
    uniforms = tf.fill([22], 0.5)
    wide = image_ops.sample_box((100, 1000), uniforms, (0.9, 1.0))
    np.testing.assert_array_equal(wide, [0, 433, 100, 133])
    tall = image_ops.sample_box((1000, 100), uniforms, (0.9, 1.0))
    np.testing.assert_array_equal(tall, [433, 0, 133, 100])


def test_resized_crop_does_not_see_outside_its_box():
    pixels = np.zeros([40, 40, 3], np.uint8)
    pixels[10:20, 5:25] = 200
    result = image_ops.resized_crop(pixels, [10, 5, 10, 20], 7)
    np.testing.assert_allclose(result, np.full([7, 7, 3], 200.0), rtol=1e-5)


def test_centre_crop_of_a_ribbon_is_its_middle():
    ribbon = np.zeros([1, 200_000, 3], np.uint8)
    ribbon[:, 99_990:100_010] = 90
    view = image_ops.resize_and_centre_crop(ribbon, 18, 16)
    np.testing.assert_allclose(view, np.full([16, 16, 3], 90.0), rtol=1e-5)


def test_flip_mirrors_the_columns_only_where_asked():
    pixels = random_image(2, 3, 3)
    flipped = image_ops.flip_horizontal(pixels, tf.constant(True))
    np.testing.assert_array_equal(flipped, pixels[:, ::-1])
    flipped = image_ops.flip_horizontal(pixels, tf.constant(False))
    np.testing.assert_array_equal(flipped, pixels)


def test_to_uint8_rounds_and_saturates():
    rounded = image_ops.to_uint8(tf.constant([-3.0, 0.4, 0.6, 254.7, 300.0]))
    np.testing.assert_array_equal(rounded, [0, 0, 1, 255, 255])
    assert rounded.dtype == tf.uint8


def test_normalize_leaves_floats_alone():
    pixels = tf.constant([[0, 51, 255]], tf.uint8)
    result = image_ops.normalize(pixels, (0.5, 0.2, 0.0), (0.5, 0.1, 2.0))
    np.testing.assert_allclose(result, [[-1.0, 0.0, 0.5]], atol=1e-6)
    assert image_ops.normalize(result, (0.5,) * 3, (0.5,) * 3) is result


@pytest.mark.parametrize("centre", [(0, 0), (4, 5), (8, 11)])
@pytest.mark.parametrize("length", [3, 4])
def test_cutout_fills_a_square_cut_off_at_the_borders(centre, length):
    pixels = random_image(9, 12, 3) + 1.0
    expected = pixels.copy()
    top, left = (max(c - length // 2, 0) for c in centre)
    bottom, right = (c - length // 2 + length for c in centre)
    expected[top:bottom, left:right] = 7.0
    result = image_ops.cutout(pixels, tf.constant(centre), length, fill=7.0)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 7)])
def test_sobel_is_the_gradient_magnitude_of_luminance(shape):
    pixels = random_image(*shape, 3)
    grey = np.pad(pixels @ [0.299, 0.587, 0.114], 1, "edge")
    kernel = np.outer([1, 2, 1], [-1, 0, 1])
    expected = np.empty(shape)
    for row, column in np.ndindex(*shape):
        patch = grey[row : row + 3, column : column + 3]
        right, down = (patch * kernel).sum(), (patch * kernel.T).sum()
        expected[row, column] = min(np.hypot(right, down) / 4, 255)
    expected = np.stack([expected] * 3, axis=-1)
    np.testing.assert_allclose(image_ops.sobel(pixels), expected, atol=1e-3)
