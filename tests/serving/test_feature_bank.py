import types

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.evaluation import embeddings, voting
from moco_tf.serving import labelling
from tests.evaluation import plain_frozen


@pytest.fixture(name="judged", scope="module")
def _judged():
    knn = types.SimpleNamespace(k=200, temperature=0.5)
    config = types.SimpleNamespace(knn=knn)
    return plain_frozen.make_frozen()._replace(config=config)


def _embedded(judged, root, names, layers=("backbone",)):
    spec = plain_frozen.write_greys(root / "images", names)
    embeddings.embed_source(judged, spec, root / "bank.npz", layers)
    return root / "bank.npz"


def test_scores_are_those_of_the_weighted_vote():
    random = np.random.default_rng(0)
    rows = random.normal(size=(30, 4)).astype(np.float32)
    labels = random.integers(0, 3, 30)
    query = random.normal(size=(5, 4)).astype(np.float32)
    bank = labelling.FeatureBank(rows, labels, ["a", "b", "c"], 7, 0.1)
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    classes, scores = bank(tf.constant(unit))
    expected = voting.weighted_vote(rows, labels, query, 7, 0.1, 3)
    order = np.argsort(-expected, axis=1, kind="stable")
    np.testing.assert_allclose(
        scores, np.take_along_axis(expected, order, 1), rtol=1e-4
    )
    assert classes.numpy().tolist() == [
        [[b"a", b"b", b"c"][place] for place in row] for row in order
    ]


def test_a_bank_in_blocks_answers_as_one(monkeypatch):
    rows = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
    labels = np.arange(10)
    names = [str(n) for n in range(10)]
    query = tf.constant(voting.unit_rows(rows[::3], "query"))
    whole = labelling.FeatureBank(rows, labels, names, 4, 0.5)
    monkeypatch.setattr(voting, "BANK_BLOCK", 3)
    blocks = labelling.FeatureBank(rows, labels, names, 4, 0.5)
    assert [block.shape[0] for block in blocks.blocks] == [3, 3, 3, 1]
    for one, other in zip(whole(query), blocks(query), strict=True):
        if one.dtype == tf.string:
            assert one.numpy().tolist() == other.numpy().tolist()
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_bank_is_a_file_of_embeddings(tmp_path, judged):
    path = _embedded(
        judged, tmp_path, {"dark/1.png": 10, "dark/2.png": 20, "lit/1.png": 250}
    )
    bank = labelling.open_bank(str(path), judged)
    assert bank.classes == ("dark", "lit")
    assert bank.labels.numpy().tolist() == [0, 0, 1]
    assert bank.k == 3  # no more than there are
    greys = np.array([[10, 245], [20, 235], [250, 5]])
    unit = greys / np.linalg.norm(greys, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.blocks[0], unit, rtol=1e-5)


def test_a_bank_is_made_of_a_source(tmp_path, judged):
    spec = plain_frozen.write_greys(
        tmp_path / "images", {"a/1.png": 0, "a/2.png": None, "b/1.png": 255}
    )
    bank = labelling.open_bank(spec, judged, tmp_path)
    assert bank.labels.numpy().tolist() == [0, 1]
    np.testing.assert_allclose(bank.blocks[0], [[0, 1], [1, 0]])
    assert (tmp_path / "features").is_dir()


def test_without_a_workdir_no_features_are_left(tmp_path, judged, monkeypatch):
    names = {"a\udcff/1.png": 0, "b/1.png": 255}
    spec = plain_frozen.write_greys(tmp_path / "images", names)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    bank = labelling.open_bank(spec, judged)
    np.testing.assert_allclose(bank.blocks[0], [[0, 1], [1, 0]])
    assert not list((tmp_path / "here").iterdir())
    classes, _ = bank(tf.constant([[1.0, 0.0]]))
    assert classes.numpy().tolist() == [[b"b", b"a?"]]  # no text: no byte


def test_a_bank_of_another_encoder_is_refused(tmp_path, judged):
    path = _embedded(judged, tmp_path, {"a/1.png": 1, "b/1.png": 2})
    other = judged._replace(identity="cd" * 32, title="run/step-6")
    with pytest.raises(
        ValueError,
        match=r"abababababababab \(run/step-5\), and the encoder cdcdcd",
    ):
        labelling.open_bank(str(path), other)


def test_a_bank_of_other_features_is_refused(tmp_path, judged):
    path = _embedded(
        judged, tmp_path, {"a/1.png": 1, "b/1.png": 2}, ("projection",)
    )
    with pytest.raises(ValueError, match="backbone.*Received projection"):
        labelling.open_bank(str(path), judged)


@pytest.mark.parametrize("form", ["file", "source"])
def test_a_bank_without_labels_is_refused(tmp_path, judged, form):
    if form == "file":
        bank = _embedded(judged, tmp_path, {"1.png": 1, "2.png": 2})
    else:
        bank = plain_frozen.write_greys(tmp_path, {"1.png": 1})
    with pytest.raises(ValueError, match="must have labels"):
        labelling.open_bank(str(bank), judged, tmp_path)
