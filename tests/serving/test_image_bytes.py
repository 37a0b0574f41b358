import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.serving import image_bytes
from tests.data import pictures


@pytest.fixture(name="read", scope="module")
def _read():
    return tf.function(
        image_bytes.decode_any, input_signature=[tf.TensorSpec([], tf.string)]
    )


@pytest.fixture(name="read_rows", scope="module")
def _read_rows():
    return tf.function(
        lambda contents: image_bytes.decode_rows(
            contents, lambda image: image[:2, :2], 2
        ),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


def pillow(contents):
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"),
        ("P", "GIF"), ("L", "GIF"), ("RGB", "BMP"), ("L", "BMP"), ("P", "BMP"),
    ],
)  # fmt: skip
def test_images_decode_as_pillow_decodes_them(read, mode, form):
    contents = pictures.encode(pictures.scene(mode), form)
    image = read(contents)
    assert image.dtype == tf.uint8
    np.testing.assert_array_equal(image, pillow(contents))


def test_alpha_of_a_bmp_is_dropped(read):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    contents = pictures.encode(Image.fromarray(pixels), "BMP")
    np.testing.assert_array_equal(read(contents), pixels[..., :3])


def test_a_bmp_may_name_the_usual_masks(read):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    plain = pictures.encode(Image.fromarray(pixels), "BMP")
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    contents = (
        plain[:10] + struct.pack("<I", 66) + plain[14:30]
        + struct.pack("<I", 3) + plain[34:54] + masks + plain[54:]
    )  # fmt: skip
    np.testing.assert_array_equal(read(contents), pixels[..., :3])
    other = contents.replace(masks, masks[::-1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not be compress"):
        read(other)


def test_of_an_animation_the_first_frame_is_taken(read):
    buffer = io.BytesIO()
    first = pictures.scene("P")
    first.save(
        buffer, "GIF", save_all=True, append_images=[first.rotate(180)] * 2
    )
    np.testing.assert_array_equal(
        read(buffer.getvalue()), np.asarray(first.convert("RGB"))
    )


def _gif(left=0, top=0, width=2, height=1, before=b"", after=b""):
    """A GIF of a black and a white pixel, as the format is written down."""
    canvas = struct.pack("<HH", 300, 200)
    frame = b"," + struct.pack("<HHHH", left, top, width, height) + b"\x00"
    # LZW of 2 bits: clear (100), 0, 1, end (101); least bits first.
    data = b"\x02\x02" + bytes([0b01000100, 0b1010]) + b"\x00"
    colours = b"\x00\x00\x00\xff\xff\xff"
    return (
        b"GIF89a" + canvas + b"\x80\x00\x00" + colours + before + frame + data
        + after + b";"
    )  # fmt: skip


def test_a_frame_is_taken_without_the_canvas_around_it(read):
    expected = [[[0] * 3, [255] * 3]]
    assert read(_gif()).numpy().tolist() == expected
    assert read(_gif(left=7, top=3)).numpy().tolist() == expected


def test_extensions_before_the_frame_are_passed_over(read):
    comment = b"!\xfe\x05hello\x03abc\x00"
    control = b"!\xf9\x04\x00\x00\x00\x00\x00"
    image = read(_gif(before=comment + control))
    assert image.numpy().tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize(
    "contents",
    [
        _gif(width=20_000, height=20_000),
        pictures.encode(pictures.scene(), "BMP")[:18]
        + struct.pack("<ii", 20_000, -20_000)
        + pictures.encode(pictures.scene(), "BMP")[26:],
    ],
    ids=["GIF", "BMP"],
)
def test_what_claims_too_many_pixels_is_not_decoded(read, contents):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must not have more than"
    ):
        read(contents)


def test_frames_after_the_first_take_no_memory(read):
    bomb = _gif(width=60_000, height=60_000)
    later = bomb[bomb.index(b",") : -1]
    assert read(_gif(after=later)).shape == [1, 2, 3]


def test_a_gif_in_countless_parts_is_refused(read):
    comment = b"!\xfe" + b"\x01a" * 5000 + b"\x00"
    with pytest.raises(tf.errors.InvalidArgumentError, match="hold a frame"):
        read(_gif(before=comment))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("kept", [0, 2, 4, 12, 20, 30, 0.5, 0.9])
def test_truncated_files_are_refused(read, form, kept):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    contents = pictures.encode(Image.fromarray(pixels), form)
    size = kept if kept == 0 or kept > 1 else int(kept * len(contents))
    with pytest.raises(tf.errors.InvalidArgumentError):
        read(contents[:size])


def test_rows_keep_their_places_around_those_that_fail(read_rows):
    greys = [10, 20, 30, 40]
    files = [
        pictures.encode(Image.new("RGB", (3, 3), (grey,) * 3), form)
        for grey, form in zip(greys, ("BMP", "PNG", "GIF", "BMP"), strict=True)
    ]
    files.insert(1, b"not an image")
    files.insert(4, b"")
    images, valid = read_rows(tf.constant(files))
    assert valid.numpy().tolist() == [True, False, True, True, False, True]
    assert images[:, 1, 1, 0].numpy().tolist() == [10, 0, 20, 30, 0, 40]


@pytest.mark.parametrize("files", [[], [b"x"], [b"x", b"y"]])
def test_a_batch_without_an_image_is_read(read_rows, files):
    images, valid = read_rows(tf.constant(files, tf.string))
    assert images.shape == [len(files), 2, 2, 3]
    assert not images.numpy().any()
    assert valid.numpy().tolist() == [False] * len(files)
