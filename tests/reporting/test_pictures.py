import base64
import io

import numpy as np
import pytest
from PIL import Image

from moco_tf.reporting import pictures


def _blobs(count=40):
    """Two groups of directions around different axes, float [count, 6]."""
    rng = np.random.default_rng(0)
    centres = np.eye(6)[np.arange(count) % 2]
    return centres + 0.05 * rng.standard_normal([count, 6])


def test_both_planes_separate_two_groups():
    planes = pictures.lay_out(_blobs())
    assert [plane.way for plane in planes] == ["tsne", "pca"]
    for plane in planes:
        even, odd = plane.points[::2], plane.points[1::2]
        distance = np.linalg.norm(even.mean(axis=0) - odd.mean(axis=0))
        assert distance > 3 * max(even.std(axis=0).max(), odd.std(axis=0).max())
        assert plane.points.min() >= 0 and plane.points.max() <= pictures.SIDE


def test_pca_lies_along_the_direction_of_most_variance():
    angles = np.linspace(0, 1, 9)  # an arc in a plane of six dimensions
    rows = np.zeros([9, 6])
    rows[:, 2], rows[:, 4] = np.cos(angles), np.sin(angles)
    plane = pictures.lay_out(rows)[-1]
    steps = np.diff(plane.points[:, 0])
    assert (steps > 0).all() or (steps < 0).all()
    share = float(plane.note.split("They hold ")[1].split(" %")[0])
    # By hand, of the singular values of the centred arc.
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    assert share == pytest.approx(100 * values[0] / values.sum(), abs=0.06)


def test_the_length_of_features_does_not_matter():
    rows = _blobs()
    scaled = rows * np.linspace(1, 9, len(rows))[:, np.newaxis]
    left, right = (pictures.lay_out(x)[-1].points for x in (rows, scaled))
    np.testing.assert_allclose(left, right, atol=0.2)


def test_the_same_features_give_the_same_map():
    first, second = (pictures.lay_out(_blobs()) for _ in range(2))
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left.points, right.points)


@pytest.mark.parametrize("count, ways", [(2, ["pca"]), (5, ["tsne", "pca"])])
def test_few_images_are_laid_out_too(count, ways):
    planes = pictures.lay_out(_blobs(count))
    assert [plane.way for plane in planes] == ways
    assert all(np.isfinite(plane.points).all() for plane in planes)


def test_features_of_one_dimension_are_laid_out():
    planes = pictures.lay_out([[1.0], [-1.0], [2.0]])
    assert planes[-1].points.shape == (3, 2)


def test_a_collapsed_encoder_has_no_map():
    with pytest.raises(ValueError, match="same features: the encoder has col"):
        pictures.lay_out(np.outer([1, 2, 3], [1.0, 2.0]))


def test_features_that_are_no_numbers_have_no_map():
    with pytest.raises(ValueError, match="not finite: the encoder has diverge"):
        pictures.lay_out([[1.0, np.nan], [0.0, 1.0]])


def _decode(address):
    head, text = address.split(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def test_an_image_keeps_its_form_when_it_is_made_smaller():
    image = np.full([60, 120, 3], 200, np.uint8)
    assert _decode(pictures.data_address(image, 40)).size == (40, 20)
    assert _decode(pictures.data_address(image)).size == (120, 60)


def test_a_sheet_holds_the_images_row_after_row():
    levels = [10, 60, 110, 160, 210]
    images = [np.full([8, 8, 3], level, np.uint8) for level in levels]
    sheet = pictures.draw_sheet(images, 16)
    assert (sheet["columns"], sheet["rows"], sheet["side"]) == (3, 2, 16)
    pixels = np.asarray(_decode(sheet["address"]))
    assert pixels.shape == (32, 48, 3)
    for number, level in enumerate(levels):
        row, column = divmod(number, 3)
        tile = pixels[16 * row + 4 :, 16 * column + 4 :][:8, :8]
        assert tile.mean() == pytest.approx(level, abs=4)


def test_a_large_sheet_is_of_less_quality():
    noise = np.random.default_rng(0).integers(0, 256, [9, 32, 32, 3], np.uint8)
    fine = len(pictures.draw_sheet(list(noise), 32)["address"])
    coarse = len(pictures.draw_sheet(list(noise), 32, fine - 1)["address"])
    assert coarse < fine
