"""A process that hangs is killed from outside."""

import concurrent.futures
import signal
import subprocess
import sys
import textwrap
import time

import pytest

# A regular expression that never ends holds Python's lock all the time.
_HANG = "import re; re.match('(a+)+b', 'a' * 60)"
# Of processes that have a Watchdog `dog`.
SCRIPTS = {
    "hangs": f"""
        import faulthandler, signal
        faulthandler.register(signal.SIGUSR2)
        dog = watchdog.Watchdog("worker 1 (b:2)")
        dog.limit(1, "the step after step 7")
        {_HANG}
        """,
    "a log": f"""
        import faulthandler, signal
        faulthandler.register(signal.SIGUSR2)
        os.chdir(sys.argv[1])
        os.mkdir("new\\nline")
        dog = watchdog.Watchdog("a worker")
        dog.limit(300, "a step")
        dog.log_to("new\\nline/log.txt")
        dog.limit(1, "the step after step 7")
        {_HANG}
        """,
    "a log that is gone": """
        import faulthandler, signal
        faulthandler.register(signal.SIGUSR2)
        dog = watchdog.Watchdog("a worker")
        dog.log_to(f"{sys.argv[1]}/gone/log.txt")
        dog.limit(0.5, "a step")
        time.sleep(30)
        """,
    "a log that hangs": """
        import faulthandler, signal
        faulthandler.register(signal.SIGUSR2)
        os.chdir(sys.argv[1])
        os.mkfifo("log.txt")  # that nobody reads
        dog = watchdog.Watchdog("a worker")
        dog.log_to("log.txt")
        dog.limit(0.5, "a step")
        time.sleep(30)
        """,
    "in time": """
        dog = watchdog.Watchdog("a worker")
        for step in range(4):
            dog.limit(1.5, f"step {step}")
            time.sleep(0.8)
        dog.limit(0, "an evaluation")
        time.sleep(2)
        """,
    "often": """
        dog = watchdog.Watchdog("a worker")
        for _ in range(40):
            dog.limit(2.5, "a step")
            time.sleep(0.1)
        """,
    "ends": """
        dog = watchdog.Watchdog("a worker")
        dog.limit(300, "a step")
        print(dog._process.pid)
        """,
    "stopped": """
        import os, signal
        dog = watchdog.Watchdog("a worker")
        dog.limit(1, "a step")
        os.kill(os.getpid(), signal.SIGSTOP)
        """,
    "signals": """
        import faulthandler, os, pathlib, signal
        faulthandler.register(signal.SIGUSR2)
        dog = watchdog.Watchdog("a worker")
        dog.limit(2, "a step")
        kinds = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        mask = sum(1 << kind - 1 for kind in kinds)
        status = pathlib.Path(f"/proc/{dog._process.pid}/status")
        while True:  # until it ignores them
            ignored = status.read_text().partition("SigIgn:")[2].split()[0]
            if int(ignored, 16) & mask == mask:
                break
            time.sleep(0.01)
        for kind in kinds:
            os.kill(dog._process.pid, kind)
        time.sleep(30)
        """,
}


def _run(script, folder):
    """The finished process of a script, and how many seconds it took."""
    code = "import os, sys, time\nfrom moco_tf.cluster import watchdog\n"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code + textwrap.dedent(script), folder],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, time.monotonic() - start


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An empty folder for each script."""
    return {key: tmp_path_factory.mktemp("script") for key in SCRIPTS}


@pytest.fixture(scope="module")
def runs(folders):
    """What is to come of every script; they mostly sleep, so all at once."""
    with concurrent.futures.ThreadPoolExecutor(len(SCRIPTS)) as pool:
        yield {
            key: pool.submit(_run, text, folders[key])
            for key, text in SCRIPTS.items()
        }


def test_a_process_that_holds_pythons_lock_is_killed_and_shows_where(runs):
    done, seconds = runs["hangs"].result()
    assert done.returncode == -signal.SIGKILL
    assert seconds > 1
    assert "worker 1 (b:2) hangs: the step after step 7" in done.stderr
    assert "re/__init__.py" in done.stderr  # the stack


def test_the_log_says_too_why_it_ends(runs, folders):
    done, _ = runs["a log"].result()
    assert done.returncode == -signal.SIGKILL
    text = (folders["a log"] / "new\nline" / "log.txt").read_text()
    assert text == (
        "moco-tf: a worker hangs: the step after step 7 did not end within "
        "1 s. It is killed, to be started again (status 137). Its stacks are "
        "on standard error.\n"
    )
    assert "re/__init__.py" in done.stderr


@pytest.mark.parametrize("key", ["a log that is gone", "a log that hangs"])
def test_no_log_keeps_a_process_alive(runs, key):
    done, _ = runs[key].result()
    assert done.returncode == -signal.SIGKILL
    assert "a worker hangs: a step did not end" in done.stderr


def test_words_in_time_keep_it_alive(runs):
    done, _ = runs["in time"].result()
    assert (done.returncode, done.stderr) == (0, "")


def test_a_word_a_second_is_sent_even_if_it_says_the_same(runs):
    done, _ = runs["often"].result()
    assert (done.returncode, done.stderr) == (0, "")


def test_it_ends_with_its_process(runs):
    # The watching process has the pipes too: if it did not end, it would hold
    # them for longer than `_run` waits.
    done, _ = runs["ends"].result()
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


def test_a_stopped_process_is_killed_too(runs):
    done, _ = runs["stopped"].result()
    assert done.returncode == -signal.SIGKILL


def test_signals_to_all_processes_of_a_task_leave_it_watching(runs):
    done, _ = runs["signals"].result()
    assert done.returncode == -signal.SIGKILL
