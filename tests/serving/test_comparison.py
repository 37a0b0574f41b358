import numpy as np
import pytest

from moco_tf.serving import comparison


def test_the_largest_difference_and_the_smallest_cosine_are_computed():
    expected = np.array([[3.0, 4.0], [0.0, 10.0]], np.float32)
    rows = np.array([[3.0, 4.0], [6.0, 8.0]], np.float32)
    difference = comparison.compare("a", rows, expected)
    assert difference == ("a", 6.0, pytest.approx(0.6), pytest.approx(0.8))
    assert str(difference) == (
        "a                max difference 6.00e+00 (6.0e-01 of the largest), "
        "cosine 0.8000000"
    )


def test_features_of_zeros_are_compared():
    zeros = np.zeros([2, 3])
    assert comparison.compare("a", zeros, zeros).relative == 0


def test_photographs_are_of_several_sizes():
    files = comparison.photographs()
    assert {contents[:2] for contents in files} == {b"\xff\xd8", b"\x89P"}
    assert len(files) == 5
