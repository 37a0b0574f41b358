"""Which views a worker makes, by hand for eight slots and two workers."""

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from moco_tf.data import stream
from tests import properties

# Worker 0 owns slots 0-3 and is dealt the key views of slots 5, 2, 0, 7.
ORDER = tf.constant([5, 2, 0, 7, 1, 3, 4, 6])


def test_own_slots_come_first_then_the_dealt_ones():
    share = stream.Share(0, 2, 4, "address")
    slots, wanted = share.wanted(ORDER)
    assert share.jobs == 8
    np.testing.assert_array_equal(slots, [0, 1, 2, 3, 5, 2, 0, 7])
    # Slots 0 and 2 are dealt back: their image is decoded once, for both.
    np.testing.assert_array_equal(
        wanted,
        [(1, 1), (1, 0), (1, 1), (1, 0), (0, 1), (0, 0), (0, 0), (0, 1)],
    )
    np.testing.assert_array_equal(share.key_jobs(ORDER), [4, 2, 0, 7])


def test_the_other_worker_makes_what_is_left():
    share = stream.Share(1, 2, 4, "address")
    slots, wanted = share.wanted(ORDER)
    np.testing.assert_array_equal(slots, [4, 5, 6, 7, 1, 3, 4, 6])
    np.testing.assert_array_equal(
        wanted,
        [(1, 1), (1, 0), (1, 1), (1, 0), (0, 1), (0, 1), (0, 0), (0, 0)],
    )
    np.testing.assert_array_equal(share.key_jobs(ORDER), [4, 5, 0, 2])


def test_one_host_and_gathered_images_need_no_second_job():
    for share in (
        stream.Share(0, 1, 8, "address"),
        stream.Share(1, 2, 4, "gather"),
    ):
        slots, wanted = share.wanted(ORDER)
        assert share.jobs == len(slots) == share.slots
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
    made, dealt = np.zeros([size, 2], int), []
    for worker in range(workers):
        share = stream.Share(worker, workers, slots, shuffle_keys)
        jobs, wanted = share.wanted(tf.constant(order))
        assert len(jobs) == share.jobs
        np.add.at(made, jobs.numpy(), wanted.numpy().astype(int))
        if shuffle_keys == "address":
            chosen = share.key_jobs(tf.constant(order)).numpy()
            if share.crosses:
                assert wanted.numpy()[chosen, 1].all()
                dealt += jobs.numpy()[chosen].tolist()
    np.testing.assert_array_equal(made, 1)
    if dealt:
        np.testing.assert_array_equal(dealt, order)
