import io
import struct

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import decode
from tests.data import pictures


@pytest.fixture(name="read", scope="module")
def _read():
    return tf.function(
        decode.decode, input_signature=[tf.TensorSpec([], tf.string)]
    )


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


def test_a_frame_that_claims_too_many_pixels_is_not_decoded(read):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must not have more than"
    ):
        read(_gif(width=20_000, height=20_000))


def test_frames_after_the_first_take_no_memory(read):
    bomb = _gif(width=60_000, height=60_000)
    later = bomb[bomb.index(b",") : -1]
    assert read(_gif(after=later)).shape == [1, 2, 3]


def test_a_gif_in_countless_parts_is_refused(read):
    comment = b"!\xfe" + b"\x01a" * 5000 + b"\x00"
    with pytest.raises(tf.errors.InvalidArgumentError, match="hold a frame"):
        read(_gif(before=comment))
