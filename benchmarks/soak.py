"""A long run of a tiny model, killed again and again: is it the same run?

python benchmarks/soak.py
python benchmarks/soak.py --kills=3 --config.train.max_steps=2000

Runs `moco-tf pretrain` to its end, undisturbed; then the same in another
workdir, killed (SIGKILL) at random steps, every fifth time in its start, and
started again. Compares every tensor of the last checkpoints and every row of
metrics.csv, and watches the memory of each process and the number of files.
Exits 1 where a bit differs, where memory grows or files are left behind.
Other words go to `moco-tf pretrain`, after those of the small network here.
"""

import argparse
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import kills

from moco_tf.cli import quiet
from moco_tf.monitoring import metrics_csv

STEPS = 20_000
SMALL = (
    "--config=moco_cifar10",
    "--devices=cpu",
    "--config.data.source=shapes:test",
    "--config.knn.bank=shapes:test",
    "--config.knn.query=shapes:test",
    # Eight within the first fifth of the steps: then its memory has settled.
    "--config.knn.every_epochs=2",
    "--config.model.width=0.0625",
    "--config.model.dim=16",
    "--config.data.image_size=16",
    "--config.model.bn_groups=2",
    "--config.moco.queue_size=101",
    "--config.train.batch_size=8",
    "--config.train.epochs=81",
    f"--config.train.max_steps={STEPS}",
    "--config.checkpoint.every_steps=125",
    "--config.log.every_steps=250",
)
# Columns that may differ.
TIMES = ("images_per_second", "input_wait_share", "time")
GROWTH = 0.05  # of the memory after a fifth of the steps, at most


class Session(NamedTuple):
    """What was seen of one process."""

    killed: bool
    first: int  # step of the checkpoint that it started from
    last: int  # step of the newest checkpoint at its end
    memory: list  # (step, bytes resident), every half second
    peak: int  # bytes


def run(words, workdir, kill_at=None, kill_after=None):
    """Runs one process to its end, or kills it.

    Args:
      words: of `moco-tf pretrain`. workdir: Path.
      kill_at: step whose checkpoint is waited for before the kill, or None.
      kill_after: seconds from there, or from the start without a step.

    Returns:
      Session.
    """
    log = workdir.with_suffix(".log").open("ab")
    command = [sys.executable, "-m", "moco_tf", "pretrain", *words]
    with log:
        process = subprocess.Popen(
            [*command, f"--workdir={workdir}"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    first, memory, peak = kills.steps_done(workdir), [], 0
    while process.poll() is None:
        step = kills.steps_done(workdir)
        resident, peak = sizes(process.pid) or (0, peak)
        if resident:
            memory.append((step, resident))
        if kill_after is not None and (kill_at is None or step >= kill_at):
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
        wait(process, 0.5)
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(workdir.with_suffix(".log").read_text()[-3000:])
    return Session(
        process.returncode != 0,
        first,
        kills.steps_done(workdir),
        memory,
        peak,
    )


def wait(process, seconds):
    """Waits for a process, but no longer than so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def sizes(pid):
    """Bytes resident and their peak so far; None for a process that ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines())
    if "VmRSS" not in fields:  # it is ending
        return None
    return tuple(
        1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")
    )


def disturbed(words, workdir, wanted, chance):
    """Runs to the end through so many kills; yields each Session."""
    last_step = int(words[-1].partition("=")[2])
    done = 0
    while True:
        at, after = None, None
        if done < wanted and done % 5 == 4:
            after = chance.uniform(0, 20)
        elif done < wanted:
            here = kills.steps_done(workdir)
            stride = (last_step - here) / (wanted - done + 1)
            at = int(here + stride * chance.uniform(0.5, 1.5))
            after = chance.uniform(0, 2)
        session = run(words, workdir, at, after)
        done += session.killed
        yield session
        if not session.killed:
            return


def growth(memory, last_step):
    """Share by which memory grew after a fifth of the steps: medians."""
    settled = [size for step, size in memory if step >= last_step / 5]
    part = max(1, len(settled) // 10)
    before, after = settled[:part], settled[-part:]
    return statistics.median(after) / statistics.median(before) - 1


def files(workdir):
    """Names of a workdir's files; of event files, one comes with each start."""
    return {
        path.relative_to(workdir).as_posix()
        for path in workdir.rglob("*")
        if path.is_file() and "tfevents" not in path.name
    }


def rows(workdir):
    """The rows of metrics.csv without what depends on time."""
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in metrics_csv.read(workdir / "metrics.csv")
    ]


def describe(number, session):
    """One line for a process."""
    middle = [size for _, size in session.memory[len(session.memory) // 2 :]]
    print(
        f"process {number}: {'killed' if session.killed else 'ended'}, from "
        f"step {session.first} to {session.last}, "
        f"{statistics.median(middle or [0]) / 1e6:.0f} MB resident, peak "
        f"{session.peak / 1e6:.0f} MB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description="Kills a long run again and again and compares bits.",
        allow_abbrev=False,
    )
    parser.add_argument("--kills", type=int, default=16, help="[16]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    options, words = parser.parse_known_args()
    quiet.prepare()
    words = [*SMALL, *words]
    steps = [w for w in words if w.startswith("--config.train.max_steps=")]
    words.append(steps[-1])  # the last one counts
    last_step = int(steps[-1].partition("=")[2])
    with tempfile.TemporaryDirectory() as folder:
        still, other = (pathlib.Path(folder, n) for n in ("still", "disturbed"))
        clock = time.monotonic()
        undisturbed = run(words, still)
        describe(0, undisturbed)
        print(f"undisturbed: {time.monotonic() - clock:.0f} s", flush=True)
        clock, sessions = time.monotonic(), []
        chance = random.Random(options.seed)
        for session in disturbed(words, other, options.kills, chance):
            sessions.append(session)
            describe(len(sessions), session)
        print(f"disturbed: {time.monotonic() - clock:.0f} s")
        with quiet.imports():
            count, unequal = kills.different(still, other)
        unequal += [] if rows(still) == rows(other) else ["metrics.csv"]
        left, file_count = files(still) ^ files(other), len(files(other))
        grown = growth(undisturbed.memory, last_step)
    killed = sum(session.killed for session in sessions)
    peaks = [
        session.peak for session in [undisturbed, *sessions] if session.peak
    ]
    print(
        f"{killed} kills in {last_step} steps; {count} tensors and metrics.csv"
        f", {len(unequal)} differ {unequal[:5]}\n"
        f"memory {100 * grown:+.1f} % from a fifth of the steps to the end, "
        f"highest peak {max(peaks) / 1e6:.0f} MB, undisturbed "
        f"{undisturbed.peak / 1e6:.0f} MB\n"
        f"{file_count} files beside the event files, {len(left)} not in "
        f"both runs {sorted(left)[:5]}"
    )
    bad = unequal or left or killed < options.kills or grown > GROWTH
    bad = bad or max(peaks) > (1 + GROWTH) * undisturbed.peak
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
