"""Small runs on several local workers."""

import os
import pathlib
import subprocess
import sys
import time

from tests import forked, shallow, small_run
from tests.cluster import ports

_LONGEST = 900  # seconds; a busy machine takes minutes
LAUNCHER = pathlib.Path(__file__).parents[2] / "launch" / "local_workers.py"


def launch(images, workdir, log_dir, **fields):
    """Starts two workers by the launcher, which starts them again."""
    command = small_run.command(images, workdir, **fields)
    flags = ["--count=2", f"--log_dir={log_dir}", "--pause=0.1"]
    flags += ["--grace=4", "--kill_after=1"]
    return subprocess.Popen(
        [sys.executable, LAUNCHER, *flags, "--", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def start(images, workdir, *flags, indices=(0, 1), changes=None, **fields):
    """Starts workers without a launcher; returns their processes.

    Args:
      changes: dict index -> flags of that worker only.
    """
    workers = ",".join(ports.workers(2))
    processes = []
    for index in indices:
        words = [f"--workers={workers}", f"--worker_index={index}", *flags]
        words += (changes or {}).get(index, [])
        processes.append(
            forked.Process(small_run.command(images, workdir, *words, **fields))
        )
    return processes


def finish(processes):
    """Waits; returns the exit statuses and what each worker wrote."""
    texts = [
        "".join(filter(None, one.communicate(timeout=_LONGEST)))
        for one in processes
    ]
    return [process.returncode for process in processes], texts


def signal_worker(workdir, index, kind):
    """Sends a signal to the worker that runs in a workdir."""
    words = {f"--workdir={workdir}", f"--worker_index={index}"}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_text().split("\0")
        except OSError:  # it has ended
            continue
        if words <= set(line) and shallow.__name__ in line:
            os.kill(int(folder.name), kind)
            return
    raise AssertionError(f"worker {index} of {workdir} does not run")


def wait_for_step(workdir, step, process):
    """Waits until a run has a checkpoint of the step or of a later one."""
    deadline = time.monotonic() + _LONGEST
    while small_run.step_of(workdir) < step:
        assert process.poll() is None, "the run ended before"
        assert time.monotonic() < deadline, f"no checkpoint of step {step}"
        time.sleep(0.02)
