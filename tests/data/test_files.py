"""Folders and lists of image files, whole and broken."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.data import decode, sources


def encode(image, form, **options):
    """Bytes of a PIL image."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def scene(mode="RGB", size=(9, 7)):
    """A small picture with a slope in every channel."""
    grid = np.add.outer(np.arange(size[1]) * 9, np.arange(size[0]) * 11)
    colour = np.stack([grid, 255 - grid, grid // 2], axis=-1)
    return Image.fromarray(colour.astype(np.uint8)).convert(mode)


def write(root, *names):
    """Writes a JPEG or PNG under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        form = "PNG" if name.endswith("png") else "JPEG"
        path.write_bytes(encode(scene(), form))


def names(source):
    return [source.name(i) for i in range(len(source))]


def read(source, index):
    """Reads one image the way the pipeline does: inside tf.data."""
    dataset = tf.data.Dataset.from_tensors([index]).map(source.records)
    return next(iter(dataset.unbatch().map(source.image))).numpy()


def read_bytes(tmp_path, contents, name="a.jpg"):
    (tmp_path / name).write_bytes(contents)
    return read(sources.open_source(f"folder:{tmp_path}"), 0)


def test_class_folders_give_labels_in_sorted_order(tmp_path):
    write(tmp_path, "dog/2.jpg", "cat/1.jpg", "dog/1.png", "cat/3.JPEG")
    source = sources.open_source(f"folder:{tmp_path}")
    assert names(source)[:2] == ["cat/1.jpg", "cat/3.JPEG"]
    assert names(source)[2:] == ["dog/1.png", "dog/2.jpg"]
    assert source.class_names == ["cat", "dog"]
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_class_folders_named_by_number_are_sorted_as_numbers(tmp_path):
    write(tmp_path, "10/a.jpg", "9/a.jpg")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ["9", "10"]
    assert source.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    "files",
    [
        ["a.jpg", "b.jpg"],
        ["one/a.jpg", "one/b.jpg"],
        ["one/a.jpg", "two/a.jpg", "c.jpg"],
        ["x/one/a.jpg", "x/two/a.jpg"],
    ],
)
def test_other_layouts_are_read_without_labels(tmp_path, files):
    write(tmp_path, *files)
    source = sources.open_source(f"folder:{tmp_path}")
    assert names(source) == sorted(files)
    assert source.labels is None
    assert source.class_names is None


def test_hidden_files_and_files_of_no_image_are_left_out(tmp_path):
    write(tmp_path, "a.jpg", ".b.jpg", ".thumbs/c.jpg")
    (tmp_path / "readme.txt").write_text("text")
    assert names(sources.open_source(f"folder:{tmp_path}")) == ["a.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere", "far.jpg")
    write(tmp_path / "root", "near.jpg")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    source = sources.open_source(f"folder:{tmp_path}/root")
    assert names(source) == ["gone.jpg", "linked/far.jpg", "near.jpg"]
    assert read(source, 1).shape == (7, 9, 3)
    with pytest.raises(tf.errors.NotFoundError):
        read(source, 0)


def test_names_that_are_no_text_are_read(tmp_path):
    path = bytes(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(encode(scene(), "JPEG"))
    source = sources.open_source(f"folder:{tmp_path}")
    assert read(source, 0).shape == (7, 9, 3)
    assert source.name(0) == "caf\udce9.jpg"


def test_missing_empty_and_imageless_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must name a folder.*is missing"):
        sources.open_source(f"folder:{tmp_path}/none")
    with pytest.raises(ValueError, match="at least one image.*with 0 files"):
        sources.open_source(f"folder:{tmp_path}")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="at least one image.*with 1 files"):
        sources.open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="a.txt', which is a file"):
        sources.open_source(f"folder:{tmp_path}/a.txt")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    write(tmp_path, "a.jpg")

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)  # root may read everything
    with pytest.raises(ValueError, match="Permission denied.*grant read"):
        sources.open_source(f"folder:{tmp_path}")


def test_other_formats_are_counted_and_named(tmp_path):
    write(tmp_path, "a.jpg")
    for number in range(6):
        (tmp_path / f"{number}.WEBP").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"Received 6 .*4\.WEBP, \.\.\.\."):
        sources.open_source(f"folder:{tmp_path}")


def test_a_list_names_files_and_classes(tmp_path):
    write(tmp_path, "img/a b.jpg", "img/c.png")
    listed = tmp_path / "train.txt"
    listed.write_bytes(
        f"img/a b.jpg\tzebra\r\n{tmp_path}/img/c.png\tape\r\n\r\n".encode()
    )
    source = sources.open_source(f"list:{listed}")
    assert names(source) == ["img/a b.jpg", f"{tmp_path}/img/c.png"]
    assert source.class_names == ["ape", "zebra"]
    assert source.labels.tolist() == [1, 0]
    assert [read(source, i).shape for i in range(2)] == [(7, 9, 3)] * 2


def test_a_list_without_classes_has_no_labels(tmp_path):
    write(tmp_path, "b.jpg", "a.jpg")
    (tmp_path / "l").write_text("b.jpg\na.jpg\nb.jpg")
    source = sources.open_source(f"list:{tmp_path}/l")
    assert names(source) == ["b.jpg", "a.jpg", "b.jpg"]
    assert source.labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one image"),
        ("\n\n", "at least one image"),
        ("a.jpg\t0\na.jpg\n", "1 tabs in its first line and line 2: 'a.jpg'"),
        ("a.jpg\n\na.jpg\t0\n", "0 tabs in its first line and line 3"),
        ("a.jpg\t0\t1\n", "2 tabs in its first line and line 1"),
        ("a.jpg\t\n", "line 1: 'a.jpg.t'"),
        ("a.jpg\nnone.jpg\n", "line 2: 'none.jpg'. Correct or remove"),
        ("a.jpg 0\n", "line 1: 'a.jpg 0'. Path and class are separated by a"),
        ("a.gif\n", "Received 1 of other formats: a.gif"),
    ],
)
def test_a_list_that_does_not_match_is_refused_by_line(tmp_path, text, message):
    write(tmp_path, "a.jpg")
    (tmp_path / "l").write_text(text)
    with pytest.raises(ValueError, match=message):
        sources.open_source(f"list:{tmp_path}/l")


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No such file.*folder:PATH"):
        sources.open_source(f"list:{tmp_path}/none.txt")


def test_the_fingerprint_is_of_names_labels_and_sizes(tmp_path):
    write(tmp_path, "a/1.jpg", "b/2.jpg")

    def fingerprint():
        return sources.open_source(f"folder:{tmp_path}").fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    (tmp_path / "a/1.jpg").write_bytes(b"x")
    second = fingerprint()
    (tmp_path / "b/2.jpg").rename(tmp_path / "b/3.jpg")
    assert len({first, second, fingerprint()}) == 3


def test_the_fingerprint_stays_when_the_folder_moves(tmp_path):
    write(tmp_path / "one", "a/1.jpg", "b/2.jpg")
    first = sources.open_source(f"folder:{tmp_path}/one").fingerprint()
    (tmp_path / "one").rename(tmp_path / "two")
    second = sources.open_source(f"folder:{tmp_path}/two").fingerprint()
    assert first == second


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"),
        ("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG"),
    ],
)  # fmt: skip
def test_images_decode_as_pillow_decodes_them(tmp_path, mode, form):
    contents = encode(scene(mode), form)
    expected = Image.open(io.BytesIO(contents)).convert("RGB")
    image = read_bytes(tmp_path, contents, "a.png")  # the name says nothing
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.asarray(expected))


def test_alpha_is_dropped(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    image = read_bytes(tmp_path, encode(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(image, pixels[..., :3])


def test_16_bits_keep_the_upper_8(tmp_path):
    pixels = np.array([[0x0123, 0x4567], [0x89AB, 0xFFFF]], np.uint16)
    contents = tf.io.encode_png(pixels[..., np.newaxis]).numpy()
    image = read_bytes(tmp_path, contents)
    upper = np.array([[0x01, 0x45], [0x89, 0xFF]])
    np.testing.assert_array_equal(image, np.repeat(upper[..., None], 3, -1))


def test_an_image_of_one_pixel_is_read(tmp_path):
    contents = encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")
    assert read_bytes(tmp_path, contents).tolist() == [[[1, 2, 3]]]


def noisy(form):
    """An encoded image that fills some kilobytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    return encode(Image.fromarray(pixels), form)


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
        (encode(scene(), "GIF"), "GIF"),
        (encode(scene(), "BMP"), "BMP"),
        (encode(scene(), "TIFF"), "TIFF"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "WebP"),
        (b"\x00\x00\x00\x1cftypavif", "AVIF"),
        (b"<!DOCTYPE html>", "HTML"),
    ],
)
def test_what_is_no_jpeg_or_png_is_refused_by_name(tmp_path, contents, named):
    with pytest.raises(tf.errors.InvalidArgumentError, match=named):
        read_bytes(tmp_path, contents)


def test_a_png_that_claims_too_many_pixels_is_not_decoded(tmp_path):
    contents = bytearray(encode(scene(), "PNG"))
    contents[16:24] = struct.pack(">II", 10_000, 10_000)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must not have more than"
    ):
        read_bytes(tmp_path, bytes(contents))


def test_a_jpeg_that_claims_too_many_pixels_is_not_decoded(tmp_path):
    contents = encode(scene(), "JPEG")
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
    contents = encode(scene(), "PNG")
    np.testing.assert_array_equal(decode.decode(contents), np.asarray(scene()))
    with pytest.raises(tf.errors.InvalidArgumentError, match="GIF"):
        decode.decode(encode(scene(), "GIF"))
