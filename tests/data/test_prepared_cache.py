"""What a killed writer leaves behind, and how the next one goes on."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.data import (
    augmentation,
    image_files,
    image_ops,
    prepared_cache,
    prepared_source,
    sources,
    stored_images,
    stream,
    views,
)
from moco_tf.evaluation import features
from tests.data import pictures, prepared_caches

# Colours are slow to trace, and see nothing of where an image is from.
CROPS = views.RECIPES["v2"]._replace(augment=augmentation.crop_and_flip(0.2))


@pytest.fixture(name="small", scope="module")
def _small(tmp_path_factory):
    """Six images of 12 x 9 in two classes, and their cache."""
    root = tmp_path_factory.mktemp("small")
    images = prepared_caches.write_pictures(root / "images")
    prepared_caches.make(root / "images", root / "cache")
    return root, images


@pytest.fixture(name="mixed", scope="module")
def _mixed(tmp_path_factory):
    """As `small`, but two of the files cannot be read."""
    root = tmp_path_factory.mktemp("mixed")
    prepared_caches.write_pictures(root / "images", 10)
    (root / "images/a/1.png").write_bytes(b"")
    (root / "images/b/4.png").write_bytes(b"<html>")
    prepared_caches.make(root / "images", root / "cache")
    return root


def test_small_images_are_kept_pixel_by_pixel_in_their_order(small):
    root, images = small
    source = prepared_source.open_prepared(str(root / "cache"))
    assert len(source) == 6
    assert not source.may_fail
    for index, image in enumerate(images):
        np.testing.assert_array_equal(pictures.read(source, index), image)


def test_names_labels_and_classes_are_those_of_the_source(small):
    root, _ = small
    source = sources.open_source(f"prepared:{root / 'cache'}")
    names = ["a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png"]
    assert pictures.names(source) == names
    np.testing.assert_array_equal(source.labels, [0, 0, 0, 1, 1, 1])
    assert source.labels.dtype == np.int64
    assert source.class_names == ["a", "b"]


def test_a_source_without_labels_gives_a_cache_without(tmp_path):
    pictures.write(tmp_path / "images", "x.png", "y.png")
    prepared_caches.make(tmp_path / "images", tmp_path / "cache")
    source = prepared_source.open_prepared(str(tmp_path / "cache"))
    assert source.labels is None
    assert source.class_names is None


@pytest.mark.parametrize(
    ("size", "shrunk"),
    # Width and height; the long side is rounded down: 90 * 16 / 35 = 41.1.
    [((35, 90), (16, 41)), ((90, 35), (41, 16)), ((64, 64), (16, 16))],
)
def test_longer_short_sides_are_resized_as_pillow_does(tmp_path, size, shrunk):
    (image, *_) = prepared_caches.write_pictures(tmp_path / "images", 2, size)
    prepared_caches.make(tmp_path / "images", tmp_path / "cache", 16)
    cached = pictures.read(
        prepared_source.open_prepared(str(tmp_path / "cache")), 0
    ).astype(int)
    bilinear = Image.Resampling.BILINEAR  # Pillow's is antialiased
    expected = np.asarray(Image.fromarray(image).resize(shrunk, bilinear))
    assert cached.shape == (shrunk[1], shrunk[0], 3)
    # Pillow rounds between the two axes, and its weights to 8 bits.
    assert np.abs(cached - expected).max() <= 1


@pytest.mark.parametrize("size", [(31, 45), (60, 33)])
def test_an_evaluation_view_is_that_of_the_original(size):
    image = np.asarray(pictures.scene(size=size))
    shrunk = image_ops.shrink_to_short_side(image, 16)
    view = views.evaluate_imagenet(shrunk, 14).numpy().astype(int)
    expected = views.evaluate_imagenet(image, 14).numpy()
    assert view.shape == (14, 14, 3)
    assert np.abs(view - expected).max() <= 1  # rounded before the crop


def test_a_constant_image_stays_constant_when_it_is_shrunk():
    image = tf.fill([40, 31, 3], tf.constant(7, tf.uint8))
    shrunk = image_ops.shrink_to_short_side(image, 9)
    np.testing.assert_array_equal(shrunk, np.full([11, 9, 3], 7))


def test_many_sizes_lie_behind_one_another(tmp_path):
    random = np.random.default_rng(1)
    images = {}
    for number, size in enumerate([(1, 1, 3), (5, 13, 3), (64, 1, 3)]):
        pixels = random.integers(0, 256, size, np.uint8)
        images[f"{number}.png"] = pixels
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
    prepared_caches.make(tmp_path / "images", tmp_path / "cache")
    source = prepared_source.open_prepared(str(tmp_path / "cache"))
    for index, pixels in enumerate(images.values()):
        np.testing.assert_array_equal(pictures.read(source, index), pixels)
    # 3, 195 and 192 bytes; each starts at a multiple of 64.
    np.testing.assert_array_equal(
        source.records(tf.constant([0, 1, 2])),
        [[0, 1, 1], [64, 5, 13], [320, 64, 1]],
    )


def test_images_of_one_size_have_a_static_shape(small):
    root, _ = small
    source = prepared_source.open_prepared(str(root / "cache"))
    dataset = tf.data.Dataset.from_tensors([0]).map(source.records).unbatch()
    assert dataset.map(source.image).element_spec.shape == [9, 12, 3]


def test_taking_an_image_copies_nothing_and_runs_no_python(small):
    root, _ = small
    source = prepared_source.open_prepared(str(root / "cache"))
    graph = tf.function(source.image).get_concrete_function(
        tf.TensorSpec([3], tf.int64)
    )
    kinds = {node.type for node in graph.graph.get_operations()}
    assert "Slice" in kinds
    assert not kinds & {"PyFunc", "EagerPyFunc", "ReadFile", "DecodeRaw"}
    # The pixels reach the graph by reference, not as a constant in it.
    assert len(graph.graph.as_graph_def().SerializeToString()) < 3000


def test_the_memory_outlives_the_source(small):
    root, images = small
    source = prepared_source.open_prepared(str(root / "cache"))
    dataset = tf.data.Dataset.from_tensors([5]).map(source.records).unbatch()
    dataset = dataset.map(source.image)
    del source
    np.testing.assert_array_equal(next(iter(dataset)), images[5])


def test_views_and_substitutes_are_those_of_the_folder(mixed):
    def views_of(spec):
        source = sources.open_source(spec)
        assert source.may_fail
        batches = stream.Stream(source, CROPS, 8, 5, seed=1)
        batches = list(batches.batches(1, 0, 4))
        return [
            np.concatenate([batch[name] for batch in batches])
            for name in ("index", "valid", "query", "key")
        ]

    cached = views_of(f"prepared:{mixed / 'cache'}")
    folder = views_of(f"folder:{mixed / 'images'}")
    for one, other in zip(cached, folder, strict=True):
        np.testing.assert_array_equal(one, other)
    index, valid, *_ = cached
    assert (~valid).sum() == 4  # two images, two epochs
    assert not set(index.tolist()) & {1, 9}


def test_an_unreadable_image_says_why(mixed):
    source = prepared_source.open_prepared(str(mixed / "cache"))
    record = source.records(tf.constant([1, 9]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="an empty file"):
        source.image(record[0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="Received HTML"):
        tf.function(source.image)(record[1])
    assert source.labels[9] == 1
    assert source.name(9) == "b/4.png"


def test_evaluation_leaves_unreadable_images_out(mixed):
    source = prepared_source.open_prepared(str(mixed / "cache"))
    table = features.raw_pixels(source, views.RECIPES["cifar"], 4)
    assert table.index.tolist() == [0, 2, 3, 4, 5, 6, 7, 8]
    assert table.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert table.skipped == ["a/1.png", "b/4.png"]


def test_the_fingerprint_changes_with_the_pixels_and_the_size(tmp_path):
    def fingerprints(name, level, short_side):
        images, cache = tmp_path / name, tmp_path / f"cache of {name}"
        images.mkdir()
        image = Image.new("RGB", (8, 8), (level, 20, 30))
        # The file's name and size stay: only pixels tell them apart.
        data = pictures.encode(image, "PNG").ljust(200, b"\0")
        (images / "x.png").write_bytes(data)
        prepared_caches.make(images, cache, short_side)
        return (
            image_files.open_folder(str(images)).fingerprint(),
            prepared_source.open_prepared(str(cache)).fingerprint(),
        )

    first = fingerprints("first", 100, 8)
    assert fingerprints("same", 100, 8) == first
    folder, cache = fingerprints("pixels", 101, 8)
    assert folder == first[0]
    assert cache != first[1]
    folder, cache = fingerprints("size", 100, 9)
    assert folder == first[0]
    assert cache != first[1]


def test_names_that_are_no_text_keep_their_bytes(tmp_path):
    pictures.write(tmp_path / "images", "x.png")
    shutil.copy(tmp_path / "images/x.png", tmp_path / "images/\udcff\n,.png")
    (tmp_path / "images/\udcfe.png").symlink_to("nowhere")
    prepared_caches.make(tmp_path / "images", tmp_path / "cache")
    source = prepared_source.open_prepared(str(tmp_path / "cache"))
    names = ["x.png", "\udcfe.png", "\udcff\n,.png"]
    assert pictures.names(source) == names
    with pytest.raises(tf.errors.InvalidArgumentError, match="when it was"):
        source.image(source.records(tf.constant([1]))[0])


def test_a_folder_that_is_no_cache_is_refused_with_the_command(tmp_path):
    with pytest.raises(ValueError, match="no about.json.*moco-tf prepare"):
        sources.open_source(f"prepared:{tmp_path}")


@pytest.mark.parametrize("name", prepared_cache.FILES[1:])
def test_a_missing_and_a_cut_file_are_named(small, tmp_path, name):
    cache = tmp_path / "cache"
    shutil.copytree(small[0] / "cache", cache)
    size = (cache / name).stat().st_size
    with (cache / name).open("r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(ValueError, match=f"{name} has {size - 1} bytes, not"):
        prepared_source.open_prepared(str(cache))
    (cache / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        prepared_source.open_prepared(str(cache))


@pytest.mark.parametrize("name", ["index.bin", "names.bin", "unreadable.csv"])
def test_a_flipped_bit_beside_the_images_is_found_at_once(
    small, tmp_path, name
):
    cache = tmp_path / "cache"
    shutil.copytree(small[0] / "cache", cache)
    prepared_caches.flip(cache / name, 5)
    with pytest.raises(ValueError, match=f"checksum of {name} differs"):
        prepared_source.open_prepared(str(cache))


def test_a_changed_about_json_is_found(small, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(small[0] / "cache", cache)
    about = cache / "about.json"
    text = about.read_text()
    about.write_text(text.replace('"short_side": 256', '"short_side": 255'))
    with pytest.raises(ValueError, match="checksum of about.json differs"):
        prepared_source.open_prepared(str(cache))
    about.write_text(text[:50])
    with pytest.raises(ValueError, match="about.json is cut off after 50"):
        prepared_source.open_prepared(str(cache))
    about.write_text('{"format": 99}')
    with pytest.raises(
        ValueError, match="must be of format 2 or 3. Received .* 99"
    ):
        prepared_source.open_prepared(str(cache))


SETTINGS = {
    "source": "folder:/images",
    "fingerprint": "f",
    "short_side": 9,
    "of": 6,
    "labelled": True,
    "class_names": ["a", "b"],
}


def _append(writer, index):
    """Adds the image of an index; the third cannot be read."""
    if index == 2:
        writer.append_unreadable("because, it is", index % 2, f"{index}.png")
        return
    random = np.random.default_rng(index)
    image = random.integers(0, 256, [index + 1, 5, 3], np.uint8)
    stored = stored_images.RAW.stored(image, *image.shape[:2])
    writer.append(stored, index % 2, f"{index}.png")


def _finish(folder):
    """Goes on where the folder's writer was; returns how many were there."""
    writer = prepared_cache.Writer(folder, SETTINGS)
    first = writer.about["images"]
    for index in range(first, 6):
        _append(writer, index)
    writer.commit(finished=True)
    writer.close()
    return first


def test_from_wherever_it_was_killed_it_ends_with_the_same_bytes(
    tmp_path, monkeypatch
):
    _finish(tmp_path / "at once")
    expected = prepared_caches.contents(tmp_path / "at once")
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
        (folder / ".about.json.part").write_text('{"form')
        snapshot()
        write_about(folder, about)
        snapshot()

    monkeypatch.setattr(prepared_cache.Writer, "_write", torn_write)
    monkeypatch.setattr(prepared_cache, "write_about", torn_about)
    _finish(tmp_path / "cache")
    monkeypatch.undo()
    assert prepared_caches.contents(tmp_path / "cache") == expected
    # Six images: pixels, fill (five), row and name; the log: header and line.
    assert len(states) > 2 * (4 * 5 + 3 + 1)
    begun = set()
    for state in states[:-1]:  # the last one is finished
        begun.add(_finish(state))
        assert prepared_caches.contents(state) == expected
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
