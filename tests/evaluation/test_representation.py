import math

import numpy as np
import pytest

from moco_tf.evaluation import representation


@pytest.fixture(name="small_blocks")
def _small_blocks(monkeypatch):
    """Blocks of three rows: 8 rows are two full blocks and a part."""
    monkeypatch.setattr(representation, "BLOCK", 3)


def _rows(count=8, size=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(1.0, 2.0, [count, size]).astype(np.float32)


def _unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_alignment_is_the_mean_squared_distance_of_directions():
    # Right angle: 2. Opposite: 4. The same direction, another length: 0.
    first = [[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]]
    second = [[0.0, 0.5], [0.0, -1.0], [4.0, 4.0]]
    assert representation.alignment(first, second) == pytest.approx(2.0)


@pytest.mark.usefixtures("small_blocks")
def test_alignment_in_blocks_agrees_with_numpy():
    first, second = _rows(seed=1), _rows(seed=2)
    expected = ((_unit(first) - _unit(second)) ** 2).sum(axis=1).mean()
    result = representation.alignment(first, second)
    assert result == pytest.approx(expected, rel=1e-6)


def test_uniformity_of_two_points_is_their_squared_distance_times_minus_t():
    assert representation.uniformity(
        np.array([[2.0, 0.0], [0.0, 5.0]])
    ) == pytest.approx(-4.0)
    assert representation.uniformity(
        np.array([[2.0, 0.0], [-1.0, 0.0]]), t=0.5
    ) == pytest.approx(-2.0)


def test_uniformity_of_one_direction_is_zero():
    rows = np.outer([1.0, 2.0, 7.0], [0.3, -0.4, 0.1])
    assert representation.uniformity(rows) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_uniformity_in_blocks_agrees_with_all_pairs_in_numpy(count):
    rows = _rows(count)
    unit = _unit(rows)
    kernels = [
        math.exp(-2.0 * np.sum((unit[i] - unit[j]) ** 2))
        for i in range(count)
        for j in range(i)
    ]
    expected = math.log(sum(kernels) / len(kernels))
    assert representation.uniformity(rows) == pytest.approx(expected, rel=1e-5)


def test_a_zero_row_has_distance_one_to_every_direction():
    rows = np.array([[0.0, 0.0], [0.0, 3.0]])
    assert representation.uniformity(rows) == pytest.approx(-2.0)
    assert representation.alignment(rows, rows[::-1]) == pytest.approx(1.0)


def test_effective_rank_of_equal_singular_values_is_their_number():
    # Centred already; singular values sqrt(2) x 3 along three axes of four.
    axes = np.eye(4)[:3]
    assert representation.effective_rank(
        np.concatenate([axes, -axes])
    ) == pytest.approx(3.0)


def test_effective_rank_follows_the_entropy_of_the_singular_values():
    # Singular values 3 sqrt(2) and sqrt(2): shares 3/4 and 1/4.
    rows = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    result = representation.effective_rank(rows)
    assert result == pytest.approx(math.exp(entropy))


def test_effective_rank_ignores_the_mean():
    rows = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert representation.effective_rank(
        rows + [1000.0, -500.0]
    ) == pytest.approx(representation.effective_rank(rows))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("count", "size"), [(8, 5), (4, 6)])
def test_effective_rank_in_blocks_agrees_with_numpy(count, size):
    rows = _rows(count, size)
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    singular = np.linalg.svd(centred, compute_uv=False)
    share = singular[singular > 1e-9] / singular.sum()
    expected = math.exp(-np.sum(share * np.log(share)))
    result = representation.effective_rank(rows)
    assert result == pytest.approx(expected, rel=1e-6)


def test_a_collapsed_representation_has_no_rank():
    rows = np.full([50, 4], 0.1, np.float32)
    assert representation.effective_rank(rows) == 0.0
    noise = np.random.default_rng(0).normal(0, 1e-8, rows.shape)
    rows = (rows + noise).astype(np.float32)  # as float32 rounds, no more
    assert representation.effective_rank(rows) == 0.0


@pytest.mark.usefixtures("small_blocks")
def test_describe_holds_the_figures_of_all_rows():
    rows = np.array([[3.0, 4.0], [-3.0, -4.0], [0.3, 0.4], [-0.3, -0.4]])
    result = representation.describe(rows)
    # Two pairs in one direction, four in opposite ones.
    expected = math.log((2 + 4 * math.exp(-8)) / 6)
    assert result == {
        "uniformity": pytest.approx(expected, abs=1e-6),
        "effective_rank": pytest.approx(1.0),
        "feature_norm": pytest.approx(2.75),
    }


def test_too_few_rows_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"2 rows .* Received .* \(1, 2\)"):
        representation.describe(np.ones([1, 2]))
    with pytest.raises(ValueError, match=r"Received the shape \(3,\)"):
        representation.mean_norm(np.ones([3]))
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2, 2\)"):
        representation.alignment(np.ones([3, 2]), np.ones([2, 2]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(bad):
    rows = np.array([[1.0, 0.0], [bad, 1.0], [0.0, 1.0]])
    for function in (representation.uniformity, representation.effective_rank):
        with pytest.raises(ValueError, match="must be finite"):
            function(rows)


def test_neighbours_are_shared_as_counted_by_hand():
    # Eight points on a line of angles: two neighbours of each.
    angles = np.array([0, 1, 2, 10, 11, 12, 30, 31]) / 40
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    shared, most = representation.shared_neighbours(rows, 7 * rows)
    assert most == 2
    assert shared.tolist() == [2] * 8
    # In the other view the first lies beside the last.
    moved = angles.copy()
    moved[0] = 32 / 40
    other = np.stack([np.cos(moved), np.sin(moved)], 1)
    shared, _ = representation.shared_neighbours(rows, other)
    # 0: {1, 2} and {7, 6}; 1: {0, 2} and {2, 3}; 2: {1, 0} and {1, 3};
    # 6: {7, 5} and {7, 0}; 7: {6, 5} and {0, 6}; 3, 4, 5 as before.
    assert shared.tolist() == [0, 1, 1, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_that_are_all_the_same_share_no_neighbours(value):
    rows = np.full([40, 3], value, np.float32)
    shared, most = representation.shared_neighbours(rows, rows)
    assert most == 10
    assert shared.mean() / most < 10 / 39  # less than by chance


def test_few_images_have_no_neighbours_that_could_differ():
    rows = np.eye(7, dtype=np.float32)
    shared, most = representation.shared_neighbours(rows, rows)
    assert most == 0
    assert shared.tolist() == [0] * 7
