"""Exchange between replicas: nothing is lost, all replicas hold the same."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import image_ops
from moco_tf.methods import shuffle
from tests import replicas as run_replicas
from tests.methods import replica_worker

GATHERED = ("features", "numbers", "keys", "samples", "bytes", "floats")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """What R replicas computed: dict of arrays, and R as "count"."""
    folder = tmp_path_factory.mktemp("replicas")
    return run_replicas.run(replica_worker, 4, folder) | {"count": 4}


@pytest.fixture(scope="module")
def sent():
    """What was exchanged, under the names of the results."""
    rows = replica_worker.inputs()
    rows["numbers"] = rows["samples"]
    rows["keys"] = rows["features"]
    return rows


@pytest.mark.parametrize("name", GATHERED)
def test_every_replica_gathers_all_rows_in_replica_order(replicas, sent, name):
    result = replicas[name]
    assert result.dtype == sent[name].dtype
    assert len(result) == replicas["count"]
    for copy in result:
        np.testing.assert_array_equal(copy, sent[name])


@pytest.mark.parametrize("name", [*GATHERED, "local", "restored"])
def test_shapes_are_known_before_the_run(replicas, name):
    assert tuple(replicas[f"{name}_static"]) == replicas[name].shape[1:]


def test_each_replica_owns_its_slots(replicas, sent):
    np.testing.assert_array_equal(
        np.concatenate(replicas["local"]), sent["order"]
    )


def test_what_was_dealt_in_shuffled_order_comes_back_to_its_slots(
    replicas, sent
):
    for copy in replicas["restored"]:
        np.testing.assert_array_equal(copy, sent["bytes"])


@pytest.mark.parametrize("case", replica_worker.CASES)
def test_queues_and_weights_are_the_same_bits_on_all_replicas(replicas, case):
    prefix = f"{case}_"
    names = [
        name
        for name in replicas
        if name.startswith(f"{prefix}weight")
        or name in [prefix + x for x in ("keys", "samples", "steps", "pointer")]
    ]
    assert len(names) > 4 + 2 * 5
    for name in names:
        for copy in replicas[name][1:]:
            np.testing.assert_array_equal(copy, replicas[name][0], err_msg=name)


@pytest.mark.parametrize("case", replica_worker.CASES)
def test_a_step_stays_on_the_gpu(replicas, case):
    assert replicas[f"{case}_unexpected"].tolist() == []


@pytest.mark.parametrize("case", replica_worker.CASES)
def test_the_queue_holds_the_newest_samples_in_slot_order(replicas, case):
    size, batch = replica_worker.QUEUE, replica_worker.BATCH
    samples, steps = np.full([2, size], -1)
    for number in range(replica_worker.STEPS * batch):
        step, slot = divmod(number, batch)
        samples[number % size], steps[number % size] = 100 * step + slot, step
    np.testing.assert_array_equal(replicas[f"{case}_samples"][0], samples)
    np.testing.assert_array_equal(replicas[f"{case}_steps"][0], steps)
    assert replicas[f"{case}_pointer"][0] == 32 % 21


@pytest.mark.parametrize("case", replica_worker.CASES)
def test_a_replica_normalises_keys_with_its_part_of_the_order(replicas, case):
    batch = next(replica_worker.steps("gather"))
    images = image_ops.normalize(
        tf.constant(batch["key"]), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ).numpy()
    kernel = replicas[f"{case}_first_kernel"]
    parts = np.split(batch["order"], replicas["count"])
    for result, part in zip(replicas[f"{case}_first_mean"], parts, strict=True):
        outputs = tf.nn.conv2d(images[part], kernel, 2, "VALID")
        # The moving mean starts at 0 and moves by a tenth.
        expected = 0.1 * np.mean(outputs, axis=(0, 1, 2))
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", replica_worker.CASES)
def test_replicas_compute_what_one_replica_with_groups_does(replicas, case):
    method = replica_worker.make_method(case, replicas["count"])
    one = replica_worker.train(method, tf.distribute.get_strategy(), case)
    result = {name: replicas[f"{case}_{name}"] for name in one}
    np.testing.assert_allclose(result["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(result["logged"], one["logged"], rtol=1e-5)
    np.testing.assert_allclose(result["keys"][0], one["keys"][0], atol=1e-5)
    # With groups, the layer follows the mean of their statistics.
    np.testing.assert_allclose(
        result["first_mean"].mean(0), one["first_mean"][0], atol=1e-6
    )
    for name in [name for name in one if "of_probe" in name]:
        np.testing.assert_allclose(
            result[name][0], one[name][0], rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_a_probe_changes_no_bit_of_the_method_on_any_replica(replicas):
    names = [
        name.removeprefix("probe_")
        for name in replicas
        if name.startswith("probe_") and "of_probe" not in name
    ]
    assert len(names) > 4 + 2 * 5
    for name in names:
        np.testing.assert_array_equal(
            replicas[f"probe_{name}"], replicas[f"gather_{name}"], err_msg=name
        )


@pytest.fixture(scope="module")
def started(replicas):
    """What one replica computes with a filled queue, a frozen stem, clipping,
    and what several do."""
    method = replica_worker.make_method("start", replicas["count"])
    one = replica_worker.start(method, tf.distribute.get_strategy())
    return one, {name: replicas[f"start_{name}"] for name in one}


def test_a_queue_is_filled_by_the_images_and_nothing_learns(started):
    for result in started:
        np.testing.assert_array_equal(
            result["filled_query"][0], result["filled_key"][0]
        )
        expected = np.zeros(replica_worker.QUEUE, int)
        for number in range(24):  # three batches: the last keys wrap around
            place, slot = divmod(number, replica_worker.BATCH)
            expected[number % len(expected)] = 100 * place + slot
        np.testing.assert_array_equal(result["filled_samples"][0], expected)
        assert result["filled_pointer"][0] == 24 % replica_worker.QUEUE
        assert (result["filled_steps"] == 0).all()
        lengths = np.linalg.norm(result["filled_keys"][0], axis=1)
        np.testing.assert_allclose(lengths, 1.0, rtol=1e-5)


def test_a_start_is_that_of_one_replica_on_several(started):
    one, several = started
    for name in ("filled_keys", "keys"):
        np.testing.assert_allclose(several[name][0], one[name][0], atol=1e-5)
    np.testing.assert_allclose(several["losses"], one["losses"], rtol=1e-5)
    for name in [name for name in one if name.startswith("weight")]:
        np.testing.assert_allclose(
            several[name][0], one[name][0], atol=1e-5, err_msg=name
        )
        for copy in several[name][1:]:
            np.testing.assert_array_equal(copy, several[name][0])
    for result in started:
        np.testing.assert_array_equal(*result["frozen"])
        assert result["unexpected"].tolist() == []


def test_batch_norm_of_keras_is_refused_on_replicas(replicas):
    message = str(replicas["refusal"])
    assert "theirs" in message
    assert "swap_batch_norm" in message


@pytest.mark.parametrize("name", GATHERED)
def test_one_replica_gathers_its_own_rows(sent, name):
    rows = {name: tf.constant(value) for name, value in sent.items()}
    result = replica_worker.exchange(rows, rows["order"])
    np.testing.assert_array_equal(result[name], sent[name])
    np.testing.assert_array_equal(result["local"], sent["order"])
    np.testing.assert_array_equal(result["restored"], sent["bytes"])


def test_unshuffle_puts_row_i_in_slot_order_i():
    rows = tf.constant([[10.0], [20.0], [30.0]])
    result = shuffle.unshuffle(rows, tf.constant([2, 0, 1]))
    np.testing.assert_array_equal(result, [[20.0], [30.0], [10.0]])
