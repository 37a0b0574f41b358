"""The images of a run by name: kept, compared, and put in order again."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import image_files, listing, prepared_source, sources
from tests import small_run
from tests.data import prepared_caches


@pytest.fixture
def images(tmp_path):
    return small_run.write_images(tmp_path / "images", 12)


def _difference(before, source):
    return listing.compare(before, source.listing(), source.marks)


def _prepare(images, cache):
    prepared_caches.make(images, cache)
    return prepared_source.open_prepared(str(cache))


def test_a_listing_is_read_as_it_was_written(tmp_path):
    names = [b"a.png", b"\xff \n.png", b"", "b/ü.png".encode()]
    written = listing.Listing(
        names=names,
        root=b"/im\xffages",
        kind="bytes",
        places=np.array([0, 2]),
        marks=np.array([5, -1]),
        labels=np.array([1, 0, 0, 1]),
        class_names=["dark", os.fsdecode(b"l\xffight")],
    )
    listing.write(tmp_path / "images.npz", written)
    read = listing.read(tmp_path / "images.npz")
    for name, value in written._asdict().items():
        np.testing.assert_array_equal(getattr(read, name), value)
    plain = written._replace(labels=None, class_names=None)
    listing.write(tmp_path / "plain.npz", plain)
    assert listing.read(tmp_path / "plain.npz").labels is None


@pytest.mark.parametrize("damage", ["empty", "cut", "garbled", "other", "gone"])
def test_a_damaged_listing_is_named(images, tmp_path, damage):
    path = tmp_path / "images.npz"
    listing.write(path, image_files.open_folder(images).listing())
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        with path.open("wb") as file:
            np.savez(file, kernel=np.zeros(3))
    else:
        half = len(data) // 2
        garbled = data[:half] + bytes(9) + data[half + 9 :]
        cases = {"empty": b"", "cut": data[:half], "garbled": garbled}
        path.write_bytes(cases[damage])
    with pytest.raises(ValueError, match="images.npz cannot be read"):
        listing.read(path)


def test_what_differs_is_counted(images):
    before = image_files.open_folder(images).listing()
    (images / "dark" / "003.png").unlink()
    (images / "dark" / "005.png").write_bytes(b"mended")
    shutil.copy(images / "dark" / "001.png", images / "bright" / "new.png")
    difference = _difference(before, image_files.open_folder(images))
    assert difference.describe() == (
        "1 added (bright/new.png); 1 removed (dark/003.png); "
        "1 changed (dark/005.png)"
    )
    assert difference.is_the_same_set()
    assert difference.looked_at == 11


@pytest.mark.parametrize("count", [11, 12, 13])
def test_more_than_half_of_other_images_are_another_set(images, count):
    before = image_files.open_folder(images).listing()
    # 12 then; `count` others now beside so many of the first.
    files = sorted(images.rglob("*.png"))
    for path in files[:3]:
        path.unlink()
    for number in range(count - 9):
        (images / "dark" / f"new{number}.png").write_bytes(b"x")
    difference = _difference(before, image_files.open_folder(images))
    assert difference.is_the_same_set() is True
    for path in files[3:7]:
        path.unlink()
    difference = _difference(before, image_files.open_folder(images))
    assert difference.is_the_same_set() is False
    known = [name for name in before.names if name.startswith(b"bright")]
    bad = _difference(before, image_files.open_folder(images))
    assert bad.is_the_same_set(known) is True


def test_other_images_of_the_same_names_are_another_set(images):
    before = image_files.open_folder(images).listing()
    for path in images.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"more")
    difference = _difference(before, image_files.open_folder(images))
    assert difference.changed.all()
    assert not difference.is_the_same_set()


def test_sizes_are_compared_of_some_images_by_their_names(images, monkeypatch):
    monkeypatch.setattr(image_files, "_SIZES_HASHED", 4)
    before = image_files.open_folder(images).listing()
    assert before.places.tolist() == [0, 3, 6, 9]
    (images / "bright" / "000.png").unlink()  # all others move by one
    path = images / os.fsdecode(before.names[6])
    path.write_bytes(b"x")
    difference = _difference(before, image_files.open_folder(images))
    assert difference.looked_at == 3
    assert difference.changed.tolist() == [i == 6 for i in range(12)]
    assert "of 3 that were looked at" in difference.describe()


def test_a_list_may_be_written_for_another_mount(images, tmp_path):
    def write(root, order):
        lines = [f"{root / name}\n" for name in order]
        (tmp_path / "list.txt").write_text("".join(lines))
        return sources.open_source(f"list:{tmp_path / 'list.txt'}")

    names = [str(p.relative_to(images)) for p in sorted(images.rglob("*.png"))]
    first = write(images, names)
    before = first.listing()
    moved = images.rename(tmp_path / "mount")
    now = write(moved, names[::-1])
    difference = _difference(before, now)
    assert difference.describe() == "another order"
    again = now.relisted(before, difference)
    expected = [os.fsencode(moved / name) for name in names]
    assert again.paths().tolist() == expected
    folder = image_files.open_folder(moved)
    assert _difference(before, folder).describe() == ""


def test_each_line_of_a_list_that_repeats_images_is_one_of_them(
    images, tmp_path
):
    def write(lines):
        (tmp_path / "list.txt").write_text("".join(lines))
        return sources.open_source(f"list:{tmp_path / 'list.txt'}")

    names = [str(p.relative_to(tmp_path)) for p in images.rglob("*.png")]
    lines = [f"{x}\t{kind}\n" for x in sorted(names) for kind in "ab"]
    before = write(lines).listing()
    del lines[7]  # bright/006.png of the class b
    now = write(lines)
    difference = _difference(before, now)
    removed = os.fsdecode(before.names[7])
    assert difference.describe() == f"1 removed ({removed})"
    assert np.flatnonzero(difference.gone).tolist() == [7]
    assert difference.is_the_same_set()
    again = now.relisted(before, difference)
    assert again.paths().tolist() == before.names
    more = write([*lines, lines[0]])
    assert len(_difference(before, more).added) == 1
    once = write(lines[::2]).listing()
    other = lines[0].replace("\ta", "\tb")
    more = _difference(once, write([other, *lines[::2]]))
    assert (len(more.added), more.relabelled) == (1, 0)


@pytest.mark.parametrize("change", ["another order", "one removed", "moved"])
def test_lines_of_one_image_are_told_apart_by_their_classes(
    images, tmp_path, change
):
    def write(lines):
        (tmp_path / "list.txt").write_text("".join(lines))
        return sources.open_source(f"list:{tmp_path / 'list.txt'}")

    names = sorted(str(p.relative_to(tmp_path)) for p in images.rglob("*.png"))
    lines = [f"{x}\t{kind}\n" for x in names for kind in "abab"]
    before = write(lines).listing()
    if change == "another order":
        lines[4], lines[5] = lines[5], lines[4]
    elif change == "one removed":
        del lines[4:7:2]  # both of the class a
    else:
        lines[4] = lines[4].replace("\ta", "\tb")
    now = write(lines)
    difference = _difference(before, now)
    removed = os.fsdecode(before.names[4])
    assert (
        difference.describe()
        == {
            "another order": "another order",
            "one removed": f"2 removed ({removed}, {removed})",
            # The lines are b, b, a, b now, and the third is the first of a.
            "moved": "1 of another class; another order",
        }[change]
    )
    again = now.relisted(before, difference)
    np.testing.assert_array_equal(again.labels, before.labels)


def test_labels_are_compared_by_the_names_of_classes(images):
    first = image_files.open_folder(images)
    before = first.listing()
    (images / "amber").mkdir()  # all numbers move by one
    shutil.copy(images / "dark" / "001.png", images / "amber" / "x.png")
    now = image_files.open_folder(images)
    assert now.class_names == ["amber", "bright", "dark"]
    difference = _difference(before, now)
    assert difference.relabelled == 0
    again = now.relisted(before, difference)
    assert again.class_names == ["bright", "dark"]
    np.testing.assert_array_equal(again.labels, first.labels)
    swapped = before._replace(class_names=["dark", "bright"])
    assert _difference(swapped, now).relabelled == 12


def test_pairs_are_kept_as_pairs(tmp_path):
    for name in ("colour", "depth"):
        small_run.write_images(tmp_path / name, 6)
    spec = f"pairs:{tmp_path / 'colour'},{tmp_path / 'depth'}"
    before = sources.open_source(spec, 6).listing()
    for name in ("colour", "depth"):
        (tmp_path / name / "dark" / "003.png").unlink()
    (tmp_path / "depth" / "dark" / "001.png").write_bytes(b"x")
    now = sources.open_source(spec, 6)
    difference = _difference(before, now)
    assert difference.describe() == (
        "1 removed (dark/003.png + dark/003.png); "
        "1 changed (dark/001.png + dark/001.png)"
    )
    again = now.relisted(before, difference)
    assert [again.name(i) for i in range(6)] == [
        name.partition(b"\0")[0].decode() for name in before.names
    ]
    assert again.removed.tolist() == [i == 4 for i in range(6)]
    assert difference.is_the_same_set([b"dark/003.png"])


def test_a_cache_is_put_in_the_first_order(tmp_path):
    images = small_run.write_images(tmp_path / "images", 8)
    (images / "dark" / "007.png").write_bytes(b"broken")
    first = _prepare(images, tmp_path / "first")
    before = first.listing()
    assert before.marks[-1] == -1
    (images / "bright" / "002.png").unlink()
    (images / "dark" / "007.png").write_bytes(
        (images / "dark" / "005.png").read_bytes()
    )
    now = _prepare(images, tmp_path / "second")
    difference = _difference(before, now)
    assert difference.describe() == (
        "1 removed (bright/002.png); 1 changed (dark/007.png)"
    )
    again = now.relisted(before, difference)
    assert isinstance(again, prepared_source.PreparedSource)
    assert len(again) == 8 and again.fingerprint() != now.fingerprint()
    for place in (0, 2, 7):
        path = images / os.fsdecode(before.names[place])
        np.testing.assert_array_equal(
            again.image(again.records([place])[0]),
            tf.io.decode_png(path.read_bytes()),
        )
    with pytest.raises(tf.errors.InvalidArgumentError, match="removed"):
        again.image(again.records([1])[0])


def test_a_cache_is_not_compared_with_files(tmp_path):
    images = small_run.write_images(tmp_path / "images", 8)
    before = image_files.open_folder(images).listing()
    cache = _prepare(images, tmp_path / "cache")
    assert not _difference(before, cache).is_the_same_set()


def test_images_without_a_class_stay_so(images):
    stray = images / "cover.png"
    shutil.copy(images / "dark" / "001.png", stray)
    before = image_files.open_folder(images).listing()
    assert before.labels.tolist().count(-1) == 1
    same = image_files.open_folder(images)
    assert _difference(before, same).relabelled == 0
    # A class more comes first and moves the numbers of the others.
    shutil.copytree(images / "dark", images / "an extra one")
    stray.unlink()
    now = image_files.open_folder(images)
    difference = _difference(before, now)
    assert difference.relabelled == 0
    again = now.relisted(before, difference)
    assert again.labels.tolist() == before.labels.tolist()
    assert len(sources.labelled(again, "bank")) == 12
