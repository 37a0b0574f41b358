"""The quickstart with several seeds: kNN, time and memory of each run.

python benchmarks/quickstart_seeds.py
python benchmarks/quickstart_seeds.py --seeds=3 --workdir=runs/seeds

Exits 1 unless, with every seed, kNN of the trained encoder is at least 10
points above the better of raw pixels and the untrained encoder.
"""

import argparse
import csv
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

POINTS = 10.0  # percent
_BEFORE = re.compile(
    r"kNN before training: raw pixels ([\d.]+) %  untrained encoder "
    r"\((\w+)\) ([\d.]+) %"
)


class Run(NamedTuple):
    """kNN in percent, wall time in seconds, peak memory in GB."""

    seed: int
    pixels: float
    untrained: float
    trained: float
    seconds: float
    memory: float

    def gain(self):
        """Points above the better of the two baselines."""
        return self.trained - max(self.pixels, self.untrained)


def quickstart(seed, workdir, words):
    """Runs the quickstart in a new workdir and returns its figures.

    Args:
      seed: int. workdir: Path. words: list of str, for `moco-tf pretrain`.

    Raises:
      SystemExit: if the run fails or prints no kNN before training.
    """
    command = [sys.executable, "-m", "moco_tf", "pretrain"]
    command += ["--config=quickstart", f"--workdir={workdir}"]
    command += [f"--config.seed={seed}", *words]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    before = None
    for line in process.stdout:
        print(f"  {line}", end="", flush=True)
        before = _BEFORE.search(line) or before
    # wait4 gives the memory of this one child; getrusage that of the largest.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    if process.returncode:
        sys.exit(f"seed {seed}: pretrain ended with {process.returncode}")
    if before is None:
        sys.exit(f"seed {seed}: no kNN before training; is {workdir} new?")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, else KiB
    return Run(
        seed,
        float(before[1]),
        float(before[3]),
        100 * last_value(workdir / "metrics.csv", f"knn_{before[2]}"),
        seconds,
        usage.ru_maxrss * unit / 1e9,
    )


def last_value(path, column):
    """Returns the last number of a column of metrics.csv."""
    with path.open(newline="") as file:
        values = [row[column] for row in csv.DictReader(file)]
    return float([value for value in values if value][-1])


def main():
    parser = argparse.ArgumentParser(
        description="The quickstart with several seeds.",
        epilog="Other words go to `moco-tf pretrain`.",
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", default="0,1,2", help="[0,1,2]")
    parser.add_argument("--workdir", help="of the runs [a temporary folder]")
    options, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        parent = pathlib.Path(options.workdir or temporary)
        runs = []
        for seed in map(int, options.seeds.split(",")):
            print(f"seed {seed}", flush=True)
            runs.append(quickstart(seed, parent / f"seed_{seed}", words))
    print(
        f"{'seed':>4}{'raw pixels':>12}{'untrained':>11}{'trained':>9}"
        f"{'gain':>8}{'time':>9}{'memory':>10}"
    )
    for run in runs:
        print(
            f"{run.seed:>4}{run.pixels:>10.2f} %{run.untrained:>9.2f} %"
            f"{run.trained:>7.2f} %{run.gain():>8.2f}{run.seconds:>7.0f} s"
            f"{run.memory:>7.2f} GB"
        )
    if min(run.gain() for run in runs) < POINTS:
        sys.exit(f"a trained encoder gains less than {POINTS:g} points")


if __name__ == "__main__":
    main()
