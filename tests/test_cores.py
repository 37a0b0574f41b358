"""Cores of a process: affinity, control groups of both versions, workers.

The files are those of the kernel's documentation: cgroups(7), cgroup-v2.rst
(cpu.max, cpuset.cpus.effective) and sched-bwc.rst (cpu.cfs_quota_us).
"""

import os

import pytest

from moco_tf import cores, lane


@pytest.fixture(name="machine")
def _machine(monkeypatch, tmp_path):
    """Makes a machine of 64 cores; returns the root of its files."""

    def make(allowed, files):
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _: set(range(allowed))
        )
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return make


GROUP = {"proc/self/cgroup": "0::/job/step"}
INNER, OUTER = "sys/fs/cgroup/job/step/", "sys/fs/cgroup/job/"
# docker without a namespace: the path is the host's and not visible inside.
OLD = {"proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n3:cpuset:/docker/1\n0::/"}
OLD_CPU = "sys/fs/cgroup/cpu/"


@pytest.mark.parametrize(
    ("allowed", "files", "expected"),
    [
        (64, {}, 64),
        (6, {}, 6),
        (64, GROUP | {INNER + "cpu.max": "max 100000"}, 64),
        (64, GROUP | {INNER + "cpu.max": "350000 100000"}, 4),
        (64, GROUP | {INNER + "cpu.max": "50000 100000"}, 1),
        # The least of all levels counts.
        (
            64,
            GROUP
            | {INNER + "cpu.max": "max 100000", OUTER + "cpu.max": "800 100"},
            8,
        ),
        (3, GROUP | {INNER + "cpu.max": "800000 100000"}, 3),
        (
            64,
            OLD
            | {
                OLD_CPU + "cpu.cfs_quota_us": "200000",
                OLD_CPU + "cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            64,
            OLD
            | {
                OLD_CPU + "cpu.cfs_quota_us": "-1",
                OLD_CPU + "cpu.cfs_period_us": "100000",
            },
            64,
        ),
    ],
)
def test_a_process_has_the_cores_that_it_is_allowed(
    machine, allowed, files, expected
):
    assert cores.count(root=machine(allowed, files)) == expected


JOB = GROUP | {INNER + "cpuset.cpus.effective": "0-11,32-35"}  # 16 cores
OLD_JOB = OLD | {"sys/fs/cgroup/cpuset/cpuset.effective_cpus": "0-15"}


@pytest.mark.parametrize(
    ("allowed", "files", "workers", "expected"),
    [
        (64, {}, 4, 16),
        (64, {}, 128, 1),
        # Free in the job's cores, they share them; bound to some, they do not.
        (16, JOB, 4, 4),
        (16, OLD_JOB, 4, 4),
        (4, JOB, 4, 4),
        (4, OLD_JOB, 4, 4),
        (16, {}, 4, 16),
        # The quota is of the group, so of all of them, bound or not.
        (64, GROUP | {INNER + "cpu.max": "800000 100000"}, 4, 2),
        (16, GROUP | {INNER + "cpu.max": "800000 100000"}, 4, 2),
    ],
)
def test_workers_of_a_machine_divide_its_cores(
    machine, allowed, files, workers, expected
):
    assert cores.count(workers, machine(allowed, files)) == expected


def test_this_process_has_no_more_cores_than_its_affinity():
    assert 1 <= cores.count() <= len(os.sched_getaffinity(0))


ZEN3 = "flags\t\t: fpu sse4_2 fma avx avx2"
SKYLAKE = ZEN3 + " avx512f avx512bw"
IS_CURRENT = lane.NAME == "current"  # has oneDNN's kernels of float16
SAPPHIRE = SKYLAKE + " avx512_bf16 avx512_fp16 amx_bf16"


@pytest.mark.parametrize(
    ("words", "multiplies", "lacks"),
    [
        (ZEN3, False, ["mixed_bfloat16", "mixed_float16"]),
        (SKYLAKE, False, ["mixed_float16"]),
        (SAPPHIRE, True, [] if IS_CURRENT else ["mixed_float16"]),
        ("Features\t: fp asimd", False, []),  # of ARM: not known
        (None, False, []),  # no Linux
    ],
)
def test_the_precisions_that_cores_have_kernels_for(
    machine, words, multiplies, lacks
):
    root = machine(1, {} if words is None else {"proc/cpuinfo": words})
    assert cores.multiply_bfloat16(root) == multiplies
    names = ("float32", "mixed_bfloat16", "mixed_float16")
    assert [n for n in names if cores.lack_kernels_for(n, root)] == lacks


def test_no_module_counts_the_cores_of_the_machine():
    package = os.path.dirname(cores.__file__)
    counting = []
    for folder, _, names in os.walk(package):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".py") and path != cores.__file__:
                with open(path, encoding="utf-8") as file:
                    if "cpu_count" in file.read():
                        counting.append(path)
    assert counting == []
