"""The queue against a list that is cut to its last K entries."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import key_queue


def _keys(start, count):
    """Keys that tell their number."""
    numbers = np.arange(start, start + count, dtype=np.float32)
    return np.stack([numbers, -numbers], axis=1)


def test_it_starts_with_random_unit_vectors_of_no_sample():
    queue = key_queue.KeyQueue(50, 8, seed=3)
    lengths = np.linalg.norm(queue.keys.numpy(), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)
    assert np.abs(queue.keys.numpy().mean(0)).max() < 0.25  # not one direction
    assert set(queue.samples.numpy()) == {-1}
    assert set(queue.steps.numpy()) == {-1}


def test_its_first_keys_are_a_function_of_the_seed():
    first, again, other = (key_queue.KeyQueue(5, 4, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.keys, again.keys)
    assert (first.keys.numpy() != other.keys.numpy()).any()


@pytest.mark.parametrize("batches", [[3, 3, 3, 3], [7, 7], [5, 1, 7, 2, 6]])
def test_any_batches_leave_the_newest_keys_in_a_ring(batches):
    size, written = 7, 0
    queue = key_queue.KeyQueue(size, 2)
    expected = queue.keys.numpy().copy()
    for step, count in enumerate(batches):
        queue.enqueue(
            tf.constant(_keys(written, count)),
            tf.range(written, written + count, dtype=tf.int64) * 10,
            tf.constant(step, tf.int64),
        )
        for offset in range(count):
            place = (written + offset) % size
            expected[place] = _keys(written + offset, 1)[0]
            assert queue.samples.numpy()[place] == 10 * (written + offset)
            assert queue.steps.numpy()[place] == step
        written += count
        np.testing.assert_array_equal(queue.keys, expected)
        assert queue.pointer.numpy() == written % size


def test_more_keys_than_places_are_refused():
    queue = key_queue.KeyQueue(4, 2)
    with pytest.raises(ValueError, match="5 keys for a queue of 4"):
        queue.enqueue(
            tf.zeros([5, 2]),
            tf.zeros([5], tf.int64),
            tf.constant(0, tf.int64),
        )
