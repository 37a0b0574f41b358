import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import waiting

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "launch/slurm.sbatch"

# Stand-ins for Slurm's programs, which note how they were called. `srun` runs
# its command as one task, or does what SRUN says; `sleep` does not wait.
_PROGRAMS = {
    "srun": """
[ -z "${SRUN:-}" ] || eval "$SRUN"
while [ "$1" != bash ]; do note "srun $1"; shift; done
export SLURM_PROCID=0
"$@"
""",
    "squeue": 'echo "${STATE:-RUNNING}"',
    "scontrol": 'note "scontrol $*"',
    "sleep": 'note "sleep $*"',
    "moco": 'note "moco $(printf "[%s]" "$@")"; eval "${DO:-}"; exit $STATUS',
}
# The real program's stand-in on a real Slurm: what each task does at each
# start, as PLAN says.
_TASK = """
import os, signal, subprocess, sys, time
task, job = int(os.environ["SLURM_PROCID"]), os.environ["SLURM_JOB_ID"]
start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
def note(*words):
    with open(os.environ["NOTES"], "a") as file:
        print(start, task, *words, file=file)
def asked(number, frame):
    note("got", signal.Signals(number).name)
    time.sleep(0.5)
    note("saved")
    sys.exit(138)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, asked)
names = ("STEP_NUM_TASKS", "STEP_NODELIST", "STEP_TASKS_PER_NODE")
note("place", *(os.environ["SLURM_" + name] for name in names))
note("argv", *sys.argv[1:])
do = os.environ["PLAN"].split()[start].split(",")[task]
if do == "wait":
    time.sleep(60)
time.sleep(2)  # the other is waiting by then
if do == "usr1":
    subprocess.run(["scancel", "--signal=USR1", job])
    time.sleep(60)
elif do == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(do))
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts the script among stand-ins."""
    (tmp_path / "bin").mkdir()
    for name, text in _PROGRAMS.items():
        head = '#!/bin/bash\nnote() { echo "$*" >>"$NOTES"; }\n'
        path = tmp_path / "bin" / name
        path.write_text(head + text)
        path.chmod(0o755)
    started = []

    def start(*words, **variables):
        environment = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "NOTES": str(tmp_path / "notes"),
            "MOCO_TF": "moco",
            "STATUS": "0",
            "SLURM_JOB_ID": "77",
            "SLURM_SUBMIT_DIR": str(tmp_path),
        }
        started.append(
            subprocess.Popen(
                ["/bin/bash", SCRIPT, *words],
                env=environment | variables,
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


@pytest.fixture
def run(start, tmp_path):
    """A function that runs it: status, stderr and what was noted."""

    def run(*words, **variables):
        (tmp_path / "notes").write_text("")
        process = start(*words, **variables)
        out, err = process.communicate(timeout=10)
        return process.returncode, err, (tmp_path / "notes").read_text()

    return run


def test_every_word_goes_to_pretrain(run):
    status, err, noted = run("--config=quickstart", "--workdir=a b")
    assert (status, err) == (0, "")
    assert "moco [pretrain][--config=quickstart][--workdir=a b]\n" in noted
    assert "srun --kill-on-bad-exit=1\nsrun --distribution=block\n" in noted


def test_kernels_that_the_driver_compiles_are_kept(run):
    noted = run(DO='note "cache $CUDA_CACHE_MAXSIZE"')[2]
    assert "cache 4294967296\n" in noted
    noted = run(DO='note "cache $CUDA_CACHE_MAXSIZE"', CUDA_CACHE_MAXSIZE="7")[
        2
    ]
    assert "cache 7\n" in noted


@pytest.mark.parametrize("status", [1, 2])
def test_a_failure_keeps_its_status_and_is_not_tried_again(run, status):
    exit_status, err, noted = run(STATUS=str(status))
    assert exit_status == status
    assert f"task 0 left with {status}" in err
    assert "scontrol" not in noted and "sleep" not in noted


def test_another_failure_is_not_tried_again(run):
    exit_status, err, noted = run(STATUS="127")
    assert exit_status == 1
    assert "scontrol" not in noted


@pytest.mark.parametrize("status", [1, 2])
def test_a_failure_is_srun_s_highest_status(run, status):
    # srun gives the highest of all tasks: it must be above 143, which those
    # have that srun ends because of the failure.
    code = 'while [ "$1" != bash ]; do shift; done; "$@"; note "is $?"; exit 0'
    _, _, noted = run(STATUS=str(status), SRUN=f"SLURM_PROCID=0; {code}")
    assert f"is {250 + status}\n" in noted


@pytest.mark.parametrize("status", [134, 137, 138, 139, 143])
def test_a_lost_worker_puts_the_job_back_to_the_queue(run, status):
    exit_status, err, noted = run(STATUS=str(status), SLURM_RESTART_COUNT="3")
    assert exit_status == status
    assert "scontrol requeue 77\n" in noted
    assert "back to the queue, restart 4" in err


def test_who_asks_for_a_new_start_waits_for_the_others(run):
    _, _, noted = run(STATUS="138", MOCO_GRACE="44")
    assert noted.index("sleep 44\n") < noted.index("scontrol requeue")


def test_who_was_told_to_leave_does_not_wait(run):
    _, _, noted = run(DO="kill -TERM $PPID", STATUS="138")
    assert "sleep" not in noted.partition("scontrol")[0]


def test_out_of_memory_is_tried_again(run):
    _, _, noted = run(SRUN="exit 253")
    assert "scontrol requeue 77" in noted


def test_a_failure_of_srun_itself_is_not_tried_again(run):
    status, err, noted = run(SRUN="exit 1")
    assert status == 1
    assert "scontrol" not in noted


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", ""])
def test_a_cancelled_job_is_not_put_back(run, state):
    status, err, noted = run(STATUS="138", STATE=state or " ")
    assert status == 138
    assert "scontrol" not in noted
    assert "not requeued here" in err


def test_there_are_so_many_restarts_at_most(run):
    variables = {"STATUS": "138", "MOCO_MAX_RESTARTS": "2"}
    _, err, noted = run(SLURM_RESTART_COUNT="1", **variables)
    assert "scontrol requeue 77" in noted
    status, err, noted = run(SLURM_RESTART_COUNT="2", **variables)
    assert status == 138
    assert "scontrol" not in noted
    assert "after 2 restarts: given up" in err


def test_usr1_for_the_script_alone_is_handed_on(start, tmp_path):
    code = "trap 'note got; exit 138' USR1; note ready; "
    process = start(SRUN=code + "while :; do /bin/sleep 0.05; done")
    notes = tmp_path / "notes"
    waiting.wait_for(lambda: notes.exists() and "ready" in notes.read_text())
    process.send_signal(signal.SIGTERM)  # Slurm tells the tasks itself
    time.sleep(0.3)
    assert process.poll() is None
    assert "got" not in notes.read_text()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=10) == 138
    assert notes.read_text().count("got") == 1


def test_cpus_per_task_reach_the_step(run):
    code = 'note "cpus ${SRUN_CPUS_PER_TASK:-none}"; exit 0'
    assert "cpus 6\n" in run(SRUN=code, SLURM_CPUS_PER_TASK="6")[2]
    assert "cpus none\n" in run(SRUN=code)[2]


def test_dry_run_prints_the_command_and_starts_nothing(start, tmp_path):
    process = start("--workdir=a b", DRY_RUN="1")
    out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
    words = shlex.split(out)
    assert words[0] == "srun"
    assert words[-3:] == ["moco", "pretrain", "--workdir=a b"]
    assert not (tmp_path / "notes").exists()


def test_the_environment_of_the_checkout_is_used(start, tmp_path):
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    process = start(DRY_RUN="1", MOCO_TF="")
    out = process.communicate(timeout=10)[0]
    assert out.endswith(f"{python} -m moco_tf pretrain \n")


def test_a_missing_program_is_an_error(run):
    status, err, noted = run(MOCO_TF="")
    assert status == 1
    assert "moco-tf must be installed" in err
    assert "srun" not in noted


def test_slurm_reads_what_the_script_needs():
    lines = SCRIPT.read_text().splitlines()
    asked = {
        line.removeprefix("#SBATCH ") for line in lines if "#SBATCH" in line
    }
    assert asked >= {
        "--ntasks-per-node=1",
        "--requeue",
        "--signal=USR1@300",
        "--open-mode=append",
    }


_REAL = shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin")


@pytest.mark.system
@pytest.mark.skipif(
    not _REAL or os.geteuid() != 0, reason="needs slurmctld, and root"
)
def test_a_real_slurm_restarts_what_is_lost_and_stops_at_a_failure(tmp_path):
    task = tmp_path / "task"
    task.write_text(f"#!{sys.executable}\n{_TASK}")
    task.chmod(0o755)
    result = subprocess.run(
        [ROOT / "benchmarks/slurm_one_node.sh", "--config=x", "--y=a b"],
        env={
            "PATH": os.environ["PATH"],
            "NOTES": str(tmp_path / "notes"),
            "MOCO_TF": str(task),
            "MOCO_GRACE": "3",
            "PLAN": "usr1,wait kill,wait 1,wait",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAILED with status 1, signal 0, 2 restarts" in result.stdout
    noted = sorted((tmp_path / "notes").read_text().splitlines())
    words = "argv pretrain --config=x --y=a b"
    for number in range(3):
        for index in range(2):
            assert f"{number} {index} {words}" in noted
            lines = [
                n for n in noted if n.startswith(f"{number} {index} place")
            ]
            assert lines[0].split()[3::2] == ["2", "2"]
    # USR1 reaches every task; who loses a peer is asked to leave, and saves.
    answers = [line for line in noted if "got" in line or "saved" in line]
    assert answers == [
        "0 0 got SIGUSR1",
        "0 0 saved",
        "0 1 got SIGUSR1",
        "0 1 saved",
        "1 1 got SIGTERM",
        "1 1 saved",
        "2 1 got SIGTERM",
        "2 1 saved",
    ]
