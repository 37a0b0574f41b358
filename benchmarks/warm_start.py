"""What a start from weights does on a shift of domain, with three seeds.

python benchmarks/warm_start.py --data=cifar10 --runs=RUNS
python benchmarks/warm_start.py --data=cifar10 --runs=RUNS --only=to_cifar10
python benchmarks/warm_start.py --page_only

DIR has train/CLASS/*.jpg and test/CLASS/*.jpg. Each seed trains a network on
the shapes and one on every fifth image of CIFAR-10, then goes on from each with
the images of the other, in the ways of WAYS; "random" has the same schedule
without weights. A finished run is a line of --results and is not run again; its
checkpoints stay below --runs. At the end the page is written from all lines.
"""

import argparse
import collections
import json
import pathlib
import statistics
import subprocess
import sys

import measure

from moco_tf.monitoring import metrics_csv

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "warm_start.jsonl"
PAGE = RESULTS.with_suffix(".md")
EVERY = 5  # so many files are passed over for one that is taken
RATE = 0.06  # of the recipe, for a batch of 128
EPOCHS = 6
START_EPOCHS = {"shapes": 4, "cifar10": 10}
COMMON = {
    "data.image_size": 32,
    "log.tensorboard": "false",
}
# What a way adds to the recipe, in words and fields.
WAYS = {
    "random": ("random weights", {"model.init": ""}),
    "recipe": ("the recipe as it is", {}),
    "tenth": ("a tenth of the rate", {"optimizer.learning_rate": RATE / 10}),
    "steady": (
        "momentum 0.99 from the first step",
        {"moco.momentum_warmup_epochs": 0},
    ),
    "frozen": ("stem, stage1 frozen", {"model.freeze": "stem,stage1"}),
    "thousand_recipe": ("the recipe, 1,000 images", {}),
    "thousand_tenth": (
        "a tenth of the rate, 1,000 images",
        {"optimizer.learning_rate": RATE / 10},
    ),
    "thousand_random": ("random weights, 1,000 images", {"model.init": ""}),
}
SHIFTS = {  # from, to, ways
    "to_cifar10": ("shapes", "cifar10", list(WAYS)),
    "to_shapes": ("cifar10", "shapes", ["random", "recipe", "tenth"]),
}
THOUSAND_EPOCHS = 20  # of few images: a third of the steps of the others


def list_files(options, every, name):
    """Writes a list of every so many files of the training images.

    Returns:
      str, the source.
    """
    path = options.runs / f"{name}.txt"
    files = sorted((options.data / "train").glob("*/*.jpg"))[::every]
    rows = [f"{file.resolve()}\t{file.parent.name}\n" for file in files]
    path.write_text("".join(rows))
    return f"list:{path}"


def sources(options):
    """Training and test source of both domains, and of few images."""
    ten_thousand = list_files(options, EVERY, "ten_thousand")
    return {
        "shapes": ("shapes:train", "shapes:test"),
        "cifar10": (ten_thousand, f"folder:{options.data}/test"),
        "thousand": (
            list_files(options, 10 * EVERY, "thousand"),
            f"folder:{options.data}/test",
        ),
    }


def pretrain(workdir, fields):
    """Trains, or goes on; returns the rows of metrics.csv."""
    command = [sys.executable, "-m", "moco_tf", "pretrain"]
    command += ["--config=quickstart", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    log = workdir.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{workdir.name} failed:\n{log.read_text()}")
    return metrics_csv.read(workdir / "metrics.csv")


def fields_of(domain, seed, epochs, bank):
    """The fields of a run on a domain.

    Args:
      domain: (source of training, of test). bank: source with all images,
        which kNN votes with whatever is trained on.
    """
    train, test = domain
    return COMMON | {
        "data.source": train,
        "knn.bank": bank,
        "knn.query": test,
        "knn.every_epochs": epochs,
        "train.epochs": epochs,
        "moco.momentum_warmup_epochs": epochs,  # as in the recipe
        "seed": seed,
    }


def run(options, known, shift, way, seed):
    """The line of a run: kNN in percent of start and end."""
    begin, target, _ = SHIFTS[shift]
    start = options.runs / f"start_{begin}_{seed}"
    epochs = START_EPOCHS[begin]
    bank = known[begin][0]
    pretrain(start, fields_of(known[begin], seed, epochs, bank))
    name, epochs = target, EPOCHS
    if way.startswith("thousand"):
        name, epochs = "thousand", THOUSAND_EPOCHS
    fields = fields_of(known[name], seed, epochs, known[target][0])
    fields |= {"model.init": start} | WAYS[way][1]
    fields = {name: value for name, value in fields.items() if value != ""}
    rows = pretrain(options.runs / f"{shift}_{way}_{seed}", fields)
    last = [row for row in rows if row["knn_backbone"] is not None][-1]
    return {
        "shift": shift,
        "way": way,
        "seed": seed,
        "start": round(100 * last["start_backbone"], 2),
        "end": round(100 * last["knn_backbone"], 2),
        "epochs": epochs,
        "machine": measure.machine(),
    }


def read(path):
    """The lines of the results, list of dict."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def table(rows, shift):
    """The lines of a shift's table, in Markdown."""
    by_way = collections.defaultdict(dict)
    for row in rows:
        if row["shift"] == shift:
            by_way[row["way"]][row["seed"]] = row
    lines = [
        "| way | seeds | kNN before | kNN after | over random weights |",
        "|---|---|---|---|---|",
    ]
    for way in SHIFTS[shift][2]:
        runs = by_way[way]
        if not runs:
            continue
        few = way.startswith("thousand")
        others = by_way["thousand_random" if few else "random"]
        both = sorted(runs.keys() & others.keys())
        cells = [
            spread([row[name] for row in runs.values()])
            for name in ("start", "end")
        ]
        # The same seed has the same batches, and the same head.
        over = [runs[n]["end"] - others[n]["end"] for n in both]
        cells.append(
            spread(over, "+.1f") if over and "random" not in way else ""
        )
        lines.append(f"| {WAYS[way][0]} | {len(runs)} | {' | '.join(cells)} |")
    return lines


def spread(values, form=".1f"):
    """Mean and range in words."""
    low, high = min(values), max(values)
    mean = statistics.mean(values)
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"


def write_page(rows):
    """Writes the tables below the page's first lines, which stay."""
    head = PAGE.read_text().split("\n## ")[0] if PAGE.exists() else "# Starts\n"
    parts = [head.rstrip() + "\n"]
    for shift, (begin, target, _) in SHIFTS.items():
        if any(row["shift"] == shift for row in rows):
            parts.append(f"\n## From {begin} to {target}\n\n")
            parts.append("\n".join(table(rows, shift)) + "\n")
    PAGE.write_text("".join(parts))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, help="of CIFAR-10")
    parser.add_argument("--runs", type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--seeds", default="1,2,3", help="[1,2,3]")
    parser.add_argument("--only", choices=SHIFTS, help="one shift")
    parser.add_argument("--way", choices=WAYS, help="one way")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--page_only", action="store_true")
    options = parser.parse_args()
    if not options.page_only:
        if not (options.data and options.runs):
            parser.error("--data and --runs are needed for runs")
        options.runs.mkdir(parents=True, exist_ok=True)
        known = sources(options)
        for seed in map(int, options.seeds.split(",")):
            for shift in [options.only] if options.only else SHIFTS:
                for way in SHIFTS[shift][2]:
                    case = {"shift": shift, "way": way, "seed": seed}
                    if options.way not in (None, way) or any(
                        case.items() <= row.items()
                        for row in read(options.results)
                    ):
                        continue
                    line = run(options, known, shift, way, seed)
                    print(json.dumps(line), flush=True)
                    with options.results.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    write_page(read(options.results))


if __name__ == "__main__":
    main()
