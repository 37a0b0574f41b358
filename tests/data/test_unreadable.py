"""Unreadable images are named once, counted, and limited."""

import csv
import os

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import (
    host_decode,
    image_files,
    sources,
    stream,
    unreadable,
    views,
)

BATCH = 4
HEADER = ["name", "reason", "first_step"]


@pytest.fixture
def images(tmp_path):
    """A source of ten images, of which 2 and 7 cannot be read."""
    names = [f"{number}, img.png" for number in range(10)]
    png = tf.io.encode_png(np.zeros([4, 4, 3], np.uint8)).numpy()
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"" if number in (2, 7) else png)
    return image_files.FileSource(tmp_path, names)


def _log(source, path, fraction=0.01):
    batches = stream.Stream(source, views.RECIPES["v1"], 4, BATCH)
    return unreadable.UnreadableLog(path, batches, fraction)


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def _steps_of(log, samples):
    """The first steps that want each sample, as the log counts them."""
    wanted = {}
    for step in range(100):
        positions = log.stream.positions(step)
        for index in log.stream.samples(positions).numpy():
            wanted.setdefault(int(index), step)
    return [wanted[sample] for sample in samples]


def test_the_unreadable_images_of_a_step_are_named_with_the_reason(
    images, tmp_path
):
    path = tmp_path / "unreadable.csv"
    log = _log(images, path)
    (step,) = _steps_of(log, [2])
    log.add({step: BATCH})
    rows = _rows(path)
    assert rows[0] == HEADER
    named = {row[0]: row[1:] for row in rows[1:]}
    reason, first_step = named["2, img.png"]
    assert reason == (
        f"An image must be a {host_decode.FORMAT_NAMES}. Received an empty "
        "file. Copy or download it anew."
    )
    assert int(first_step) == step + 1  # steps count from 1 for people
    assert set(named) <= {"2, img.png", "7, img.png"}


def test_each_is_named_once_in_this_session_and_the_next(images, tmp_path):
    path = tmp_path / "unreadable.csv"
    for _ in range(2):
        log = _log(images, path)
        log.add(dict.fromkeys(range(6), BATCH))
        log.add(dict.fromkeys(range(12), BATCH))
    rows = _rows(path)
    assert [row[0] for row in rows].count("name") == 1
    assert sorted(row[0] for row in rows[1:]) == ["2, img.png", "7, img.png"]
    steps = _steps_of(log, [2, 7])
    assert sorted(int(row[2]) - 1 for row in rows[1:]) == sorted(steps)


def test_no_more_is_read_than_could_not_be_read(images, tmp_path, monkeypatch):
    log, reads, read = _log(images, tmp_path / "unreadable.csv"), [], None
    (step,) = _steps_of(log, [2])
    read = unreadable.read

    def counted(source, index):
        reads.append(int(index))
        return read(source, index)

    monkeypatch.setattr(unreadable, "read", counted)
    indices = log.stream.samples(log.stream.positions(step)).numpy()
    count = len({2, 7} & set(indices.tolist()))
    log.add({step: count})
    assert {"2, img.png"} <= log.named and len(reads) <= BATCH
    # Those that are named are enough, and are read again: one may be mended.
    reads.clear()
    monkeypatch.setattr(unreadable, "_AT_ONCE", 1)
    log.add({step: count})
    assert set(reads) <= {2, 7} and len(reads) == count


def test_a_source_needs_one_image_that_can_be_read(tmp_path, monkeypatch):
    names = [f"{number}.png" for number in range(9)]
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
    for name in names:
        (tmp_path / name).write_bytes(pointer)
    source = image_files.FileSource(tmp_path, names)
    with pytest.raises(ValueError, match="(?s)9 images, none read.*git lfs pu"):
        unreadable.require_one(source)
    monkeypatch.setattr(unreadable, "_MOST_TRIED", 3)
    with pytest.raises(ValueError, match="none of the 3 that were tried"):
        unreadable.require_one(source)
    image = tf.io.encode_png(np.zeros([4, 4, 3], np.uint8)).numpy()
    (tmp_path / "6.png").write_bytes(image)
    unreadable.require_one(source)


def test_a_header_that_was_not_written_is_written_later(images, tmp_path):
    path = tmp_path / "unreadable.csv"
    path.write_text("")  # killed after the file was made
    _log(images, path).add(dict.fromkeys(range(12), BATCH))
    assert _rows(path)[0] == HEADER
    assert len(_log(images, path).named) == 2


def test_a_name_that_is_no_text_is_named_too(tmp_path):
    names = [os.fsdecode(b"\xff%d.png" % number) for number in range(BATCH)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    path = tmp_path / "unreadable.csv"
    log = _log(image_files.FileSource(tmp_path, names), path)
    log.add({0: BATCH})
    assert b"\xff3.png" in path.read_bytes()
    assert _log(log.stream.source, path).named == set(names)


def test_a_reason_is_there_for_a_link_to_nothing_whose_name_is_no_text(
    tmp_path,
):
    name = os.fsdecode(b"\xff.png")
    (tmp_path / name).symlink_to("nowhere")
    _, reason = unreadable.read(image_files.FileSource(tmp_path, [name]), 0)
    assert reason == f"{tmp_path}/{name}; No such file or directory"


@pytest.mark.parametrize(
    ("bad", "seen", "fraction"),
    [(10, 50, 0.01), (20, 2000, 0.01), (0, 4, 0.0), (4000, 4000, 1.0)],
)
def test_as_many_as_allowed_go_on(images, tmp_path, bad, seen, fraction):
    log = _log(images, tmp_path / "unreadable.csv", fraction)
    assert log.check(bad, seen) is None


@pytest.mark.parametrize(
    ("bad", "seen", "fraction"),
    # Up to 1000 samples, the fraction is of 1000.
    [(11, 50, 0.01), (21, 2000, 0.01), (1, 4, 0.0)],
)
def test_more_than_allowed_stop_the_run(images, tmp_path, bad, seen, fraction):
    log = _log(images, tmp_path / "unreadable.csv", fraction)
    with pytest.raises(
        ValueError,
        match=f"(?s){bad} of {seen} samples.*={fraction} allows.*able.csv",
    ):
        log.check(bad, seen)


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (b"<!-- x --><html>", "HTML (a web page)"),
        (b'{"error": 404}', "JSON"),
        (b"404: Not Found", "begins with '404: Not Found'"),
        (bytes(257) + b"ustar", "a tar archive. Unpack it"),
        (b"\0\0\0\x1cftypmsf1\0\0\0\0msf1hevc", "a HEIC. Convert it"),
        (bytes(5000), "zeros and nothing else"),
    ],
)
def test_what_lies_in_place_of_an_image_is_named(tmp_path, contents, words):
    (tmp_path / "a.jpg").write_bytes(contents)
    source = image_files.FileSource(tmp_path, ["a.jpg"])
    _, reason = unreadable.read(source, 0)
    formats = host_decode.FORMAT_NAMES
    assert reason.startswith(f"An image must be a {formats}. Rec")
    assert words.lower() in reason.lower()
    # Also of a part of a source, and of either file of a pair.
    part = sources.Subset(source, [0])
    assert unreadable.read(part, 0)[1] == reason
    pair = image_files.PairSource(source, source)
    assert unreadable.read(pair, 0)[1] == reason


@pytest.mark.parametrize("form", ["jpeg", "png"])
@pytest.mark.parametrize("filled", [0, 700])
def test_a_copy_that_was_cut_is_called_so(tmp_path, form, filled):
    encode = {"jpeg": tf.io.encode_jpeg, "png": tf.io.encode_png}[form]
    contents = encode(NOISE).numpy()
    kept = 300 if form == "jpeg" else len(contents) // 2
    (tmp_path / "a.jpg").write_bytes(contents[:kept] + bytes(filled))
    source = image_files.FileSource(tmp_path, ["a.jpg"])
    _, reason = unreadable.read(source, 0)
    word = "that was not completed" if filled else "that was cut"
    assert reason.startswith(f"This is a {form.upper()}, and its end is ")
    assert f"{word}. Copy or download it anew. (" in reason


def test_the_error_that_stops_a_run_says_why_most_cannot_be_read(tmp_path):
    names = [f"{number}.png" for number in range(BATCH)]
    for name in names[1:]:
        (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/")
    source, path = image_files.FileSource(tmp_path, names), tmp_path / "u.csv"
    log = _log(source, path)
    log.add({0: BATCH})
    words = r"u\.csv, most often with: .*Run `git lfs pull` in .* from\. Mend"
    with pytest.raises(ValueError, match=words):
        log.check(1000, 1000)
    with pytest.raises(ValueError, match=words):
        _log(source, path).check(1000, 1000)  # of an earlier session
    assert unreadable.without_path("/a b/c.png; No such file") == "No such file"
