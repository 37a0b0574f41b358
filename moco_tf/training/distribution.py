"""Devices and processes of a run: tf.distribute strategies."""

import contextlib
import os
import re

import tensorflow as tf

from moco_tf.cluster import membership, rendezvous
from moco_tf.training import gpus

# HierarchicalCopyAllReduce is not among them: of an odd number of devices it
# leaves one's values out (it halves them and takes two halves).
CROSS_DEVICE_OPS = {
    "auto": None,
    "nccl": tf.distribute.NcclAllReduce,
    "one_device": tf.distribute.ReductionToOneDevice,
}
_IMPLEMENTATION = tf.distribute.experimental.CommunicationImplementation
COMMUNICATIONS = {
    "auto": None,
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
      devices: "auto" (all GPUs that TensorFlow can drive; without one, one
        CPU), "cpu", "cpu:N" (N logical CPU devices, one replica each), "gpu"
        (all) or "gpu:N".
      cluster: Cluster of several workers, which must all call this; None: this
        process on its own.
      cross_device_ops: name in CROSS_DEVICE_OPS, how the devices of one process
        exchange.
      communication: name in COMMUNICATIONS, how workers exchange; "auto":
        NCCL between GPUs (TensorFlow's own "auto" sends all of a GPU's data
        through the hosts, by gRPC), rings between CPUs.
      deterministic: bool; True: operations whose sums come in no fixed order
        (some of a GPU's) are replaced by slower ones of a fixed order, or
        fail where there is none.

    Returns:
      tf.distribute.Strategy.

    Raises:
      ValueError: for another form, GPUs that are not there or that TensorFlow
        cannot drive, ways to exchange that these devices do not have, or a
        process whose devices are already in use in another layout.

    Side effects: with "auto", says of GPUs that it does not take why.
      `deterministic` is set for the process. In a cluster it sets
      TF_CONFIG, opens this worker's port and waits for the other workers; else
      it takes TF_CONFIG away, which TensorFlow would read for a process on its
      own too, and fail on a text that is no JSON.
    """
    _check_name("cross_device_ops", cross_device_ops, CROSS_DEVICE_OPS)
    _check_name("communication", communication, COMMUNICATIONS)
    kind, count, usable = find_devices(devices, cluster, say=True)
    _check_exchange(kind, cluster, cross_device_ops, communication)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        if kind == "cpu":
            names = _choose_cpus(count)
        else:
            names = _choose_gpus(usable, count)
        if cluster:
            return _cluster_strategy(cluster, communication, kind)
        os.environ.pop("TF_CONFIG", None)
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


def find_devices(devices, cluster=None, say=False):
    """Resolves --devices on this machine; nothing is chosen yet.

    Args:
      devices: str, as of `make_strategy`. cluster: Cluster, or None.
      say: bool; prints of "auto" why GPUs that are there are not taken.

    Returns:
      "cpu" or "gpu"; count of replicas; the GPUs that they are chosen from, on
      a shared host this worker's part of them.

    Raises:
      ValueError: for another form, or GPUs that cannot be had.
    """
    kind, count = parse_devices(devices)
    seen = gpus.Gpus([], "") if kind == "cpu" else gpus.examine()
    if kind == "auto":
        kind = "gpu" if seen.usable else "cpu"
        if seen.fault and say:
            taken = f"{len(seen.usable)} GPU(s)" if seen.usable else "the CPU"
            print(f"Warning: --devices=auto takes {taken}. {seen.fault}")
    elif seen.fault and (count is None or count > len(seen.usable)):
        raise ValueError(f"--devices={devices}: {seen.fault}")
    if kind == "cpu":
        if cluster and (count or 1) > 1:
            raise ValueError(
                "In a cluster a worker has one CPU replica. Received "
                f"devices=cpu:{count} at {cluster.name()}. Pass --devices=cpu "
                "and start more workers."
            )
        return kind, count or 1, []
    usable = seen.usable
    number, workers = cluster.local() if cluster else (0, 1)
    # Too few for all: Slurm or the user has set each worker's GPUs.
    share = count or len(usable) // workers
    if workers > 1 and share and len(usable) >= workers * share:
        usable = usable[number * share : (number + 1) * share]
    return kind, count or max(len(usable), 1), usable


def describe_devices(devices, cluster):
    """A worker's replicas for the others to compare.

    Returns:
      str, "gpu:8", and behind it the UUIDs of the GPUs where these are known.
    """
    kind, count, usable = find_devices(devices, cluster)
    return " ".join([f"{kind}:{count}", *gpus.identities(usable[:count])])


def _check_exchange(kind, cluster, cross_device_ops, communication):
    """Refuses ways to exchange that do not go with devices or workers."""
    if cluster and cross_device_ops != "auto":
        raise ValueError(
            "--cross_device_ops is of a process on its own; workers have "
            f"--communication. Received cross_device_ops={cross_device_ops} at "
            f"{cluster.name()}. Pass --cross_device_ops=auto."
        )
    flag, name = "cross_device_ops", cross_device_ops
    if cluster:
        flag, name = "communication", communication
    if kind == "cpu" and name == "nccl":
        raise ValueError(
            f"--{flag}=nccl is for GPUs. Received it on the CPU. Pass "
            f"--{flag}=auto."
        )


def communication_options(name, kind):
    """tf.distribute's options of a name in COMMUNICATIONS.

    Args:
      name: str. kind: "cpu" or "gpu", the devices of all workers.
    """
    usual = {"gpu": _IMPLEMENTATION.NCCL, "cpu": _IMPLEMENTATION.AUTO}[kind]
    return tf.distribute.experimental.CommunicationOptions(
        implementation=COMMUNICATIONS[name] or usual
    )


def _cluster_strategy(cluster, communication, kind):
    os.environ["TF_CONFIG"] = cluster.tf_config()
    return tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=communication_options(communication, kind)
    )


def kind_of_devices():
    """What the replicas of this process run on: "GPU" or "CPU"."""
    return "GPU" if tf.config.list_logical_devices("GPU") else "CPU"


def worker_count(strategy):
    """Number of processes that a strategy spans."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        spec = strategy.cluster_resolver.cluster_spec()
        return sum(spec.num_tasks(job) for job in spec.jobs)
    return 1


def workers_of_host(strategy):
    """Number of processes of a strategy that are on this one's host."""
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec().job_tasks("worker")
    cluster = membership.Cluster(tuple(workers), resolver.task_id, "TF_CONFIG")
    return cluster.local()[1]


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


def sum_of_workers(strategy, number):
    """The sum of an int over the workers, which must all call this; int."""

    def add():
        context = tf.distribute.get_replica_context()
        value = tf.constant(float(number))
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    total = tf.function(lambda: strategy.run(add), autograph=False)()
    values = strategy.experimental_local_results(total)
    return round(float(values[0]) / len(values))


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


def _choose_gpus(usable, count):
    """Shows TensorFlow the first `count` of some GPUs; returns their names."""
    if len(usable) < count:
        raise ValueError(
            f"--devices asks for {count} GPU(s). TensorFlow can use "
            f"{len(usable)}: check CUDA_VISIBLE_DEVICES, the driver and the "
            f"CUDA wheels (launch/quickstart.sh --gpu installs them), or pass "
            f"--devices={'gpu' if usable else 'cpu'}."
        )
    if tf.config.get_visible_devices("GPU") != usable[:count]:
        tf.config.set_visible_devices(usable[:count], "GPU")
    for gpu in usable[:count]:
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
