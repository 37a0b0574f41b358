"""prepare: decoded once, the same images for ever."""

import errno
import io
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf import cli, prepare
from moco_tf.data import prepared_files, prepared_writer, sources, stream, views


def _pictures(folder, count=9, bad=()):
    """Coloured ramps of several sizes in two class folders."""
    for number in range(count):
        height, width = 20 + number, 44 - 2 * number
        row = np.linspace(0, 250, width)[np.newaxis, :, np.newaxis]
        column = np.linspace(0, 1, height)[:, np.newaxis, np.newaxis]
        pixels = row * column + np.array([0, number, 5.0])
        path = folder / "ab"[number % 2] / f"{number}é.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        if number in bad:
            path.write_bytes(path.read_bytes()[:40])
    return f"folder:{folder}"


def _images(spec):
    source = sources.open_source(spec)
    records = source.records(tf.range(len(source), dtype=tf.int64))
    return source, [source.image(record).numpy() for record in records]


def _prepare(spec, path, short_side=24):
    return prepare.prepare(spec, str(path), short_side, io.StringIO())


def _files(path):
    return {
        name: (path / name).read_bytes()
        for name in prepared_files.FILES
        if name != prepared_files.ABOUT
    }


def test_a_cache_holds_the_images_of_its_source_shrunk(tmp_path):
    spec = _pictures(tmp_path / "in")
    about = _prepare(spec, tmp_path / "cache")
    assert (about["images"], about["unreadable"]) == (9, 0)
    source, originals = _images(spec)
    cache, found = _images(f"prepared:{tmp_path / 'cache'}")
    assert cache.labels.tolist() == source.labels.tolist()
    assert cache.class_names == source.class_names
    assert [cache.name(i) for i in range(9)] == [
        source.name(i) for i in range(9)
    ]
    for image, original in zip(found, originals, strict=True):
        height, width, _ = original.shape
        short = min(height, width)
        if short <= 24:
            np.testing.assert_array_equal(image, original)
            continue
        size = (24 * width // short, 24 * height // short)
        # Pillow's bilinear is antialiased; it rounds between the axes.
        expected = Image.fromarray(original).resize(size, Image.BILINEAR)
        apart = np.abs(image.astype(int) - np.asarray(expected, int))
        assert apart.max() <= 2


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_killed_preparation_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    spec = _pictures(tmp_path / "in", bad=[3])
    _prepare(spec, tmp_path / "whole")
    append = prepared_writer.Writer.append

    def append_and_commit(writer, *values):
        append(writer, *values)
        if writer._images % 2 == 0:
            writer.commit()
        if writer._images == 5:
            raise Killed  # one image was written and not committed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(prepared_writer.Writer, "append", append_and_commit)
        _prepare(spec, tmp_path / "again")
    half = json.loads((tmp_path / "again" / "about.json").read_text())
    assert (half["images"], half["finished"]) == (4, False)
    with pytest.raises(ValueError, match="4 of 9 images"):
        sources.open_source(f"prepared:{tmp_path / 'again'}")
    _prepare(spec, tmp_path / "again")
    assert _files(tmp_path / "again") == _files(tmp_path / "whole")


def test_a_finished_cache_is_left_alone(tmp_path, capsys):
    spec = _pictures(tmp_path / "in", 2)
    _prepare(spec, tmp_path / "cache")
    before = os.stat(tmp_path / "cache" / "images.bin").st_mtime_ns
    prepare.prepare(spec, str(tmp_path / "cache"), 24)
    assert "This cache is finished" in capsys.readouterr().out
    assert os.stat(tmp_path / "cache" / "images.bin").st_mtime_ns == before


def test_the_stream_replaces_what_could_not_be_read(tmp_path):
    spec = _pictures(tmp_path / "in", bad=[2, 5])
    about = _prepare(spec, tmp_path / "cache")
    assert about["unreadable"] == 2

    def step(spec):
        made = stream.Stream(
            sources.open_source(spec), views.RECIPES["v2"], 16, 8, seed=3
        )
        return next(iter(made.batches(1, 0, 1)))

    files, cache = step(spec), step(f"prepared:{tmp_path / 'cache'}")
    assert 6 <= int(tf.reduce_sum(tf.cast(files["valid"], tf.int32))) < 8
    for name in ("index", "valid"):
        np.testing.assert_array_equal(cache[name], files[name])
    log = (tmp_path / "cache" / "unreadable.csv").read_text()
    assert "2é.png" in log and "5é.png" in log


def test_a_changed_byte_is_found_and_named(tmp_path):
    _prepare(_pictures(tmp_path / "in"), tmp_path / "cache")
    path = tmp_path / "cache"
    assert prepare.verify(str(path), io.StringIO()) == 9
    row = prepared_files.Cache(path).rows[4]
    with (path / "images.bin").open("r+b") as file:
        file.seek(int(row["offset"]) + 7)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    name = sources.open_source(f"prepared:{path}").name(4)
    with pytest.raises(ValueError, match=f"1 of 9 differ: {name}"):
        prepare.verify(str(path), io.StringIO())


@pytest.mark.parametrize("name", ["index.bin", "names.bin"])
def test_a_damaged_index_is_refused_when_it_is_opened(tmp_path, name):
    _prepare(_pictures(tmp_path / "in", 3), tmp_path / "cache")
    content = bytearray((tmp_path / "cache" / name).read_bytes())
    content[5] ^= 1
    (tmp_path / "cache" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"checksum of {name} differs"):
        sources.open_source(f"prepared:{tmp_path / 'cache'}")


def test_other_folders_and_other_sources_are_refused_and_untouched(tmp_path):
    spec = _pictures(tmp_path / "in", 3)
    with pytest.raises(ValueError, match="needs a folder of its own"):
        _prepare(spec, tmp_path / "in")
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["a", "b"]
    _prepare(spec, tmp_path / "cache")
    before = _files(tmp_path / "cache")
    with pytest.raises(ValueError, match="differ in short_side"):
        _prepare(spec, tmp_path / "cache", short_side=8)
    other = _pictures(tmp_path / "other", 4)
    with pytest.raises(ValueError, match="differ in fingerprint, of"):
        _prepare(other, tmp_path / "cache")
    assert _files(tmp_path / "cache") == before


def test_a_full_disk_keeps_what_is_there(tmp_path, monkeypatch):
    spec = _pictures(tmp_path / "in", 4)
    append = prepared_writer.Writer.append

    def full(writer, *values):
        if writer._images == 2:
            writer.commit()
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, *values)

    with monkeypatch.context() as patch:
        patch.setattr(prepared_writer.Writer, "append", full)
        with pytest.raises(OSError, match="2 of 4 images are in the cache"):
            _prepare(spec, tmp_path / "cache")
    assert _prepare(spec, tmp_path / "cache")["images"] == 4


def test_fingerprint_follows_the_pixels(tmp_path):
    spec = _pictures(tmp_path / "in", 3)

    def fingerprint(name, short_side):
        _prepare(spec, tmp_path / name, short_side)
        return sources.open_source(f"prepared:{tmp_path / name}").fingerprint()

    assert fingerprint("a", 8) == fingerprint("b", 8)
    assert fingerprint("c", 9) != fingerprint("a", 8)


def test_images_of_one_size_have_a_known_shape(tmp_path):
    for number in range(3):
        pixels = np.full([12, 10, 3], number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    _prepare(f"folder:{tmp_path}", tmp_path.with_name("cache"))
    source = sources.open_source(f"prepared:{tmp_path.with_name('cache')}")
    dataset = tf.data.Dataset.range(3).map(
        lambda i: source.image(source.records(i[tf.newaxis])[0])
    )
    assert dataset.element_spec.shape == [12, 10, 3]
    assert [int(image[0, 0, 0]) for image in dataset] == [0, 1, 2]


def test_the_command_prepares_and_verifies(tmp_path, capsys):
    spec = _pictures(tmp_path / "in", 3)
    flags = [f"--path={tmp_path / 'cache'}", "--short_side=16", "--verify"]
    assert cli.run(["prepare", f"--source={spec}", *flags]) == 0
    printed = capsys.readouterr().out
    assert f"prepared:{tmp_path / 'cache'}" in printed
    assert "3 images: all have their checksums" in printed
    assert cli.run(["prepare", f"--path={tmp_path / 'x'}"]) == 2
    assert "--source must be given" in capsys.readouterr().err
