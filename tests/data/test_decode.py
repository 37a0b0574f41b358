"""Encoded bytes of many kinds, intact and damaged, as the pipeline decodes."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from moco_tf.data import decode, host_decode, metadata, sources
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
    np.testing.assert_array_equal(host_decode.decode(contents), PIXELS[..., :3])


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
    assert decode.decode(beyond)[0, 2].numpy().tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [4, 8])
def test_two_colours_may_be_black_and_white(bits):
    data = {4: b"\x10\x01\0\0", 8: b"\1\0\0\1"}[bits]
    contents = struct.pack(
        "<2sIIIIiiHHIIiiII",
        b"BM",
        66,
        0,
        62,
        40,
        4,
        1,
        1,
        bits,
        0,
        4,
        0,
        0,
        2,
        0,
    )
    contents += bytes(4) + b"\xff\xff\xff\0" + data
    expected = [[[255] * 3, [0] * 3, [0] * 3, [255] * 3]]
    assert host_decode.decode(contents).numpy().tolist() == expected
    if bits == 8:
        assert decode.decode(contents).numpy().tolist() == expected


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


@pytest.fixture(name="read_gif", scope="module")
def _read_gif():
    return tf.function(
        decode.decode, input_signature=[tf.TensorSpec([], tf.string)]
    )


def test_of_an_animation_the_first_frame_is_taken(read_gif):
    buffer = io.BytesIO()
    first = pictures.scene("P")
    first.save(
        buffer, "GIF", save_all=True, append_images=[first.rotate(180)] * 2
    )
    np.testing.assert_array_equal(
        read_gif(buffer.getvalue()), np.asarray(first.convert("RGB"))
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


@pytest.mark.parametrize(("clear", "around"), [(None, 0), (0, 0), (1, 255)])
def test_a_frame_lies_on_its_canvas(read_gif, clear, around):
    flags = bytes([clear is not None, 0, 0, clear or 0, 0])
    control = b"!\xf9\x04" + flags
    image = read_gif(_gif(left=7, top=3, before=control)).numpy()
    expected = np.full([200, 300, 3], around, np.uint8)
    expected[3, 7:9] = [[0] * 3, [255] * 3]
    np.testing.assert_array_equal(image, expected)


def test_a_frame_that_leaves_the_canvas_makes_it_larger(read_gif):
    image = read_gif(_gif(left=400, top=3)).numpy()
    assert image.shape == (200, 402, 3)
    assert image[3, 400:].tolist() == [[0] * 3, [255] * 3]


def test_extensions_before_the_frame_are_skipped(read_gif):
    comment = b"!\xfe\x05hello\x03abc\x00"
    control = b"!\xf9\x04\x00\x00\x00\x00\x00"
    image = read_gif(_gif(before=comment + control))
    assert image[0, :2].numpy().tolist() == [[0] * 3, [255] * 3]


def test_a_canvas_that_claims_too_many_pixels_is_not_made(read_gif):
    contents = bytearray(_gif())
    contents[6:10] = struct.pack("<HH", 20_000, 20_000)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must not have more than"
    ):
        read_gif(bytes(contents))


def test_a_frame_that_claims_too_many_pixels_is_not_decoded(read_gif):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must not have more than"
    ):
        read_gif(_gif(width=20_000, height=20_000))


def test_frames_after_the_first_take_no_memory(read_gif):
    bomb = _gif(width=60_000, height=60_000)
    later = bomb[bomb.index(b",") : -1]
    assert read_gif(_gif(after=later)).shape == [200, 300, 3]


def test_a_gif_in_countless_parts_is_refused(read_gif):
    comment = b"!\xfe" + b"\x01a" * 5000 + b"\x00"
    with pytest.raises(tf.errors.InvalidArgumentError, match="have a frame"):
        read_gif(_gif(before=comment))


ORIENTATION = 0x0112


@pytest.fixture(name="read", scope="module")
def _read_oriented():
    """The orientation that the graph of a served encoder finds."""

    def orientation(contents):
        return tf.cond(
            decode.format_of(contents) == 0,
            lambda: metadata.of_jpeg(contents).orientation,
            lambda: metadata.of_png(contents).orientation,
        )

    return tf.function(orientation, [tf.TensorSpec([], tf.string)])


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
    """A JPEG with more segments behind its first one."""
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
def test_the_orientation_is_read_behind_other_segments(read, order, before):
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
        b"Exiv\0\0" + exif(6)[6:],
    ],
)
def test_what_is_no_orientation_leaves_the_image_as_stored(read, data):
    contents = jpeg(segment(0xE1, data))
    assert read(contents) == 1
    np.testing.assert_array_equal(
        decode.decode(contents), decode.decode(jpeg())
    )


def test_endless_segments_are_refused_in_a_graph_and_read_on_the_host(read):
    many = jpeg(*[segment(0xE2, b"x" * 2000)] * 2000, segment(0xE1, exif(6)))
    assert decode.decode(many).shape == [9, 7, 3]  # a long file may have more
    six = segment(0xE1, exif(6))
    short = jpeg(*[segment(0xE1, b"x")] * 2000, six)
    with pytest.raises(tf.errors.InvalidArgumentError, match="of segments"):
        decode.decode(short)
    np.testing.assert_array_equal(
        host_decode.decode(short), decode.decode(jpeg(six))
    )
    assert read(b"\xff\xd8\xff" + b"\xff\xe2\x00\x00" * 10) == 1


@pytest.mark.parametrize("form", ["GIF", "BMP"])
def test_other_files_are_taken_as_stored(read, form):
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    contents = pictures.encode(pictures.scene("P"), form, exif=tags)
    assert read(contents) == 1
    expected = np.asarray(pictures.scene("P").convert("RGB"))
    np.testing.assert_array_equal(decode.decode(contents), expected)


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
    pixels = decode.decode(contents).numpy().astype(int)
    # Pillow rounds the product of ink and black, the platform cuts it.
    assert np.abs(pixels - expected).max() <= 1


def test_inks_without_a_mark_are_inverted_as_pillow_has_it():
    marked, plain = four_inks(lambda mark: b"")
    expected = np.asarray(Image.open(io.BytesIO(plain)).convert("RGB"))
    pixels = decode.decode(plain).numpy().astype(int)
    assert np.abs(pixels - expected).max() <= 1
    np.testing.assert_array_equal(pixels, decode.decode(marked))


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
        (b"hello, this is text", "an unknown format"),
        (b"\xff", "an unknown format"),
        (pictures.encode(pictures.scene(), "AVIF"), "AVIF"),
        (pictures.encode(pictures.scene(), "JPEG2000"), "JPEG 2000"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00", "HEIF"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"<!DOCTYPE html>", "HTML or XML"),
        (pictures.encode(pictures.scene(), "JPEG2000", no_jp2=True), "stream"),
        *((b"\0\0\0\x18ftyp" + x, "HEIC") for x in (b"heix", b"hevc")),
        (b"\0\0\0\x18ftypmsf1", "HEIF"),
        (b"\0\0\0\x18ftypavis", "AVIF"),
        (b"8BPS\0\x01", "PSD"),
        (pictures.encode(pictures.scene(), "ICO"), "ICO"),
        (pictures.encode(pictures.scene(), "PPM"), "Netpbm"),
    ],
)
def test_other_formats_are_refused_by_name(contents, named):
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=f"(?s)JPEG, PNG, GIF or BMP. Received.*{named}.*Convert it to",
    ):
        decode.decode(contents)
    # Where there is Python, it looks at more bytes and says more.
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="GIF, BMP, WebP or TIFF. Received"
    ):
        host_decode.decode(contents)


@pytest.mark.parametrize("form", ["WEBP", "TIFF"])
def test_what_only_the_host_reads_is_refused_by_name_in_a_graph(form):
    contents = pictures.encode(pictures.scene(), form, lossless=True)
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=f"(?s)JPEG, PNG, GIF or BMP. Received.*(?i:{form}).*Convert it",
    ):
        decode.decode(contents)
    np.testing.assert_array_equal(
        host_decode.decode(contents), np.asarray(pictures.scene())
    )


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "an empty file. Copy or download it anew"),
        (b"version https://git-lfs.github.com/spec/v1", "Run `git lfs pull`"),
        (b"%PDF-1.7", "a PDF. Take the pictures out"),
        (b'{"error": 1}', "JSON. Read it"),
        (b"\n[1]", "JSON. Read it"),
        (b"\xef\xbb\xbf<html>", "HTML or XML. A download"),
        (b"PK\x03\x04" + bytes(30), "a zip archive. Unpack it"),
        (b"\0\0\0\x18ftypisom", "an ISO media file. Take frames"),
    ],
)
def test_what_lies_there_instead_has_its_own_remedy(contents, words):
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
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
