import base64
import io

import numpy as np
import pytest
from PIL import Image

from moco_tf.reporting import pictures


def _decode(address):
    head, text = address.split(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def test_an_image_keeps_its_form_when_it_is_made_smaller():
    image = np.full([60, 120, 3], 200, np.uint8)
    assert _decode(pictures.address(image, 40)).size == (40, 20)
    assert _decode(pictures.address(image)).size == (120, 60)


def test_a_sheet_holds_the_images_row_after_row():
    levels = [10, 60, 110, 160, 210]
    images = [np.full([8, 8, 3], level, np.uint8) for level in levels]
    sheet = pictures.sheet(images, 16)
    assert (sheet["columns"], sheet["rows"], sheet["side"]) == (3, 2, 16)
    pixels = np.asarray(_decode(sheet["address"]))
    assert pixels.shape == (32, 48, 3)
    for place, level in enumerate(levels):
        row, column = divmod(place, 3)
        tile = pixels[16 * row + 4 :, 16 * column + 4 :][:8, :8]
        assert tile.mean() == pytest.approx(level, abs=4)


def test_a_large_sheet_is_of_less_quality():
    noise = np.random.default_rng(0).integers(0, 256, [9, 32, 32, 3], np.uint8)
    fine = len(pictures.sheet(list(noise), 32)["address"])
    coarse = len(pictures.sheet(list(noise), 32, fine - 1)["address"])
    assert coarse < fine
