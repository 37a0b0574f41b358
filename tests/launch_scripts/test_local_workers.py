import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import waiting

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LAUNCHER = ROOT / "launch/local_workers.py"


@pytest.fixture
def launch(tmp_path):
    """A function that starts the launcher on fake workers."""
    shutil.copy(ROOT / "tests/launch_scripts/fake_worker.py", tmp_path)
    started = []

    def start(plan, *flags, script=(LAUNCHER,), **variables):
        count = len(plan.split()[0].split(","))
        options = ["--pause=0.05", "--grace=5", "--kill_after=5", *flags]
        command = [sys.executable, "-I", "-S", "fake_worker.py", plan]
        started.append(
            subprocess.Popen(
                [sys.executable, *script, f"--count={count}", *options]
                + ["--log_dir=logs", "--", *command],
                cwd=tmp_path,
                env={"PATH": os.environ["PATH"], **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def result(process):
    """Returns status, stdout and stderr."""
    out, err = process.communicate(timeout=15)
    return process.returncode, out, err


def notes(folder, index, kind):
    """What a fake worker noted after a word, in order."""
    path = folder / f"notes-{index}"
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        line.removeprefix(kind).strip()
        for line in lines
        if line.startswith(kind)
    ]


def is_running(pid):
    """Whether a process exists and is no zombie."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_every_worker_gets_the_command_and_its_place(launch, tmp_path):
    status, out, err = result(launch("0,0,0"))
    assert (status, err) == (0, "")
    lines = [notes(tmp_path, index, "argv") for index in range(3)]
    pattern = r"0,0,0 --workers=((?:127\.0\.0\.1:\d+,?){3}) --worker_index=(\d)"
    matches = [re.fullmatch(pattern, line[0]) for line in lines]
    assert [match[2] for match in matches] == ["0", "1", "2"]
    assert len({match[1] for match in matches}) == 1
    # For kernels that the driver compiles.
    assert notes(tmp_path, 2, "cache") == ["4294967296"]
    assert len(set(matches[0][1].split(","))) == 3


def test_each_worker_has_a_log_and_the_terminal_shows_the_first(
    launch, tmp_path
):
    status, out, err = result(launch("138,138 0,0"))
    assert status == 0
    assert out == "worker 0 does 138\nworker 0 does 0\n"
    for index in range(2):
        lines = (tmp_path / f"logs/worker-{index}.log").read_text().splitlines()
        assert len(lines) == 4  # a line of the launcher for each start
        assert f"--worker_index={index}" in lines[0]
        assert lines[1] == f"worker {index} does 138"
        assert lines[3] == f"worker {index} does 0"


@pytest.mark.parametrize("end", ["138", "143", "kill", "segfault"])
def test_a_lost_worker_starts_all_again_at_new_ports(launch, tmp_path, end):
    status, out, err = result(launch(f"{end},late138 0,0"))
    assert status == 0
    assert "restart 1 of 10" in err
    assert notes(tmp_path, 1, "left") == ["by itself"]  # not cut short
    assert notes(tmp_path, 1, "got") == []
    first, second = notes(tmp_path, 0, "argv")
    assert first.split("--workers=")[1] != second.split("--workers=")[1]


@pytest.mark.parametrize("status", [1, 2])
def test_a_failure_stops_the_others_and_is_named(launch, tmp_path, status):
    exit_status, out, err = result(launch(f"wait,{status}"))
    assert exit_status == status
    assert notes(tmp_path, 0, "got") == ["SIGTERM"]
    assert len(notes(tmp_path, 0, "argv")) == 1
    assert f"worker 1 failed with status {status}" in err
    assert err.splitlines()[-1] == f"worker 1 does {status}"


def test_a_failure_counts_that_comes_after_the_loss_of_a_peer(launch, tmp_path):
    status, out, err = result(launch("138,late1"))
    assert status == 1
    assert "worker 1 failed" in err
    assert len(notes(tmp_path, 0, "argv")) == 1


@pytest.mark.parametrize("frozen", ["freeze", "deaf"])
def test_a_worker_that_does_not_leave_is_killed(launch, tmp_path, frozen):
    start = time.monotonic()
    flags = ("--grace=0.4", "--kill_after=0.3")
    status, out, err = result(launch(f"{frozen},138 0,0", *flags))
    assert status == 0
    assert "worker 0 left with status 137" in err
    assert time.monotonic() - start > 0.7
    if frozen == "deaf":
        assert notes(tmp_path, 0, "got") == ["SIGTERM"]
    assert not is_running(notes(tmp_path, 0, "pid")[0])


def test_there_are_so_many_restarts_at_most(launch, tmp_path):
    status, out, err = result(launch("138", "--restarts=2"))
    assert status == 138
    assert "status 138 after 2 restarts: given up" in err
    assert len(notes(tmp_path, 0, "argv")) == 3


def test_pauses_double(launch):
    start = time.monotonic()
    process = launch("138", "--restarts=3", "--pause=0.1")
    status, out, err = result(process)
    assert re.findall(r"in (\S+) s", err) == ["0.1", "0.2", "0.4"]
    assert time.monotonic() - start > 0.7


def test_pauses_begin_anew_after_a_long_round(launch):
    code = (
        f"import sys; sys.path.insert(0, {str(LAUNCHER.parent)!r});"
        "import local_workers; local_workers._GOOD_ROUND = 0.0;"
        "sys.exit(local_workers.main(sys.argv[1:]))"
    )
    process = launch("138", "--restarts=3", script=("-c", code))
    status, out, err = result(process)
    assert re.findall(r"in (\S+) s", err) == ["0.05"] * 3


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_goes_to_all_workers_and_ends_the_run(launch, tmp_path, name):
    process = launch("wait,wait")
    waiting.wait_for(lambda: all(notes(tmp_path, i, "pid") for i in range(2)))
    process.send_signal(signal.Signals[name])
    status, out, err = result(process)
    assert status == 138
    assert "restart" not in err
    for index in range(2):
        assert notes(tmp_path, index, "got") == [name]
        assert len(notes(tmp_path, index, "argv")) == 1


def test_a_second_signal_kills(launch, tmp_path):
    process = launch("deaf,deaf")
    waiting.wait_for(lambda: all(notes(tmp_path, i, "pid") for i in range(2)))
    process.send_signal(signal.SIGTERM)
    waiting.wait_for(lambda: all(notes(tmp_path, i, "got") for i in range(2)))
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert result(process)[0] == 137
    for index in range(2):
        assert not is_running(notes(tmp_path, index, "pid")[0])


def test_a_signal_in_a_pause_ends_the_run(launch, tmp_path):
    process = launch("138", "--pause=20")
    waiting.wait_for(lambda: notes(tmp_path, 0, "pid"))
    for line in process.stderr:
        if "restart 1 of 10" in line:
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 138
    assert len(notes(tmp_path, 0, "argv")) == 1


def test_an_interrupted_worker_ends_the_run(launch, tmp_path):
    status, out, err = result(launch("late138,130"))
    assert status == 130
    assert len(notes(tmp_path, 0, "argv")) == 1


def test_workers_die_with_a_killed_launcher(launch, tmp_path):
    process = launch("deaf,deaf")
    waiting.wait_for(lambda: all(notes(tmp_path, i, "pid") for i in range(2)))
    pids = [notes(tmp_path, index, "pid")[0] for index in range(2)]
    assert all(is_running(pid) for pid in pids)
    process.kill()
    waiting.wait_for(lambda: not any(is_running(pid) for pid in pids))


def test_what_a_worker_leaves_behind_is_killed(launch, tmp_path):
    assert result(launch("child"))[0] == 0
    child = notes(tmp_path, 0, "child")[0]
    waiting.wait_for(lambda: not is_running(child))


def test_dry_run_prints_the_commands_and_starts_nothing(launch, tmp_path):
    status, out, err = result(launch("0,0", DRY_RUN="1"))
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(
        f"{sys.executable} -I -S fake_worker.py 0,0 --workers="
    )
    assert lines[1].endswith(" --worker_index=1")
    assert [path.name for path in tmp_path.iterdir()] == ["fake_worker.py"]


def test_a_command_that_cannot_be_started_is_named(tmp_path):
    words = ["--count=2", f"--log_dir={tmp_path}", "--", "no-such-program"]
    process = subprocess.run(
        [sys.executable, LAUNCHER, *words], capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "no-such-program" in process.stderr


@pytest.mark.parametrize(
    "words", [["--count=2"], ["--count=0", "--", "x"], ["--cuont=2", "--", "x"]]
)
def test_a_wrong_command_line_is_refused(words):
    process = subprocess.run(
        [sys.executable, LAUNCHER, *words], capture_output=True, text=True
    )
    assert process.returncode == 2
    assert "error:" in process.stderr
