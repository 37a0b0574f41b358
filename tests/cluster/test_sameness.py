"""One replica = many replicas = many workers."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import forked, shallow
from tests.cluster import ports, replica_run

# Workers x replicas of each. benchmarks/scaling.py and the tests of faults have
# two workers of one replica; test_reference_replicas.py two replicas of one.
LAYOUT = "2x2"
SHUFFLES = ["address", "gather"]


def _run(folder, layout):
    workers, replicas = layout.split("x")
    addresses = ports.workers(int(workers))
    processes, outputs = [], []
    for index in range(int(workers)):
        out = folder / f"{layout}-{index}.npz"
        place = [",".join(addresses), str(index)]
        command = [sys.executable, "-m", "tests.cluster.replica_run"]
        outputs.append(out)
        words = [*command, out, replicas, *place]
        processes.append(forked.Process(words))
    for process in processes:
        texts = process.communicate(timeout=900)
        assert process.returncode == 0, texts
    return [np.load(out) for out in outputs]


@pytest.fixture(scope="module")
def one():
    """Results of one replica; on one, both shuffles are the same."""
    with shallow.network():
        return replica_run.train(tf.distribute.get_strategy(), "address")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """All workers' results of the layout."""
    results = _run(tmp_path_factory.mktemp("many"), LAYOUT)
    workers, replicas = map(int, LAYOUT.split("x"))
    assert [int(r["replicas"]) for r in results] == [
        workers * replicas
    ] * workers
    return results


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_many_replicas_are_one(one, many, shuffle):
    for worker in many:
        np.testing.assert_allclose(
            worker[f"{shuffle}_losses"], one["losses"], rtol=1e-5
        )
        np.testing.assert_allclose(
            worker[f"{shuffle}_norms"], one["norms"], rtol=1e-5
        )
        np.testing.assert_allclose(
            worker[f"{shuffle}_queue"], one["queue"], rtol=0, atol=2e-5
        )
        for name in ("samples", "pointer", "top1"):
            np.testing.assert_array_equal(
                worker[f"{shuffle}_{name}"], one[name]
            )


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_what_fit_reports_is_not_multiplied_by_workers(many, shuffle):
    for worker in many:
        np.testing.assert_array_equal(
            worker[f"{shuffle}_reported"], worker[f"{shuffle}_losses"]
        )


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_workers_hold_the_same_bits(many, shuffle):
    for worker in many[1:]:
        for name in ("queue", "norms", "losses", "samples"):
            np.testing.assert_array_equal(
                worker[f"{shuffle}_{name}"], many[0][f"{shuffle}_{name}"]
            )


def test_the_reference_run_learns_and_fills_its_queue(one):
    # So that the comparisons above compare something.
    samples = one["samples"]
    steps = replica_run.STEPS * replica_run.BATCH
    assert int(one["pointer"]) == steps % replica_run.QUEUE
    assert (samples >= 0).all()
    assert len(set(samples.tolist())) == replica_run.QUEUE
    assert np.ptp(one["losses"]) > 0.1
