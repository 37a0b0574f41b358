"""Folders of image files, whole and broken."""

import os

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources
from tests.data import pictures


def test_class_folders_give_labels_in_sorted_order(tmp_path):
    pictures.write(
        tmp_path, "dog/2.jpg", "cat/1.jpg", "dog/1.png", "cat/3.JPEG"
    )
    source = sources.open_source(f"folder:{tmp_path}")
    assert pictures.names(source)[:2] == ["cat/1.jpg", "cat/3.JPEG"]
    assert pictures.names(source)[2:] == ["dog/1.png", "dog/2.jpg"]
    assert source.class_names == ["cat", "dog"]
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_class_folders_named_by_number_are_sorted_as_numbers(tmp_path):
    pictures.write(tmp_path, "10/a.jpg", "9/a.jpg")
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
    pictures.write(tmp_path, *files)
    source = sources.open_source(f"folder:{tmp_path}")
    assert pictures.names(source) == sorted(files)
    assert source.labels is None
    assert source.class_names is None


def test_hidden_files_and_files_of_no_image_are_left_out(tmp_path):
    pictures.write(tmp_path, "a.jpg", ".b.jpg", ".thumbs/c.jpg")
    (tmp_path / "readme.txt").write_text("text")
    assert pictures.names(sources.open_source(f"folder:{tmp_path}")) == [
        "a.jpg"
    ]


def test_links_are_followed_but_not_in_circles(tmp_path):
    pictures.write(tmp_path / "elsewhere", "far.jpg")
    pictures.write(tmp_path / "root", "near.jpg")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    source = sources.open_source(f"folder:{tmp_path}/root")
    assert pictures.names(source) == ["gone.jpg", "linked/far.jpg", "near.jpg"]
    assert pictures.read(source, 1).shape == (7, 9, 3)
    with pytest.raises(tf.errors.NotFoundError):
        pictures.read(source, 0)


def test_names_that_are_no_text_are_read(tmp_path):
    path = bytes(tmp_path) + b"/caf\xe9.jpg"
    with open(path, "wb") as file:
        file.write(pictures.encode(pictures.scene(), "JPEG"))
    source = sources.open_source(f"folder:{tmp_path}")
    assert pictures.read(source, 0).shape == (7, 9, 3)
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
    pictures.write(tmp_path, "a.jpg")

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)  # root may read everything
    with pytest.raises(ValueError, match="Permission denied.*grant read"):
        sources.open_source(f"folder:{tmp_path}")


def test_other_formats_are_counted_and_named(tmp_path):
    pictures.write(tmp_path, "a.jpg")
    for number in range(6):
        (tmp_path / f"{number}.WEBP").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"Received 6 .*4\.WEBP, \.\.\.\."):
        sources.open_source(f"folder:{tmp_path}")


def test_the_fingerprint_is_of_names_labels_and_sizes(tmp_path):
    pictures.write(tmp_path, "a/1.jpg", "b/2.jpg")

    def fingerprint():
        return sources.open_source(f"folder:{tmp_path}").fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    (tmp_path / "a/1.jpg").write_bytes(b"x")
    second = fingerprint()
    (tmp_path / "b/2.jpg").rename(tmp_path / "b/3.jpg")
    assert len({first, second, fingerprint()}) == 3


def test_the_fingerprint_stays_when_the_folder_moves(tmp_path):
    pictures.write(tmp_path / "one", "a/1.jpg", "b/2.jpg")
    first = sources.open_source(f"folder:{tmp_path}/one").fingerprint()
    (tmp_path / "one").rename(tmp_path / "two")
    second = sources.open_source(f"folder:{tmp_path}/two").fingerprint()
    assert first == second


def test_a_link_to_itself_is_refused_by_its_folder(tmp_path):
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    with pytest.raises(ValueError, match=f"{tmp_path}': Too many levels"):
        sources.open_source(f"folder:{tmp_path}")


def test_files_are_in_the_order_of_their_bytes(tmp_path):
    names = [b"Z.jpg", b"a.jpg", b"a/b.jpg", b"\xc3\xa9.jpg", b"\xe9.jpg"]
    pictures.write(tmp_path, *map(os.fsdecode, names))
    source = sources.open_source(f"folder:{tmp_path}")
    assert [os.fsencode(name) for name in pictures.names(source)] == names


def test_a_class_whose_name_is_no_text_has_a_fingerprint(tmp_path):
    pictures.write(tmp_path, "\udcff/1.jpg", "b/1.jpg")
    source = sources.open_source(f"folder:{tmp_path}")
    assert source.class_names == ["b", "\udcff"]
    assert len(source.fingerprint()) == 64
