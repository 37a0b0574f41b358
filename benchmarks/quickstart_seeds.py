"""The quickstart with several seeds, in three ways: kNN, time and memory.

python benchmarks/quickstart_seeds.py
python benchmarks/quickstart_seeds.py --ways=plain --seeds=3 --results=new.jsonl
python benchmarks/quickstart_seeds.py --ways=

The ways are "plain", as `launch/quickstart.sh` runs it; "threads", with one
thread where there are several cores, else with two; and "bfloat16", in
mixed_bfloat16. A finished run is a line of --results and is not run again. At
the end all lines are shown, and the script exits 1 unless

* with every seed and in every way the trained encoder has at least 75 % kNN,
  raw pixels at most 40 % and the untrained encoder at most 45 %;
* the seeds of a way lie within 8 points of each other;
* the mean of another way is within 4 points of the plain one's.
"""

import argparse
import collections
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import measure

from moco_tf import config as configs
from moco_tf.monitoring import metrics_csv

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "quickstart.jsonl"
WAYS = {
    "plain": "plain",
    "threads": "other threads",
    "bfloat16": "bfloat16",
}
CONFIG = configs.load("quickstart")
TRAINED = 75.0  # percent, at least
PIXELS = 40.0  # percent, at most
UNTRAINED = 45.0  # percent, at most
SPREAD = 8.0  # points, at most
APART = 4.0  # points, at most, of the means of two ways


def run(way, seed, workdir, words):
    """Runs the quickstart in a new workdir.

    Args:
      way: one of WAYS. seed: int. workdir: Path.
      words: list of str, for `moco-tf pretrain`.

    Returns:
      dict, a line of the results: kNN in percent; seconds of the process, and
      of the steps alone; GB at the peak.

    Raises:
      SystemExit: if the run fails.
    """
    command = [sys.executable, "-m", "moco_tf", "pretrain"]
    command += ["--config=quickstart", f"--workdir={workdir}"]
    command += [f"--config.seed={seed}", *words]
    environment = dict(os.environ)
    if way == "bfloat16":
        command.append("--config.train.precision=mixed_bfloat16")
    if way == "threads":
        threads = 1 if os.cpu_count() > 1 else 2
        environment["TF_NUM_INTRAOP_THREADS"] = str(threads)
        command.append(f"--config.data.threads={threads}")
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    # wait4 gives the memory of this one child; getrusage that of the largest.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{way}, seed {seed}: ended with {process.returncode}")
    rows = metrics_csv.read(workdir / "metrics.csv")
    column = f"knn_{CONFIG.knn.features}"
    measured = [row for row in rows if row[column] is not None]

    def percent(name):
        return [round(100 * row[name], 2) for row in measured]

    # A row's speed is of the steps since the row before.
    seconds = sum(
        row["steps"] * CONFIG.train.batch_size / row["images_per_second"]
        for row in rows
        if row["images_per_second"]
    )
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, else KiB
    return {
        "way": way,
        "seed": seed,
        "pixels": percent("knn_pixels")[-1],
        "untrained": percent(f"start_{CONFIG.knn.features}")[-1],
        "trained": percent(column)[-1],
        "by_epoch": percent(column),
        "seconds": round(time.monotonic() - start),
        "steps_seconds": round(seconds),
        "gigabytes": round(usage.ru_maxrss * unit / 1e9, 2),
        "words": " ".join(words),
        "machine": measure.machine(),
    }


def read(path):
    """The lines of the results, list of dict."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def show(rows):
    """Prints a table of all lines, and a line for each way.

    Returns:
      list of str, what is not as wanted.
    """
    print("| way | seed | raw pixels | untrained | trained | steps | memory |")
    print("|---|---|---|---|---|---|---|")
    by_way = collections.defaultdict(list)
    for row in sorted(
        rows, key=lambda row: (list(WAYS).index(row["way"]), row["seed"])
    ):
        by_way[row["way"]].append(row["trained"])
        print(
            f"| {WAYS[row['way']]} | {row['seed']} | {row['pixels']:.2f} % "
            f"| {row['untrained']:.2f} % | {row['trained']:.2f} % "
            f"| {row['steps_seconds']} s | {row['gigabytes']:.1f} GB |"
        )
    print()
    for way, trained in by_way.items():
        print(
            f"{WAYS[way]}: {len(trained)} seeds, mean "
            f"{statistics.mean(trained):.2f} %, {min(trained):.2f} to "
            f"{max(trained):.2f} %"
        )
    return faults(rows, by_way)


def faults(rows, by_way):
    """What is not as wanted, list of str.

    Args:
      rows: lines of the results. by_way: dict, way -> list of percent.
    """
    wrong = []
    for row in rows:
        name = f"{WAYS[row['way']]}, seed {row['seed']}"
        if row["trained"] < TRAINED:
            wrong.append(f"{name}: trained {row['trained']} %")
        if row["pixels"] > PIXELS or row["untrained"] > UNTRAINED:
            wrong.append(f"{name}: too much is known before training")
    means = {way: statistics.mean(values) for way, values in by_way.items()}
    for way, values in by_way.items():
        if max(values) - min(values) > SPREAD:
            wrong.append(f"{WAYS[way]}: the seeds are {SPREAD:g} points apart")
        if abs(means[way] - means.get("plain", means[way])) > APART:
            wrong.append(f"{WAYS[way]}: the mean is {APART:g} points off")
    return wrong


def main():
    parser = argparse.ArgumentParser(
        description="The quickstart with several seeds, in three ways.",
        epilog="Other words go to `moco-tf pretrain`.",
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", default="1,2,3,4,5", help="[1,2,3,4,5]")
    parser.add_argument(
        "--ways",
        default=",".join(WAYS),
        help=f"[{','.join(WAYS)}]; none: shows the results alone",
    )
    parser.add_argument("--workdir", help="of the runs [a temporary folder]")
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=RESULTS,
        help="lines of JSON [docs/results/quickstart.jsonl]",
    )
    options, words = parser.parse_known_args()
    ways = [way for way in options.ways.split(",") if way]
    if unknown := set(ways) - set(WAYS):
        parser.error(f"--ways must be of {', '.join(WAYS)}, not {unknown}")
    with tempfile.TemporaryDirectory() as temporary:
        parent = pathlib.Path(options.workdir or temporary)
        for way in ways:
            for seed in map(int, options.seeds.split(",")):
                done = {
                    (row["way"], row["seed"]) for row in read(options.results)
                }
                if (way, seed) in done:
                    continue
                print(f"{WAYS[way]}, seed {seed}", flush=True)
                line = run(way, seed, parent / f"{way}_{seed}", words)
                with options.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    if wrong := show(read(options.results)):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
