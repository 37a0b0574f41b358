"""What is passed over in a folder is counted and named, and nothing hangs."""

import errno
import os
import socket

import pytest

from moco_tf import file_kinds
from moco_tf.data import folder_contents
from tests.data import pictures

ENDINGS = (b".jpg", b".jpeg", b".png")
FORMATS = ("JPEG", "PNG")


def contents_of(root):
    return folder_contents.Contents(os.fsencode(root), ENDINGS)


def said(root):
    """All remarks on a folder, a line each."""
    return "\n".join(map(str, contents_of(root).remarks(FORMATS)))


OTHERS = {
    "a.dng": ".dng", "a.CR2": ".cr2", "a.nef": ".nef", "a.psd": ".psd",
    "a.exr": ".exr", "a.dcm": ".dcm", "a.mpo": ".mpo", "a.apng": ".apng",
    "a.HEIC": ".heic", "a.txt": ".txt", "README": "without an ending",
    "Mr. Brown and others": "without an ending", "a.": "without an ending",
    "photo.jpg?width=300": ".jpg?...", "photo.jpg&w=1": ".jpg&...",
    "photo.JPG.part": ".jpg.part", "photo.png.crdownload": ".png.crdownload",
    "photo.jpg.1": ".jpg.1", "photo.jpg:Zone.Identifier": ".jpg:...",
    "photo.jpg_large": ".jpg_...", "a.tar.gz": ".gz",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_files_left_out_are_counted_by_their_ending(tmp_path, name):
    pictures.write(tmp_path, "a.jpg")
    (tmp_path / name).write_bytes(b"x")
    assert f"files by their ending: 1 {OTHERS[name]}" in said(tmp_path)


def test_endings_of_images_come_first_and_rare_ones_are_summed(tmp_path):
    pictures.write(tmp_path, "a.jpg", "b.JPG", "c.Jpeg")
    for number in range(20):
        (tmp_path / f"a.x{number:02}").write_bytes(b"x")
        (tmp_path / f"{number}.txt").write_bytes(b"x")
    (tmp_path / "a.heic").write_bytes(b"x")
    words = said(tmp_path)
    assert ": 1 .heic, 20 .txt, 1 .x00, " in words
    assert "1 .x09, 10 others. To train on the images among them" in words
    assert len(contents_of(tmp_path).images) == 3


def test_a_folder_without_others_says_nothing(tmp_path):
    pictures.write(tmp_path, "a/a.jpg", "b/b.jpg")
    assert said(tmp_path) == ""


@pytest.mark.parametrize("name", ["photo.jpg?width=300", "photo", "a.xyz"])
def test_images_with_other_endings_are_found_by_their_first_bytes(
    tmp_path, name
):
    pictures.write(tmp_path, "a.jpg", name)
    words = said(tmp_path)
    assert f"other endings that look like a JPEG: {name}. Rename" in words
    assert "list:FILE" in words


def test_what_lies_in_place_of_images_is_said(tmp_path):
    pictures.write(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"version https://git-lfs.github.com/")
    words = said(tmp_path)
    assert "of 2 looked at 1 are a Git LFS pointer (b.jpg)" in words
    assert file_kinds.LFS.remedy in words


def test_links_pipes_and_sockets_are_named_and_passed_over(
    tmp_path, monkeypatch
):
    pictures.write(tmp_path, "a/1.jpg")
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo("a/pipe.jpg")
    os.symlink("pipe.jpg", "a/to_pipe.jpg")
    os.symlink("nowhere", "gone.jpg")
    os.symlink("nowhere", "folder")
    os.symlink("self.jpg", "self.jpg")
    os.symlink("..", "a/circle")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.jpg")
        contents = contents_of(tmp_path)
    # An image that is gone keeps its place, and is counted as unreadable.
    assert contents.images == [b"a/1.jpg", b"gone.jpg"]
    counts = {words: tally.count for words, tally in contents.odd.items()}
    assert counts == {
        folder_contents.NO_FILES: 3,
        folder_contents.NOWHERE: 2,
        folder_contents.CIRCLES: 2,
    }
    text = "\n".join(map(str, contents.remarks(FORMATS)))
    assert "links in circles: 2 (" in text and "a/circle" in text
    assert text.count("passed over: ") == 3


def test_links_through_a_file_lead_nowhere(tmp_path):
    pictures.write(tmp_path, "a/1.jpg", "b.zip")
    (tmp_path / "a/2.jpg").symlink_to("../b.zip/2.jpg")
    (tmp_path / "a/more").symlink_to("../b.zip/more")
    contents = contents_of(tmp_path)
    assert contents.images == [b"a/1.jpg", b"a/2.jpg"]
    assert list(contents.odd) == [folder_contents.NOWHERE]
    assert contents.odd[folder_contents.NOWHERE].count == 2


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG])
def test_a_folder_that_cannot_be_read_is_passed_over(
    tmp_path, monkeypatch, number
):
    pictures.write(tmp_path, "a/1.jpg", "lost+found/2.jpg")
    _fail_below(monkeypatch, number)
    contents = contents_of(tmp_path)
    assert contents.images == [b"a/1.jpg"]
    (remark,) = contents.remarks(FORMATS)
    assert "entries that cannot be read: 1 (lost+found)" in remark.words
    assert "Grant read and search permission" in remark.remedy


def test_a_network_that_fails_for_a_moment_ends_the_listing(
    tmp_path, monkeypatch
):
    pictures.write(tmp_path, "a/1.jpg", "lost+found/2.jpg")
    _fail_below(monkeypatch, errno.EIO)
    with pytest.raises(OSError):
        contents_of(tmp_path)


def _fail_below(monkeypatch, number):
    """Root may read everything, so the refusal is made."""
    scandir = os.scandir

    def refuse(path):
        if path.endswith(b"lost+found"):
            raise OSError(number, os.strerror(number), path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)


@pytest.mark.parametrize("kind", ["file link", "folder link", "hard link"])
def test_images_that_are_reached_twice_are_counted(tmp_path, kind):
    pictures.write(tmp_path, "a/1.jpg", "a/2.jpg")
    if kind == "folder link":
        (tmp_path / "b").symlink_to("a")
    elif kind == "file link":
        (tmp_path / "b.jpg").symlink_to("a/1.jpg")
    else:
        os.link(tmp_path / "a/1.jpg", tmp_path / "b.jpg")
    contents = contents_of(tmp_path)
    assert contents.repeated == (2 if kind == "folder link" else 1)
    (remark,) = contents.remarks(FORMATS)
    assert str(contents.repeated) in remark.words


@pytest.mark.parametrize("ending", [".dng", ".NEF", ".cr2", ".arw", ".3fr"])
def test_nobody_is_told_to_rename_what_a_camera_has_not_developed(
    tmp_path, ending
):
    """It begins as a TIFF does, whose decoder would find a thumbnail."""
    pictures.write(tmp_path, "a.jpg")
    (tmp_path / f"b{ending}").write_bytes(b"II*\0\x08\0\0\0" + b"x" * 99)
    tiff = "JPEG", "PNG", "TIFF"
    remarks = contents_of(tmp_path).remarks(tiff)
    assert "write them as PNG" in str(remarks[0])
    assert "Rename" not in str(remarks)
    (tmp_path / "noending").write_bytes(b"II*\0\x08\0\0\0" + b"x" * 99)
    (remark,) = (
        x for x in contents_of(tmp_path).remarks(tiff) if "Ren" in x.remedy
    )
    assert (
        remark.words
        == "files with other endings that look like a TIFF: noending"
    )


def test_hidden_images_are_counted(tmp_path):
    pictures.write(tmp_path, "a/1.jpg", "a/._1.jpg", ".trash/2.jpg")
    contents = contents_of(tmp_path)
    assert contents.images == [b"a/1.jpg"]
    assert "hidden images: 1 (a/._1.jpg)" in said(tmp_path)
