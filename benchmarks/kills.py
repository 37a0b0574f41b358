"""Workers killed at random times: does the run end with the same bits?

python benchmarks/kills.py
python benchmarks/kills.py --kills=2 --config=moco_cifar10 \
    --config.data.source=folder:cifar10/train --config.train.batch_size=64 \
    --config.train.max_steps=200 --config.checkpoint.every_steps=20

Runs two local workers to their end, undisturbed; then the same again under
launch/local_workers.py, with one worker or the other killed (SIGKILL) at a
random time of each round, in training or in its start. Compares every tensor
of the last checkpoints, and exits 1 where a bit differs. Other words go to
`moco-tf pretrain`; without any, a small network on the embedded images.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

LAUNCHER = pathlib.Path(__file__).parents[1] / "launch" / "local_workers.py"
SMALL = (
    "--config=moco_cifar10",
    "--config.data.source=shapes:test",
    "--config.model.width=0.125",
    "--config.data.image_size=16",
    "--config.model.bn_groups=2",
    "--config.moco.queue_size=1001",
    "--config.train.batch_size=32",
    "--config.train.max_steps=1000",
    "--config.checkpoint.every_steps=10",
)


def start(words, workdir, log_dir):
    """Starts two workers under the launcher."""
    command = [sys.executable, "-m", "moco_tf", "pretrain", *words]
    flags = ["--count=2", f"--log_dir={log_dir}", "--pause=0.2"]
    flags += ["--longest_pause=0.2", "--grace=10"]
    return subprocess.Popen(
        [
            *[sys.executable, LAUNCHER, *flags, "--restarts=1000", "--"],
            *[*command, f"--workdir={workdir}"],
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def workers(workdir):
    """Process ids of the workers of a workdir."""
    running = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:  # it has ended
            continue
        joined = any(word.startswith("--worker_index=") for word in words)
        launcher = any(word.endswith("local_workers.py") for word in words)
        if f"--workdir={workdir}" in words and joined and not launcher:
            running.append(int(folder.name))
    return running


def steps_done(workdir):
    """The step of the newest checkpoint, 0 without one."""
    names = pathlib.Path(workdir, "checkpoints").glob("step-*/meta.json")
    return max((int(name.parent.name[5:]) for name in names), default=0)


def disturb(launcher, workdir, kills, longest, chance):
    """Kills workers at random times; returns how many were killed.

    Args:
      launcher: Popen. workdir: Path. kills: int, at most.
      longest: seconds of a round before its kill, at most.
      chance: random.Random.
    """
    done = 0
    while done < kills and launcher.poll() is None:
        if len(workers(workdir)) < 2:
            time.sleep(0.1)
            continue
        begin, before = time.monotonic(), steps_done(workdir)
        if done % 2:  # every second one in the start or after it, as it is
            time.sleep(chance.uniform(0, longest))
        else:  # the others in training
            while steps_done(workdir) == before and launcher.poll() is None:
                time.sleep(0.05)
            time.sleep(chance.uniform(0, longest / 4))
        running = workers(workdir)
        if not running:
            continue
        victim = chance.choice(running)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:  # it has just ended
            continue
        done += 1
        seconds = time.monotonic() - begin
        print(
            f"kill {done}: {seconds:.1f} s after the start from step {before}, "
            f"last saved step {steps_done(workdir)}",
            flush=True,
        )
        while victim in workers(workdir) and launcher.poll() is None:
            time.sleep(0.1)
    return done


def different(left, right):
    """Names of the tensors that differ between two runs' last checkpoints."""
    import tensorflow as tf

    from moco_tf.training import checkpoints

    readers = [
        tf.train.load_checkpoint(str(checkpoints.latest(run) / "state"))
        for run in (left, right)
    ]
    names = set(readers[0].get_variable_to_shape_map())
    unequal = names ^ set(readers[1].get_variable_to_shape_map())
    for name in names - unequal:
        if "OBJECT_GRAPH" in name or "_counter" in name:
            continue  # how often something was saved, not what
        one, other = (reader.get_tensor(name) for reader in readers)
        if "step_log" in name:  # its last column is time
            one, other = one[:, :-1], other[:, :-1]
        if one.tobytes() != other.tobytes():
            unequal.add(name)
    return len(names), sorted(unequal)


def main():
    parser = argparse.ArgumentParser(
        description="Kills workers at random times and compares bits.",
        allow_abbrev=False,
    )
    parser.add_argument("--kills", type=int, default=20, help="[20]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument(
        "--longest", type=float, default=25.0, help="s before a kill [25]"
    )
    options, words = parser.parse_known_args()
    words = words or SMALL
    with tempfile.TemporaryDirectory() as folder:
        runs = [pathlib.Path(folder, name) for name in ("quiet", "disturbed")]
        for run in runs:
            clock = time.monotonic()
            launcher = start(words, run, run.with_suffix(".logs"))
            if run == runs[1]:
                kills = disturb(
                    launcher,
                    run,
                    options.kills,
                    options.longest,
                    random.Random(options.seed),
                )
            if launcher.wait():
                log = run.with_suffix(".logs") / "worker-0.log"
                sys.exit(f"{run.name}: {log.read_text()[-3000:]}")
            seconds = time.monotonic() - clock
            print(f"{run.name}: step {steps_done(run)} after {seconds:.0f} s")
        count, unequal = different(*runs)
    print(
        f"{kills} kills; {count} tensors, {len(unequal)} differ {unequal[:5]}"
    )
    sys.exit(1 if unequal or kills < options.kills else 0)


if __name__ == "__main__":
    main()
