"""WebP, TIFF and rare forms: streamed, deterministic, within the limits."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks import made_bitmaps, made_exif, made_jpegs, made_rasters
from moco_tf.data import (
    decode,
    file_bytes,
    host_decode,
    image_files,
    sources,
    stream,
    unreadable,
    views,
)
from moco_tf.serving import signatures
from tests.data import pictures


def few():
    """One file of each ending that is read, by name."""
    scene = made_jpegs.scene()
    forms = {
        ".jpg": "JPEG", ".mpo": "MPO", ".png": "PNG", ".apng": "PNG",
        ".gif": "GIF", ".bmp": "BMP", ".dib": "BMP", ".webp": "WEBP",
        ".tif": "TIFF", ".tiff": "TIFF",
    }  # fmt: skip
    names = [ending.decode() for ending in image_files.READABLE_ENDINGS]
    return {
        f"image{ending}": made_jpegs.encode(scene, forms.get(ending, "JPEG"))
        for ending in names
    }


@pytest.fixture(name="source", scope="module")
def _source(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    for name, contents in few().items():
        (root / name).write_bytes(contents)
    return sources.open_source(f"folder:{root}")


def test_every_ending_is_opened_and_trained_on_the_same_each_time(source):
    assert sorted(pictures.names(source)) == sorted(few())

    def batch():
        batches = stream.Stream(
            source, views.RECIPES["v1"], 16, len(source), threads=2
        )
        return next(iter(batches.batches(1, 0, 1)))

    first, second = batch(), batch()
    assert first["valid"].numpy().all()
    for name in ("query", "key", "index"):
        np.testing.assert_array_equal(first[name], second[name])


def _read(contents):
    """The error of a file."""
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        host_decode.decode(contents)
    return error.value.message


def _claiming(form, place, packed):
    """A file whose header claims 30,000 x 30,000 pixels."""
    contents = bytearray(made_jpegs.encode(made_jpegs.scene(), form))
    contents[place : place + len(packed)] = packed
    return bytes(contents)


def _tiff_of(width, height):
    contents = made_bitmaps.tiff(np.zeros([5, 7, 1], np.uint8))
    for tag, value, claimed in ((256, 7, width), (257, 5, height)):
        contents = contents.replace(
            struct.pack("<HHII", tag, 4, 1, value),
            struct.pack("<HHII", tag, 4, 1, claimed),
        )
    return contents


@pytest.mark.parametrize(
    "contents",
    [
        _tiff_of(30_000, 30_000),
        _tiff_of(10_000, 9_000),
        _claiming("BMP", 18, struct.pack("<ii", 30_000, 30_000)),
        _claiming("GIF", 6, struct.pack("<HH", 30_000, 30_000)),
    ],
    ids=["TIFF", "a TIFF just above", "BMP", "GIF"],
)
def test_what_claims_too_many_pixels_is_not_decoded(contents, monkeypatch):
    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    message = _read(contents)
    assert f"not have more than {file_bytes.MAX_PIXELS} pixels" in message


def test_damage_is_named_without_what_differs_each_time():
    webp = made_jpegs.encode(made_jpegs.scene(), "WEBP")
    for contents in (webp[:20], webp[:-200], b"II*\0" + bytes(20)):
        first, second = _read(contents), _read(contents)
        assert "This is a " in first and "damaged" in first
        assert " at 0x" not in first and first == second


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("real numbers", "Convert them to 16 bits"),
        ("whole numbers of 32 bits", "Convert them to 16 bits"),
    ],
)
def test_numbers_without_a_scale_are_refused(name, words):
    assert words in _read(dict(made_bitmaps.tiffs())[name])


def test_a_png_of_apple_is_named_with_its_remedy(tmp_path):
    contents = dict(made_rasters.png_chunks())["CgBI of Apple"]
    (tmp_path / "a.png").write_bytes(contents)
    source = sources.open_source(f"folder:{tmp_path}")
    _, reason = unreadable.read(source, 0)
    assert "CgBI" in reason
    assert reason.endswith("pngcrush -revert-iphone-optimizations IN OUT")
    with pytest.raises(tf.errors.InvalidArgumentError, match="CgBI"):
        decode.decode(contents)


@pytest.mark.parametrize("form", ["WEBP", "TIFF", "PNG"])
def test_the_doctor_is_told_by_how_much_an_image_was_turned(form):
    tags = Image.Exif()
    tags[made_exif.ORIENTATION] = 6
    contents = made_jpegs.encode(made_jpegs.scene(), form, exif=tags)
    image, stored = host_decode.decode_and_look(contents)
    assert int(stored) == 6
    assert image.shape == (37, 29, 3)


def test_bytes_that_end_in_zeros_are_handed_over_whole():
    contents = made_bitmaps.tiff(np.zeros([5, 7, 3], np.uint8))
    # The pixels last, and black.
    start = len(contents)
    moved = contents.replace(
        struct.pack("<HHII", 273, 4, 1, 8),
        struct.pack("<HHII", 273, 4, 1, start),
    )
    assert moved != contents
    image = host_decode.decode(moved + bytes(105))
    np.testing.assert_array_equal(image, np.zeros([5, 7, 3]))


def test_a_served_encoder_holds_no_python():
    def served(contents):
        rows, valid = signatures.decode_rows(contents, lambda x: x[:1, :1], 1)
        return rows, valid

    graph = tf.function(served, [tf.TensorSpec([None], tf.string)])
    definition = graph.get_concrete_function().graph.as_graph_def()
    nodes = list(definition.node)
    for function in definition.library.function:
        nodes += function.node_def
    assert len(nodes) > 500
    assert not [node.op for node in nodes if "PyFunc" in node.op]
    buffer = io.BytesIO()
    made_jpegs.scene().save(buffer, "WEBP")
    _, valid = graph([buffer.getvalue(), few()["image.png"]])
    assert valid.numpy().tolist() == [False, True]
