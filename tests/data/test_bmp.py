import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.data import decode
from tests.data import pictures

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
PLAIN = pictures.encode(Image.fromarray(PIXELS), "BMP")


def test_the_usual_masks_may_be_named():
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    contents = (
        PLAIN[:10] + struct.pack("<I", 66) + PLAIN[14:30]
        + struct.pack("<I", 3) + PLAIN[34:54] + masks + PLAIN[54:]
    )  # fmt: skip
    np.testing.assert_array_equal(decode.decode(contents), PIXELS[..., :3])
    other = contents.replace(masks, masks[::-1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="no compression"):
        decode.decode(other)


def test_rows_may_go_from_the_top_down():
    contents = PLAIN[:22] + struct.pack("<i", -2) + PLAIN[26:]
    np.testing.assert_array_equal(decode.decode(contents), PIXELS[::-1, :, :3])


def test_a_palette_may_be_short():
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
    image.putpalette([1, 2, 3, 250, 251, 252])
    contents = pictures.encode(image, "BMP")
    assert struct.unpack_from("<I", contents, 46) == (2,)
    assert decode.decode(contents).numpy().tolist() == [
        [[1, 2, 3], [250, 251, 252], [250, 251, 252]]
    ]
    beyond = contents[:-4] + bytes([0, 1, 2, 0])  # a pixel of no colour
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode.decode(beyond)


@pytest.mark.parametrize("bits", [1, 4, 16])
def test_other_bits_are_refused_by_their_number(bits):
    contents = PLAIN[:28] + struct.pack("<H", bits) + PLAIN[30:]
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=f"(?s)must have 8, 24 or 32 bits.*{bits}.*Convert it to PNG",
    ):
        decode.decode(contents)


def test_what_claims_too_many_pixels_is_not_decoded():
    contents = PLAIN[:18] + struct.pack("<ii", 20_000, -20_000) + PLAIN[26:]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must not have more than"
    ):
        decode.decode(contents)
