"""Rows of cluster/: who is in a run, and how they meet."""

import contextlib
import json
import socket
from concurrent import futures

from moco_tf import config as configs
from moco_tf.cli import flags, main
from moco_tf.cluster import membership, rendezvous
from tests.cluster import ports
from tests.remedies import following

ROWS = following.Rows("cluster/*.py")

JOBS = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
FIRST = {"type": "worker", "index": 0}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_PROCID": "0",
    "SLURM_JOB_ID": "7",
    "SLURMD_NODENAME": "n1",
}
POD = {
    "JOB_COMPLETION_INDEX": "0",
    "HOSTNAME": "run-0",
    "MOCO_SERVICE": "run",
    "MOCO_WORKERS": "2",
}
BOTH = ("--workers=host1:2222,host2:2222", "--worker_index=0")


def find(environment, *words):
    """What `pretrain` takes from its flags and its environment."""
    given = ["pretrain", "--workdir=x", "--config=quickstart", *words]
    _, options, fields = flags.parse(given, main.COMMANDS)
    configs.load("quickstart", fields)
    if options.cluster == "none":
        return None
    return membership.find(environment, options.workers, options.worker_index)


def said(cluster, task=FIRST, **more):
    """An environment with a TF_CONFIG."""
    document = {"cluster": cluster, "task": task}
    return {"TF_CONFIG": json.dumps(document), **more}


def example(text, mark="as "):
    """The TF_CONFIG that a message shows, with two workers."""
    shown = text.partition(mark)[2].partition("}}")[0] + "}}"
    return {"TF_CONFIG": shown.replace('"host:port", …', '"a:1", "b:1"')}


def _alone(place, words, environment, *others):
    """A row whose message ends with --cluster=none."""

    @ROWS.followed(f"cluster/{place}", words)
    def row():
        text = yield lambda: find(environment)
        if "--workers and --worker_index" in text:
            yield lambda: find(environment, *BOTH)
        if "--cluster=none" in text:
            yield lambda: find(environment, "--cluster=none")
        for other in others:
            other = other(text) if callable(other) else other
            yield lambda taken=other: find(taken)


CORRECT = said(JOBS)
_alone(
    *("tf_config.py:_parse", "must be JSON, as", {"TF_CONFIG": "{'a'"}),
    example,
)
_alone(
    *("tf_config.py:_parse", "must be a JSON object", {"TF_CONFIG": "[1]"}),
    example,
)
_alone(
    *("tf_config.py:_mapping", "must be an object, as", said("a:1,b:1")),
    lambda text: example(text, "as in "),
)
_alone(
    *("tf_config.py:_addresses", "Number the tasks from 0 on"),
    said({"worker": {"1": "a:1", "2": "b:1"}}),
    said({"worker": {"0": "a:1", "1": "b:1"}}),
)
_alone(
    *("tf_config.py:_addresses", "must be a list of host:port"),
    said({"worker": "a:1,b:1"}),
    said({"worker": ["a:1", "b:1"]}),
)
_alone(
    *("tf_config.py:_check_jobs", "Leave ps out of the cluster"),
    said(JOBS | {"ps": ["d:1"]}),
    CORRECT,
)
_alone(
    *("tf_config.py:_check_jobs", "Name them worker, or leave them out"),
    said(JOBS | {"trainer": ["d:1"]}),
    said(JOBS | {"worker": ["b:1", "c:1", "d:1"]}),
    CORRECT,
)
_alone(
    *("tf_config.py:_check_jobs", "Keep one of them, and name the others"),
    said(JOBS | {"chief": ["a:1", "d:1"]}),
    said(JOBS | {"worker": ["b:1", "c:1", "d:1"]}),
)
_alone(
    *("tf_config.py:_check_jobs", "Leave it out of worker; the others"),
    said({"chief": ["a:1"], "worker": ["a:1", "b:1"]}),
    said({"chief": ["a:1"], "worker": ["b:1"]}),
)
_alone(
    *("tf_config.py:_check_alone", "Add the cluster, as in"),
    {"TF_CONFIG": '{"task": {"type": "worker", "index": 1}}'},
    lambda text: example(text, "as in "),
)
_alone(
    *("tf_config.py:_task", "Add what lacks"),
    said(JOBS, {"type": "worker"}),
    CORRECT,
)
_alone(
    *("tf_config.py:_task", "Start chief and workers only, or"),
    said(JOBS | {"evaluator": ["d:1"]}, {"type": "evaluator", "index": 0}),
    CORRECT,
)
_alone(
    *("tf_config.py:_task", "The task must be one of the cluster"),
    said({"worker": ["a:1", "b:1"]}, {"type": "chief", "index": 0}),
    said({"worker": ["a:1", "b:1"]}, FIRST),
    said(JOBS, {"type": "chief", "index": 0}),
)
_alone(
    *("tf_config.py:_task", "must be a whole number from 0 to"),
    said(JOBS, {"type": "worker", "index": 2}),
    said(JOBS, {"type": "worker", "index": 1}),
    said(
        JOBS | {"worker": ["b:1", "c:1", "d:1"]},
        {"type": "worker", "index": 2},
    ),
)
_alone(
    *("membership.py:_slurm_tasks", "must be a whole number"),
    {"SLURM_STEP_NUM_TASKS": "many"},
    SLURM,
)
_alone(
    *("membership.py:_from_slurm", "must say its tasks and nodes"),
    {"SLURM_STEP_NUM_TASKS": "2"},
    SLURM,
)
_alone(
    *("membership.py:_from_slurm", "Tasks must fill the nodes in order"),
    SLURM | {"SLURMD_NODENAME": "n2"},
    SLURM,
)
_alone(
    *("membership.py:_from_kubernetes", "See launch/kubernetes"),
    POD | {"HOSTNAME": "run"},
    POD,  # as the files of that folder make it; test_kubernetes.py reads them
)
_alone(
    *("membership.py:_check", "with a port from 1 to 65535"),
    said({"worker": ["a", "b"]}),
    said({"worker": ["a:2222", "b:2222"]}),
)
_alone(
    *("membership.py:_check", "Give workers of one host different"),
    said({"worker": ["a:1", "a:1"]}),
    said({"worker": ["a:1", "a:2"]}),
)
_alone(
    *("membership.py:_check_agreement", "Unset TF_CONFIG (env -u"),
    CORRECT | SLURM,
    SLURM,
)


def _typed(place, words, *typed, environment=(), then=()):
    """A row of flags, and the words that are advised in their place."""

    @ROWS.followed(f"cluster/{place}", words)
    def row():
        yield lambda: find(dict(environment), *typed)
        for advised in then:
            yield lambda taken=advised: find(dict(environment), *taken)


_typed(
    *("membership.py:_from_flags", "For threads that read images pass"),
    "--workers=8",
    then=[("--config.data.threads=8",)],
)
_typed(
    *("membership.py:_from_flags", "Pass both, for example"),
    "--worker_index=0",
    then=[BOTH],
)
_typed(
    *("membership.py:_check", "Workers count from 0: pass 0 to"),
    *(BOTH[0], "--worker_index=2"),
    then=[BOTH, (BOTH[0], "--worker_index=1")],
)


# How they meet.


def meet(workers, index, *others, timeout=10.0):
    """Meets as a worker; others are (list of workers, index), beside it.

    Raises:
      what this worker raises; the others' errors do not count.
    """

    def beside(other):
        with contextlib.suppress(rendezvous.PeerMissing, ValueError):
            join(*other)

    def join(names, number):
        cluster = membership.Cluster(names, number, "a test")
        rendezvous.meet(cluster, timeout)

    with futures.ThreadPoolExecutor() as pool:
        for other in others:
            pool.submit(beside, other)
        join(workers, index)


@ROWS.followed("cluster/rendezvous.py:_listen", "choose another port")
def port_that_is_taken():
    with socket.create_server(("", 0)) as other:
        taken = other.getsockname()[1]
        cluster = (f"127.0.0.1:{taken}", "127.0.0.1:1")
        yield lambda: meet(cluster, 0, timeout=0.3)
        free = ports.workers(2)
        yield lambda: meet(free, 0, (free, 1))  # another port
    yield lambda: meet(cluster, 0, (cluster, 1))  # the other has stopped


@ROWS.followed("cluster/rendezvous.py:_report_to_chief", "the same order")
def another_list_of_workers():
    workers = ports.workers(3)
    yield lambda: meet(workers[:2], 1, (workers, 0), timeout=2.0)
    yield lambda: meet(workers[:2], 1, (workers[:2], 0))


@ROWS.followed("cluster/rendezvous.py:_explain_missing", "Look at the log of")
def worker_that_does_not_come():
    workers = ports.workers(2)
    yield lambda: meet(workers, 0, timeout=0.5)
    yield lambda: meet(workers, 0, (workers, 1))  # both are started again


ROWS.tested(
    "tests/cluster/test_rendezvous.py::"
    "test_two_processes_as_the_same_worker_are_named",
    ("cluster/rendezvous.py:_explain_twins", "Correct the index of one"),
)
ROWS.tested(
    "tests/cluster/test_rendezvous.py::"
    "test_workers_with_unlike_devices_are_refused_by_name",
    ("cluster/rendezvous.py:_explain_mixture", "Start all with the same"),
)
ROWS.tested(
    "tests/cluster/test_rendezvous.py::"
    "test_two_workers_on_the_same_gpu_are_refused_by_its_name",
    ("cluster/rendezvous.py:_explain_shared", "with fewer, start fewer"),
)
ROWS.states(
    following.PART_OF_ANOTHER,
    ("cluster/membership.py:expand_tasks", "not a list of tasks"),
    ("cluster/membership.py:expand_hosts", "not a list of hosts"),
    ("cluster/membership.py:_expand_range", "not a range of hosts"),
)
