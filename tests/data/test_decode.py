"""Encoded bytes of many kinds, whole and broken, as the pipeline reads them."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.data import decode, sources
from tests.data import pictures


def read_bytes(tmp_path, contents, name="a.jpg"):
    (tmp_path / name).write_bytes(contents)
    return pictures.read(sources.open_source(f"folder:{tmp_path}"), 0)


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"),
        ("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG"),
        ("P", "GIF"), ("L", "GIF"),
        ("RGB", "BMP"), ("L", "BMP"), ("P", "BMP"),
    ],
)  # fmt: skip
def test_images_decode_as_pillow_decodes_them(tmp_path, mode, form):
    contents = pictures.encode(pictures.scene(mode), form)
    expected = Image.open(io.BytesIO(contents)).convert("RGB")
    image = read_bytes(tmp_path, contents, "a.png")  # the name says nothing
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.asarray(expected))


def test_a_progressive_jpeg_is_read():
    contents = pictures.encode(pictures.scene(), "JPEG", progressive=True)
    assert b"\xff\xc2" in contents  # the mark of its frame
    expected = np.asarray(Image.open(io.BytesIO(contents)))
    np.testing.assert_array_equal(decode.decode(contents), expected)


def four_inks(change):
    """A JPEG of four inks, as Pillow writes it, and that with a change."""
    contents = pictures.encode(pictures.scene("CMYK"), "JPEG")
    start = contents.index(b"\xff\xee\x00\x0eAdobe")
    mark, rest = contents[start : start + 16], contents[start + 16 :]
    return contents, contents[:start] + change(mark) + rest


def test_inks_may_be_stored_as_luminance_and_colour():
    _, contents = four_inks(lambda mark: mark[:15] + b"\x02")  # YCCK
    expected = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))
    found = decode.decode(contents).numpy().astype(int)
    # Pillow rounds the product of ink and black, the platform cuts it.
    assert np.abs(found - expected).max() <= 1


def test_inks_without_the_mark_of_those_who_invert_them_are_not_inverted():
    contents, plain = four_inks(lambda mark: b"")
    inks = np.asarray(Image.open(io.BytesIO(contents)), int)
    # Pillow has inverted what it read.
    c, m, y, k = np.moveaxis(255 - inks, -1, 0)
    expected = np.stack([255 - c, 255 - m, 255 - y], -1) * (255 - k)[..., None]
    np.testing.assert_array_equal(decode.decode(plain), expected // 255)


@pytest.mark.parametrize(
    ("mode", "form"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "BMP")]
)
def test_alpha_is_dropped(mode, form):
    shape = (2, 3, len(mode))
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    image = decode.decode(pictures.encode(Image.fromarray(pixels), form))
    expected = np.broadcast_to(pixels[..., :-1], (2, 3, 3))
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_colour_is_a_colour(form):
    contents = pictures.encode(pictures.scene("P"), form, transparency=0)
    expected = pictures.scene("P").convert("RGB")
    np.testing.assert_array_equal(decode.decode(contents), np.asarray(expected))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_keep_the_upper_8(channels):
    pixels = np.arange(6 * channels, dtype=np.uint16).reshape(2, 3, channels)
    pixels = pixels * 2551 + 200  # lower halves that rounding would notice
    image = decode.decode(tf.io.encode_png(pixels))
    upper = (pixels >> 8)[..., : {1: 1, 2: 1, 3: 3, 4: 3}[channels]]
    np.testing.assert_array_equal(image, np.broadcast_to(upper, (2, 3, 3)))


def test_an_image_of_one_pixel_is_read(tmp_path):
    contents = pictures.encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")
    assert read_bytes(tmp_path, contents).tolist() == [[[1, 2, 3]]]


def noisy(form):
    """An encoded image that fills some kilobytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    return pictures.encode(Image.fromarray(pixels), form)


@pytest.mark.parametrize("form", decode.FORMATS)
@pytest.mark.parametrize("kept", [2, 4, 12, 20, 30, 40, 0.5, 0.9])
def test_truncated_files_are_refused(form, kept):
    contents = noisy(form)
    size = kept if kept > 1 else int(kept * len(contents))
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode.decode(contents[:size])


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        (b"", "an empty file"),
        (b"hello, this is text", "an unknown format"),
        (b"\xff", "an unknown format"),
        (pictures.encode(pictures.scene(), "TIFF"), "TIFF"),
        (pictures.encode(pictures.scene(), "WEBP"), "WebP"),
        (pictures.encode(pictures.scene(), "AVIF"), "AVIF"),
        (pictures.encode(pictures.scene(), "JPEG2000"), "JPEG 2000"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00", "HEIF"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"<!DOCTYPE html>", "HTML or XML"),
    ],
)
def test_other_formats_are_refused_by_name(contents, named):
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=f"(?s)JPEG, PNG, GIF or BMP. Received.*{named}.*Convert it to",
    ):
        decode.decode(contents)


def test_a_png_that_claims_too_many_pixels_is_not_decoded(tmp_path):
    contents = bytearray(pictures.encode(pictures.scene(), "PNG"))
    contents[16:24] = struct.pack(">II", 10_000, 10_000)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must not have more than"
    ):
        read_bytes(tmp_path, bytes(contents))


def test_a_jpeg_that_claims_too_many_pixels_is_not_decoded(tmp_path):
    contents = pictures.encode(pictures.scene(), "JPEG")
    start = contents.index(b"\xff\xc0") + 5  # height and width in the frame
    contents = (
        contents[:start] + struct.pack(">HH", 10_000, 10_000)
        + contents[start + 4 :]
    )  # fmt: skip
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must not have more than"
    ):
        read_bytes(tmp_path, contents)


def test_decode_reads_the_same_outside_a_graph():
    contents = pictures.encode(pictures.scene(), "PNG")
    np.testing.assert_array_equal(
        decode.decode(contents), np.asarray(pictures.scene())
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="WebP"):
        decode.decode(pictures.encode(pictures.scene(), "WEBP"))
