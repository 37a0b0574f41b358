"""The stream is a pure function of (seed, step)."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from moco_tf.data import stream, views
from tests import properties

BATCH = 8


class NumberedImages:
    """Images whose pixels are their index; some cannot be read."""

    channels = 3

    def __init__(self, count, bad=()):
        self.count = count
        self.may_fail = bool(bad)
        self.bad = tf.constant(list(bad) or [-1], tf.int64)

    def __len__(self):
        return self.count

    def name(self, index):
        return f"image {index}"

    def records(self, indices):
        return indices

    def image(self, record):
        check = tf.debugging.Assert(
            tf.reduce_all(self.bad != record), ["unreadable", record]
        )
        with tf.control_dependencies([check]):
            return tf.fill([4, 4, 3], tf.cast(record % 256, tf.uint8))


RECIPE = views.Recipe(
    # The view's seed must reach the recipe: it is drawn into the image.
    augment=lambda image, size, seed: tf.concat(
        [
            image[:1, :, :],
            tf.cast(
                tf.random.stateless_uniform(
                    [3, 4, 3], seed, 0, 256, dtype=tf.int32
                ),
                tf.uint8,
            ),
        ],
        axis=0,
    ),
    evaluate=lambda image, size: image,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def _stream(count=29, bad=(), seed=0, shuffle_keys="gather", batch=BATCH):
    return stream.Stream(
        NumberedImages(count, bad),
        RECIPE,
        4,
        batch,
        seed=seed,
        shuffle_keys=shuffle_keys,
    )


def _steps(batches, first, last, replicas=1):
    """The global batches, put together from the replicas' elements."""
    elements = list(batches.batches(replicas, first, last).as_numpy_iterator())
    steps = []
    for start in range(0, len(elements), replicas):
        parts = elements[start : start + replicas]
        step = {
            name: np.concatenate([part[name] for part in parts])
            for name in ("query", "key", "index", "valid")
        }
        for part in parts:
            np.testing.assert_array_equal(part["order"], parts[0]["order"])
        steps.append(step | {"order": parts[0]["order"]})
    return steps


def _assert_same(left, right):
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_starting_at_a_step_gives_the_rest_of_an_uninterrupted_run():
    batches = _stream()
    _assert_same(_steps(batches, 0, 9)[5:], _steps(batches, 5, 9))


@pytest.mark.parametrize("shuffle_keys", ["gather", "address"])
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_together_see_the_batch_of_one(replicas, shuffle_keys):
    batches = _stream(shuffle_keys=shuffle_keys)
    _assert_same(_steps(batches, 0, 4), _steps(batches, 0, 4, replicas))


@pytest.mark.parametrize(
    ("replicas", "workers", "shuffle_keys", "bad"),
    [
        (2, 2, "gather", ()),
        (4, 2, "gather", (2, 5, 17)),
        (4, 2, "address", ()),
        (8, 8, "address", (2, 5, 17)),
    ],
)
def test_workers_together_see_the_batch_of_one(
    replicas, workers, shuffle_keys, bad
):
    batches = _stream(bad=bad, shuffle_keys=shuffle_keys)
    parts = [
        list(batches.batches(replicas, 0, 4, worker=worker, workers=workers))
        for worker in range(workers)
    ]
    local = replicas // workers
    for number, step in enumerate(_steps(batches, 0, 4)):
        rows = [
            part
            for worker in parts
            for part in worker[number * local : (number + 1) * local]
        ]
        for name in ("query", "key", "index", "valid"):
            np.testing.assert_array_equal(
                np.concatenate([row[name] for row in rows]), step[name]
            )
        for row in rows:
            np.testing.assert_array_equal(row["order"], step["order"])


def test_address_deals_the_keys_in_shuffled_order():
    gathered = _steps(_stream(), 0, 3)
    dealt = _steps(_stream(shuffle_keys="address"), 0, 3)
    for gather, address in zip(gathered, dealt, strict=True):
        np.testing.assert_array_equal(gather["query"], address["query"])
        np.testing.assert_array_equal(gather["index"], address["index"])
        np.testing.assert_array_equal(
            gather["key"][gather["order"]], address["key"]
        )


def test_an_epoch_has_no_sample_twice_and_drops_others_each_time():
    batches = _stream()
    assert batches.steps_per_epoch == 3
    epochs = [
        np.concatenate([s["index"] for s in _steps(batches, e, e + 3)])
        for e in (0, 3, 6)
    ]
    for epoch in epochs:
        assert len(set(epoch)) == 24
        assert epoch.min() >= 0 and epoch.max() < 29
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({tuple(set(range(29)) - set(epoch)) for epoch in epochs}) > 1


def test_the_orders_of_epochs_are_not_correlated():
    batches = stream.Stream(NumberedImages(20000), RECIPE, 4, 20000)
    orders = [
        batches.samples(batches.positions(epoch)).numpy() for epoch in range(4)
    ]
    correlation = np.corrcoef(orders)
    assert np.abs(correlation - np.eye(4)).max() < 0.05


def test_batch_companions_repeat_no_more_than_by_chance():
    count, batch = 20000, 200
    batches = stream.Stream(NumberedImages(count), RECIPE, 4, batch)
    batch_of_sample = []
    for epoch in range(2):
        order = np.concatenate(
            [
                batches.samples(batches.positions(epoch * 100 + step)).numpy()
                for step in range(100)
            ]
        )
        numbers = np.empty(count, np.int64)
        numbers[order] = np.arange(count) // batch
        batch_of_sample.append(numbers)
    first, second = batch_of_sample
    pairs = np.unique(first * 100 + second, return_counts=True)[1]
    again = (pairs * (pairs - 1) // 2).sum()
    # 100 batches of C(200, 2) pairs, each again together with p = 199/19999.
    expected = 100 * (200 * 199 / 2) * 199 / 19999
    assert 0.95 * expected < again < 1.05 * expected


def test_the_views_of_a_sample_differ_and_change_with_epoch_and_seed():
    step, other_epoch = _steps(_stream(count=BATCH), 0, 2)
    other_seed = _steps(_stream(count=BATCH, seed=1), 0, 1)[0]
    for batch in (step, other_epoch, other_seed):
        assert (batch["query"][:, 1:] != batch["key"][:, 1:]).any()
    assert not np.array_equal(step["query"], other_seed["query"])
    by_index = step["query"][np.argsort(step["index"])]
    later = other_epoch["query"][np.argsort(other_epoch["index"])]
    np.testing.assert_array_equal(by_index[:, 0], later[:, 0])  # same image
    assert (by_index[:, 1:] != later[:, 1:]).any()  # other view


def test_the_shuffled_order_is_a_permutation_that_changes_every_step():
    orders = [tuple(step["order"]) for step in _steps(_stream(), 0, 9)]
    assert all(sorted(order) == list(range(BATCH)) for order in orders)
    assert len(set(orders)) == 9


@pytest.mark.parametrize(
    ("batch", "replicas"),
    [(BATCH, 1), (BATCH, 2), (24, 1)],  # 24 are two data sets of 12
)
def test_an_unreadable_sample_is_replaced_by_the_next_of_the_order(
    batch, replicas
):
    bad = (3, 4, 17)
    good = _steps(_stream(batch=batch), 0, 6)
    batches = _stream(bad=bad, batch=batch)
    mended = _steps(batches, 0, 6, replicas)
    replaced = 0
    for step, (before, after) in enumerate(zip(good, mended, strict=True)):
        positions = batches.positions(step)
        for slot in range(batch):
            expected, tries = before["index"][slot], 0
            while expected in bad:
                tries += 1
                expected = batches.samples(
                    positions[slot : slot + 1], tries
                ).numpy()[0]
            assert after["index"][slot] == expected
            assert after["valid"][slot] == (tries == 0)
            assert (after["query"][slot, 0] == expected).all()
            assert (after["key"][slot, 0] == expected).all()
            replaced += tries > 0
    assert replaced >= 3


def test_a_source_without_a_readable_image_is_an_error():
    batches = _stream(count=8, bad=range(8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="unreadable"):
        _steps(batches, 0, 1)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size=30 and 29 images"):
        _stream(batch=30)


@properties.few
@given(
    count=st.integers(1, 500),
    batch=st.integers(1, 500),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 10_000),
)
def test_the_order_of_any_epoch_is_a_permutation(count, batch, seed, epoch):
    batches = _stream(count, seed=seed, batch=min(batch, count))
    first = batches.positions(epoch * batches.steps_per_epoch)[0]
    numbers = tf.range(count, dtype=tf.int64)
    order = batches.samples(tf.repeat(first, count), numbers).numpy()
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    length = batches.steps_per_epoch * batches.global_batch
    shown = batches.samples(first + numbers[:length])
    np.testing.assert_array_equal(shown, order[:length])


@properties.fewest
@given(
    count=st.integers(4, 60),
    replicas=st.integers(1, 4),
    rows=st.integers(1, 6),
    seed=st.integers(0, 2**31 - 1),
    seek=st.integers(0, 200),
    shuffle_keys=st.sampled_from(("address", "gather", "none")),
)
def test_any_seek_on_any_replicas_gives_the_batches_of_running_there(
    count, replicas, rows, seed, seek, shuffle_keys
):
    batch = min(replicas * rows, count // replicas * replicas)
    batches = _stream(count, (0,), seed, shuffle_keys, batch)
    begin = max(0, seek - 3)
    _assert_same(
        _steps(batches, begin, seek + 2)[seek - begin :],
        _steps(batches, seek, seek + 2, replicas),
    )
