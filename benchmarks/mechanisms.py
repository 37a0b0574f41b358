r"""All methods on one budget, and the comparisons of the papers.

python benchmarks/mechanisms.py --experiment=methods --epochs=4 --seeds=1,2,3
python benchmarks/mechanisms.py --experiment=momentum --epochs=8 \
    --seeds=0,1,2 --size=32 --precision=mixed_bfloat16 \
    --data=list:cifar10_train.txt --test=list:cifar10_test.txt
python benchmarks/mechanisms.py --results=docs/results/mechanisms.jsonl \
    --write=docs/results

Every case of an experiment trains on the same data for the same number of
epochs; only what the case names is different. A finished case is a line of
--results, and is not run again; nor is one that another experiment has had.
--write makes the page and the plots of all results. Exits 1 if, among the
methods on shapes, one gains less than 15 points over its untrained encoder, in
kNN or in the linear probe.

The lists of docs/results hold every fifth file of a folder and its class:
find cifar10/train -name '*.jpg' | sort | \
    awk -F/ 'NR % 5 == 0 {print $0 "\t" $(NF - 1)}' > cifar10_train.txt
"""

import argparse
import collections
import functools
import hashlib
import json
import pathlib
import sys
import time

import measure
import mechanisms_cases
import mechanisms_page
import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.data import sources
from moco_tf.evaluation import cached_probe, monitor, supervised

POINTS = 15.0  # percent
FIGURES = ("knn", "linear")
BUDGET = ("data", "test", "epochs", "size", "precision", "images")
_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_untrained = {}  # figures by digest: cases often begin with one encoder


def identity(config, images):
    """Digest of all that a case's figures depend on."""
    values = configs.flatten(config.to_dict())
    text = json.dumps([values, None, images], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def opened(spec, images):
    """A source, or evenly spaced images of it; 0: all."""
    source = sources.open_source(spec)
    if not images:
        return source
    indices = np.linspace(0, len(source) - 1, images).astype(np.int64)
    return sources.Subset(source, indices)


def train_case(config, images):
    """Trains a case and measures its encoder before and after.

    Args:
      config: ConfigDict. images: of the source that are trained on; 0: all.

    Returns:
      dict of percent: "knn" and "linear" of the backbone, and both with
      "untrained_" before; "loss" of the last tenth of the steps; "trained_on",
      images; "steps"; "seconds"; "machine".
    """
    start = time.monotonic()
    strategy = tf.distribute.get_strategy()
    source = opened(config.data.source, images)
    stream = plan.make_stream(config, source)
    method = plan.make_method(config, strategy, len(source))
    knn_monitor = monitor.KnnMonitor(config)
    start_of = digest(method, config)
    if start_of not in _untrained:
        _untrained[start_of] = accuracies(knn_monitor, method)
    before = _untrained[start_of]
    iterator = iter(stream.distribute(strategy, 0))
    step = method.make_train_function()
    losses = []
    for _ in range(config.train.epochs * stream.steps_per_epoch):
        losses.append(step(iterator)["loss"])
    tail = [float(loss) for loss in losses[-max(1, len(losses) // 10) :]]
    return {
        "trained_on": len(source),
        "steps": len(losses),
        **accuracies(knn_monitor, method),
        **{f"untrained_{name}": value for name, value in before.items()},
        "loss": float(np.mean(tail)),
        "seconds": time.monotonic() - start,
        "machine": measure.machine(),
    }


def digest(method, config):
    """What the figures of an encoder depend on, as it is now."""
    sha = hashlib.sha256(config.data.views.encode())
    for weight in method.query_encoder.weights:
        sha.update(weight.numpy().tobytes())
    return sha.hexdigest()


def accuracies(knn_monitor, method):
    """Percent of kNN and of the linear probe, on the backbone."""
    knn = 100 * knn_monitor(method.query_encoder)["knn_backbone"]
    bank, query = knn_monitor.take()
    probed = linear_accuracy(
        bank, query, knn_monitor.truth, knn_monitor.classes
    )
    return {"knn": knn, "linear": probed}


def linear_accuracy(bank, query, truth, classes):
    """Test accuracy in percent of a probe whose rate a held-out part chose."""
    rows = bank.backbone
    _, held_out = supervised.split(bank.labels, 0.1, 0)
    held_out = np.isin(np.arange(len(rows)), held_out)
    recipe = cached_probe.Recipe(_RATES, 60, (36, 48), 0.1, 0.9, 0.0, 256, 0)
    weights = cached_probe.train_probe(
        [rows], bank.labels, ~held_out, classes, recipe
    )
    best = int(
        np.argmax(cached_probe.top1(rows, bank.labels, held_out, weights))
    )
    everyone = np.ones(len(query.index), bool)
    chosen = weights[best : best + 1]
    top1 = cached_probe.top1(
        query.backbone, truth[query.index], everyone, chosen
    )
    return 100 * float(top1[0])


def parse():
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--experiment",
        choices=mechanisms_cases.EXPERIMENTS,
        action="append",
        default=[],
    )
    parser.add_argument("--case", help="one case of the experiment alone")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", default="0", help="0,1,2")
    parser.add_argument("--data", default="shapes:train")
    parser.add_argument("--test", default="shapes:test")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--images", type=int, default=0, help="0: all")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--results", default="mechanisms.jsonl")
    parser.add_argument("--write", help="folder of mechanisms.md and plots")
    return parser.parse_args()


def read(results):
    """The rows of a file of results."""
    lines = results.read_text().splitlines() if results.exists() else []
    return [json.loads(line) for line in lines]


def own_budget(method, options):
    """What a method needs beside the budget of all.

    Args:
      method: str. options: of the command line.

    Returns:
      int, how many times the epochs; int, images, 0: all.
    """
    longer = mechanisms_cases.LONGER.get(method, 1)
    images = options.images
    few = mechanisms_cases.IMAGES.get(method, 0)
    if few and not images:
        return longer * len(opened(options.data, 0)) // few, few
    return longer, images


def row_of(case, setting, options, results):
    """The row of a case: an earlier one's, or measured now and written.

    Args:
      case: dict, of experiment, label, seed and budget.
      setting: method and fields (see mechanisms_cases.py).
    """
    done = read(results)
    earlier = [row for row in done if case.items() <= row.items()]
    if earlier:
        return earlier[0]
    experiment, (method, fields) = case["experiment"], setting
    images = options.images
    if experiment == "methods":
        longer, images = own_budget(method, options)
        fields = {
            "train.epochs": options.epochs * longer,
            "schedule.warmup_epochs": longer,  # as many steps as the others
        } | fields
    config = mechanisms_cases.make_config(
        experiment, method, fields, options, case["seed"]
    )
    case = {**case, "identity": identity(config, images)}
    same = [row for row in done if row.get("identity") == case["identity"]]
    if same:
        row = same[0] | case
    else:
        row = case | train_case(config, images)
        tf.keras.backend.clear_session()
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def show(row):
    """Prints a row; rows of earlier days lack some figures."""
    figures = collections.defaultdict(lambda: float("nan"), row)
    print(
        f"{row['experiment']:<12} {row['case']:<20} seed {row['seed']}  kNN "
        f"{figures['untrained_knn']:.2f} -> {figures['knn']:.2f} %  linear "
        f"{figures['untrained_linear']:.2f} -> {figures['linear']:.2f} %  "
        f"loss {figures['loss']:.3f}  {figures['seconds']:.0f} s",
        flush=True,
    )


def short_of_points(row):
    """Whether a method gained too little, in kNN or in the linear probe."""
    if row["experiment"] != "methods" or not mechanisms_page.on_shapes(row):
        return False
    gains = [row[name] - row[f"untrained_{name}"] for name in FIGURES]
    return not min(gains) >= POINTS  # a figure that is NaN is short too


def main():
    options = parse()
    results = pathlib.Path(options.results)
    budget = {name: getattr(options, name) for name in BUDGET}
    short = []
    for experiment in options.experiment:
        for seed in map(int, options.seeds.split(",")):
            for label, setting in mechanisms_cases.cases(experiment).items():
                if options.case not in (None, label):
                    continue
                case = {"experiment": experiment, "case": label, "seed": seed}
                row = row_of(case | budget, setting, options, results)
                show(row)
                if short_of_points(row):
                    short.append(f"{label}, seed {seed}")
    if options.write:
        rows = read(results)
        if not rows:
            sys.exit(f"{results} holds no results.")
        mechanisms_page.write(rows, pathlib.Path(options.write))
    if short:
        sys.exit(f"less than {POINTS:g} points gained: {', '.join(short)}")


if __name__ == "__main__":
    main()
