import itertools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.evaluation import features, monitor
from tests.evaluation import fakes


def _passes(source, size=2, view=None):
    return monitor.Passes(source, fakes.RECIPE, 4, size, view)


def _read(batches):
    return [(x.numpy().tolist(), i.numpy().tolist()) for x, i in batches]


@pytest.mark.parametrize("broken", [(), (0, 3), (4,)])
def test_every_pass_has_the_batches_of_one(broken):
    source = fakes.Source([1, 2, 3, 4, 5], broken=broken)
    expected = _read(features.evaluation_batches(source, fakes.RECIPE, 4, 2))
    again = _passes(source)
    for _ in range(3):
        assert _read(again) == expected


def test_a_source_of_which_nothing_is_read_has_empty_passes():
    again = _passes(fakes.Source([1, 2], broken=(0, 1)))
    assert _read(again) == _read(again) == []


def test_after_one_that_is_broken_off_comes_a_whole_pass():
    again = _passes(fakes.Source(range(5)))
    assert len(list(itertools.islice(again, 2))) == 2
    assert np.concatenate([i for _, i in again]).tolist() == [0, 1, 2, 3, 4]


def test_one_iterator_makes_all_passes(monkeypatch):
    made = []
    monkeypatch.setattr(
        monitor, "iter", lambda x: made.append(x) or iter(x), raising=False
    )
    again = _passes(fakes.Source(range(5)))
    assert _read(again) == _read(again)
    assert len(made) == 1


def test_nothing_is_read_ahead_of_a_pass():
    seen = []

    def view(image, index):
        tf.py_function(lambda i: seen.append(int(i)), [index], [])
        return tf.fill([4, 4, 3], tf.cast(image[0, 0, 0], tf.uint8))

    again = _passes(fakes.Source(range(5)), view=view)
    for count in (5, 10):
        assert len(_read(again)) == 3
        assert sorted(seen) == sorted([*range(5)] * (count // 5))
