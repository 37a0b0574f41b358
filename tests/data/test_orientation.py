import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from moco_tf.data import decode
from tests.data import pictures

ORIENTATION = 0x0112


@pytest.fixture(name="read", scope="module")
def _read():
    return tf.function(
        decode.of_file, input_signature=[tf.TensorSpec([], tf.string)]
    )


def exif(value, order="<", before=(), kind=3):
    """EXIF data with an orientation behind other entries."""
    entries = [(tag, 2, 4, b"abc\0") for tag in before]
    entries.append((ORIENTATION, kind, 1, struct.pack(order + "HH", value, 0)))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    rows = [struct.pack(order + "HHI", *row[:3]) + row[3] for row in entries]
    count = struct.pack(order + "H", len(rows))
    return b"Exif\0\0" + head + count + b"".join(rows) + bytes(4)


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data


def jpeg(*segments):
    """A JPEG with segments behind its own first ones."""
    contents = pictures.encode(pictures.scene(), "JPEG")
    return contents[:20] + b"".join(segments) + contents[20:]


@pytest.mark.parametrize("value", range(1, 9))
def test_a_jpeg_is_turned_as_pillow_turns_it(value):
    tags = Image.Exif()
    tags[ORIENTATION] = value
    contents = pictures.encode(pictures.scene(), "JPEG", exif=tags)
    with Image.open(io.BytesIO(contents)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == ((9, 7, 3) if value > 4 else (7, 9, 3))
    np.testing.assert_array_equal(decode.decode(contents), expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "before",
    [
        (),
        (segment(0xE2, b"ICC_PROFILE\0" + b"x" * 60_000),) * 9,
        (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),),
        (segment(0xFE, b"a comment: Exif\0\0"),),
    ],
    ids=["first", "profile", "XMP", "comment"],
)
def test_it_is_found_behind_other_segments(read, order, before):
    data = exif(6, order, before=(0x010F, 0x0110))
    contents = jpeg(*before, segment(0xE1, data))
    assert read(contents) == 6
    with Image.open(io.BytesIO(contents)) as image:
        assert image.getexif()[ORIENTATION] == 6


@pytest.mark.parametrize(
    "data",
    [
        exif(0),
        exif(9),
        exif(6, kind=2),  # text
        exif(6)[:20],
        exif(6)[:6],
        exif(6).replace(b"II*\0\x08\0\0\0", b"II*\0\xff\xff\xff\xff"),
        exif(6).replace(b"\x01\0\x12\x01", b"\0\0\x12\x01"),  # of no entries
        exif(6, before=range(100)),
        b"Exiv\0\0" + exif(6)[6:],
    ],
)
def test_what_is_no_orientation_leaves_the_image_as_stored(read, data):
    contents = jpeg(segment(0xE1, data))
    assert read(contents) == 1
    np.testing.assert_array_equal(
        decode.decode(contents), decode.decode(jpeg())
    )


def test_segments_without_end_are_given_up(read):
    comments = [segment(0xFE, b"x")] * 40
    assert read(jpeg(*comments, segment(0xE1, exif(6)))) == 1
    assert read(b"\xff\xd8" + b"\xff\xe2\x00\x00" * 10) == 1


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP"])
def test_other_files_are_taken_as_stored(read, form):
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    contents = pictures.encode(pictures.scene("P"), form, exif=tags)
    assert read(contents) == 1
    expected = np.asarray(pictures.scene("P").convert("RGB"))
    np.testing.assert_array_equal(decode.decode(contents), expected)
