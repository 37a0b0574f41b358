"""Prepared TFDS data sets, made here without a network."""

import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import sources, specs
from tests import ugly_names
from tests.data.tfds_sets import COUNT, picture, prepare


@pytest.fixture(
    scope="module", params=["tfrecord", "array_record"], name="prepared"
)
def fixture_prepared(request, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp(request.param)
    prepare(data_dir, request.param)
    return data_dir


def numbers(source, indices):
    """The numbers of the pictures at indices, read as the pipeline does."""
    dataset = tf.data.Dataset.from_tensors(np.array(indices, np.int64))
    dataset = dataset.map(source.records).unbatch().map(source.image)
    images = [image.numpy() for image in dataset]
    shown = [int(image[-1, -1, 0]) for image in images]
    for image, number in zip(images, shown, strict=True):
        np.testing.assert_array_equal(image, picture(number))
    return shown


def test_every_record_is_read_once_from_all_shards(prepared):
    source = sources.open_source(f"tfds:tiny/train@{prepared}")
    assert len(source) == COUNT
    assert sorted(numbers(source, range(COUNT))) == list(range(COUNT))
    files = {source.name(i).split()[0] for i in range(COUNT)}
    assert len(files) == 4


def test_any_order_gives_the_same_records(prepared):
    source = sources.open_source(f"tfds:tiny/train@{prepared}")
    in_order = numbers(source, range(COUNT))
    mixed = [24, 0, 7, 7, 13]
    assert numbers(source, mixed) == [in_order[i] for i in mixed]


def test_labels_belong_to_their_images(prepared):
    source = sources.open_source(f"tfds:tiny/train@{prepared}")
    assert source.class_names == ["ape", "bee", "cow"]
    assert source.labels.dtype == np.int64
    expected = [number % 3 for number in numbers(source, range(COUNT))]
    assert source.labels.tolist() == expected


def test_labels_kept_secret_are_none(prepared):
    assert sources.open_source(f"tfds:tiny/test@{prepared}").labels is None


def test_parts_of_splits_are_those_of_tfds(prepared):
    split = numbers(
        sources.open_source(f"tfds:tiny/train@{prepared}"), range(COUNT)
    )
    part = sources.open_source(f"tfds:tiny/train[9:20]@{prepared}")
    assert numbers(part, range(11)) == split[9:20]
    assert part.labels.tolist() == [number % 3 for number in split[9:20]]
    both = sources.open_source(f"tfds:tiny/train[:2]+test@{prepared}")
    assert len(both) == 2 + 4
    assert numbers(both, [0, 1]) == split[:2]


def test_a_prepared_folder_opens_as_by_name(prepared, monkeypatch):
    by_folder = sources.open_source(f"tfds:{prepared}/tiny/1.2.0/train")
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    by_name = sources.open_source("tfds:tiny/train")
    by_version = sources.open_source("tfds:tiny:1.2.0/train")
    first = by_folder.fingerprint()
    assert by_name.fingerprint() == by_version.fingerprint() == first
    other = sources.open_source("tfds:tiny/train[:20]")
    assert other.fingerprint() != first


def test_folders_of_a_spec_are_made_absolute(prepared, monkeypatch):
    monkeypatch.chdir(prepared.parent)
    folder = prepared.name
    for spec, expected in (
        (f"{folder}/tiny/1.2.0/train", f"{prepared}/tiny/1.2.0/train"),
        (f"tiny/train@{folder}", f"tiny/train@{prepared}"),
        ("tiny/train", "tiny/train"),
    ):
        assert specs.absolute(f"tfds:{spec}") == f"tfds:{expected}"


def test_the_order_is_that_of_the_files(tmp_path):
    prepare(tmp_path, "tfrecord")
    source = sources.open_source(f"tfds:tiny/train@{tmp_path}")
    folder = tmp_path / "tiny" / "1.2.0"
    files = sorted(str(path) for path in folder.glob("*train*"))
    expected = [record.numpy() for record in tf.data.TFRecordDataset(files)]
    records = source.records(tf.range(COUNT, dtype=tf.int64))
    assert records.numpy().tolist() == expected


def test_what_is_not_prepared_is_refused(prepared):
    with pytest.raises(ValueError, match="must be prepared.*tfds build none"):
        sources.open_source(f"tfds:none/train@{prepared}")
    with pytest.raises(ValueError, match="tiny' holds 1.2.0. Give the folder"):
        sources.open_source(f"tfds:tiny:9.9.9/train@{prepared}")
    with pytest.raises(ValueError, match="must be prepared"):
        sources.open_source(f"tfds:tiny/train@{prepared}/none")
    with pytest.raises(ValueError, match="'val'.*has test, train"):
        sources.open_source(f"tfds:tiny/val@{prepared}")
    with pytest.raises(ValueError, match="Add the split"):
        sources.open_source(f"tfds:tiny@{prepared.name}")
    with pytest.raises(ValueError, match="at least one record"):
        sources.open_source(f"tfds:tiny/train[:0]@{prepared}")


def shards(data_dir):
    return sorted((data_dir / "tiny" / "1.2.0").glob("*train*"))


def test_missing_cut_and_longer_files_are_refused(tmp_path):
    prepare(tmp_path, "tfrecord")
    path = shards(tmp_path)[1]
    intact = path.read_bytes()
    spec = f"tfds:tiny/train@{tmp_path}"
    for contents, message in [
        (intact[:-1], "5 complete records of 6|6 complete records of 7"),
        (intact[:5], "0 complete records"),
        (b"text " * 20, "0 complete records"),
        (intact + intact, "more than"),
    ]:
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=message):
            sources.open_source(spec)
    path.unlink()
    with pytest.raises(ValueError, match="No such file"):
        sources.open_source(spec)


def test_missing_cut_and_exchanged_array_records_are_refused(tmp_path):
    prepare(tmp_path, "array_record")
    path = shards(tmp_path)[1]
    intact = path.read_bytes()
    test = next((tmp_path / "tiny" / "1.2.0").glob("*test*00000*"))
    for contents in [
        intact[:-100],
        intact[:5],
        b"text " * 99,
        test.read_bytes(),
    ]:
        path.write_bytes(contents)
        with pytest.raises(
            ValueError, match=f"all its files, undamaged.*{path}"
        ):
            sources.open_source(f"tfds:tiny/train@{tmp_path}")
    path.unlink()
    with pytest.raises(ValueError, match=f"all its files, undamaged.*{path}"):
        sources.open_source(f"tfds:tiny/train@{tmp_path}")


def test_a_damaged_array_record_fails_in_image_and_not_in_records(tmp_path):
    prepare(tmp_path, "array_record")
    for path in shards(tmp_path):
        damaged = bytearray(path.read_bytes())
        start = damaged.index(b"IHDR")
        damaged[start : start + 4] = b"XXXX"
        path.write_bytes(damaged)
    source = sources.open_source(f"tfds:tiny/train@{tmp_path}")
    records = source.records(tf.range(COUNT, dtype=tf.int64))
    with pytest.raises(tf.errors.InvalidArgumentError):
        for record in records:
            source.image(record)


@pytest.mark.parametrize("damage", [b"", b"text"])
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_labels_of_a_damaged_record_are_refused_by_its_name(
    file_format, damage, tmp_path, monkeypatch
):
    prepare(tmp_path, file_format)
    source = sources.open_source(f"tfds:tiny/train@{tmp_path}")
    read = type(source._files)._read_one
    monkeypatch.setattr(
        type(source._files),
        "_read_one",
        lambda files, index: damage if index == 9 else read(files, index),
    )
    with pytest.raises(ValueError, match=f"Received {source.name(9)}, which"):
        _ = source.labels


def test_a_file_lost_later_fails_in_image_and_not_in_records(tmp_path):
    prepare(tmp_path, "tfrecord")
    source = sources.open_source(f"tfds:tiny/train@{tmp_path}")
    for path in shards(tmp_path):
        path.unlink()
    record = source.records(tf.constant([3], tf.int64))[0]
    with pytest.raises(tf.errors.InvalidArgumentError):
        source.image(record)


@pytest.mark.parametrize("name", ["a@b", "a:b,[c]", ugly_names.WORST])
def test_a_data_set_lies_in_a_folder_of_any_name(name, prepared, tmp_path):
    folder = ugly_names.make(tmp_path, name)
    shutil.copytree(prepared / "tiny", folder / "tiny")
    for spec in (
        f"tiny/train@{folder}",
        f"{folder}/tiny/1.2.0/train",
        f"{folder}/tiny/train",
    ):
        source = sources.open_source(f"tfds:{spec}")
        assert len(source) == COUNT
        assert sorted(numbers(source, [0, 24])) == sorted(
            numbers(sources.open_source(f"tfds:tiny/train@{prepared}"), [0, 24])
        )
        assert source.labels.shape == (COUNT,)
        assert source.name(0)


def change_features(data_dir, change):
    """Changes the features.json of the data set in a copy of its folder."""
    (path,) = data_dir.glob("tiny/*/features.json")
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _of_a_module(value):
    features = value["featuresDict"]["features"]
    min(features.items())[1]["pythonClassName"] = "planted.X"


def _of_before(value):
    value.clear()
    value |= {"type": "planted.X", "content": {}}


def _message_of_another(value):
    kind = "tensorflow_datasets.core.features.image_feature.Image"
    value.clear()
    value |= {"type": kind, "proto_cls": "google.protobuf.Any", "content": {}}


@pytest.mark.parametrize(
    "change", [_of_a_module, _of_before, _message_of_another]
)
def test_features_of_other_modules_are_refused_and_not_imported(
    prepared, tmp_path, monkeypatch, change
):
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = shutil.copytree(prepared, tmp_path / "copy")
    change_features(copy, change)
    with pytest.raises(ValueError, match="must be classes of TFDS itself"):
        sources.open_source(f"tfds:tiny/train@{copy}")
    assert "planted" not in sys.modules


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_json_nested_beyond_reason_is_refused(prepared, tmp_path, name):
    copy = shutil.copytree(prepared, tmp_path / "copy")
    (path,) = copy.glob(f"tiny/*/{name}")
    value = json.loads(path.read_text())
    for _ in range(200):
        value = {"@type": "type.googleapis.com/google.protobuf.Any", "a": value}
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=f"{name} is nested more than 100"):
        sources.open_source(f"tfds:tiny/train@{copy}")
