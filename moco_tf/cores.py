"""How many of the machine's cores a process may keep busy.

`os.cpu_count()` is the machine's. A process in a container, in a job of Slurm
or under taskset has fewer, and workers of one machine divide them.
"""

import math
import os
import pathlib
from typing import Any

from moco_tf import lane


def of_machine() -> int:
    """The cores of the machine, which a process need not be allowed."""
    return os.cpu_count() or 1


def count(workers: int = 1, root: Any = "/") -> int:
    """The cores of this process, by its affinity and its control group.

    A process that may run on fewer cores than its control group has them for
    itself, as where a launcher binds each worker. Otherwise workers share the
    cores alike, and in any case the group's quota of time.

    Args:
      workers: processes of the run on this machine.
      root: folder that holds proc/ and sys/.

    Returns:
      int, at least 1; a part of a core counts as one.
    """
    allowed: float = of_machine()
    if hasattr(os, "sched_getaffinity"):  # of Linux
        allowed = len(os.sched_getaffinity(0))
    of_process = groups(pathlib.Path(root))
    if allowed >= _cores_of(of_process.get("cpuset", [])):
        allowed /= workers
    quota = _quota(of_process.get("cpu", [])) / workers
    return max(1, math.ceil(quota) if quota < allowed else int(allowed))


def multiply_bfloat16(root: Any = "/") -> bool:
    """Whether the cores have instructions for products of bfloat16.

    Args:
      root: folder that holds proc/.
    """
    return bool({"avx512_bf16", "amx_bf16"} & _instructions(root))


def lack_kernels_for(precision: str, root: Any = "/") -> bool:
    """Whether TensorFlow computes in a precision slowly on these cores.

    Convolutions of 16 bits are oneDNN's where it supports them, for bfloat16
    with AVX512 (tensorflow/core/graph/mkl_graph_util.h), for float16 nowhere in
    2.15. With the plain ones that are left a step in bfloat16 took 8 times as
    long as in float32 (docs/performance.md); float16 was not timed.

    Args:
      precision: a value of train.precision.
      root: folder that holds proc/.

    Returns:
      bool; False where the system does not tell the instructions.
    """
    known = _instructions(root)
    if "avx2" not in known:  # another kind of processor, or an unknown one
        return False
    if precision == "mixed_float16" and lane.NAME == "2.15":
        return True
    needed = {"mixed_bfloat16": "avx512f", "mixed_float16": "avx512_fp16"}
    return precision in needed and needed[precision] not in known


def _instructions(root):
    """Words of the kernel's description of the processor, a set."""
    try:
        return set((pathlib.Path(root) / "proc/cpuinfo").read_text().split())
    except OSError:
        return set()


def groups(root):
    """Folders of this process's control groups, the innermost first.

    In a container the innermost that the system names may not be visible.

    Args:
      root: Path of the folder that holds proc/ and sys/.

    Returns:
      dict of lists of Path by controller: "cpu", "cpuset" and "memory".
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return {}
    base = root / "sys/fs/cgroup"
    folders_of = {}
    for line in lines:
        number, controllers, path = line.split(":", 2)
        for name in controllers.split(",") if controllers else _CONTROLLERS:
            if name not in _CONTROLLERS:
                continue
            top = base / name if controllers else base
            inner = top / path.strip("/")
            folders = [inner, *inner.parents]
            folders = folders[: folders.index(top) + 1]
            # Version 1 has a hierarchy for each controller; 2 has number 0.
            if number != "0" or name not in folders_of:
                folders_of[name] = folders
    return folders_of


_CONTROLLERS = ("cpu", "cpuset", "memory")


def _quota(folders):
    """Cores whose time the control groups allow, the least of all levels."""
    quota = math.inf
    for folder in folders:
        words = _words(folder / "cpu.max")  # of version 2
        if not words:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [word for x in names for word in _words(folder / x)]
        if len(words) == 2 and words[0].isdecimal():  # not "max", nor -1
            quota = min(quota, int(words[0]) / int(words[1]))
    return quota


def _cores_of(folders):
    """Number of cores that the innermost group names; else the machine's."""
    for folder in folders:
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus"):
            if words := _words(folder / name):
                ends = [part.split("-") for part in words[0].split(",")]
                return sum(int(e[-1]) - int(e[0]) + 1 for e in ends)
    return of_machine()


def _words(path):
    try:
        return path.read_text().split()
    except OSError:
        return []
