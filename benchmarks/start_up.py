"""Seconds from the start of `moco-tf pretrain` to the end of its first step.

python benchmarks/start_up.py --config=quickstart
python benchmarks/start_up.py --config=moco_cifar10 --config.data.source=...

Python's start, imports, reading the data set's names, building and compiling
are in it; the kNN before training, which the quickstart prints, is not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

SETTINGS = (
    "--config.train.max_steps=1",
    "--config.log.every_steps=1",
    "--config.knn.baseline=false",
)


def first_step(words):
    """Runs `pretrain` and returns the seconds until it reports step 1.

    Args:
      words: list of str, the command line without --workdir.

    Raises:
      SystemExit: with the output of a run that fails.
    """
    seconds, output = None, []
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "moco_tf", "pretrain", *words]
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--workdir={os.path.join(workdir, 'run')}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in process.stdout:
            if seconds is None and "  step 1/1  " in line:
                seconds = time.perf_counter() - start
            output.append(line)
        status = process.wait()
    if status or seconds is None:
        sys.exit("".join([*output, f"pretrain ended with status {status}"]))
    return seconds


def main():
    parser = argparse.ArgumentParser(
        description="Seconds from process start to the end of the first step.",
        epilog="Other words go to `moco-tf pretrain`.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="quickstart", help="[quickstart]")
    parser.add_argument("--rounds", type=int, default=3, help="[3]")
    options, words = parser.parse_known_args()
    words = [f"--config={options.config}", *SETTINGS, *words]
    seconds = []
    for number in range(options.rounds):
        seconds.append(first_step(words))
        print(f"round {number + 1}: {seconds[-1]:.1f} s", flush=True)
    print(
        f"{options.config}: first step after "
        f"{statistics.median(seconds):.1f} s (median), "
        f"{max(seconds):.1f} s (slowest)"
    )


if __name__ == "__main__":
    main()
