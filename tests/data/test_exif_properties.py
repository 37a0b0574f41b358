"""EXIF data of any kind: the graph turns what Pillow turns, and no other."""

import io
import warnings

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as some
from PIL import Image

from benchmarks import made_exif, made_jpegs, made_rasters
from moco_tf.data import host_decode, metadata

PLAIN = made_jpegs.encode(made_jpegs.scene(size=(8, 8)), "JPEG")
PNG = {"colour": 0, "depth": 8, "size": (2, 3)}
EXAMPLES = hypothesis.settings(max_examples=150, deadline=None)

numbers = some.sampled_from([0, 1, 2, 3, 6, 8, 9, 2**16 + 6])
tags = some.sampled_from([made_exif.ORIENTATION] * 3 + [0x010F, 0x0132, 0x8769])


@pytest.fixture(name="found", scope="module")
def _found():
    """A function: bytes of a JPEG or PNG -> its orientation in the graph."""
    signature = [tf.TensorSpec([], tf.string)]
    jpeg = tf.function(lambda x: metadata.of_jpeg(x).orientation, signature)
    png = tf.function(lambda x: metadata.of_png(x).orientation, signature)
    return lambda contents: int(
        (jpeg if contents.startswith(b"\xff\xd8") else png)(contents)
    )


def pillows(contents):
    """The orientation by which Pillow turns a file; 1 where it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(contents)) as image:
                value = image.getexif().get(made_exif.ORIENTATION, 1)
        except Exception:
            return 1
    return int(value) if value in range(1, 9) else 1


@some.composite
def entries(draw, order):
    """Entries of a directory: usual ones, and any bytes in their place."""
    if draw(some.booleans()):
        kind = draw(some.sampled_from([x for x in made_exif.KINDS if x]))
        value = draw(numbers)
        limit = {"SBYTE": 127, "SHORT": 65535, "SSHORT": 32767}.get(kind)
        value = value if limit is None else min(value, limit)
        count = draw(some.integers(0, 4))
        return made_exif.entry(draw(tags), kind, value, order, count)
    return (
        draw(tags),
        draw(some.integers(0, 18)),
        draw(some.integers(0, 9)),
        draw(some.binary(min_size=0, max_size=12)),
    )


@some.composite
def blocks(draw):
    """EXIF data, well formed or not."""
    order = draw(some.sampled_from("<>"))
    made = made_exif.block(
        draw(some.lists(entries(order), max_size=5)),
        order,
        start=draw(some.integers(8, 12)),
        extra=draw(some.sampled_from([0, 0, 0, 3])),
    )
    size = draw(some.one_of(some.just(len(made)), some.integers(0, len(made))))
    made = bytearray(made[:size])
    for _ in range(draw(some.integers(0, 2)) if made else 0):
        place = draw(some.integers(0, len(made) - 1))
        made[place] = draw(some.integers(0, 255))
    return bytes(made)


@EXAMPLES
@hypothesis.given(data=blocks())
def test_a_jpeg_is_turned_as_by_pillow(found, data):
    segment = made_jpegs.exif_segment(data)
    contents = made_jpegs.with_segments(segment, contents=PLAIN)
    assert found(contents) == pillows(contents)


@EXAMPLES
@hypothesis.given(data=blocks(), digits=some.booleans(), late=some.booleans())
def test_a_png_is_turned_as_by_pillow(found, data, digits, late):
    chunk = made_rasters.chunk(b"eXIf", data)
    if digits:
        chunk = made_rasters.raw_profile(data)
    place = "after" if late else "before"
    contents = made_rasters.png(**PNG, **{place: chunk})
    assert found(contents) == pillows(contents)


parts = some.one_of(
    blocks().map(made_jpegs.exif_segment),
    some.sampled_from(
        [
            made_jpegs.xmp_segment(b'tiff:Orientation="8"'),
            made_jpegs.xmp_segment(b""),
            made_jpegs.segment(0xFE, b"text"),
            made_jpegs.segment(0xE2, b"x" * 3000),
            made_jpegs.segment(0xEB, b""),
            b"\xff",
            b"\xff" * 40,
            b"\xff\xd0",
            b"abc",
        ]
    ),
)


@EXAMPLES
@hypothesis.given(
    segments=some.lists(parts, max_size=6),
    before=some.sampled_from([0xDB, 0xC0, 0xC4, 0xDA]),
)
def test_segments_are_followed_as_by_pillow(found, segments, before):
    contents = made_jpegs.with_segments(
        *segments, contents=PLAIN, before=before
    )
    hypothesis.assume(b"\xffa" not in contents)  # a marker that all refuse
    assert found(contents) == pillows(contents)
    _, stored = host_decode.decode_and_look(contents)
    assert int(stored) == pillows(contents)
