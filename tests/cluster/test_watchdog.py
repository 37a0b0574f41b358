"""A process that hangs is killed from outside."""

import signal
import subprocess
import sys
import textwrap
import time


def _run(script, timeout=60):
    """Runs Python code that has a Watchdog `dog`."""
    code = "import time\nfrom moco_tf.cluster import watchdog\n"
    return subprocess.run(
        [sys.executable, "-c", code + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


# A regular expression that never ends holds Python's lock all the time.
_HANG = "import re; re.match('(a+)+b', 'a' * 60)"


def test_a_process_that_holds_pythons_lock_is_killed_and_shows_where():
    start = time.monotonic()
    done = _run(
        f"""
        import faulthandler, signal
        faulthandler.register(signal.SIGUSR2)
        dog = watchdog.Watchdog("worker 1 (b:2)")
        dog.limit(1, "the step after step 7")
        {_HANG}
        """
    )
    assert done.returncode == -signal.SIGKILL
    assert time.monotonic() - start > 1
    assert "worker 1 (b:2) hangs: the step after step 7" in done.stderr
    assert "re/__init__.py" in done.stderr  # the stack


def test_words_in_time_keep_it_alive():
    done = _run(
        """
        dog = watchdog.Watchdog("a worker")
        for step in range(4):
            dog.limit(1.5, f"step {step}")
            time.sleep(0.8)
        dog.limit(0, "an evaluation")
        time.sleep(2)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_word_a_second_is_sent_even_if_it_says_the_same():
    done = _run(
        """
        dog = watchdog.Watchdog("a worker")
        for _ in range(40):
            dog.limit(2.5, "a step")
            time.sleep(0.1)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_it_ends_with_its_process():
    done = _run(
        """
        dog = watchdog.Watchdog("a worker")
        dog.limit(30, "a step")
        print(dog._process.pid)
        """,
        timeout=10,
    )
    pid = int(done.stdout)
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().split()[2] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    raise AssertionError("the watching process outlives its parent")


def test_a_stopped_process_is_killed_too():
    done = _run(
        """
        import os, signal
        dog = watchdog.Watchdog("a worker")
        dog.limit(1, "a step")
        os.kill(os.getpid(), signal.SIGSTOP)
        """
    )
    assert done.returncode == -signal.SIGKILL


def test_signals_to_all_processes_of_a_task_leave_it_watching():
    done = _run(
        """
        import faulthandler, os, signal
        faulthandler.register(signal.SIGUSR2)
        dog = watchdog.Watchdog("a worker")
        dog.limit(2, "a step")
        time.sleep(0.5)  # until it ignores them
        for kind in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(dog._process.pid, kind)
        time.sleep(30)
        """
    )
    assert done.returncode == -signal.SIGKILL
