import json
import os

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf

from moco_tf.data import sources
from moco_tf.evaluation import embeddings
from tests.evaluation import plain_frozen

GREYS = {
    "cat/a.png": 10,
    "cat/b.png": 20,
    "dog/a.png": 250,
    "dog/b.png": None,
    "dog/c.png": 240,
}
BACKBONE = [[10, 245], [20, 235], [250, 5], [240, 15]]
PROJECTION = [[10, 1, 0], [20, 1, 0], [250, 1, 0], [240, 1, 0]]


@pytest.fixture(name="spec")
def _spec(tmp_path):
    return plain_frozen.write_greys(tmp_path / "images", GREYS)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_what_is_written_is_read_back(spec, tmp_path, suffix, capsys):
    path = tmp_path / "new" / f"out{suffix}"
    embeddings.embed_source(plain_frozen.make_frozen(), spec, path)
    result = embeddings.load(path)
    assert result.rows["backbone"].shape == (4, 2)
    np.testing.assert_array_equal(result.rows["backbone"][:], BACKBONE)
    np.testing.assert_array_equal(
        result.rows["projection"][1:3], PROJECTION[1:3]
    )
    assert result.index.tolist() == [0, 1, 2, 4]
    assert result.names == ["cat/a.png", "cat/b.png", "dog/a.png", "dog/c.png"]
    assert result.labels.tolist() == [0, 0, 1, 1]
    assert result.class_names == ["cat", "dog"]
    assert [result.class_of(row) for row in range(4)] == (
        ["cat", "cat", "dog", "dog"]
    )
    assert result.about == {
        "encoder": "ab" * 32,
        "title": "run/step-5",
        "image_size": 8,
        "views": "cifar",
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2023, 0.1994, 0.2010],
        "source": f"folder:{tmp_path / 'images'}",
        "fingerprint": sources.open_source(spec).fingerprint(),
        "layers": ["backbone", "projection"],
        "moco_tf": "0.1.0",
        "unreadable": 1,
    }
    assert os.listdir(path.parent) == [path.name]
    printed = capsys.readouterr().out
    assert "4 images, labels of 2 classes, 1 unreadable left out" in printed
    assert "backbone 2, projection 3" in printed


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_source_without_labels_has_none_in_its_file(tmp_path, suffix):
    spec = plain_frozen.write_greys(tmp_path / "flat", {"a.png": 1, "b.png": 2})
    path = tmp_path / f"out{suffix}"
    encoder = plain_frozen.make_frozen(layers=["backbone"])
    result = embeddings.embed_source(encoder, spec, path)
    assert result.labels is None
    assert result.class_names is None
    assert result.class_of(0) is None
    assert result.names == ["a.png", "b.png"]
    assert list(result.rows) == ["backbone"]


def test_an_npz_is_plain_numpy(spec, tmp_path):
    path = tmp_path / "out.npz"
    embeddings.embed_source(
        plain_frozen.make_frozen(), spec, path, ["projection"]
    )
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file) == sorted(
            ["projection", "index", "names", "labels", "class_names"]
            + ["metadata"]
        )
        assert file["class_names"][file["labels"]].tolist() == (
            ["cat", "cat", "dog", "dog"]
        )
        np.testing.assert_array_equal(file["projection"], PROJECTION)
        assert json.loads(str(file["metadata"]))["title"] == "run/step-5"


def test_a_parquet_file_is_a_table_in_groups(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "GROUP_ROWS", 3)
    path = tmp_path / "out.parquet"
    result = embeddings.embed_source(plain_frozen.make_frozen(), spec, path)
    file = pyarrow.parquet.ParquetFile(path)
    sizes = [file.metadata.row_group(n).num_rows for n in range(2)]
    assert sizes == [3, 1]
    assert str(file.schema_arrow.field("backbone").type) == (
        "fixed_size_list<element: float>[2]"
    )
    assert file.read().to_pylist()[3] == {
        "index": 4,
        "name": "dog/c.png",
        "label": 1,
        "class_name": "dog",
        "backbone": [240.0, 15.0],
        "projection": [240.0, 1.0, 0.0],
    }
    rows = result.rows["backbone"]
    for start in range(5):
        for stop in range(5):
            np.testing.assert_array_equal(
                rows[start:stop], np.reshape(BACKBONE[start:stop], [-1, 2])
            )


def test_the_same_command_leaves_a_finished_file_alone(
    spec, tmp_path, capsys, monkeypatch
):
    path = tmp_path / "out.npz"
    encoder = plain_frozen.make_frozen()
    embeddings.embed_source(encoder, spec, path)
    before = path.stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)  # the spec may be written in another way
    result = embeddings.embed_source(encoder, "folder:images", path)
    assert path.stat().st_mtime_ns == before
    assert "This file is finished" in capsys.readouterr().out
    np.testing.assert_array_equal(result.rows["backbone"][:], BACKBONE)


def test_the_source_can_be_opened_from_another_folder(spec, monkeypatch):
    source, encoder = sources.open_source(spec), plain_frozen.make_frozen()
    monkeypatch.chdir("/tmp")
    monkeypatch.setenv("HOME", "/home/user")
    named = {
        "folder:a/b": "folder:/tmp/a/b",
        "list:~/all.txt": "list:/home/user/all.txt",
        "folder:/a:b": "folder:/a:b",
        "tfds:cifar10/test": "tfds:cifar10/test",
        "shapes": "shapes",
    }
    for spec, expected in named.items():
        about = embeddings.describe(encoder, source, spec, ["backbone"])
        assert about["source"] == expected


def test_a_file_of_another_command_is_refused(spec, tmp_path):
    path = tmp_path / "out.npz"
    embeddings.embed_source(plain_frozen.make_frozen(), spec, path)
    other = plain_frozen.make_frozen(identity="cd" * 32)
    with pytest.raises(ValueError, match=r"abab.*Received.*cdcd.*another --pa"):
        embeddings.embed_source(other, spec, path)
    with pytest.raises(ValueError, match=r"\+projection .*images, backbone "):
        embeddings.embed_source(
            plain_frozen.make_frozen(), spec, path, ["backbone"]
        )
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a complete file of embeddings"):
        embeddings.embed_source(other, spec, path)
    assert path.read_bytes() == b"something else"


def test_a_command_that_was_cut_off_leaves_no_file_and_goes_on(
    spec, tmp_path, monkeypatch
):
    path = tmp_path / "out.npz"
    encoder = plain_frozen.make_frozen()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space"):
            embeddings.embed_source(encoder, spec, path)
    assert sorted(os.listdir(tmp_path)) == ["images", "out.npz.features"]

    def encode(images):
        raise AssertionError("the features are there")

    embeddings.embed_source(encoder._replace(encode=encode), spec, path)
    assert sorted(os.listdir(tmp_path)) == ["images", "out.npz"]


def test_a_folder_of_features_that_is_given_stays(spec, tmp_path):
    folder = tmp_path / "features"
    embeddings.embed_source(
        plain_frozen.make_frozen(), spec, tmp_path / "a.npz", folder=folder
    )
    assert len(os.listdir(folder)) == 1


def test_what_cannot_be_embedded_is_refused_before_any_work(spec, tmp_path):
    encoder = plain_frozen.make_frozen(layers=["backbone"])
    with pytest.raises(ValueError, match="features backbone. Received proj"):
        embeddings.embed_source(
            encoder, spec, tmp_path / "a.npz", ["projection"]
        )
    with pytest.raises(ValueError, match=r"named .npz or .parquet. Rec.*csv"):
        embeddings.embed_source(encoder, spec, tmp_path / "a.csv")
    assert os.listdir(tmp_path) == ["images"]


def test_names_that_are_no_utf8_can_be_written(tmp_path):
    image = tf.io.encode_png(np.zeros([8, 8, 3], np.uint8)).numpy()
    (tmp_path / "images").mkdir()
    name = os.fsencode(tmp_path / "images") + b"/a\xff.png"
    with open(name, "wb") as file:
        file.write(image)
    spec = f"folder:{tmp_path / 'images'}"
    for path in (tmp_path / "a.npz", tmp_path / "a.parquet"):
        result = embeddings.embed_source(plain_frozen.make_frozen(), spec, path)
        assert result.names == ["a?.png"]


def test_files_that_would_run_code_or_are_damaged_are_refused(spec, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, metadata=np.array([print], object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        embeddings.load(path)
    np.savez(path, backbone=np.zeros([2, 2]))
    with pytest.raises(ValueError, match="metadata"):
        embeddings.load(path)
    with pytest.raises(ValueError, match="There is no file .*b.npz"):
        embeddings.load(tmp_path / "b.npz")
    encoder = plain_frozen.make_frozen()
    for suffix in (".npz", ".parquet"):
        path = tmp_path / f"c{suffix}"
        embeddings.embed_source(encoder, spec, path)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match="not a complete file"):
            embeddings.load(path)


def test_a_parquet_file_of_others_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"index": [1, 2]}), path)
    with pytest.raises(ValueError, match="not a complete file of embeddings"):
        embeddings.load(path)


def test_features_of_another_type_are_refused(spec, tmp_path):
    path = tmp_path / "a.npz"
    embeddings.embed_source(
        plain_frozen.make_frozen(), spec, path, ["backbone"]
    )
    with np.load(path) as file:
        arrays = dict(file)
    wide = {**arrays, "backbone": arrays["backbone"].astype(np.float64)}
    np.savez(path, **wide)
    with pytest.raises(ValueError, match=r"float32 \[4, F\].*float64 \(4, 2\)"):
        embeddings.load(path)
    np.savez_compressed(path, **arrays)
    with pytest.raises(ValueError, match="backbone is compressed"):
        embeddings.load(path)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_pointer_in_place_of_a_file_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x\n")
    with pytest.raises(ValueError, match="a Git LFS pointer. Run `git lfs"):
        embeddings.load(path)
