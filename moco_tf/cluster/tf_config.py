"""TF_CONFIG, as TensorFlow's own TFConfigClusterResolver reads it.

    {"cluster": {"chief": ["a:1"], "worker": ["b:1"]},
     "task": {"type": "worker", "index": 0}}

Vertex, TFJob and TensorFlow's guides write it; they add fields, which do not
count. A job's tasks are a list, or a dict of index to address. Pure.
"""

import json

_CHIEFS = ("chief", "master")
_KNOWN = (*_CHIEFS, "worker", "evaluator")
_EXAMPLE = (
    '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", '
    '"index": 0}}'
)
_ALONE = "For a process on its own pass --cluster=none."


def read(text):
    """Reads TF_CONFIG.

    Args:
      text: str; "", "{}" and whatever names no cluster say nothing.

    Returns:
      None, or: tuple of the addresses of all workers, the chief first; the
      index of this process among them. One worker needs no task.

    Raises:
      ValueError: for what is no such JSON, or contradicts itself.
    """
    document = _parse(text)
    cluster = _mapping(document, "cluster")
    task = _mapping(document, "task")
    jobs = {
        kind: addresses
        for kind, tasks in cluster.items()
        if (addresses := _addresses(kind, tasks))
    }
    _check_jobs(jobs)
    chiefs = [a for kind in _CHIEFS for a in jobs.get(kind, ())]
    workers = (*chiefs, *jobs.get("worker", ()))
    if not workers:
        _check_alone(task)
        return None
    kind, index = _task(task, jobs, len(workers))
    return workers, index + (len(chiefs) if kind == "worker" else 0)


def _parse(text):
    try:
        document = json.loads(text.strip() or "{}")
    except ValueError as error:
        raise ValueError(
            f"TF_CONFIG must be JSON, as {_EXAMPLE}. Received {text[:300]!r} "
            f"({error}). Correct it. {_ALONE}"
        ) from None
    if not isinstance(document, dict):
        raise ValueError(
            f"TF_CONFIG must be a JSON object, as {_EXAMPLE}. Received "
            f"{text[:300]!r}. Correct it. {_ALONE}"
        )
    return document


def _mapping(document, key):
    """An object in the document; an empty one where there is none."""
    value = document.get(key)
    if value is not None and not isinstance(value, dict):
        raise ValueError(
            f'"{key}" in TF_CONFIG must be an object, as in {_EXAMPLE}. '
            f"Received {value!r}. Correct it. {_ALONE}"
        )
    return value or {}


def _addresses(kind, tasks):
    """The addresses of a job: of a list, or of a dict of index to address."""
    if isinstance(tasks, dict):
        numbered = {str(key).strip(): value for key, value in tasks.items()}
        wanted = [str(index) for index in range(len(tasks))]
        if set(numbered) != set(wanted):
            raise ValueError(
                f"The indices of {kind!r} in TF_CONFIG must be 0 to "
                f"{len(tasks) - 1}. Received {', '.join(numbered)}. Number "
                "the tasks from 0 on, without a gap."
            )
        tasks = [numbered[index] for index in wanted]
    if not isinstance(tasks, list) or not all(
        isinstance(address, str) for address in tasks
    ):
        raise ValueError(
            f"{kind!r} in TF_CONFIG must be a list of host:port. Received "
            f"{tasks!r}. Correct it. {_ALONE}"
        )
    return [address.strip() for address in tasks]


def _check_jobs(jobs):
    """Refuses jobs that a run has not, and addresses that stand twice."""
    if "ps" in jobs:
        raise ValueError(
            "A run has no parameter servers: its workers are all alike. "
            f"TF_CONFIG names {', '.join(jobs['ps'])} as ps. Leave ps out of "
            "the cluster, at all workers, and start chief and workers only."
        )
    strange = sorted(set(jobs) - set(_KNOWN))
    if strange:
        raise ValueError(
            f"A cluster in TF_CONFIG has the jobs {', '.join(_KNOWN)}. "
            f"Received {', '.join(strange)}. Name them worker, or leave them "
            "out."
        )
    chiefs = [(kind, a) for kind in _CHIEFS for a in jobs.get(kind, ())]
    if len(chiefs) > 1:
        names = ", ".join(f"{kind} {address}" for kind, address in chiefs)
        raise ValueError(
            f"A cluster has at most one chief. TF_CONFIG names {names}. Keep "
            "one of them, and name the others worker."
        )
    workers = jobs.get("worker", [])
    for kind, address in chiefs:
        if address in workers:
            raise ValueError(
                f"The {kind} is no worker too: both would have a task of its "
                f"address. TF_CONFIG names {address} as {kind} and as worker "
                f"{workers.index(address)}. Leave it out of worker; the others "
                "are then worker 0 and so on."
            )


def _check_alone(task):
    """Refuses a process without a cluster that is not the first."""
    if task.get("index") not in (None, 0, "0"):
        raise ValueError(
            "A process without a cluster must be task 0. TF_CONFIG gives it "
            f"the index {task['index']!r} and names no workers. Add the "
            f"cluster, as in {_EXAMPLE}. {_ALONE}"
        )


def _task(task, jobs, total):
    """The job of this process, "chief", "master" or "worker", and its index."""
    kinds = [kind for kind in jobs if kind != "evaluator"]
    if total == 1:
        task = {"type": kinds[0], "index": 0} | task
    if "type" not in task or "index" not in task:
        raise ValueError(
            f"TF_CONFIG must say which of the {total} workers this process is: "
            '"task": {"type": "worker", "index": 0}. Received '
            f'"task": {json.dumps(task)}. Add what lacks. {_ALONE}'
        )
    kind = task["type"]
    if kind == "evaluator":
        raise ValueError(
            "A run evaluates itself (config.knn.bank) and needs no evaluator. "
            "TF_CONFIG gives this process a task of the type 'evaluator'. "
            "Start chief and workers only, or moco-tf knn on the run."
        )
    if kind not in kinds:
        raise ValueError(
            f"The task must be one of the cluster. TF_CONFIG gives the type "
            f"{kind!r}, and the cluster has {', '.join(kinds)}: two processes "
            f"would have the same index. Name the type {kinds[-1]!r}, or add "
            f"{kind!r} to the cluster at all workers."
        )
    try:
        index = int(task["index"])
    except (TypeError, ValueError):
        index = -1
    if not 0 <= index < len(jobs[kind]) or isinstance(task["index"], bool):
        raise ValueError(
            f"The index of a {kind} must be a whole number from 0 to "
            f"{len(jobs[kind]) - 1}: the cluster in TF_CONFIG has "
            f"{len(jobs[kind])}. Received {task['index']!r}. Correct the index "
            f"or add the worker's address at all workers. {_ALONE}"
        )
    return kind, index
