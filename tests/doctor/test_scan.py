import csv
import io
import os
import re

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks import planted_faults
from moco_tf.data import sources
from moco_tf.doctor import images, scan
from tests.doctor import photographs

SIZE = 64  # pixels of a view; sides below 32 are tiny


def examine(folder, size=SIZE):
    """Rows [name, kind, detail] of a folder."""
    source = sources.open_source(f"folder:{folder}")
    faults = images.find_faults(source, scan.scan_source(source, 2), size)
    return [[source.name(f.index), f.kind, f.detail] for f in faults]


def test_every_planted_fault_is_named_and_no_other_image(tmp_path):
    folder = photographs.write(tmp_path / "copy", 60)
    planted = planted_faults.plant(folder, seed=3)
    rows = examine(folder)
    missed = [fault for fault in planted if not fault.is_named(rows)]
    assert len(planted) == 50
    assert missed == []
    touched = {name for fault in planted for name in (fault.name, fault.twin)}
    assert [row for row in rows if row[0] not in touched] == []


def test_figures_of_an_image():
    image = np.full([48, 64, 3], 100, np.uint8)
    image[:, 32:] = [100, 130, 90]
    figures = scan.measure(image)
    assert (int(figures["height"]), int(figures["width"])) == (48, 64)
    assert float(figures["spread"]) == 40  # 130 - 90
    assert int(figures["contrast"]) == 30  # green, 100 to 130
    # 0.299, 0.587 and 0.114 of red, green and blue: 100 and 116.47.
    thumbnail = figures["thumbnail"].numpy().reshape(16, 16)
    assert set(thumbnail[:, :8].ravel()) == {100}
    assert set(thumbnail[:, 8:].ravel()) == {116}


def test_a_hash_holds_the_signs_of_frequencies():
    # A wave of one period in x: its frequency is (0, 2), the third of the
    # order (0, 1), (1, 0), (0, 2), (1, 1), (2, 0), ...
    wave = np.cos(2 * np.pi * (np.arange(32) + 0.5) / 32)
    luminance = np.tile(wave.astype(np.float32), [32, 1])
    bits = int(scan.perceptual_hash(luminance))
    opposite = int(scan.perceptual_hash(-luminance))
    assert (bits ^ opposite) & 0b100
    assert bits & 0b100


def recompressed(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer)


def test_a_changed_copy_is_found(tmp_path):
    changes = {
        "recompressed": recompressed,
        "smaller": lambda image: image.resize((48, 36)),
        "larger": lambda image: image.resize((200, 150)),
        "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
        "grey": lambda image: image.convert("L"),
    }
    folder = photographs.write(tmp_path / "few", len(changes))
    for number, (name, change) in enumerate(changes.items()):
        change(photographs.picture(number)).save(folder / f"{name}.png")
    near = [row for row in examine(folder) if row[1] == "near_copy"]
    assert sorted(near) == sorted(
        [f"{name}.png", "near_copy", f"of {number:04d}.jpg"]
        for number, name in enumerate(changes)
    )


def test_a_repaired_jpeg_is_damaged_and_the_decoder_says_how(tmp_path, capfd):
    folder = photographs.write(tmp_path / "few", 6)
    path = folder / "0004.jpg"
    data = path.read_bytes()
    # Too many bytes before the marker of the end.
    path.write_bytes(data[:-2] + b"\x55" * 400 + data[-2:])
    (row,) = examine(folder)
    assert row[:2] == ["0004.jpg", "damaged"]
    # The decoder has read some of them ahead.
    words = r"Corrupt JPEG data: 3\d\d extraneous bytes before marker 0xd9"
    assert re.fullmatch(words, row[2])
    assert capfd.readouterr().err == ""


def test_what_others_write_to_standard_error_is_kept(tmp_path, capfd):
    source = sources.open_source(
        f"folder:{photographs.write(tmp_path / 'few', 2)}"
    )

    class Speaking:
        labels = None

        def __len__(self):
            return len(source)

        def records(self, indices):
            os.write(2, b"a disk is failing\n")
            return source.records(indices)

        def image(self, record):
            return source.image(record)

    scan.scan_source(Speaking(), 1)
    assert capfd.readouterr().err == "a disk is failing\n"


def test_names_need_be_neither_ascii_nor_short_nor_text(tmp_path):
    folder = tmp_path / "photos" / ("Ärger-" * 30) / ("写真" * 40)
    photographs.write(folder, 2)
    (folder / "öde.jpg").write_bytes(b"")
    with open(os.fsencode(folder) + b"/\xff.jpg", "wb"):
        pass
    source = sources.open_source(f"folder:{tmp_path / 'photos'}")
    faults = images.find_faults(source, scan.scan_source(source, 2), SIZE)
    path = tmp_path / "faults" / "of.csv"
    images.write_csv(path, source, faults)
    with path.open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "kind", "detail"]
    ends = {os.fsencode(row[0]).rpartition(b"/")[2] for row in rows[1:]}
    assert ends == {"öde.jpg".encode(), b"\xff.jpg"}
    assert {row[1] for row in rows[1:]} == {"unreadable"}


def test_records_without_files_are_named_by_their_index():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 40, 40, 3), np.uint8)
    pixels[3] = pixels[1]
    source = sources.ArraySource(pixels, np.zeros(4, int), None, "shapes")
    faults = images.find_faults(source, scan.scan_source(source, 2), 32)
    assert [(source.name(f.index), f.kind, f.detail) for f in faults] == [
        ("shapes[3]", "copy", "of shapes[1]")
    ]


def test_a_folder_of_unreadable_images_has_nothing_else(tmp_path):
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"....ftypavif")
    rows = examine(tmp_path)
    assert [row[:2] for row in rows] == [
        ["a.jpg", "unreadable"],
        ["b.png", "unreadable"],
    ]
    assert "Received an AVIF." in rows[0][2]


def test_formats_are_counted_and_turned_photographs_named(tmp_path):
    folder = photographs.write(tmp_path / "few", 3)
    tags = Image.Exif()
    tags[0x0112] = 6
    photographs.picture(3).save(folder / "turned.jpg", exif=tags)
    photographs.picture(4).save(folder / "drawing.gif")
    photographs.picture(5).save(folder / "screen.bmp")
    (folder / "screen.bmp").rename(folder / "screen.png")
    source = sources.open_source(f"folder:{folder}")
    figures = scan.scan_source(source, 2)
    (row,) = images.format_rows(figures)
    assert row.finding == "4 JPEG, 1 GIF, 1 BMP"
    faults = images.find_faults(source, figures, SIZE)
    assert [(source.name(f.index), f.kind, f.detail) for f in faults] == [
        ("screen.png", "misnamed", "holds a BMP"),
        ("turned.jpg", "turned", "EXIF orientation 6"),
    ]


def test_images_without_files_have_no_formats():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    source = sources.ArraySource(pixels, np.zeros(2, int), None, "shapes")
    assert images.format_rows(scan.scan_source(source, 2)) == []
