"""The views that a worker makes, by hand for eight slots and two workers."""

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from moco_tf.data import stream
from tests import properties

# Worker 0 has the slots 0-3 and is dealt the key views of slots 5, 2, 0, 7.
ORDER = tf.constant([5, 2, 0, 7, 1, 3, 4, 6])


def test_local_slots_come_first_then_the_dealt_ones():
    worker = stream.Worker(0, 2, slots=4, shuffle_keys="address")
    slots, wanted = worker.slots_of_jobs(ORDER)
    assert worker.jobs == 8
    np.testing.assert_array_equal(slots, [0, 1, 2, 3, 5, 2, 0, 7])
    # Slots 0 and 2 are dealt back: their image is decoded once, for both.
    np.testing.assert_array_equal(
        wanted,
        [(1, 1), (1, 0), (1, 1), (1, 0), (0, 1), (0, 0), (0, 0), (0, 1)],
    )
    np.testing.assert_array_equal(worker.key_jobs(ORDER), [4, 2, 0, 7])


def test_the_other_worker_makes_what_is_left():
    worker = stream.Worker(1, 2, slots=4, shuffle_keys="address")
    slots, wanted = worker.slots_of_jobs(ORDER)
    np.testing.assert_array_equal(slots, [4, 5, 6, 7, 1, 3, 4, 6])
    np.testing.assert_array_equal(
        wanted,
        [(1, 1), (1, 0), (1, 1), (1, 0), (0, 1), (0, 1), (0, 0), (0, 0)],
    )
    np.testing.assert_array_equal(worker.key_jobs(ORDER), [4, 5, 0, 2])


def test_one_host_and_gathered_images_need_no_second_job():
    for worker in (
        stream.Worker(0, 1, slots=8, shuffle_keys="address"),
        stream.Worker(1, 2, slots=4, shuffle_keys="gather"),
    ):
        slots, wanted = worker.slots_of_jobs(ORDER)
        assert worker.jobs == len(slots) == worker.slots
        assert tf.reduce_all(wanted)
    np.testing.assert_array_equal(slots, [4, 5, 6, 7])


@properties.few
@given(
    workers=st.integers(1, 6),
    slots=st.integers(1, 8),
    shuffle_keys=st.sampled_from(("address", "gather", "none")),
    data=st.data(),
)
def test_every_view_of_a_batch_is_made_once_in_any_layout(
    workers, slots, shuffle_keys, data
):
    size = workers * slots
    order = np.array(data.draw(st.permutations(range(size))), np.int32)
    times, dealt = np.zeros([size, 2], int), []
    for number in range(workers):
        worker = stream.Worker(number, workers, slots, shuffle_keys)
        jobs, wanted = worker.slots_of_jobs(tf.constant(order))
        assert len(jobs) == worker.jobs
        np.add.at(times, jobs.numpy(), wanted.numpy().astype(int))
        if shuffle_keys == "address":
            chosen = worker.key_jobs(tf.constant(order)).numpy()
            if worker.crosses_hosts:
                assert wanted.numpy()[chosen, 1].all()
                dealt += jobs.numpy()[chosen].tolist()
    np.testing.assert_array_equal(times, 1)
    if dealt:
        np.testing.assert_array_equal(dealt, order)
