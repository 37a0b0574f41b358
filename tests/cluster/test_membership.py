"""Which cluster a process is in; all expected values by hand."""

import json
import re

import pytest

from moco_tf.cluster import membership

TWO = ("a:1", "b:2")


def _tf_config(cluster, kind="worker", index=0, **more):
    task = {"type": kind, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task, **more})}


def test_flags_come_before_everything_else():
    environment = _tf_config({"worker": ["c:1", "d:1"]})
    cluster = membership.find(environment, "a:1, b:2", "1")
    assert (cluster.workers, cluster.index) == (TWO, 1)
    assert not cluster.is_chief


@pytest.mark.parametrize(
    "environment", [{}, {"TF_CONFIG": " "}, {"TF_CONFIG": "{}"}]
)
def test_a_process_on_its_own_has_no_cluster(environment):
    assert membership.find(environment) is None


def test_one_worker_is_no_cluster():
    assert membership.find(_tf_config({"worker": ["a:1"]})) is None
    assert membership.find({}, "a:1", "0") is None


@pytest.mark.parametrize(
    ("tasks", "kind", "index", "expected"),
    [
        ({"worker": ["a:1", "b:2"]}, "worker", 0, 0),
        ({"worker": ["a:1", "b:2"]}, "worker", 1, 1),
        ({"chief": ["a:1"], "worker": ["b:2"]}, "chief", 0, 0),
        ({"chief": ["a:1"], "worker": ["b:2"]}, "worker", 0, 1),
        ({"master": ["a:1"], "worker": ["b:2"]}, "worker", 0, 1),
    ],
)
def test_tf_config_with_and_without_a_chief(tasks, kind, index, expected):
    # Vertex adds "job" and "environment".
    cluster = membership.find(
        _tf_config(tasks, kind, index, job={}, environment="")
    )
    assert (cluster.workers, cluster.index) == (TWO, expected)


def test_the_tf_config_for_tensorflow_names_workers_only():
    cluster = membership.find(
        _tf_config({"chief": ["a:1"], "worker": ["b:2"]}, "worker", 0)
    )
    assert json.loads(cluster.tf_config()) == {
        "cluster": {"worker": ["a:1", "b:2"]},
        "task": {"type": "worker", "index": 1},
    }


@pytest.mark.parametrize(
    "environment",
    [
        {"TF_CONFIG": "{"},
        {"TF_CONFIG": "[]"},
        _tf_config({"worker": ["a:1", "b:2"]}, "evaluator"),
        _tf_config({"worker": ["a:1", "b:2"], "ps": ["c:1"]}),
        _tf_config({"worker": ["a:1", "b:2"]}, index=2),
        _tf_config({"worker": ["a:1", "b:2"]}, index=-1),
        _tf_config({"worker": ["a:1", "a:1"]}),
        _tf_config({"worker": ["a", "b:1"]}),
        _tf_config({"worker": ["a:70000", "b:1"]}),
    ],
)
def test_a_tf_config_that_contradicts_itself_is_refused(environment):
    with pytest.raises(ValueError, match="TF_CONFIG"):
        membership.find(environment)


@pytest.mark.parametrize(
    ("workers", "index"), [("a:1,b:1", ""), ("", "0"), ("a:1,b:1", "x")]
)
def test_half_of_the_flags_is_refused(workers, index):
    with pytest.raises(ValueError, match="go together"):
        membership.find({}, workers, index)


def _slurm(**more):
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "1",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_NODELIST": "node[10,2-3]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
        "SLURMD_NODENAME": "node2",
        **more,
    }


def test_slurm_hosts_stay_in_slurms_order():
    cluster = membership.find(_slurm())
    # 12000 + 7 * 16; node10 is first although it sorts after node2.
    assert cluster.workers == ("node10:12112", "node2:12112", "node3:12112")
    assert cluster.index == 1


def test_slurm_tasks_of_one_node_have_ports_of_their_own():
    cluster = membership.find(
        _slurm(
            SLURM_STEP_NODELIST="n1,n2",
            SLURM_STEP_TASKS_PER_NODE="2,1",
            SLURMD_NODENAME="n1",
            MOCO_PORT="5000",
        )
    )
    assert cluster.workers == ("n1:5000", "n1:5001", "n2:5000")
    assert cluster.local() == (1, 2)


def test_a_slurm_job_outside_srun_is_a_process_on_its_own():
    # The batch script and a shell of salloc have a job, but no step.
    environment = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
    assert membership.find(environment) is None
    assert membership.find(_slurm(SLURM_STEP_NUM_TASKS="1")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"SLURMD_NODENAME": "node3"},  # cyclic, not block
        {"SLURM_STEP_TASKS_PER_NODE": "1(x2)"},
        {"SLURM_STEP_TASKS_PER_NODE": "one"},
        {"SLURM_STEP_NODELIST": "node[2-"},
        {"SLURM_PROCID": "3"},
    ],
)
def test_a_slurm_step_that_does_not_add_up_is_refused(change):
    with pytest.raises(ValueError, match="--workers"):
        membership.find(_slurm(**change))


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("login", ["login"]),
        ("b,a", ["b", "a"]),
        ("n[08-10,3]", ["n08", "n09", "n10", "n3"]),
        ("gpu-[1-2]-ib,x", ["gpu-1-ib", "gpu-2-ib", "x"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_host_lists(text, hosts):
    assert membership.expand_hosts(text) == hosts


def test_task_counts():
    assert membership.expand_tasks("2(x3),1") == [2, 2, 2, 1]


def test_ports_of_slurm_jobs_are_ports_below_the_systems_own():
    ports = {membership.first_port(job) for job in range(5000)}
    assert min(ports) == 12000
    assert max(ports) + 15 < 32000
    assert len(ports) == 1250


@pytest.mark.parametrize(
    ("workers", "index"), [(("a:1",), 0), (("a:1", "b:1"), 1), (TWO, 1)]
)
def test_a_tf_config_and_a_slurm_step_that_disagree_are_refused(workers, index):
    step = _slurm(SLURM_STEP_NUM_TASKS="3")
    environment = step | _tf_config({"worker": workers}, index=index)
    with pytest.raises(ValueError, match="must agree") as error:
        membership.find(environment)
    assert f"this process {index} of {len(workers)}" in str(error.value)
    assert "make it 1 of 3" in str(error.value)
    # The remedies: env -u TF_CONFIG, or the flags.
    del environment["TF_CONFIG"]
    assert membership.find(environment).origin == "Slurm"
    assert membership.find(environment, "a:1,b:1", "0").index == 0


def test_a_tf_config_and_a_slurm_step_that_agree_go_by_tf_config():
    named = _tf_config({"worker": ["a:1", "b:1", "c:1"]}, index=1)
    assert membership.find(_slurm() | named).workers[0] == "a:1"
    empty = {"TF_CONFIG": "{}"}
    assert membership.find(_slurm() | empty).origin == "Slurm"


def test_a_tf_config_and_a_job_that_disagree_are_refused():
    named = _tf_config({"worker": ["a:1", "b:1"]}, index=0)
    with pytest.raises(ValueError, match="TF_CONFIG and the Job must agree"):
        membership.find(_pod() | named)
    assert membership.find(_pod()).index == 1


def test_a_slurm_step_of_no_number_is_refused():
    with pytest.raises(ValueError, match="SLURM_STEP_NUM_TASKS"):
        membership.find(_slurm(SLURM_STEP_NUM_TASKS="many"))


def test_workers_that_are_a_number_are_threads():
    with pytest.raises(ValueError, match="pass --config.data.threads=8"):
        membership.find({}, "8")


def _pod(**more):
    return {
        "JOB_COMPLETION_INDEX": "1",
        "MOCO_WORKERS": "2",
        "MOCO_SERVICE": "moco",
        "HOSTNAME": "pretrain-1",
        **more,
    }


def test_pods_of_an_indexed_job():
    cluster = membership.find(_pod())
    assert cluster.workers == ("pretrain-0.moco:2222", "pretrain-1.moco:2222")
    assert cluster.index == 1
    assert cluster.local() == (0, 1)
    assert (
        membership.find(_pod(MOCO_PORT="9")).workers[0] == "pretrain-0.moco:9"
    )


def test_a_pod_of_a_single_job_is_a_process_on_its_own():
    assert membership.find({"JOB_COMPLETION_INDEX": "0"}) is None


@pytest.mark.parametrize(
    "change",
    [{"HOSTNAME": "other"}, {"MOCO_SERVICE": ""}, {"MOCO_WORKERS": "two"}],
)
def test_a_pod_that_does_not_know_its_peers_is_refused(change):
    with pytest.raises(ValueError, match="launch/kubernetes"):
        membership.find(_pod(**change))


def test_an_address_of_ipv6_stands_in_brackets():
    good = ("[fd00::1]:2222", "[::1]:2222")
    membership._check(membership.Cluster(good, 0, "a test"))
    for bare in ("fd00::1:2222", "::1:2222", "[::1:2222", "::1]:2222"):
        bad = membership.Cluster((bare, "b:1"), 0, "a test")
        with pytest.raises(ValueError, match=r"Write, for example, \[") as told:
            membership._check(bad)
        shown = re.search(r"example, (\S+),", str(told.value))[1]
        membership._check(membership.Cluster((shown, "b:1"), 0, "a test"))
