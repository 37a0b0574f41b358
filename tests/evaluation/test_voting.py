import pathlib

import numpy as np
import pytest

from moco_tf.evaluation import voting

REFERENCE = pathlib.Path(__file__).parents[1] / "reference" / "knn.npz"


def _circle(degrees, norm=1.0):
    angle = np.deg2rad(np.asarray(degrees, np.float64))
    return norm * np.stack([np.cos(angle), np.sin(angle)], 1).astype("float32")


def _oracle(bank, labels, query, k, temperature, classes):
    """The vote by the book, in float64, a query at a time."""
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    scores = np.zeros([len(query), classes])
    for row, vector in enumerate(query.astype(np.float64)):
        similarity = bank @ (vector / np.linalg.norm(vector))
        for place in np.argsort(-similarity, kind="stable")[:k]:
            scores[row, labels[place]] += np.exp(
                similarity[place] / temperature
            )
    return scores


@pytest.mark.parametrize("k", [1, 20, 200])
def test_the_vote_is_the_published_one(k):
    case = np.load(REFERENCE)
    data = case["bank"], case["bank_labels"], case["query"]
    scores = voting.weighted_vote(*data, k, 0.1, 10)
    np.testing.assert_allclose(
        scores, case[f"scores_k{k}"], rtol=2e-5, atol=1e-3
    )
    top1 = voting.top1(*data, case["query_labels"], k, 0.1, 10)
    assert top1 == pytest.approx(float(case[f"top1_k{k}"]), abs=1e-6)


def test_two_neighbours_by_hand():
    # cos 60 = 0.5, cos 0 = 1, cos 90 = 0: exp(1), exp(2) at T = 0.5.
    scores = voting.weighted_vote(
        _circle([60, 0, 90]), [0, 2, 1], _circle([0]), 2, 0.5, 4
    )
    expected = [[np.exp(1.0), 0.0, np.exp(2.0), 0.0]]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert scores.dtype == np.float32


def test_lengths_do_not_matter():
    bank, query = _circle([10, 50, 80]), _circle([0, 70])
    plain = voting.weighted_vote(bank, [0, 1, 0], query, 2, 0.1, 2)
    lengths = np.float32([[1e-6], [1.0], [1e6]])
    scaled = voting.weighted_vote(
        bank * lengths, [0, 1, 0], query * 300.0, 2, 0.1, 2
    )
    np.testing.assert_allclose(scaled, plain, rtol=1e-4)


def test_a_zero_vector_is_similar_to_nothing():
    similarity, _ = voting.nearest(np.zeros([2, 3]), np.ones([1, 3]), 2)
    np.testing.assert_array_equal(similarity, [[0.0, 0.0]])


@pytest.mark.parametrize("query_block", [1, 7, 100])
@pytest.mark.parametrize("bank_block", [1, 3, 16, 50])
def test_blocks_do_not_change_the_neighbours(query_block, bank_block):
    rng = np.random.default_rng(0)
    bank = rng.standard_normal([50, 4]).astype("float32")
    query = rng.standard_normal([20, 4]).astype("float32")
    similarity, index = voting.nearest(bank, query, 9, query_block, bank_block)
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    product = query / np.linalg.norm(query, axis=1, keepdims=True) @ unit.T
    expected = np.argsort(-product, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(
        similarity, np.take_along_axis(product, expected, 1), atol=1e-6
    )


@pytest.mark.parametrize("bank_block", [2, 3, 100])
def test_a_tie_goes_to_the_lower_index(bank_block):
    bank = np.float32([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [1, 0]])
    _, index = voting.nearest(
        bank, np.float32([[1, 0]]), 3, bank_block=bank_block
    )
    np.testing.assert_array_equal(index, [[0, 2, 3]])


def test_of_two_equal_classes_the_lower_number_wins():
    bank = np.float32([[1, 0], [1, 0]])
    query = np.float32([[1, 0]])
    assert voting.top1(bank, [2, 1], query, [1], 2, 0.1, 3) == 1.0
    assert voting.top1(bank, [2, 1], query, [2], 2, 0.1, 3) == 0.0


def test_k_may_be_the_whole_bank():
    bank = _circle([0, 90, 180])
    scores = voting.weighted_vote(bank, [0, 1, 2], _circle([0]), 3, 1.0, 3)
    expected = np.exp([[1.0, 0.0, -1.0]])
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_class_that_the_bank_lacks_scores_zero():
    bank = _circle([0, 90])
    scores = voting.weighted_vote(bank, [0, 3], _circle([0]), 2, 1.0, 5)
    np.testing.assert_array_equal(scores[:, [1, 2, 4]], np.zeros([1, 3]))
    assert voting.top1(bank, [0, 3], _circle([0]), [4], 2, 1.0, 5) == 0.0


def test_a_single_class_is_always_right():
    rng = np.random.default_rng(1)
    bank, query = rng.standard_normal([2, 8, 3]).astype("float32")
    zeros = np.zeros(8, int)
    assert voting.top1(bank, zeros, query, zeros, 5, 0.1, 1) == 1.0


def test_a_sweep_is_every_pair_measured_alone():
    rng = np.random.default_rng(2)
    bank = rng.standard_normal([60, 5]).astype("float32")
    query = rng.standard_normal([40, 5]).astype("float32")
    labels, truth = rng.integers(0, 3, 60), rng.integers(0, 3, 40)
    ks, temperatures = [1, 10, 60], [0.02, 0.1, 1.0]
    result = voting.sweep(bank, labels, query, truth, ks, temperatures, 3)
    assert set(result) == {(k, t) for k in ks for t in temperatures}
    for (k, t), value in result.items():
        scores = _oracle(bank, labels, query, k, t, 3)
        assert value == np.mean(scores.argmax(1) == truth)
    assert len(set(result.values())) > 3  # the pairs do differ


def test_a_tiny_temperature_is_the_nearest_neighbour():
    # exp(1 / 1e-4) does not fit into any float.
    bank = _circle([1, 5, 6, 7])
    labels = [0, 1, 1, 1]
    assert voting.top1(bank, labels, _circle([0]), [0], 4, 1e-4, 2) == 1.0
    assert voting.top1(bank, labels, _circle([0]), [1], 4, 1.0, 2) == 1.0
    with pytest.raises(ValueError, match="0.0115 or more"):
        voting.weighted_vote(bank, labels, _circle([0]), 4, 0.01, 2)


def test_a_k_above_the_bank_is_refused():
    with pytest.raises(ValueError, match="k=3, a bank of 2"):
        voting.weighted_vote(_circle([0, 1]), [0, 1], _circle([0]), 3, 0.1, 2)


@pytest.mark.parametrize("ks", [[0], [1, -1], [1, 3]])
def test_a_sweep_refuses_every_k_that_cannot_be(ks):
    with pytest.raises(ValueError, match="from 1 to the number of images"):
        voting.sweep(_circle([0, 1]), [0, 1], _circle([0]), [0], ks, [0.1], 2)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        voting.top1(_circle([0]), [0], _circle([0]), [0], 1, temperature, 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "from 0 to 2, classes=2"),
        ([-1, 0], "from -1 to 0"),
        ([0], r"\(1,\) labels for 2 images"),
        (None, "without labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        voting.top1(_circle([0, 1]), labels, _circle([0]), [0], 1, 0.1, 2)


@pytest.mark.parametrize("side", ["bank", "query"])
def test_features_that_are_not_finite_are_refused(side):
    rows = {"bank": _circle([0, 1]), "query": _circle([0, 1])}
    rows[side][1, 0] = np.nan
    with pytest.raises(ValueError, match=f"values in the {side} features"):
        voting.nearest(rows["bank"], rows["query"], 1)


def test_features_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"bank \(2, 2\), query \(1, 3\)"):
        voting.nearest(_circle([0, 1]), np.ones([1, 3]), 1)
