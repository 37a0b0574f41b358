"""Two files a sample: which belong together, and what becomes of them."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources, stream, unreadable, views
from tests.data import pictures

NAMES = ("a/2", "a/10", "b/1", "b/3")


def _write(root, size=(12, 10)):
    """Two folders of four files; both as they are read, uint8 [4, H, W, 6]."""
    random = np.random.default_rng(0)
    made = []
    for number, name in enumerate(NAMES):
        colour = random.integers(0, 256, [*size, 3]).astype(np.uint8)
        depth = np.full(size, 10 * number, np.uint8)
        for folder, image, form in (
            ("colour", colour, "PNG"),
            ("depth", depth, "PNG"),
        ):
            ending = "png" if folder == "depth" else "PNG"
            path = root / folder / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = pictures.Image.fromarray(image)
            path.write_bytes(pictures.encode(image, form))
        deep = np.repeat(depth[..., np.newaxis], 3, axis=2)
        made.append(np.concatenate([colour, deep], axis=2))
    return f"pairs:{root}/colour,{root}/depth", np.stack(made)


def _read(source, index):
    return source.image(source.records(tf.constant([index], tf.int64))[0])


def test_a_sample_is_both_files_of_a_name(tmp_path):
    spec, expected = _write(tmp_path)
    source = sources.open_source(spec, 6)
    assert len(source) == 4
    assert source.channels == 6
    assert source.class_names == ["a", "b"]
    names = [source.name(place) for place in range(4)]
    for place, name in enumerate(names):
        number = NAMES.index(name.removesuffix(".PNG"))
        np.testing.assert_array_equal(_read(source, place), expected[number])
        assert source.labels[place] == "ab".index(name[0])


def test_both_files_of_a_view_show_the_same_part(tmp_path):
    spec, _ = _write(tmp_path)
    # The second folder holds the first one's pictures.
    spec = spec.replace("depth", "colour")
    source = sources.open_source(spec, 6)
    batches = stream.Stream(source, views.RECIPES["cmc"], 8, 4)
    batch = next(iter(batches.batches(1, 0, 3)))
    for name in ("query", "key"):
        view = batch[name].numpy()
        assert view.shape == (4, 8, 8, 6)
        np.testing.assert_array_equal(view[..., :3], view[..., 3:])
        assert view.std() > 10


def test_colours_of_a_pair_are_not_distorted(tmp_path):
    source = sources.open_source(_write(tmp_path)[0], 6)
    with pytest.raises(ValueError, match="crop and flip alone.*views=cmc"):
        stream.Stream(source, views.RECIPES["v2"], 8, 4)
    with pytest.raises(ValueError, match="augment_on=host"):
        stream.Stream(source, views.RECIPES["cmc"], 8, 4, augment_on="device")


def test_files_of_unequal_size_count_as_unreadable(tmp_path):
    spec, _ = _write(tmp_path)
    source = sources.open_source(spec, 6)
    image = pictures.Image.new("L", (9, 9))
    (tmp_path / "depth" / "b" / "3.png").write_bytes(
        pictures.encode(image, "PNG")
    )
    _, reason = unreadable.read(source, 3)
    assert "Both files of a pair must have one size" in reason
    batches = stream.Stream(source, views.RECIPES["cmc"], 8, 4)
    batch = next(iter(batches.batches(1, 0, 3)))
    assert sorted(batch["valid"].numpy()) == [False, True, True, True]
    assert 3 not in batch["index"].numpy()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "depth/b/1.png").unlink(), "1 without: 'b/1'"),
        (
            lambda root: (root / "colour/a/2.jpg").write_bytes(b""),
            "'a/2' twice",
        ),
    ],
)
def test_a_file_without_its_one_pair_is_refused(tmp_path, change, message):
    spec, _ = _write(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        sources.open_source(spec, 6)


@pytest.mark.parametrize("text", ["x", "x,", "x,y,z"])
def test_two_folders_must_be_named(text):
    with pytest.raises(ValueError, match="must name two folders"):
        sources.open_source(f"pairs:{text}", 6)


def test_who_works_on_one_file_refuses_pairs(tmp_path):
    spec, _ = _write(tmp_path)
    with pytest.raises(ValueError, match="3 channels are needed.*of 6"):
        sources.open_source(spec)
    with pytest.raises(ValueError, match="6 channels are needed.*of 3"):
        sources.open_source(f"folder:{tmp_path}/colour", 6)


def test_the_order_and_the_data_are_in_the_fingerprint(tmp_path):
    spec, _ = _write(tmp_path)
    first = sources.open_source(spec, 6).fingerprint()
    swapped = f"pairs:{tmp_path}/depth,{tmp_path}/colour"
    assert sources.open_source(swapped, 6).fingerprint() != first
    (tmp_path / "depth/b/1.png").write_bytes(b"shorter")
    assert sources.open_source(spec, 6).fingerprint() != first


def test_paths_of_both_folders_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sources.absolute("pairs:a,b/c") == (
        f"pairs:{tmp_path}/a,{tmp_path}/b/c"
    )
