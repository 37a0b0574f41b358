"""The figures of the queue and the key encoder, by hand arithmetic."""

import types

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.evaluation import diagnostics
from moco_tf.methods import momentum
from tests.training import fakes


class _Batches:
    """The next batch of step s holds the images 10 s and 10 s + 1."""

    def positions(self, step):
        return tf.constant([10 * step, 10 * step + 1], tf.int64)

    def samples(self, positions):
        return positions


def _method(keys, samples, steps, step):
    """A method with this queue, at this step."""
    method = fakes.make_method(queue_size=len(samples))
    method.queue.keys.assign(keys)
    method.queue.samples.assign(samples)
    method.queue.steps.assign(steps)
    method.step.assign(step)
    return method


def test_the_queue_is_described():
    keys = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [1.0, 0.0]]
    method = _method(keys, [30, 31, 32, 7, -1], [1, 1, 2, 2, -1], step=3)
    result = diagnostics.Inspector(_Batches())(method)
    assert result["queue_fill"] == 0.8
    assert result["key_age"] == 1.5  # two of step 1, two of step 2
    assert result["same_image"] == 0.5  # 30 and 31
    # The four written keys span both axes alike.
    np.testing.assert_allclose(result["key_rank"], 2.0, rtol=1e-6)
    assert result["key_age_auc"] is None  # of two steps alone
    assert result["key_drift"] == 0.0


def test_drift_is_relative_to_the_query_encoder():
    method = fakes.make_method()
    for weight in method.query_encoder.trainable_variables:
        weight.assign(tf.fill(weight.shape, 2.0))
    for weight in method.key_encoder.trainable_variables:
        weight.assign(tf.fill(weight.shape, 1.5))
    result = diagnostics.drift(method.key_encoder, method.query_encoder)
    np.testing.assert_allclose(result, 0.25, rtol=1e-6)
    nothing = types.SimpleNamespace(trainable_variables=[tf.zeros([3])])
    assert diagnostics.drift(nothing, nothing) == 0.0


def _keys(places, noise=0.0, keys=8, seed=0):
    """Keys of steps 5, 6, ... around a place on the first axis each."""
    random = np.random.default_rng(seed)
    rows = np.zeros([len(places), keys, 3], np.float32)
    rows[..., 0] = np.asarray(places)[:, np.newaxis]
    rows += noise * random.normal(size=rows.shape)
    steps = np.repeat(np.arange(len(places)) + 5, keys)
    order = random.permutation(len(steps))  # a queue begins anywhere
    return rows.reshape(-1, 3)[order], steps[order]


@pytest.mark.parametrize("places", [(0, 1, 2, 3), (9, 7, 5, 3, 1)])
def test_the_age_of_keys_that_drift_shows(places):
    assert diagnostics.age_auc(*_keys(places)) == 1.0
    assert diagnostics.age_auc(*_keys(places, noise=0.3)) > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_the_age_of_keys_that_stay_does_not_show(seed):
    result = diagnostics.age_auc(*_keys([0] * 8, 1.0, keys=64, seed=seed))
    # 256 newer and as many older: a standard error of 0.026.
    assert abs(result - 0.5) < 0.09


def test_what_the_keys_of_a_step_share_is_no_age():
    # Steps 1 and 2 lie apart from 0 and 3: learnt from one half of the steps,
    # the direction is wrong for the other.
    assert diagnostics.age_auc(*_keys((0, 5, 5, 0), noise=0.1)) < 0.1
    assert diagnostics.age_auc(*_keys((0, 5, 9))) is None


def test_equal_keys_do_not_show_their_age():
    steps = np.repeat(np.arange(8), 4)
    keys = np.ones([32, 3], np.float32)
    assert diagnostics.age_auc(keys, steps) == 0.5
    assert diagnostics.age_auc(keys, steps[::-1]) == 0.5


def test_the_age_is_the_share_of_pairs_in_their_order():
    # By the means of steps 1 and 3, newer keys lie higher: three pairs of four
    # of steps 2 and 4 do (not 6 and 4). By those of 2 and 4, three of 1 and 3.
    keys = np.array([[0], [3], [1], [6], [2], [5], [4], [8]], np.float32)
    steps = np.repeat([1, 2, 3, 4], 2)
    assert diagnostics.age_auc(keys, steps) == 0.75


@pytest.mark.parametrize("value", [0.0, 0.9, 0.999, 1.0])
def test_the_pace_is_the_share_of_the_way_of_one_step(value):
    method = fakes.make_method()
    for weight in method.key_encoder.trainable_variables:
        weight.assign_add(tf.random.stateless_normal(weight.shape, [0, 1]))
    pace = diagnostics.Pace()
    assert pace.end(method) is None  # not begun
    pace.begin(method)
    momentum.update_momentum(method.key_encoder, method.query_encoder, value)
    np.testing.assert_allclose(pace.end(method), 1 - value, atol=1e-6)
    assert pace.end(method) is None  # read once


def test_equal_encoders_have_no_pace():
    method = fakes.make_method()
    pace = diagnostics.Pace()
    pace.begin(method)
    assert pace.end(method) is None
