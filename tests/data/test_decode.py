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
    ],
)  # fmt: skip
def test_images_decode_as_pillow_decodes_them(tmp_path, mode, form):
    contents = pictures.encode(pictures.scene(mode), form)
    expected = Image.open(io.BytesIO(contents)).convert("RGB")
    image = read_bytes(tmp_path, contents, "a.png")  # the name says nothing
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.asarray(expected))


def test_alpha_is_dropped(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    image = read_bytes(
        tmp_path, pictures.encode(Image.fromarray(pixels), "PNG")
    )
    np.testing.assert_array_equal(image, pixels[..., :3])


def test_16_bits_keep_the_upper_8(tmp_path):
    pixels = np.array([[0x0123, 0x4567], [0x89AB, 0xFFFF]], np.uint16)
    contents = tf.io.encode_png(pixels[..., np.newaxis]).numpy()
    image = read_bytes(tmp_path, contents)
    upper = np.array([[0x01, 0x45], [0x89, 0xFF]])
    np.testing.assert_array_equal(image, np.repeat(upper[..., None], 3, -1))


def test_an_image_of_one_pixel_is_read(tmp_path):
    contents = pictures.encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")
    assert read_bytes(tmp_path, contents).tolist() == [[[1, 2, 3]]]


def noisy(form):
    """An encoded image that fills some kilobytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    return pictures.encode(Image.fromarray(pixels), form)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("kept", [4, 12, 20, 40, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, form, kept):
    contents = noisy(form)
    size = kept if kept > 1 else int(kept * len(contents))
    with pytest.raises(tf.errors.InvalidArgumentError):
        read_bytes(tmp_path, contents[:size])


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        (b"", "an empty file"),
        (b"hello, this is text", "an unknown format"),
        (b"\xff", "an unknown format"),
        (pictures.encode(pictures.scene(), "GIF"), "GIF"),
        (pictures.encode(pictures.scene(), "BMP"), "BMP"),
        (pictures.encode(pictures.scene(), "TIFF"), "TIFF"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "WebP"),
        (b"\x00\x00\x00\x1cftypavif", "AVIF"),
        (b"<!DOCTYPE html>", "HTML"),
    ],
)
def test_what_is_no_jpeg_or_png_is_refused_by_name(tmp_path, contents, named):
    with pytest.raises(tf.errors.InvalidArgumentError, match=named):
        read_bytes(tmp_path, contents)


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
    with pytest.raises(tf.errors.InvalidArgumentError, match="GIF"):
        decode.decode(pictures.encode(pictures.scene(), "GIF"))
