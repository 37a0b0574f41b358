"""What a killed writer leaves behind, and how the next one goes on."""

import shutil

import numpy as np
import pytest

from moco_tf.data import prepared_cache
from tests.data import prepared_caches

SETTINGS = {
    "source": "folder:/images",
    "fingerprint": "f",
    "short_side": 9,
    "of": 6,
    "labelled": True,
    "class_names": ["a", "b"],
}


def _append(writer, place):
    """Adds the image of a place; the third cannot be read."""
    if place == 2:
        writer.append_unreadable("because, it is", place % 2, f"{place}.png")
        return
    random = np.random.default_rng(place)
    image = random.integers(0, 256, [place + 1, 5, 3], np.uint8)
    writer.append(image, place % 2, f"{place}.png")


def _finish(folder):
    """Goes on where the folder's writer was; returns how many were there."""
    writer = prepared_cache.Writer(folder, SETTINGS)
    first = writer.about["images"]
    for place in range(first, 6):
        _append(writer, place)
    writer.commit(finished=True)
    writer.close()
    return first


def test_from_wherever_it_was_killed_it_ends_with_the_same_bytes(
    tmp_path, monkeypatch
):
    _finish(tmp_path / "whole")
    whole = prepared_caches.contents(tmp_path / "whole")
    monkeypatch.setattr(prepared_cache, "_COMMIT_BYTES", 150)
    states = []
    write = prepared_cache.Writer._write

    def snapshot():
        state = tmp_path / str(len(states))
        shutil.copytree(tmp_path / "cache", state)
        states.append(state)

    def torn_write(writer, name, data):
        half = len(data) // 2
        write(writer, name, data[:half])
        snapshot()
        write(writer, name, data[half:])
        snapshot()

    write_about = prepared_cache.write_about

    def torn_about(folder, about):
        (folder / prepared_cache.PART).write_text('{"form')
        snapshot()
        write_about(folder, about)
        snapshot()

    monkeypatch.setattr(prepared_cache.Writer, "_write", torn_write)
    monkeypatch.setattr(prepared_cache, "write_about", torn_about)
    _finish(tmp_path / "cache")
    monkeypatch.undo()
    assert prepared_caches.contents(tmp_path / "cache") == whole
    # Six images: pixels, fill (five), row and name; the log: header and line.
    assert len(states) > 2 * (4 * 5 + 3 + 1)
    begun = set()
    for state in states[:-1]:  # the last one is finished
        begun.add(_finish(state))
        assert prepared_caches.contents(state) == whole
    assert len(begun) > 2  # kills after several commits were among them


def test_a_second_writer_is_refused_while_the_first_one_writes(tmp_path):
    first = prepared_cache.Writer(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="Only one process at a time"):
        prepared_cache.Writer(tmp_path, SETTINGS)
    first.close()
    prepared_cache.Writer(tmp_path, SETTINGS).close()


def test_committed_data_that_is_gone_is_refused(tmp_path):
    writer = prepared_cache.Writer(tmp_path, SETTINGS)
    _append(writer, 0)
    writer.commit()
    writer.close()
    (tmp_path / "images.bin").write_bytes(b"1234")
    with pytest.raises(ValueError, match="images.bin.*shorter than 64 bytes"):
        prepared_cache.Writer(tmp_path, SETTINGS)


def test_an_unfinished_cache_cannot_be_opened(tmp_path):
    writer = prepared_cache.Writer(tmp_path, SETTINGS)
    _append(writer, 0)
    writer.commit()
    writer.close()
    with pytest.raises(ValueError, match="Received 1 of 6 images"):
        prepared_cache.Cache(tmp_path)


@pytest.mark.parametrize("name", ["images.bin", "notes.txt"])
def test_a_folder_that_holds_something_else_stays_as_it_is(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"which holds {name}.*another --path"):
        prepared_cache.check_folder(tmp_path, SETTINGS)
    assert prepared_caches.contents(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize(
    ("name", "value"), [("short_side", 8), ("fingerprint", "g"), ("of", 7)]
)
def test_a_cache_of_other_settings_is_refused(tmp_path, name, value):
    _finish(tmp_path)
    before = prepared_caches.contents(tmp_path)
    with pytest.raises(ValueError, match=f"differ in {name}. Give another"):
        prepared_cache.check_folder(tmp_path, SETTINGS | {name: value})
    assert prepared_caches.contents(tmp_path) == before
