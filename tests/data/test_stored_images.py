"""Caches of JPEGs and in shards, and raw ones, which stay as they were."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf import cores, prepare
from moco_tf.cli import main as cli
from moco_tf.data import (
    augmentation,
    image_ops,
    listing,
    prepared_cache,
    prepared_source,
    sources,
    stored_images,
    stream,
    unreadable,
    views,
)
from tests.data import pictures, prepared_caches

CROPS = views.RECIPES["v2"]._replace(augment=augmentation.crop_and_flip(0.2))
COUNT, BROKEN = 12, 3


def _write_scenes(root):
    """Twelve scenes in two classes, the fourth of which cannot be read."""
    for index in range(COUNT):
        path = root / "ab"[index // 6] / f"{index % 6}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures.scene(size=(33 + index, 30)).save(path)
    (root / "a/3.png").write_bytes(b"<html>")


@pytest.fixture(name="caches", scope="module")
def _caches(tmp_path_factory):
    """The images, their cache of JPEGs, and the same in three shards."""
    root = tmp_path_factory.mktemp("jpegs")
    _write_scenes(root / "images")
    _make(root, "cache")
    for shard in (2, 0, 1):
        _make(root, "shards", shard=shard, shards=3)
    return root


def _make(root, name, **options):
    return prepared_caches.make(
        root / "images", root / name, 24, stored_as="jpeg", **options
    )


def _open(folder):
    return prepared_source.open_prepared(str(folder))


def _records(folder):
    """The bytes of the images of a cache."""
    cache = prepared_cache.Cache(folder)
    data = (folder / "images.bin").read_bytes()
    return [
        data[row["offset"] : row["offset"] + row["bytes"]] for row in cache.rows
    ]


def test_a_record_is_the_jpeg_that_pillow_writes(caches):
    source = _open(caches / "cache")
    assert source.may_fail
    for index, record in enumerate(_records(caches / "cache")):
        if index == BROKEN:
            assert record == b""
            continue
        original = Image.open(caches / "images" / source.name(index))
        width, height = original.size
        with Image.open(io.BytesIO(record)) as image:
            assert image.format == "JPEG"
            assert "progressive" not in image.info
            # Blocks of the first colour are twice as wide and high: 4:2:0.
            sampling = [part[1:3] for part in image.layer]
            assert sampling == [(2, 2), (1, 1), (1, 1)]
            assert image.size == (24 * width // height, 24)
            stored = np.asarray(image)
        np.testing.assert_array_equal(pictures.read(source, index), stored)
        pixels = np.asarray(original)
        small = image_ops.shrink_to_short_side(pixels, 24).numpy()
        again = pictures.encode(
            Image.fromarray(small), "JPEG", quality=90, subsampling="4:2:0"
        )
        assert len(again) == len(record)
        with Image.open(io.BytesIO(again)) as image:
            np.testing.assert_array_equal(np.asarray(image), stored)


def test_the_images_are_encoded_at_quality_90(caches):
    pixels = np.asarray(pictures.scene(size=(40, 30)))
    expected = pictures.encode(
        Image.fromarray(pixels), "JPEG", quality=90, subsampling="4:2:0"
    )
    record = stored_images.JPEG.encode(pixels).numpy()
    # The headers differ in the dots an inch that they claim.
    assert record[20:] == expected[20:]


def test_reading_a_jpeg_runs_no_python(caches):
    source = _open(caches / "shards")
    graph = tf.function(source.image).get_concrete_function(
        tf.TensorSpec([4], tf.int64)
    )
    definition = graph.graph.as_graph_def()
    kinds = {node.op for node in definition.node}
    for function in definition.library.function:
        kinds |= {node.op for node in function.node_def}
    assert {"Fingerprint", "DecodeJpeg"} <= kinds
    assert not kinds & {"PyFunc", "EagerPyFunc", "ReadFile"}


def test_any_changed_byte_is_found_when_it_is_read(caches, tmp_path):
    shutil.copytree(caches / "cache", tmp_path / "cache")
    path = tmp_path / "cache/images.bin"
    clean = path.read_bytes()
    random = np.random.default_rng(0)
    rows = prepared_cache.Cache(tmp_path / "cache").rows
    for place in random.integers(0, len(clean), 20).tolist():
        data = bytearray(clean)
        data[place] ^= 1 << random.integers(8)
        path.write_bytes(data)
        source = _open(tmp_path / "cache")
        cache = prepared_cache.Cache(tmp_path / "cache")
        starts = rows["offset"] * (rows["bytes"] > 0)
        hit = int(np.flatnonzero(starts <= place)[-1])
        for index in {hit, (hit + 1) % COUNT, (hit + 5) % COUNT} - {BROKEN}:
            image, reason = unreadable.read(source, index)
            assert cache.is_intact(index) == (index != hit)
            if index == hit:
                assert reason.startswith("Its bytes in the cache are damaged")
            else:
                assert reason is None
                assert image.shape[0] == 24


def test_a_damaged_jpeg_is_replaced_counted_and_named(caches, tmp_path, capsys):
    shutil.copytree(caches / "cache", tmp_path / "cache")
    rows = prepared_cache.Cache(tmp_path / "cache").rows
    prepared_caches.flip(
        tmp_path / "cache/images.bin", int(rows["offset"][7]) + 50
    )
    source = _open(tmp_path / "cache")
    batches = stream.Stream(source, CROPS, 8, COUNT, seed=1)
    (batch,) = batches.batches(1, 0, 1)
    assert (~batch["valid"].numpy()).sum() == 2  # with the one of before
    assert 7 not in batch["index"].numpy()
    log = unreadable.UnreadableLog(tmp_path / "log.csv", batches, 1.0)
    log.add({0: 2})
    lines = (tmp_path / "log.csv").read_text().splitlines()
    reasons = dict(line.split(",", 1) for line in lines[1:])
    assert "checksum differs" in reasons["b/1.png"]
    assert "Unreadable when it was prepared" in reasons["a/3.png"]
    words = ["prepare", "--verify", f"--path={tmp_path / 'cache'}"]
    assert cli.run(words) == 1
    assert "1 of 12 differ: b/1.png. Prepare it" in capsys.readouterr().err


def test_the_same_bytes_on_any_number_of_threads_and_after_a_kill(
    caches, tmp_path, monkeypatch
):
    expected = prepared_caches.contents(caches / "cache")
    (tmp_path / "images").symlink_to(caches / "images")
    monkeypatch.setattr(cores, "count", lambda: 4)
    monkeypatch.setattr(prepared_cache, "_COMMIT_BYTES", 1000)
    append, left = prepared_cache.Writer.append, iter(range(8))

    def killed(writer, *image):
        if next(left, None) is None:
            raise KeyboardInterrupt
        append(writer, *image)

    monkeypatch.setattr(prepared_cache.Writer, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        _make(caches, tmp_path / "cache")
    begun = prepared_cache.read_about(tmp_path / "cache")["images"]
    assert 0 < begun < COUNT
    monkeypatch.setattr(prepared_cache.Writer, "append", append)
    _make(caches, tmp_path / "cache")
    assert prepared_caches.contents(tmp_path / "cache") == expected


def test_shards_are_one_source_in_the_order_of_one_file(caches):
    one, shards = _open(caches / "cache"), _open(caches / "shards")
    assert len(one) == len(shards) == COUNT
    assert pictures.names(one) == pictures.names(shards)
    np.testing.assert_array_equal(one.labels, shards.labels)
    every = np.arange(COUNT)
    np.testing.assert_array_equal(one.marks(every), shards.marks(every))
    assert one.marks(every)[BROKEN] == -1
    for index in every.tolist():
        image, reason = unreadable.read(one, index)
        other, same_reason = unreadable.read(shards, index)
        assert reason == same_reason
        assert (reason is None) == (index != BROKEN)
        if reason is None:
            np.testing.assert_array_equal(image, other)
    parts = [(caches / f"shards/shard-{n}-of-3") for n in range(3)]
    assert sum(map(_records, parts), []) == _records(caches / "cache")
    assert prepare.verify(caches / "shards", io.StringIO()) == COUNT


def test_a_run_goes_on_with_the_shards_of_its_cache(caches):
    one, shards = _open(caches / "cache"), _open(caches / "shards")
    assert one.fingerprint() != shards.fingerprint()
    differing = listing.compare(one.listing(), shards.listing(), shards.marks)
    assert differing.describe() == ""
    assert differing.is_the_same_set()
    again = shards.relisted(one.listing(), differing)
    _, reason = unreadable.read(again, BROKEN)
    assert "Received HTML" in reason
    np.testing.assert_array_equal(
        pictures.read(again, 11), pictures.read(one, 11)
    )


def test_a_cache_of_pixels_in_shards_is_one_too(caches, tmp_path):
    for shard in range(2):
        about = prepared_caches.make(
            caches / "images", tmp_path / "c", 24, shard=shard, shards=2
        )
        assert (about["images"], about["stored_as"]) == (6, "raw")
    source = _open(tmp_path / "c")
    prepared_caches.make(caches / "images", tmp_path / "one", 24)
    one = _open(tmp_path / "one")
    for index in (0, 5, 6, 11):
        np.testing.assert_array_equal(
            pictures.read(source, index), pictures.read(one, index)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: shutil.rmtree(c / "shard-1-of-3"), "lacks shard-1-of-3"),
        (lambda c: (c / "shard-0-of-2").mkdir(), "has shards of 2, 3 parts"),
        (
            lambda c: _set(c / "shard-1-of-3", fingerprint="another"),
            "one is of .*Another is of .*they differ in fingerprint",
        ),
        (
            lambda c: _set(c / "shard-2-of-3", finished=False),
            "must be finished. Received 4 of 4 images in .*shard-2-of-3",
        ),
    ],
)
def test_shards_that_are_no_cache_are_refused(
    caches, tmp_path, change, message
):
    cache = tmp_path / "cache"
    shutil.copytree(caches / "shards", cache)
    change(cache)
    with pytest.raises(ValueError, match=message):
        _open(cache)


def _set(folder, **fields):
    about = prepared_cache.read_about(folder)
    prepared_cache.write_about(folder, about | fields)


def test_shards_of_other_settings_are_refused_before_they_begin(
    caches, tmp_path
):
    cache = tmp_path / "cache"
    shutil.copytree(caches / "shards", cache)
    shutil.rmtree(cache / "shard-1-of-3")
    for short_side, shards, message in (
        (20, 3, "differ in short_side"),
        (24, 2, "which holds shard-0-of-3, shard-2-of-3. Give"),
        (24, 1, "which holds shard-0-of-3, shard-2-of-3. Give"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared_caches.make(
                *(caches / "images", cache, short_side),
                stored_as="jpeg",
                shard=shards - 1,
                shards=shards,
            )
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    ("shard", "shards"), [(-1, 2), (2, 2), (0, 0), (0, COUNT + 1)]
)
def test_shards_that_there_cannot_be_are_refused(caches, shard, shards):
    with pytest.raises(ValueError, match="numbered from 0.*12 images. Give"):
        _make(caches, "new", shard=shard, shards=shards)
    assert not (caches / "new").exists()


def test_a_cache_goes_on_in_its_own_format_alone(caches):
    with pytest.raises(ValueError, match="format=jpeg.*=raw.*in stored_as, q"):
        prepared_caches.make(caches / "images", caches / "cache", 24)


def test_the_command_writes_shards_of_jpegs(caches, tmp_path, capsys):
    words = ["prepare", f"--source=folder:{caches / 'images'}"]
    words += [f"--path={tmp_path / 'c'}", "--format=jpeg", "--shards=2"]
    assert cli.run([*words, "--shard=1"]) == 0
    out = capsys.readouterr().out
    assert "6 images of folder:" in out
    assert "images, shard 1 of 2, short side at most 320, jpeg" in out
    assert "prepared:" in out
    assert "once all shards are there" in out
    with pytest.raises(ValueError, match="lacks shard-0-of-2"):
        sources.open_source(f"prepared:{tmp_path / 'c'}")


def test_an_image_that_is_too_long_for_a_jpeg_is_named(tmp_path):
    images = np.zeros([1, 2, 65501, 3], np.uint8)
    source = sources.ArraySource(images, np.array([0]), ["a"], "x")
    stored, reason = prepare.reader(source, 8, stored_images.JPEG)(0)
    assert stored is None
    assert reason == "A JPEG has no more than 65500 pixels a side."


def test_a_raw_cache_has_the_bytes_that_it_always_had(tmp_path):
    """Digests of what a state of the project without formats wrote."""
    prepared_caches.write_pictures(tmp_path / "images", 10)
    (tmp_path / "images/a/1.png").write_bytes(b"")
    prepared_caches.make(tmp_path / "images", tmp_path / "cache", 8)
    contents = prepared_caches.contents(tmp_path / "cache")
    about = json.loads(contents.pop("about.json"))
    digests = {
        name: hashlib.sha256(data).hexdigest()[:16]
        for name, data in contents.items()
    }
    assert digests == {
        "images.bin": "ce6b67ea4de65bab",
        "index.bin": "f6251b1a8116ff1c",
        "names.bin": "9eb848ac02416d57",
        "unreadable.csv": "7da63fc6769bd8b3",
    }
    assert about["format"] == 2
    assert list(about) == [
        *("format", "source", "fingerprint", "short_side", "of", "labelled"),
        *("class_names", "moco_tf", "finished", "images", "unreadable"),
        *("bytes", "sha256", "sha256_of_this"),
    ]
