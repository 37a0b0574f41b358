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
