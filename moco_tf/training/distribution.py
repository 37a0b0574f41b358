"""Devices and processes of a run: tf.distribute strategies."""

import contextlib
import os
import re

import tensorflow as tf

from moco_tf.cluster import rendezvous

CROSS_DEVICE_OPS = {
    "auto": None,
    "nccl": tf.distribute.NcclAllReduce,
    "hierarchical": tf.distribute.HierarchicalCopyAllReduce,
    "one_device": tf.distribute.ReductionToOneDevice,
}
_IMPLEMENTATION = tf.distribute.experimental.CommunicationImplementation
COMMUNICATIONS = {
    "auto": _IMPLEMENTATION.AUTO,
    "ring": _IMPLEMENTATION.RING,
    "nccl": _IMPLEMENTATION.NCCL,
}
# What TensorFlow raises in the workers that are left when one is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
_FORMS = "auto, cpu, cpu:N, gpu or gpu:N (N: a positive number of replicas)"


def parse_devices(devices):
    """Splits "gpu:2" into ("gpu", 2); without a count, None.

    Raises:
      ValueError: for any other form.
    """
    match = re.fullmatch(r"(auto|(?:cpu|gpu)(?::([1-9]\d*))?)", devices)
    if not match:
        raise ValueError(f"--devices must be {_FORMS}. Received {devices!r}.")
    kind = match[1].split(":")[0]
    return kind, int(match[2]) if match[2] else None


def make_strategy(
    devices="auto",
    cluster=None,
    cross_device_ops="auto",
    communication="auto",
    deterministic=False,
):
    """Makes the strategy of a run; call it once, before any TensorFlow op.

    One device gets TensorFlow's default strategy, so nothing is mirrored.
    With "cpu" and "cpu:N" GPUs are hidden from this process.

    Args:
      devices: "auto" (all GPUs; without a GPU one CPU), "cpu", "cpu:N" (N
        logical CPU devices, one replica each), "gpu" (all) or "gpu:N".
      cluster: Cluster of several workers, which must all call this; None: this
        process on its own.
      cross_device_ops: name in CROSS_DEVICE_OPS, how the devices of one process
        exchange.
      communication: name in COMMUNICATIONS, how workers exchange.
      deterministic: bool; True: operations whose sums come in no fixed order
        (some of a GPU's) are replaced by slower ones of a fixed order, or
        fail where there is none.

    Returns:
      tf.distribute.Strategy.

    Raises:
      ValueError: for another form, GPUs that are not there, or a process
        whose devices are already in use in another layout.

    Side effects: `deterministic` is set for the process. In a cluster it sets
      TF_CONFIG, opens this worker's port and waits for the other workers; else
      it takes TF_CONFIG away, which TensorFlow would read for a process on its
      own too, and fail on a text that is no JSON.
    """
    _check_name("cross_device_ops", cross_device_ops, CROSS_DEVICE_OPS)
    _check_name("communication", communication, COMMUNICATIONS)
    kind, count = parse_devices(devices)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "auto":
        kind = "gpu" if gpus else "cpu"
    try:
        if cluster:
            _choose_devices_of_worker(kind, count, gpus, cluster)
            return _cluster_strategy(cluster, communication)
        os.environ.pop("TF_CONFIG", None)
        if kind == "cpu":
            names = _choose_cpus(count or 1)
        else:
            names = _choose_gpus(gpus, count or max(len(gpus), 1))
    except RuntimeError as error:  # TensorFlow: the devices are initialised.
        raise ValueError(
            "Devices can be set up only before TensorFlow's first operation. "
            f"Received devices={devices!r} after it: start a new process."
        ) from error
    if len(names) == 1:
        return tf.distribute.get_strategy()
    exchange = CROSS_DEVICE_OPS[cross_device_ops]
    return tf.distribute.MirroredStrategy(names, exchange and exchange())


def _check_name(flag, name, known):
    if name not in known:
        raise ValueError(
            f"--{flag} must be one of {', '.join(known)}. Received {name!r}."
        )


def _choose_devices_of_worker(kind, count, gpus, cluster):
    """One CPU, or the GPUs of a worker; on a shared host its part of them."""
    if kind == "cpu":
        if (count or 1) > 1:
            raise ValueError(
                "In a cluster a worker has one CPU replica. Received "
                f"devices=cpu:{count} at {cluster.name()}. Pass --devices=cpu "
                "and start more workers."
            )
        _choose_cpus(1)
        return
    number, workers = cluster.local()
    # Too few for all: Slurm or the user has set each worker's GPUs.
    share = count or len(gpus) // workers
    if workers > 1 and share and len(gpus) >= workers * share:
        gpus = gpus[number * share : (number + 1) * share]
    _choose_gpus(gpus, count or max(len(gpus), 1))


def _cluster_strategy(cluster, communication):
    os.environ["TF_CONFIG"] = cluster.tf_config()
    return tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(
            implementation=COMMUNICATIONS[communication]
        )
    )


def worker_count(strategy):
    """Number of processes that a strategy spans."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        spec = strategy.cluster_resolver.cluster_spec()
        return sum(spec.num_tasks(job) for job in spec.jobs)
    return 1


def chief_values(strategy, values):
    """The chief's values on all workers, which must all call this.

    Args:
      strategy: tf.distribute.Strategy.
      values: list of int, as many on every worker.

    Returns:
      list of int.
    """
    if worker_count(strategy) == 1:
        return list(values)
    with strategy.scope():  # a variable starts with the chief's value
        shared = tf.Variable(tf.constant(values, tf.int64), trainable=False)
    return shared.numpy().tolist()


def wait_for_all(strategy):
    """Returns when all workers have called this."""
    if worker_count(strategy) > 1:
        run = tf.function(
            lambda: tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.SUM, tf.constant(1.0)
            )
        )
        strategy.run(run)


@contextlib.contextmanager
def lost_workers(cluster):
    """Says of TensorFlow's errors that a worker was lost.

    Args:
      cluster: Cluster, or None: errors stay as they are.

    Raises:
      PeerMissing: for the errors that a lost worker leaves in the others.
    """
    try:
        yield
    except _LOST as error:
        if cluster is None:
            raise
        # TensorFlow names the worker by its number, where it knows it.
        numbers = re.findall(r"/job:worker/replica:0/task:(\d+)", error.message)
        lost = {int(number) for number in numbers} - {cluster.index}
        names = ", ".join(cluster.name(number) for number in sorted(lost))
        reasons = re.findall(r"Collective ops is aborted by: .*", error.message)
        reason = (reasons or error.message.splitlines())[0]
        raise rendezvous.PeerMissing(
            f"Lost {names or 'a worker'}: all must start again, to go on from "
            f"the last checkpoint. {reason[:300]}"
        ) from error


def _choose_cpus(count):
    """Makes N logical devices of the one CPU; returns their names."""
    if tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")
    names = [f"CPU:{i}" for i in range(count)]
    if count == 1:
        return names
    cpu = tf.config.list_physical_devices("CPU")[0]
    layout = tf.config.get_logical_device_configuration(cpu) or []
    if len(layout) != count:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    return names


def _choose_gpus(gpus, count):
    """Shows TensorFlow the first `count` of some GPUs; returns their names."""
    if len(gpus) < count:
        raise ValueError(
            f"--devices asks for {count} GPU(s). TensorFlow sees {len(gpus)}: "
            "check the driver and the CUDA wheels (tensorflow[and-cuda]), or "
            f"pass --devices={'gpu' if gpus else 'cpu'}."
        )
    if tf.config.get_visible_devices("GPU") != gpus[:count]:
        tf.config.set_visible_devices(gpus[:count], "GPU")
    for gpu in gpus[:count]:
        # Else TensorFlow takes all memory of the GPU at its first operation.
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)
    return [f"GPU:{i}" for i in range(count)]


def set_precision(tf32=False):
    """Chooses what a float32 product means on recent NVIDIA GPUs.

    Args:
      tf32: False: 24-bit mantissas, as the name says. True: TensorFloat-32,
        10-bit mantissas, faster. A process-wide setting of TensorFlow, whose
        own default is True.
    """
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
