"""The workers of a run, and which of them this process is.

Pure: flags and an environment in, a Cluster out. No TensorFlow, no network.
"""

import json
import re
from typing import NamedTuple

from moco_tf.cluster import tf_config

# Slurm gives no ports: sixteen a job, below those that systems hand out.
_PORTS = range(12000, 32000)
_PORTS_PER_JOB = 16
_KUBERNETES_PORT = 2222


class Cluster(NamedTuple):
    """All workers in order; worker 0 is the chief, which alone writes."""

    workers: tuple[str, ...]  # "host:port" of each
    # This process; not the method of tuples.
    index: int  # type: ignore[assignment]
    origin: str  # what names it: --workers, TF_CONFIG, ..., for messages

    @property
    def is_chief(self):
        """Whether this process is the chief."""
        return self.index == 0

    def name(self, index=None):
        """A worker in words; this one by default."""
        index = self.index if index is None else index
        return f"worker {index} ({self.workers[index]})"

    def local(self):
        """Index of this worker among those of its host, and their number."""
        host = _host(self.workers[self.index])
        local = [i for i, w in enumerate(self.workers) if _host(w) == host]
        return local.index(self.index), len(local)

    def tf_config(self):
        """The text of TF_CONFIG for TensorFlow's own strategy."""
        return json.dumps(
            {
                "cluster": {"worker": list(self.workers)},
                "task": {"type": "worker", "index": self.index},
            }
        )


def find(environment, workers="", worker_index=""):
    """Finds the cluster that this process was started in.

    The first of these counts: the flags, TF_CONFIG, a Slurm step of several
    tasks, a Kubernetes indexed Job that says MOCO_WORKERS.

    Args:
      environment: dict of str, as os.environ.
      workers: str, "host:port,host:port" in order, or "".
      worker_index: str, a whole number, or "".

    Returns:
      Cluster of two workers or more; None for a process on its own.

    Raises:
      ValueError: for flags or an environment that contradict themselves.
    """
    if workers or worker_index:
        cluster = _from_flags(workers, worker_index)
    elif said := tf_config.read(environment.get("TF_CONFIG", "")):
        names, index = said
        cluster = Cluster(names, index, "TF_CONFIG")
        _check_agreement(cluster, environment)
    elif _slurm_tasks(environment) > 1:
        cluster = _from_slurm(environment)
    elif "JOB_COMPLETION_INDEX" in environment and environment.get(
        "MOCO_WORKERS"
    ):
        cluster = _from_kubernetes(environment)
    else:
        return None
    if len(cluster.workers) == 1 and cluster.index == 0:
        return None  # its address is nobody's business
    _check(cluster)
    return cluster


def _slurm_tasks(environment):
    """Tasks of the Slurm step; 1 outside of any."""
    text = environment.get("SLURM_STEP_NUM_TASKS") or "1"
    if not text.isdecimal():
        raise ValueError(
            "SLURM_STEP_NUM_TASKS must be a whole number. Received "
            f"{text!r}. Start by srun, or pass --cluster=none for a process "
            "on its own."
        )
    return int(text)


def _check_agreement(cluster, environment):
    """Refuses a TF_CONFIG beside a Slurm step or a Job that says otherwise.

    One of the two was left behind by another start: with it the processes
    would wait for others, or each train alone.
    """
    others = {}
    if _slurm_tasks(environment) > 1:
        others["the Slurm step"] = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if environment.get("MOCO_WORKERS") and "JOB_COMPLETION_INDEX" in (
        environment
    ):
        others["the Job"] = ("MOCO_WORKERS", "JOB_COMPLETION_INDEX")
    for name, (total_name, index_name) in others.items():
        total, index = environment[total_name], environment.get(index_name)
        if (total, index) != (str(len(cluster.workers)), str(cluster.index)):
            raise ValueError(
                f"TF_CONFIG and {name} must agree. TF_CONFIG makes this "
                f"process {cluster.index} of {len(cluster.workers)}, "
                f"{index_name} and {total_name} make it {index} of {total}. "
                f"Unset TF_CONFIG (env -u TF_CONFIG) to go by {name}, or pass "
                "--workers and --worker_index. For a process on its own pass "
                "--cluster=none."
            )


def _from_flags(workers, worker_index):
    names = tuple(name.strip() for name in workers.split(",") if name.strip())
    if workers.strip().isdecimal() and not worker_index:
        raise ValueError(
            "--workers names the processes of a cluster, host:port of each. "
            f"Received {workers!r}. For threads that read images pass "
            f"--config.data.threads={workers.strip()}."
        )
    if not names or not worker_index.strip().isdecimal():
        raise ValueError(
            "--workers and --worker_index go together: the host:port of all "
            "workers in order, and the place of this one, from 0. Received "
            f"--workers={workers} --worker_index={worker_index}. Pass both, "
            "for example --workers=host1:2222,host2:2222 --worker_index=0 on "
            "the first."
        )
    return Cluster(names, int(worker_index), "--workers")


def _from_slurm(environment):
    """A step of srun: its hosts as Slurm lists them, never sorted."""
    try:
        hosts = expand_hosts(environment["SLURM_STEP_NODELIST"])
        counts = expand_tasks(environment["SLURM_STEP_TASKS_PER_NODE"])
        index = int(environment["SLURM_PROCID"])
        total = int(environment["SLURM_STEP_NUM_TASKS"])
        port = environment.get("MOCO_PORT")
        first = int(port or first_port(int(environment["SLURM_JOB_ID"])))
    except (KeyError, ValueError) as error:
        raise ValueError(
            "A Slurm step must say its tasks and nodes. Reading SLURM_STEP_* "
            f"failed ({type(error).__name__}: {error}). Start by srun, or "
            "pass --workers and --worker_index."
        ) from error
    workers = tuple(
        f"{host}:{first + number}"
        for host, count in zip(hosts, counts, strict=False)
        for number in range(count)
    )
    node = environment.get("SLURMD_NODENAME")
    adds_up = len(hosts) == len(counts) and len(workers) == total > index
    if not adds_up or (node and _host(workers[index]) != node):
        raise ValueError(
            "Tasks must fill the nodes in order (srun --distribution=block). "
            f"Received task {index} of {total} on {node}, with the nodes "
            f"{environment['SLURM_STEP_NODELIST']} and the tasks "
            f"{environment['SLURM_STEP_TASKS_PER_NODE']}. Change the "
            "distribution, or pass --workers and --worker_index."
        )
    return Cluster(workers, index, "Slurm")


def first_port(job):
    """The first port of a job's number; jobs that share a node get others."""
    slots = len(_PORTS) // _PORTS_PER_JOB
    return _PORTS.start + job % slots * _PORTS_PER_JOB


def expand_tasks(text):
    """Expands Slurm's tasks of each node: "2(x3),1" -> [2, 2, 2, 1]."""
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not match:
            raise ValueError(f"not a list of tasks: {text!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def expand_hosts(text):
    """Expands a Slurm host list in its own order.

    Args:
      text: str, as "gpu[08-10,3],login,r[1-2]n[1-2]".

    Returns:
      list of str.

    Raises:
      ValueError: for text that is no host list.
    """
    hosts = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        names = [""]
        for plain, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", part):
            options = _expand_range(ranges) if ranges else [plain]
            names = [name + option for name in names for option in options]
        hosts += names
    if not hosts or text.count("[") != text.count("]"):
        raise ValueError(f"not a list of hosts: {text!r}")
    return hosts


def _expand_range(text):
    """Expands a range of hosts: "08-10,3" -> ["08", "09", "10", "3"]."""
    numbers = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            raise ValueError(f"not a range of hosts: {text!r}")
        width, last = len(match[1]), int(match[2] or match[1])
        numbers += [f"{n:0{width}}" for n in range(int(match[1]), last + 1)]
    return numbers


def _from_kubernetes(environment):
    """Pods of an indexed Job behind a headless service."""
    pod = {
        name: environment.get(name, "")
        for name in ("HOSTNAME", "MOCO_SERVICE", "MOCO_WORKERS")
    }
    index = environment["JOB_COMPLETION_INDEX"]
    job = pod["HOSTNAME"].removesuffix(f"-{index}")
    if (
        job in ("", pod["HOSTNAME"])
        or not pod["MOCO_SERVICE"]
        or not (pod["MOCO_WORKERS"].isdecimal() and index.isdecimal())
    ):
        raise ValueError(
            "A pod of an indexed Job must be named JOB-INDEX, and "
            "MOCO_SERVICE and MOCO_WORKERS must say the headless service and "
            f"the number of pods. Received {pod} at index {index!r}. See "
            "launch/kubernetes."
        )
    port = environment.get("MOCO_PORT") or _KUBERNETES_PORT
    workers = tuple(
        f"{job}-{number}.{pod['MOCO_SERVICE']}:{port}"
        for number in range(int(pod["MOCO_WORKERS"]))
    )
    return Cluster(workers, int(index), "Kubernetes")


def _check(cluster):
    """Refuses a cluster whose addresses or index cannot be."""
    for worker in cluster.workers:
        host, colon, port = worker.rpartition(":")
        bare = ":" in host and not re.fullmatch(r"\[[^\[\]]*\]", host)
        is_port = colon and port.isdecimal() and 0 < int(port) < 65536
        if not (host and is_port) or bare:
            example = host or worker or "host"
            if (
                bare
            ):  # of IPv6: what stands behind its last colon may be its own
                example = f"[{host.strip('[]')}]"
            raise ValueError(
                "Every worker must be host:port, with a port from 1 to 65535; "
                "an address of IPv6 stands in brackets. "
                f"{cluster.origin} names {worker!r}. Write, for example, "
                f"{example}:2222, alike at all workers."
            )
    if len(set(cluster.workers)) < len(cluster.workers):
        raise ValueError(
            f"Every worker must have an address of its own. {cluster.origin} "
            f"names {', '.join(cluster.workers)}. Give workers of one host "
            "different ports."
        )
    if not 0 <= cluster.index < len(cluster.workers):
        raise ValueError(
            "The index of a worker must lie below their number. "
            f"{cluster.origin} gives index {cluster.index} of "
            f"{len(cluster.workers)} workers. Workers count from 0: pass 0 to "
            f"{len(cluster.workers) - 1}."
        )


def _host(worker):
    """The host of a "host:port"."""
    return worker.rpartition(":")[0]
