"""Compares the two lanes: step, input, start-up and memory, in turn.

    python benchmarks/lanes.py --config.data.source=folder:cifar10/train

Both environments must be there (launch/test.sh --lane=2.15, --lane=current).
Each figure is that of `moco-tf benchmark` or of one step of `moco-tf pretrain`,
in a process of its own; the lanes take turns, and who begins changes with the
round. Prints each round, then medians and the ratios current / 2.15.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LANES = {"2.15": ".venv", "current": ".venv-current"}
# A line of `moco-tf benchmark`: its name, then images a second.
FIGURES = {
    "input, images/s": re.compile(r"^input +([\d,.]+) images/s", re.M),
    "step, images/s": re.compile(r"^step +([\d,.]+) images/s", re.M),
}


def run(lane, command, words):
    """Runs a command in a lane: its output, seconds, and peak memory in GB."""
    environ = dict(os.environ)
    environ.pop("TF_USE_LEGACY_KERAS", None)
    python = ROOT / LANES[lane] / "bin" / "python"
    start = time.perf_counter()
    process = subprocess.Popen(
        [python, "-m", "moco_tf", command, *words],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command} in the lane {lane} failed:\n{output}")
    seconds = time.perf_counter() - start
    unit = 2**20 if os.uname().sysname == "Linux" else 2**30
    return output, seconds, usage.ru_maxrss / unit


def measure(lane, words):
    """The figures of a round in a lane, dict name -> float."""
    output, _, memory = run(lane, "benchmark", words)
    figures = {}
    for name, pattern in FIGURES.items():
        match = pattern.search(output)
        if not match:
            raise RuntimeError(f"no {name} in what was printed:\n{output}")
        figures[name] = float(match[1].replace(",", ""))
    figures["peak memory, GB"] = memory
    with tempfile.TemporaryDirectory() as folder:
        one = ["--config.train.max_steps=1", "--config.knn.bank="]
        one += ["--config.knn.query=", f"--workdir={folder}/run"]
        steps = [x for x in words if not x.startswith("--steps")]
        _, seconds, _ = run(lane, "pretrain", [*steps, *one])
    figures["start to the end of one step, s"] = seconds
    return figures


def main():
    command_line = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="--config.SECTION.FIELD=VALUE overrides a field.",
        allow_abbrev=False,
    )
    names = "quickstart,moco_cifar10,byol_cifar10"
    command_line.add_argument("--configs", default=names, help=f"[{names}]")
    names = "float32,mixed_bfloat16"
    command_line.add_argument("--precisions", default=names, help=f"[{names}]")
    command_line.add_argument("--rounds", type=int, default=5, help="[5]")
    command_line.add_argument("--steps", type=int, default=10, help="[10]")
    options, words = command_line.parse_known_args()
    for name in options.configs.split(","):
        for precision in options.precisions.split(","):
            print(f"{name}, {precision}")
            compare(
                [
                    f"--config={name}",
                    f"--steps={options.steps}",
                    f"--config.train.precision={precision}",
                    *words,
                ],
                options.rounds,
            )


def compare(words, rounds):
    """Measures both lanes in turn and prints what came out."""
    taken = {lane: [] for lane in LANES}
    for number in range(rounds):
        for lane in sorted(LANES, reverse=number % 2 == 1):
            figures = measure(lane, words)
            taken[lane].append(figures)
            shown = ", ".join(f"{n} {v:.3g}" for n, v in figures.items())
            print(f"  round {number + 1}, {lane}: {shown}", flush=True)
    for name in taken["2.15"][0]:
        old, new = ([x[name] for x in taken[lane]] for lane in LANES)
        ratios = [b / a for a, b in zip(old, new, strict=True)]
        print(
            f"  {name}: {statistics.median(old):.3g} (2.15), "
            f"{statistics.median(new):.3g} (current), ratio "
            f"{statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
