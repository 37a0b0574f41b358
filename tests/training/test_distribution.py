import sys

import pytest
import tensorflow as tf
from tensorflow.python.distribute import cross_device_utils

from moco_tf.cluster import membership, rendezvous
from moco_tf.training import distribution, gpus
from tests import forked


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
    done = forked.run([sys.executable, "-c", _CODE])
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


def _see(monkeypatch, usable):
    """Lets this machine have such GPUs, none of them out of use."""
    seen = gpus.Gpus(usable, "")
    monkeypatch.setattr(gpus, "examine", lambda: seen)


def test_workers_of_one_host_share_its_gpus(monkeypatch):
    two = ("a:1", "a:2")
    for index, workers, usable, count, expected in (
        (0, two, "0123", "", ("01", 2)),
        (1, two, "0123", "", ("23", 2)),
        # Its own, given by Slurm or by the user.
        (1, two, "0", "", ("0", 1)),
        (1, ("a:1", "b:1"), "0123", "", ("0123", 4)),
        (1, two, "0123", ":1", ("1", 1)),
        (1, two, "0123", ":2", ("23", 2)),
        (1, two, "01", ":2", ("01", 2)),  # its own
    ):
        _see(monkeypatch, usable)
        cluster = membership.Cluster(workers, index, "a test")
        devices = distribution.find_devices(f"gpu{count}", cluster)
        assert (devices[2], devices[1]) == expected
        words = distribution.describe_devices(f"gpu{count}", cluster)
        assert words == f"gpu:{expected[1]}"


CLUSTER = membership.Cluster(("a:1", "b:2"), 1, "a test")


def test_workers_with_gpus_exchange_by_nccl(monkeypatch):
    """TensorFlow's own "auto" is gRPC through the hosts."""
    made = []

    def strategy(communication_options):
        made.append(communication_options.implementation.name)

    monkeypatch.setattr(
        distribution.tf.distribute, "MultiWorkerMirroredStrategy", strategy
    )
    monkeypatch.setattr(distribution, "_choose_gpus", lambda *_: [])
    monkeypatch.setattr(distribution, "_choose_cpus", lambda *_: [])
    monkeypatch.setenv("TF_CONFIG", "")
    _see(monkeypatch, ["GPU"])
    for devices, communication in (
        *(("gpu", "auto"), ("auto", "auto"), ("gpu", "ring")),
        *(("gpu", "nccl"), ("cpu", "auto"), ("cpu", "ring")),
    ):
        distribution.make_strategy(
            devices, CLUSTER, communication=communication
        )
    assert made == ["NCCL", "NCCL", "RING", "NCCL", "AUTO", "RING"]


@pytest.mark.parametrize(
    ("devices", "cluster", "flags", "words"),
    [
        ("cpu", CLUSTER, {"communication": "nccl"}, "is for GPUs"),
        ("cpu:2", None, {"cross_device_ops": "nccl"}, "is for GPUs"),
        ("gpu", CLUSTER, {"cross_device_ops": "nccl"}, "have --communication"),
        # Of an odd number of GPUs it leaves one's gradients out.
        ("gpu", None, {"cross_device_ops": "hierarchical"}, "must be one of"),
    ],
)
def test_an_exchange_that_cannot_be_is_refused(
    monkeypatch, devices, cluster, flags, words
):
    _see(monkeypatch, ["GPU"])
    with pytest.raises(ValueError, match=words):
        distribution.make_strategy(devices, cluster, **flags)


def test_the_exchange_in_halves_leaves_a_device_out():
    """Why "hierarchical" is not offered, by TensorFlow's own function."""

    def total(count):
        values = [[(tf.constant(2.0**n), None)] for n in range(count)]
        sums = cross_device_utils.aggregate_gradients_using_hierarchical_copy(
            ["/cpu:0"] * count, values
        )
        return float(sums[0][0][0])

    assert [total(4), total(3)] == [15.0, 3.0]  # not 7


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


@pytest.mark.parametrize(("index", "of_host"), [(0, 2), (1, 2), (2, 1)])
def test_the_workers_of_this_host_are_counted(index, of_host):
    names = ["a:2222", "a:2223", "b:2222"]
    strategy = tf.distribute.get_strategy()
    assert distribution.worker_count(strategy) == 1

    class Strategy:
        cluster_resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": names}), "", "worker", index
        )

    assert distribution.workers_of_host(Strategy) == of_host
