"""Sizes by header are those of the decoder, whatever a header claims."""

import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import decode
from moco_tf.serving import image_size
from tests.serving import request_cases

FILES = {
    **{
        form: request_cases.image(form, (37, 21))
        for form in ("PNG", "JPEG", "GIF", "BMP")
    },
    "GIF on a larger canvas": request_cases.gif((37, 21), (6, 5)),
    "GIF on a smaller canvas": request_cases.gif((3, 2), (37, 21)),
    "JPEG with bytes between": request_cases.image("JPEG", (37, 21)).replace(
        b"\xff\xc0", b"\xff\xff\xff\xc0", 1
    ),
}


def _decoded(data):
    """Pixels of an image as decoded; None where it is refused."""
    try:
        return int(np.prod(decode.decode(tf.constant(data)).shape[:2]))
    except tf.errors.OpError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_the_size_is_that_of_the_decoded_image(name):
    height, width = image_size.of_file(FILES[name])
    assert height * width == _decoded(FILES[name]) == 37 * 21


@pytest.mark.parametrize("name", FILES)
def test_no_damage_makes_the_decoder_read_more(name):
    """Bytes of the header changed at random: never more than was said."""
    random = np.random.default_rng(7)
    data, compared = FILES[name], 0
    for _ in range(120):
        changed = bytearray(data)
        place = random.integers(3, min(len(data), 60))
        changed[place] = random.integers(64 if random.random() < 0.5 else 256)
        if name == "PNG":  # a header with a wrong checksum is refused
            check = zlib.crc32(changed[12:29])
            changed[29:33] = struct.pack(">I", check)
        height, width = image_size.of_file(bytes(changed))
        if height * width > request_cases.MAX_PIXELS:
            continue  # refused by its header
        pixels = _decoded(bytes(changed))
        if pixels is not None:
            assert pixels == height * width
            compared += 1
    assert compared > 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"GIF89a",
        b"GIF89a" + b"\xff" * 7,
        b"GIF89a" + b"\0" * 7 + b"!",
        b"BM",
    ],
)
def test_what_the_decoder_refuses_has_no_size(data):
    assert image_size.of_file(data) == (0, 0)
    assert _decoded(data) is None
