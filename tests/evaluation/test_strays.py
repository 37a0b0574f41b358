"""Images without a class among others that have one, in every labelled use."""

import re

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf

from moco_tf import prepare, pretrain
from moco_tf.data import sources
from moco_tf.doctor import images, table
from moco_tf.evaluation import (
    embeddings,
    features,
    knn,
    monitor,
    neighbours,
    supervised,
)
from moco_tf.serving import labelling
from tests import shallow, small_run
from tests.evaluation import plain_frozen

_network = shallow.fixture()
# By name: the stray lies first, so that numbers of others differ.
GREYS = {
    "a_cover.png": 200,
    "cat/1.png": 10, "cat/2.png": 12, "cat/@eaDir/1.png": 90,
    "dog/1.png": 100, "dog/2.png": 102, "dog/3.png": 104,
}  # fmt: skip
STRAYS = [0, 3]
LABELS = [-1, 0, 0, -1, 1, 1, 1]


@pytest.fixture(name="spec")
def fixture_spec(tmp_path):
    return plain_frozen.write_greys(tmp_path / "images", GREYS)


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_embeddings_have_all_images_and_the_labels_that_there_are(
    tmp_path, spec, ending, capsys
):
    encoder, path = plain_frozen.make_frozen(), tmp_path / f"f{ending}"
    file = embeddings.embed_source(encoder, spec, path)
    out = capsys.readouterr().out
    assert "7 images, labels of 2 classes for 5 of them" in out
    assert "without a class: 1 (a_cover.png)" in out
    assert file.labels.tolist() == LABELS
    assert [file.class_of(row) for row in (0, 1, 4)] == ["", "cat", "dog"]
    if ending == ".parquet":
        names = pyarrow.parquet.read_table(path)["class_name"].to_pylist()
        assert names == [None, "cat", "cat", None, "dog", "dog", "dog"]
    # A stray is neither of a class nor of another, and counts in no share.
    result = neighbours.search(file, file, 6)
    assert result.same[STRAYS].count() == 0
    assert {result.is_same(0, rank) for rank in range(6)} == {None}
    assert result.same[1].sum() == 1 and result.same[4].sum() == 2
    assert result.same[1].count() == result.same[4].count() == 4
    assert result.share() == (2 * 1 + 3 * 2) / (5 * 4)
    nearest = file.labels[result.index[:, 0]], file.labels
    known = (nearest[0] >= 0) & (nearest[1] >= 0)
    expected = np.mean(nearest[0][known] == nearest[1][known])
    assert result.share(1) == expected


def test_neighbours_without_any_class_have_no_share(tmp_path, capsys):
    """Two strays, each the nearest of the other."""
    greys = {"x.png": 9, "y.png": 8}
    greys |= {f"cat/{n}.png": 90 + n for n in range(5)}
    greys |= {f"dog/{n}.png": 200 + n for n in range(5)}
    spec = plain_frozen.write_greys(tmp_path / "few", greys)
    path = tmp_path / "few.npz"
    embeddings.embed_source(plain_frozen.make_frozen(), spec, path)
    capsys.readouterr()
    neighbours.search_files(
        path, path, 1, tmp_path / "n.csv", queries=["x.png"]
    )
    out = capsys.readouterr().out
    assert "1 queries" in out and "of the query's class" not in out
    neighbours.search_files(path, path, 1, tmp_path / "m.csv")
    assert (
        "2 left out: an image of the two has no class"
        in capsys.readouterr().out
    )


def test_the_same_images_twice_are_no_test_of_an_encoder(tmp_path, spec):
    one = sources.labelled(sources.open_source(spec), "bank")
    again = sources.labelled(sources.open_source(f"{spec}/"), "query set")
    words = knn.overlap_words(one, again)
    assert words.startswith("bank and query set are the same images")
    labelled = supervised.open_labelled(spec, spec)
    assert "Warning: data.train and data.test are" in labelled.remark_lines()
    others = {"cat/1.png": 10, "cat/2.png": 12, "dog/1.png": 100}
    others |= {"dog/2.png": 102, "dog/9.png": 104}
    spec = plain_frozen.write_greys(tmp_path / "others", others)
    other = sources.labelled(sources.open_source(spec), "query set")
    assert len(other) == len(one)
    assert knn.overlap_words(one, other) == ""


@pytest.mark.parametrize("form", [".npz", ".parquet", "source"])
def test_a_bank_holds_the_labelled_images_alone(tmp_path, spec, form):
    encoder = plain_frozen.make_frozen()
    encoder = encoder._replace(config=small_run.make_config(tmp_path))
    bank = spec
    if form != "source":
        bank = tmp_path / f"bank{form}"
        embeddings.embed_source(encoder, spec, bank)
    bank = labelling.open_bank(str(bank), encoder, tmp_path)
    assert bank.labels.numpy().tolist() == [0, 0, 1, 1, 1]


def test_a_classifier_and_its_test_take_the_labelled_images(spec):
    labelled = supervised.open_labelled(spec, spec)
    assert labelled.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert labelled.names == ["cat", "dog"]
    assert labelled.train.name(0) == "cat/1.png"
    assert labelled.remark_lines().count("a_cover.png") == 1


def test_labels_that_are_none_are_never_compared(spec):
    source = sources.open_source(spec)
    with pytest.raises(ValueError, match="Every image that is compared needs"):
        features.common_labels(source, source)


def test_a_cache_keeps_the_labels_that_there_are(tmp_path, spec, capsys):
    prepare.prepare(spec, tmp_path / "cache")
    assert "a_cover.png" in capsys.readouterr().out
    cached = sources.open_source(f"prepared:{tmp_path}/cache")
    assert cached.labels.tolist() == LABELS
    assert len(sources.labelled(cached, "bank")) == 5


def test_a_cache_of_a_source_without_labels_says_which(tmp_path):
    spec = plain_frozen.write_greys(tmp_path / "flat", {"1.png": 1})
    prepare.prepare(spec, tmp_path / "cache")
    cached = sources.open_source(f"prepared:{tmp_path}/cache")
    with pytest.raises(ValueError, match="flat, had none when it was prepared"):
        sources.labelled(cached, "bank")


def test_classes_that_differ_in_what_is_not_seen_are_named(tmp_path, spec):
    names = {"cat /1.png": 1, "dog/1.png": 2}
    other = plain_frozen.write_greys(tmp_path / "other", names)
    with pytest.raises(ValueError, match="'cat ' and 'cat' differ in blanks"):
        supervised.open_labelled(spec, other)


def test_the_doctor_names_what_was_left_out_and_counts_the_rest(tmp_path, spec):
    root = tmp_path / "images"
    (root / "cat" / "1.dng").write_bytes(b"x")
    (root / "self").symlink_to("self")
    source = sources.open_source(spec)
    rows = images.remark_rows(source) + images.class_rows(source, spec)
    by_finding = {row.finding: row for row in rows}
    assert {row.verdict for row in rows} == {table.OK, table.WARN}
    assert by_finding["files by their ending: 1 .dng"].remedy.endswith(
        "as PNG."
    )
    assert "links in circles: 1 (self)" in by_finding
    assert "2 classes of 2 (cat) to 3 (dog) images" in by_finding
    assert not any("empty" in row.check for row in rows)


def test_the_doctor_says_why_there_are_no_labels(tmp_path):
    spec = plain_frozen.write_greys(tmp_path, {"1.png": 1, "2.png": 2})
    (row,) = images.class_rows(sources.open_source(spec), spec)
    assert row.verdict == table.OK
    assert "`linear` do: its images lie side by side" in row.finding


def test_a_run_says_what_it_leaves_out_and_without_labels_how_to_go_on(
    tmp_path, capsys
):
    root = small_run.write_images(tmp_path / "images", 24)
    for number in range(9):
        path = root / f"{number}.png"
        path.write_bytes((root / "dark" / "001.png").read_bytes())
    (root / "a.heic").write_bytes(b"x")

    def train(**fields):
        config = small_run.make_config(root, train__max_steps=1, **fields)
        strategy = tf.distribute.get_strategy()
        pretrain.pretrain(config, tmp_path / "run", strategy)

    with pytest.raises(ValueError, match="9 of its 33 images lie beside") as e:
        train(evaluated=True)
    assert not (tmp_path / "run").exists()
    # The first remedy, to move them away; of 24 images a few may stay.
    moved = re.search(r"\((.*?), (.*?), ", str(e.value)).groups()
    assert moved == ("0.png", "1.png")
    for name in moved:
        (root / name).unlink()
    train(evaluated=True)
    out = capsys.readouterr().out
    head = out[: out.index("  model ")]
    assert "left out: files by their ending: 1 .heic" in head
    assert "without a class: 7 (2.png, 3.png, 4.png, ...)" in head
    # The other remedy, to train without kNN.
    fields = re.search(r"--config\.(\S+)= --config\.(\S+)= ", str(e.value))
    train(**{name.replace(".", "__"): "" for name in fields.groups()})


def test_the_order_and_the_numbers_are_one_for_both_uses(spec):
    source = sources.open_source(spec)
    labelled = sources.labelled(source, "bank")
    assert (
        labelled.indices.tolist() == np.flatnonzero(source.labels >= 0).tolist()
    )
    for place, number in enumerate(labelled.indices.tolist()):
        assert labelled.name(place) == source.name(number)
        assert labelled.labels[place] == source.labels[number]


def test_a_run_speaks_of_sources_of_knn_that_are_not_its_own(tmp_path, spec):
    other = plain_frozen.write_greys(tmp_path / "other", GREYS)
    fields = {"knn__bank": spec, "knn__query": other, "knn__k": 1}
    config = small_run.make_config(tmp_path / "images", **fields)
    text = monitor.KnnMonitor(config).describe()
    assert text.startswith(f"  kNN      5 images of {other}\n  ")
    assert "a_cover.png" in text and spec not in text


def test_an_evaluation_says_what_lies_in_place_of_an_image(
    tmp_path, spec, monkeypatch
):
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    (tmp_path / "images" / "dog" / "2.png").write_bytes(pointer)
    said = []
    monkeypatch.setattr(
        "absl.logging.warning", lambda text, *args: said.append(text % args)
    )
    labelled = sources.labelled(sources.open_source(spec), "bank")
    encoder = plain_frozen.make_frozen()
    stored = features.extract_to_disk(encoder, labelled, tmp_path / "store")
    assert stored.skipped == ["dog/2.png"]
    assert "dog/2.png. The first: " in said[0]
    assert "Received a Git LFS pointer. Run `git lfs pull`" in said[0]
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(pointer)
    with pytest.raises(ValueError, match="none readable.*a Git LFS pointer"):
        features.extract_to_disk(encoder, labelled, tmp_path / "other")
