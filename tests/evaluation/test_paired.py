"""Paired differences: exact cases, the rule of verdicts, and coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moco_tf.evaluation import paired


def outcomes(both, first_only, second_only, neither):
    """Bool arrays of two encoders by the counts of the table of four."""
    first = [1] * (both + first_only) + [0] * (second_only + neither)
    second = [1] * both + [0] * first_only + [1] * second_only + [0] * neither
    return np.array(first, bool), np.array(second, bool)


def test_the_same_outcomes_differ_by_exactly_nothing():
    first, _ = outcomes(30, 0, 0, 12)
    result = paired.difference(first, first)
    assert result[:3] == (0.0, 0.0, 0.0)
    assert result.verdict == "no difference"
    assert result.describe().startswith("no difference (+0.00 points")


def test_a_clear_gain_is_called_by_its_points():
    first, second = outcomes(400, 20, 100, 480)
    result = paired.difference(first, second)
    assert result.mean == pytest.approx(0.08)
    # (80 +- 1.96 sqrt(120 - 80**2 / 1000)) / 1000, by the normal limit
    assert result.low == pytest.approx(0.0591, abs=0.0015)
    assert result.high == pytest.approx(0.1009, abs=0.0015)
    assert result.verdict == "better"
    assert result.describe().startswith("better by 8.00 points (95 %: 5.9")
    back = paired.difference(second, first)
    assert back.verdict == "worse"
    assert back.describe() == result.describe().replace("better", "worse")
    assert (back.better, back.worse, back.queries) == (20, 100, 1000)


def test_five_of_five_are_too_few_for_a_verdict():
    # 2 / 2**5 = 0.0625, though almost no resample is without one of them.
    first, second = outcomes(10, 0, 5, 5)
    assert paired.sign_test(5, 0) == pytest.approx(0.0625)
    assert paired.difference(first, second).low == 0.0
    assert paired.difference(first, second).verdict == "no difference"
    first, second = outcomes(10, 0, 6, 4)
    assert paired.sign_test(0, 6) == pytest.approx(0.03125)
    assert paired.difference(first, second).verdict == "better"


@pytest.mark.parametrize("split", [(0, 0), (3, 3), (7, 2), (0, 12), (40, 61)])
def test_the_sign_test_is_the_sum_of_the_binomial(split):
    total = sum(split)
    tail = sum(math.comb(total, i) for i in range(min(split) + 1))
    expected = min(1.0, 2 * tail / 2**total)
    assert paired.sign_test(*split) == pytest.approx(expected, rel=1e-9)


def test_the_sign_test_takes_many_queries():
    assert paired.sign_test(600_000, 600_100) == pytest.approx(0.928, abs=2e-3)


def test_outcomes_of_many_values_are_resampled_by_their_rows():
    random = np.random.default_rng(1)
    first = random.normal(size=500)
    second = first + random.normal(0.2, 1.0, size=500)
    result = paired.difference(first, second, resamples=2000)
    error = np.std(second - first) / np.sqrt(500)
    assert result.low == pytest.approx(result.mean - 1.96 * error, abs=0.012)
    assert result.high == pytest.approx(result.mean + 1.96 * error, abs=0.012)


@given(
    st.tuples(*[st.integers(0, 40)] * 4).filter(lambda counts: sum(counts) > 0)
)
def test_a_verdict_is_never_given_inside_the_interval(counts):
    first, second = outcomes(*counts)
    result = paired.difference(first, second, resamples=500)
    assert -1 <= result.low <= result.mean <= result.high <= 1
    inside = result.low <= 0 <= result.high
    assert (result.verdict == "no difference") == inside
    back = paired.difference(second, first, resamples=500)
    mirrored = (-result.mean, -result.high, -result.low)
    assert back[:3] == pytest.approx(mirrored, abs=1e-12)
    assert (back.verdict == "worse") == (result.verdict == "better")


def test_equal_encoders_are_called_different_in_at_most_one_of_twenty():
    random = np.random.default_rng(5)
    called = {8: 0, 40: 0, 400: 0}
    for size in called:
        for trial in range(300):
            easy = random.random(size) < 0.6
            first, second = (
                easy ^ (random.random(size) < 0.15) for _ in range(2)
            )
            result = paired.difference(first, second, 1000, seed=trial)
            called[size] += result.verdict != "no difference"
    # Of 300 fair trials at 1/20, 26 or more come about once in a hundred times.
    assert max(called.values()) <= 25


def test_outcomes_of_other_queries_are_refused():
    for first, second in (([1, 0], [1]), ([], []), ([[1]], [[1]])):
        with pytest.raises(ValueError, match="on the same images"):
            paired.difference(first, second)
    with pytest.raises(ValueError, match="must be finite"):
        paired.difference([1.0, np.nan], [1.0, 0.0])
