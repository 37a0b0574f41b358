"""The workers of a run, and which of them this process is.

Pure: flags and an environment in, a Cluster out. No TensorFlow, no network.
"""

import json
import re
from typing import NamedTuple

# Slurm gives no ports: sixteen a job, below those that systems hand out.
_PORTS = range(12000, 32000)
_TASKS = 16


def first_port(job):
    """The first port of a job's number; jobs that share a node get others."""
    slots = len(_PORTS) // _TASKS
    return _PORTS.start + job % slots * _TASKS


def tasks(text):
    """ "2(x3),1" -> [2, 2, 2, 1]."""
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
            options = _numbers(ranges) if ranges else [plain]
            names = [name + option for name in names for option in options]
        hosts += names
    if not hosts or text.count("[") != text.count("]"):
        raise ValueError(f"not a list of hosts: {text!r}")
    return hosts


def _numbers(text):
    """ "08-10,3" -> ["08", "09", "10", "3"]."""
    numbers = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            raise ValueError(f"not a range of hosts: {text!r}")
        width, last = len(match[1]), int(match[2] or match[1])
        numbers += [f"{n:0{width}}" for n in range(int(match[1]), last + 1)]
    return numbers


_KUBERNETES_PORT = 2222


class Cluster(NamedTuple):
    """All workers in order; worker 0 is the chief, which alone writes."""

    workers: tuple[str, ...]  # "host:port" of each
    # This process; not the method of tuples.
    index: int  # type: ignore[assignment]
    found_in: str  # where this was read, for messages

    @property
    def is_chief(self):
        return self.index == 0

    def name(self, index=None):
        """A worker in words; this one by default."""
        index = self.index if index is None else index
        return f"worker {index} ({self.workers[index]})"

    def local(self):
        """Place of this worker among those of its host, and their number."""
        host = _host(self.workers[self.index])
        here = [i for i, w in enumerate(self.workers) if _host(w) == host]
        return here.index(self.index), len(here)

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
      ValueError: for places that contradict themselves.
    """
    if workers or worker_index:
        found = _from_flags(workers, worker_index)
    elif environment.get("TF_CONFIG", "").strip():
        found = _from_tf_config(environment["TF_CONFIG"])
    elif int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        found = _from_slurm(environment)
    elif "JOB_COMPLETION_INDEX" in environment and environment.get(
        "MOCO_WORKERS"
    ):
        found = _from_kubernetes(environment)
    else:
        return None
    _check(found)
    return found if len(found.workers) > 1 else None


def _from_flags(workers, worker_index):
    names = tuple(name.strip() for name in workers.split(",") if name.strip())
    if not names or not worker_index.strip().isdecimal():
        raise ValueError(
            "--workers and --worker_index go together: the host:port of all "
            "workers in order, and the place of this one, from 0. Received "
            f"--workers={workers} --worker_index={worker_index}."
        )
    return Cluster(names, int(worker_index), "--workers")


def _from_tf_config(text):
    """TF_CONFIG as Vertex, TFJob and TensorFlow's guides write it."""
    try:
        given = json.loads(text)
        tasks = given["cluster"]
        kind, index = given["task"]["type"], int(given["task"]["index"])
        chief = [*tasks.get("chief", tasks.get("master", []))]
        workers = (*chief, *tasks.get("worker", []))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            'TF_CONFIG must be {"cluster": {"worker": ["host:port", …]}, '
            '"task": {"type": "worker", "index": 0}}. Received '
            f"{text[:300]!r} ({type(error).__name__}: {error})."
        ) from error
    if kind not in ("chief", "master", "worker") or tasks.get("ps"):
        raise ValueError(
            "A run has workers and at most a chief, all alike. Received "
            f"TF_CONFIG with a task of type {kind!r} and "
            f"{len(tasks.get('ps', []))} parameter servers. Start chief and "
            "workers only."
        )
    if kind == "worker":
        index += len(chief)
    return Cluster(workers, index, "TF_CONFIG")


def _from_slurm(environment):
    """A step of srun: its hosts as Slurm lists them, never sorted."""
    try:
        hosts = expand_hosts(environment["SLURM_STEP_NODELIST"])
        counts = tasks(environment["SLURM_STEP_TASKS_PER_NODE"])
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
        f"{host}:{first + place}"
        for host, count in zip(hosts, counts, strict=False)
        for place in range(count)
    )
    node = environment.get("SLURMD_NODENAME")
    placed = len(hosts) == len(counts) and len(workers) == total > index
    if not placed or (node and _host(workers[index]) != node):
        raise ValueError(
            "Tasks must fill the nodes in order (srun --distribution=block). "
            f"Received task {index} of {total} on {node}, with the nodes "
            f"{environment['SLURM_STEP_NODELIST']} and the tasks "
            f"{environment['SLURM_STEP_TASKS_PER_NODE']}. Change the "
            "distribution, or pass --workers and --worker_index."
        )
    return Cluster(workers, index, "Slurm")


def _from_kubernetes(environment):
    """Pods of an indexed Job behind a headless service."""
    given = {
        name: environment.get(name, "")
        for name in ("HOSTNAME", "MOCO_SERVICE", "MOCO_WORKERS")
    }
    index = environment["JOB_COMPLETION_INDEX"]
    job = given["HOSTNAME"].removesuffix(f"-{index}")
    if (
        job in ("", given["HOSTNAME"])
        or not given["MOCO_SERVICE"]
        or not (given["MOCO_WORKERS"].isdecimal() and index.isdecimal())
    ):
        raise ValueError(
            "A pod of an indexed Job must be named JOB-INDEX, and "
            "MOCO_SERVICE and MOCO_WORKERS must say the headless service and "
            f"the number of pods. Received {given} at index {index!r}. See "
            "launch/kubernetes."
        )
    port = environment.get("MOCO_PORT") or _KUBERNETES_PORT
    workers = tuple(
        f"{job}-{number}.{given['MOCO_SERVICE']}:{port}"
        for number in range(int(given["MOCO_WORKERS"]))
    )
    return Cluster(workers, int(index), "Kubernetes")


def _check(found):
    for worker in found.workers:
        host, colon, port = worker.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(
                f"Every worker must be host:port. {found.found_in} names "
                f"{worker!r}."
            )
    if len(set(found.workers)) < len(found.workers):
        raise ValueError(
            f"Every worker must have an address of its own. {found.found_in} "
            f"names {', '.join(found.workers)}."
        )
    if not 0 <= found.index < len(found.workers):
        raise ValueError(
            "The index of a worker must lie below their number. "
            f"{found.found_in} gives index {found.index} of "
            f"{len(found.workers)} workers."
        )


def _host(worker):
    return worker.rpartition(":")[0]
