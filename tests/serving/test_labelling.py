import json
import types

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.evaluation import embeddings, voting
from moco_tf.serving import labelling
from tests.evaluation import plain_frozen


def write(folder, kernel=(4, 2), **result):
    folder.mkdir(exist_ok=True)
    arrays = {
        "kernel": np.arange(np.prod(kernel), dtype=np.float32).reshape(kernel),
        "bias": np.zeros(kernel[1], np.float32),
        "classes": np.array([f"class {n}" for n in range(kernel[1])]),
    }
    np.savez(folder / "linear.npz", **arrays)
    if result:
        (folder / "result.json").write_text(json.dumps(result))
    return folder / "linear.npz"


@pytest.fixture(name="frozen", scope="module")
def _frozen_for_head():
    return plain_frozen.make_frozen(identity="ab" * 32)


def test_classes_come_with_their_probabilities_in_order():
    head = labelling.LinearHead(
        np.array([[0, 1, 2], [1, 0, 0]], np.float32),
        np.array([0, 0, 1], np.float32),
        ["a", "b", "c"],
    )
    classes, shares = head(tf.constant([[0.0, 0.0], [1.0, 4.0]]))
    # Logits: 0, 0, 1 and 4, 1, 3.
    assert classes.numpy().tolist() == [[b"c", b"a", b"b"], [b"a", b"c", b"b"]]
    e = np.exp
    expected = [
        np.array([e(1), 1, 1]) / (e(1) + 2),
        np.array([e(4), e(3), e(1)]) / (e(4) + e(3) + e(1)),
    ]
    np.testing.assert_allclose(shares, expected, rtol=1e-5)


def test_names_that_are_no_text_are_served_without_their_bytes():
    head = labelling.LinearHead(
        np.eye(2, dtype=np.float32), np.zeros(2, np.float32), ["\udcff", "a"]
    )
    classes, _ = head(tf.constant([[2.0, 1.0]]))
    assert classes.numpy().tolist() == [[b"?", b"a"]]


def test_five_classes_are_shown():
    head = labelling.LinearHead(
        np.eye(7, dtype=np.float32), np.zeros(7, np.float32), list("abcdefg")
    )
    classes, _ = head(tf.constant([[1.0, 7.0, 3.0, 6.0, 2.0, 5.0, 4.0]]))
    assert classes.numpy().tolist() == [[b"b", b"d", b"f", b"g", b"c"]]


def test_a_head_is_opened_with_the_record_of_its_probe(tmp_path, frozen):
    result = {
        "encoder_identity": frozen.identity,
        "features": "backbone",
        "top1": 0.5,
    }
    write(tmp_path / "probe", **result)
    head, record = labelling.open_head(tmp_path / "probe", frozen, 4)
    np.testing.assert_array_equal(head.kernel, np.arange(8).reshape(4, 2))
    assert head.classes == ("class 0", "class 1")
    assert record == result


def test_a_head_without_its_result_is_opened(tmp_path, frozen):
    assert labelling.open_head(write(tmp_path), frozen, 4)[1] == {}


def test_a_head_of_another_width_is_refused(tmp_path, frozen):
    path = write(tmp_path)
    with pytest.raises(ValueError, match="encoder's 32 features.*for 4 feat"):
        labelling.open_head(path, frozen, 32)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            {"encoder_identity": "cd" * 32, "encoder": "other/step-9"},
            r"cdcdcdcdcdcdcdcd \(other/step-9\), and the encoder abababababab",
        ),
        ({"encoder_identity": "ab" * 32, "features": "projection"}, "'proj"),
    ],
)
def test_a_head_of_something_else_is_refused(tmp_path, frozen, result, message):
    path = write(tmp_path, **result)
    with pytest.raises(ValueError, match=message):
        labelling.open_head(path, frozen, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "Received .*linear.npz': .*No such file"),
        ({"kernel": np.zeros([4, 2])}, "with kernel, bias and classes"),
        (
            {
                "kernel": np.zeros([4, 2]),
                "bias": np.zeros(3),
                "classes": np.array(["a", "b"]),
            },
            r"\(4, 2\), \(3,\), \(2,\)",
        ),
        (
            {
                "kernel": np.full([4, 2], np.nan),
                "bias": np.zeros(2),
                "classes": np.array(["a", "b"]),
            },
            "a finite kernel",
        ),
        (
            {
                "kernel": np.zeros([4, 2]),
                "bias": np.zeros(2),
                "classes": np.array([{}, {}], object),
            },
            "allow_pickle=False",
        ),
    ],
)
def test_what_is_no_head_is_refused(tmp_path, frozen, arrays, message):
    if arrays is not None:
        np.savez(tmp_path / "linear.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        labelling.open_head(tmp_path / "linear.npz", frozen, 4)


@pytest.fixture(name="encoder", scope="module")
def _frozen_for_bank():
    knn = types.SimpleNamespace(k=200, temperature=0.5)
    config = types.SimpleNamespace(knn=knn)
    return plain_frozen.make_frozen()._replace(config=config)


def _embedded(encoder, root, names, layers=("backbone",)):
    spec = plain_frozen.write_greys(root / "images", names)
    embeddings.embed_source(encoder, spec, root / "bank.npz", layers)
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
        [[b"a", b"b", b"c"][index] for index in row] for row in order
    ]


def test_a_bank_in_blocks_answers_as_one(monkeypatch):
    rows = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
    labels = np.arange(10)
    names = [str(n) for n in range(10)]
    query = tf.constant(voting.unit_rows(rows[::3], "query"))
    one_block = labelling.FeatureBank(rows, labels, names, 4, 0.5)
    monkeypatch.setattr(voting, "BANK_BLOCK", 3)
    blocks = labelling.FeatureBank(rows, labels, names, 4, 0.5)
    assert [block.shape[0] for block in blocks.blocks] == [3, 3, 3, 1]
    for one, other in zip(one_block(query), blocks(query), strict=True):
        if one.dtype == tf.string:
            assert one.numpy().tolist() == other.numpy().tolist()
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_bank_is_a_file_of_embeddings(tmp_path, encoder):
    path = _embedded(
        encoder,
        tmp_path,
        {"dark/1.png": 10, "dark/2.png": 20, "lit/1.png": 250},
    )
    bank = labelling.open_bank(str(path), encoder)
    assert bank.classes == ("dark", "lit")
    assert bank.labels.numpy().tolist() == [0, 0, 1]
    assert bank.k == 3  # no more than there are
    greys = np.array([[10, 245], [20, 235], [250, 5]])
    unit = greys / np.linalg.norm(greys, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.blocks[0], unit, rtol=1e-5)


def test_a_bank_is_made_of_a_source(tmp_path, encoder):
    spec = plain_frozen.write_greys(
        tmp_path / "images", {"a/1.png": 0, "a/2.png": None, "b/1.png": 255}
    )
    bank = labelling.open_bank(spec, encoder, tmp_path)
    assert bank.labels.numpy().tolist() == [0, 1]
    np.testing.assert_allclose(bank.blocks[0], [[0, 1], [1, 0]])
    assert (tmp_path / "features").is_dir()


def test_without_a_workdir_no_features_are_left(tmp_path, encoder, monkeypatch):
    names = {"a\udcff/1.png": 0, "b/1.png": 255}
    spec = plain_frozen.write_greys(tmp_path / "images", names)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    bank = labelling.open_bank(spec, encoder)
    np.testing.assert_allclose(bank.blocks[0], [[0, 1], [1, 0]])
    assert not list((tmp_path / "here").iterdir())
    classes, _ = bank(tf.constant([[1.0, 0.0]]))
    assert classes.numpy().tolist() == [[b"b", b"a?"]]  # no text: no byte


def test_a_bank_of_another_encoder_is_refused(tmp_path, encoder):
    path = _embedded(encoder, tmp_path, {"a/1.png": 1, "b/1.png": 2})
    other = encoder._replace(identity="cd" * 32, title="run/step-6")
    with pytest.raises(
        ValueError,
        match=r"abababababababab \(run/step-5\), and the encoder cdcdcd",
    ):
        labelling.open_bank(str(path), other)


def test_a_bank_of_other_features_is_refused(tmp_path, encoder):
    path = _embedded(
        encoder, tmp_path, {"a/1.png": 1, "b/1.png": 2}, ("projection",)
    )
    with pytest.raises(ValueError, match="backbone.*Received projection"):
        labelling.open_bank(str(path), encoder)


@pytest.mark.parametrize("form", ["file", "source"])
def test_a_bank_without_labels_is_refused(tmp_path, encoder, form):
    if form == "file":
        bank = _embedded(encoder, tmp_path, {"1.png": 1, "2.png": 2})
    else:
        bank = plain_frozen.write_greys(tmp_path, {"1.png": 1})
    with pytest.raises(ValueError, match="must have labels"):
        labelling.open_bank(str(bank), encoder, tmp_path)


def test_a_web_page_in_place_of_a_head_is_named(tmp_path, frozen):
    path = tmp_path / "linear.npz"
    path.write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(ValueError, match="HTML .a web page.*download the file"):
        labelling.open_head(path, frozen, 4)
