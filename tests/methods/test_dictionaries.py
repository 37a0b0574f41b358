"""The queue against a list that is cut to its last K entries."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from moco_tf.methods import dictionaries
from tests import properties


def _keys(start, count):
    """Keys that tell their number."""
    numbers = np.arange(start, start + count, dtype=np.float32)
    return np.stack([numbers, -numbers], axis=1)


def test_it_starts_with_random_unit_vectors_of_no_sample():
    queue = dictionaries.KeyQueue(50, 8, seed=3)
    lengths = np.linalg.norm(queue.keys.numpy(), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)
    assert np.abs(queue.keys.numpy().mean(0)).max() < 0.25  # not one direction
    assert set(queue.samples.numpy()) == {-1}
    assert set(queue.steps.numpy()) == {-1}


def test_its_first_keys_are_a_function_of_the_seed():
    first, again, other = (
        dictionaries.KeyQueue(5, 4, seed=s) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.keys, again.keys)
    assert (first.keys.numpy() != other.keys.numpy()).any()


@properties.few
@given(
    size=st.integers(1, 9),
    batches=st.lists(st.integers(1, 11), min_size=1, max_size=12),
)
def test_any_batches_leave_the_newest_keys_in_a_ring(size, batches):
    queue = dictionaries.KeyQueue(size, 2)
    keys = queue.keys.numpy().copy()
    samples, steps = np.full(size, -1), np.full(size, -1)
    written = 0
    for step, count in enumerate(batches):
        numbers = np.arange(written, written + count)
        enqueued = (
            tf.constant(_keys(written, count)),
            tf.constant(10 * numbers),
            tf.constant(step, tf.int64),
        )
        if count > size:
            with pytest.raises(ValueError, match=f"{count} keys for a queue"):
                queue.enqueue(*enqueued)
        else:
            queue.enqueue(*enqueued)
            keys[numbers % size] = _keys(written, count)
            samples[numbers % size], steps[numbers % size] = 10 * numbers, step
            written += count
        np.testing.assert_array_equal(queue.keys, keys)
        np.testing.assert_array_equal(queue.samples, samples)
        np.testing.assert_array_equal(queue.steps, steps)
        assert queue.pointer.numpy() == written % size
