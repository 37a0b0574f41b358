"""What the dictionary, the momentum and the views do, with all else equal.

python benchmarks/mechanisms.py --experiment=methods --size=32 --epochs=10
python benchmarks/mechanisms.py --experiment=dictionary --seeds=0,1
python benchmarks/mechanisms.py --data=folder:cifar10/train \
    --test=folder:cifar10/test --experiment=momentum
python benchmarks/mechanisms.py --write=docs/results

Every case trains the quickstart's encoder on the same data for the same number
of epochs; only what the case names is different. A finished case is a line of
--results, and is not run again. --write makes the page and the plots of all
results. Exits 1 if, among the methods, one gains less than 10 points of kNN
over its untrained encoder.
"""

import argparse
import json
import pathlib
import sys
import time

import mechanisms_page
import numpy as np
import tensorflow as tf

from moco_tf import assembly, config_fields, method_table, pretrain
from moco_tf import config as configs
from moco_tf.data import augmentation, sources
from moco_tf.evaluation import monitor, probe, subsets

POINTS = 10.0  # percent
_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# Of the small run, where the published value is for another size of data.
_SECTIONS = {
    "moco": {
        "queue_size": 1024,
        "momentum": 0.996,
        "temperature": 0.1,
    },
    "memory_bank": {
        "negatives": 1024,
        "temperature": 0.1,
        "loss": "info_nce",
    },
    "end_to_end": {"temperature": 0.1},
    "simclr": {"temperature": 0.2},
    "byol": {"momentum": 0.97},
    "swav": {
        "prototypes": 100,
        "queue_size": 1024,
        "queue_from_epoch": 0,
        "frozen_epochs": 0,
    },
    "cmc": {"negatives": 1024, "temperature": 0.1, "loss": "info_nce"},
    "cpc": {"rows": 2, "blocks": 2, "negatives": 1024},
    "dino": {
        "outputs": 128,
        "first_teacher_temperature": 0.05,
        "teacher_temperature": 0.05,
        "momentum": 0.95,
        "frozen_epochs": 0,
    },
}
_OWN = {
    "simclr": {"model.head": "simclr"},
    "byol": {
        "model.head": "byol",
        "model.hidden": 256,
        "model.bn_groups": 1,
        "optimizer.learning_rate": 0.2,
        "optimizer.weight_decay": 5e-4,
    },
    "swav": {
        "model.head": "swav",
        "model.hidden": 256,
        "model.bn_groups": 1,
        "optimizer.learning_rate": 0.1,
        "optimizer.weight_decay": 5e-4,
    },
    "cmc": {"model.input": "lab", "model.head": "fc", "data.views": "cmc"},
    "cpc": {
        "model.input": "grid",
        "model.norm": "layer",
        "model.head": "fc",
        "data.views": "cpc",
        "optimizer.name": "adam",
        "optimizer.learning_rate": 1e-3,
    },
    "dino": {
        "model.head": "dino_bn",
        "model.hidden": 256,
        "model.bn_groups": 1,
        "optimizer.learning_rate": 0.2,
        "optimizer.weight_decay": 5e-4,
    },
}
_OPERATIONS = {
    "crop": {"low": 0.2},
    "colour": {"jitter": 1.0, "reach": (0.8, 0.8, 0.8, 0.2)},
    "grey": {"gray": 0.5},
    "blur": {"blur": 1.0},
    "solarise": {"solarize": 0.5},
}


def cases(experiment):
    """The cases of an experiment: label -> (method, fields, augmentation)."""
    if experiment == "methods":
        return {name: (name, {}, None) for name in method_table.METHODS}
    if experiment == "dictionary":
        sizes = (128, 256, 512, 1024, 4096)
        found = {
            f"queue {size}": ("moco", {"moco.queue_size": size}, None)
            for size in sizes
        }
        found |= {
            f"bank {size}": (
                "memory_bank",
                {"memory_bank.negatives": size},
                None,
            )
            for size in sizes
        }
        return found | {
            f"batch {size}": (
                "end_to_end",
                # In step with the batch, as the published rate is for 256.
                {
                    "train.batch_size": size,
                    "optimizer.learning_rate": 0.06 * size / 128,
                },
                None,
            )
            for size in (64, 128, 256, 512)
        }
    if experiment == "multi_crop":
        small = {
            "data.small_views": 4,
            "data.small_size": 16,
            "data.small_scale": (0.1, 0.35),
        }
        return {
            f"{name}{more}": (name, fields, None)
            for name in ("moco", "simclr", "byol", "swav", "dino")
            for more, fields in (("", {}), (" + 4 small", small))
        }
    values = {
        "momentum": ("moco.momentum", (0.0, 0.9, 0.99, 0.999, 0.9999)),
        "temperature": ("moco.temperature", (0.05, 0.1, 0.2, 0.5)),
        "head": ("model.head", ("fc", "mlp", "simclr")),
        "shuffle": ("moco.shuffle", ("auto", "none")),
    }
    if experiment in values:
        name, tried = values[experiment]
        return {str(value): ("moco", {name: value}, None) for value in tried}
    names = list(_OPERATIONS)
    return {
        f"{one} + {other}": ("simclr", {}, (one, other))
        for place, one in enumerate(names)
        for other in names[place:]
    }


EXPERIMENTS = (
    "methods",
    "dictionary",
    "momentum",
    "temperature",
    "head",
    "shuffle",
    "augmentation",
    "multi_crop",
)


def make_config(method, fields, options, seed):
    """The configuration of a case: the quickstart's, with the method's own."""
    values = configs.flatten(configs.load("quickstart").to_dict())
    known = config_fields.PRETRAIN
    values = {name: values[name] for name in known}
    recipe = configs.load(method_table.METHODS[method].configs[0])
    own = recipe[method].to_dict() | _SECTIONS[method]
    values |= {f"{method}.{name}": value for name, value in own.items()}
    values |= {
        "method": method,
        "seed": seed,
        "train.epochs": options.epochs,
        "data.source": options.data,
        "knn.bank": options.data,
        "knn.query": options.test,
        "data.image_size": options.size,
        "train.precision": options.precision,
        "model.patch": options.size // 2,  # a grid of 3 x 3
    }
    return configs.build(values | _OWN.get(method, {}) | fields)


def compose(operations):
    """The views of one or two operations, in the order of the recipes."""
    parts = {"low": 1.0}  # no crop: the whole image
    for operation in operations:
        parts |= _OPERATIONS[operation]
    return augmentation.Augmentation(**parts)


def measure(config, operations):
    """Trains a case and judges its encoder before and after.

    Returns:
      dict of percent: "knn" and "linear" of the backbone, and both with
      "untrained_" before; "loss" of the last tenth of the steps; "seconds".
    """
    start = time.monotonic()
    strategy = tf.distribute.get_strategy()
    source = sources.open_source(config.data.source)
    stream = assembly.make_stream(config, source)
    if operations:
        stream.use(compose(operations))
    method = pretrain.make_method(config, strategy, len(source))
    judge = monitor.KnnMonitor(config)
    before = judged(judge, method)
    iterator = iter(stream.distribute(strategy, 0))
    step = method.make_train_function()
    losses = []
    for _ in range(config.train.epochs * stream.steps_per_epoch):
        losses.append(step(iterator)["loss"])
    tail = [float(loss) for loss in losses[-max(1, len(losses) // 10) :]]
    return {
        **judged(judge, method),
        **{f"untrained_{name}": value for name, value in before.items()},
        "loss": float(np.mean(tail)),
        "seconds": time.monotonic() - start,
    }


def judged(judge, method):
    """Percent of kNN and of the linear probe, on the backbone."""
    knn = 100 * judge(method.query_encoder)["knn_backbone"]
    bank, query = judge.take()
    probed = linear(bank, query, judge.truth, judge.classes)
    return {"knn": knn, "linear": probed}


def linear(bank, query, truth, classes):
    """Test accuracy in percent of a probe whose rate a held-out part chose."""
    rows = bank.backbone
    _, held = subsets.split(bank.labels, 0.1, 0)
    held = np.isin(np.arange(len(rows)), held)
    recipe = probe.Recipe(_RATES, 60, (36, 48), 0.1, 0.9, 0.0, 256, 0)
    weights = probe.train([rows], bank.labels, ~held, classes, recipe)
    best = int(np.argmax(probe.top1(rows, bank.labels, held, weights)))
    everyone = np.ones(len(query.index), bool)
    chosen = weights[best : best + 1]
    found = probe.top1(query.backbone, truth[query.index], everyone, chosen)
    return 100 * float(found[0])


def parse():
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--experiment", choices=EXPERIMENTS, action="append", default=[]
    )
    parser.add_argument("--case", help="one case of the experiment alone")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", default="0", help="0,1,2")
    parser.add_argument("--data", default="shapes:train")
    parser.add_argument("--test", default="shapes:test")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--results", default="mechanisms.jsonl")
    parser.add_argument("--write", help="folder of mechanisms.md and plots")
    return parser.parse_args()


def main():
    options = parse()
    results = pathlib.Path(options.results)
    lines = results.read_text().splitlines() if results.exists() else []
    done = [json.loads(line) for line in lines]
    budget = ["data", "test", "epochs", "size", "precision"]
    short = []
    for experiment in options.experiment:
        for seed in map(int, options.seeds.split(",")):
            for label, (method, fields, operations) in cases(
                experiment
            ).items():
                if options.case not in (None, label):
                    continue
                case = {
                    "experiment": experiment,
                    "case": label,
                    "seed": seed,
                    **{name: getattr(options, name) for name in budget},
                }
                found = [r for r in done if case.items() <= r.items()]
                if not found:
                    config = make_config(method, fields, options, seed)
                    found = [case | measure(config, operations)]
                    tf.keras.backend.clear_session()
                    done += found
                    with results.open("a") as file:
                        file.write(json.dumps(found[0]) + "\n")
                row = found[0]
                gained = row["knn"] - row["untrained_knn"]
                print(
                    f"{experiment:<12} {label:<20} seed {seed}  kNN "
                    f"{row['untrained_knn']:.2f} -> {row['knn']:.2f} %  linear "
                    f"{row['untrained_linear']:.2f} -> {row['linear']:.2f} %  "
                    f"loss {row['loss']:.3f}  "
                    f"{row['seconds']:.0f} s",
                    flush=True,
                )
                if experiment == "methods" and gained < POINTS:
                    short.append(label)
    if options.write:
        mechanisms_page.write(done, pathlib.Path(options.write))
    if short:
        sys.exit(f"less than {POINTS:g} points gained: {', '.join(short)}")


if __name__ == "__main__":
    main()
