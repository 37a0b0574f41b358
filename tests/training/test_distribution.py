import subprocess
import sys

import pytest
import tensorflow as tf

from moco_tf.cluster import membership, rendezvous
from moco_tf.training import distribution


@pytest.mark.parametrize(
    "devices, expected",
    [
        ("auto", ("auto", None)),
        ("cpu", ("cpu", None)),
        ("cpu:4", ("cpu", 4)),
        ("gpu", ("gpu", None)),
        ("gpu:12", ("gpu", 12)),
    ],
)
def test_forms_of_devices(devices, expected):
    assert distribution.parse_devices(devices) == expected


@pytest.mark.parametrize(
    "devices", ["", "cpus", "cpu:", "cpu:0", "cpu:-1", "auto:2", "tpu", "gpu:a"]
)
def test_another_form_is_refused(devices):
    with pytest.raises(ValueError, match="auto, cpu, cpu:N, gpu or gpu:N"):
        distribution.make_strategy(devices)


def test_gpus_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"asks for 99 GPU\(s\)"):
        distribution.make_strategy("gpu:99")


def test_one_cpu_is_the_default_strategy():
    strategy = distribution.make_strategy("cpu")
    assert strategy.num_replicas_in_sync == 1
    assert not tf.distribute.has_strategy()


# In a process of its own, as devices are set once a process.
_CODE = """
import os
import tensorflow as tf
from tensorflow.python.framework import config
from moco_tf.training import distribution
for text in ("{", "", '{"cluster": {"worker": ["a:1", "b:1"]}}'):
    os.environ["TF_CONFIG"] = text
    print(distribution.make_strategy("cpu:2").num_replicas_in_sync)
print(config.is_op_determinism_enabled())
strategy = distribution.make_strategy("cpu:2", deterministic=True)
print(config.is_op_determinism_enabled())
ids = strategy.run(
    lambda: tf.distribute.get_replica_context().replica_id_in_sync_group)
print(type(strategy).__name__, [int(i) for i in ids.values])
try:
    distribution.make_strategy("cpu:3")
except ValueError as error:
    print(error)
distribution.set_precision(True)
print(tf.config.experimental.tensor_float_32_execution_enabled())
distribution.set_precision(False)
print(tf.config.experimental.tensor_float_32_execution_enabled())
"""


@pytest.fixture(name="lines", scope="module")
def _lines():
    """What the process prints."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_process_on_its_own_is_not_disturbed_by_any_tf_config(lines):
    """--cluster=none is the remedy for one: TensorFlow reads it otherwise."""
    assert lines[:3] == ["2", "2", "2"]


def test_logical_cpus_are_mirrored(lines):
    """Two replicas, numbered 0 and 1; a late change is refused clearly."""
    assert lines[3:6] == ["False", "True", "MirroredStrategy [0, 1]"]
    assert "only before TensorFlow's first operation" in lines[6]
    assert lines[7:] == ["True", "False"]


@pytest.mark.parametrize(
    ("flag", "name"), [("cross_device_ops", "ring"), ("communication", "mpi")]
)
def test_an_unknown_way_to_exchange_is_refused(flag, name):
    with pytest.raises(ValueError, match=f"--{flag} must be one of auto, "):
        distribution.make_strategy("cpu", **{flag: name})


def test_workers_of_one_host_share_its_gpus(monkeypatch):
    chosen = []
    monkeypatch.setattr(
        distribution,
        "_choose_gpus",
        lambda gpus, count: chosen.append((gpus, count)),
    )
    two = ("a:1", "a:2")
    for index, workers, gpus, count in (
        (0, two, "0123", None),
        (1, two, "0123", None),
        (1, two, "0", None),  # its own, given by Slurm or by the user
        (1, ("a:1", "b:1"), "0123", None),
        (1, two, "0123", 1),
        (1, two, "0123", 2),
        (1, two, "01", 2),  # its own
    ):
        cluster = membership.Cluster(workers, index, "a test")
        distribution._choose_devices_of_worker("gpu", count, gpus, cluster)
    assert chosen == [
        ("01", 2),
        ("23", 2),
        ("0", 1),
        ("0123", 4),
        ("1", 1),
        ("23", 2),
        ("01", 2),
    ]


def test_a_worker_has_one_cpu_replica():
    cluster = membership.Cluster(("a:1", "a:2"), 0, "a test")
    with pytest.raises(ValueError, match="start more workers"):
        distribution.make_strategy("cpu:2", cluster)


def test_errors_of_a_lost_worker_name_it():
    cluster = membership.Cluster(("a:1", "b:2"), 0, "a test")
    text = (
        "Graph execution error:\n\nCollective ops is aborted by: Connection "
        "reset\nremote target /job:worker/replica:0/task:1 while calling"
    )
    error = tf.errors.UnavailableError(None, None, text)
    with pytest.raises(rendezvous.PeerMissing, match=r"Lost worker 1 \(b:2\)"):
        with distribution.lost_workers(cluster):
            raise error
    with pytest.raises(tf.errors.UnavailableError):
        with distribution.lost_workers(None):
            raise error
    with pytest.raises(tf.errors.InvalidArgumentError):  # no lost worker
        with distribution.lost_workers(cluster):
            raise tf.errors.InvalidArgumentError(None, None, "a bad image")
