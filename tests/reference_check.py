"""Replays whole training steps of the published implementation.

    python tests/reference_check.py tests/reference/moco_v1_resnet18_*.npz

Each file runs through the product itself: its MoCo, its optimiser and its
compiled train function under MirroredStrategy on logical CPU devices, once for
each shuffle. Prints the largest deviations and exits 1 beyond the limits.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

import torch_layout

from moco_tf.methods import moco
from moco_tf.models import encoder as encoders
from moco_tf.training import distribution, optimizers

SHUFFLES = ("gather", "address")
LIMITS = {
    "losses": 5e-4,  # relative
    "first_logits": 5e-3,  # absolute
    # Over the largest logit: float32 rounding flips single ReLUs, which grows
    # in a few steps, in the published figures too (docs/correctness.md).
    "last_logits": 5e-3,
    "queue": 3e-4,  # absolute
    "norms": 1e-3,  # relative
    "query_delta_norms": 3e-2,  # relative
    "tensors": 5e-3,  # largest difference over the tensor's largest value
    "queue_ptr": 0,
}
_COLUMNS = 33  # of the logits that a case stores


class ListedRates(tf.keras.optimizers.schedules.LearningRateSchedule):
    """The rates of a case, one a step."""

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, step):
        return tf.gather(tf.constant(self.rates, tf.float32), step)


class RecordedMoCo(moco.MoCo):
    """MoCo that also keeps each replica's first logits of the last step."""

    def record(self, rows):
        self.recorded = tf.Variable(
            tf.zeros([rows, _COLUMNS]), trainable=False, name="recorded"
        )

    def contrast(self, *rows):
        loss, logits = super().contrast(*rows)
        self.recorded.assign(logits[:, :_COLUMNS])
        return loss, logits


def build(config, strategy, shuffle_keys):
    """The product's MoCo with the weights and queue of a case."""
    rates = config.get("lrs") or [config["lr"]] * config["steps"]
    with strategy.scope():
        backbone = encoders.build_backbone(
            config["arch"], image_size=config["size"]
        )
        model = RecordedMoCo(
            backbone,
            head="mlp" if config["mlp"] else "fc",
            dim=config["dim"],
            queue_size=config["K"],
            momentum=config["m"],
            temperature=config["T"],
            shuffle_keys=shuffle_keys,
        )
        model.record(config["batch"] // config["world"])
        model.compile(
            optimizers.MomentumSGD(ListedRates(rates), 0.9, config["wd"])
        )
    model.build_optimizer()  # else the first step is traced twice
    weights = torch_layout.reference_weights(
        torch_layout.named_variables(model.query_encoder), config["seed"]
    )
    for encoder in (model.query_encoder, model.key_encoder):
        named = torch_layout.named_variables(encoder)
        for name, variable in named.items():
            variable.assign(torch_layout.from_torch(weights[name]))
    return model, weights


def batches(config, permutations, rng, shuffle_keys):
    """The global batches of a case, as the stream would deal them."""
    shape = (config["batch"], config["size"], config["size"], 3)
    for step in range(config["steps"]):
        query = rng.standard_normal(shape, dtype=np.float32)
        noise = rng.standard_normal(shape, dtype=np.float32)
        key = (query + 0.3 * noise).astype(np.float32)
        order = permutations[step].astype(np.int64)
        if shuffle_keys == "address":
            key = key[order]
        yield {
            "query": query,
            "key": key,
            "index": np.arange(config["batch"]) + step * config["batch"],
            "order": order,
            "valid": np.ones(config["batch"], bool),
        }


def iterator(config, strategy, steps):
    """A distributed iterator over injected global batches."""
    share = config["batch"] // config["world"]
    elements = [
        {
            name: value
            if name == "order"
            else value[replica * share : (replica + 1) * share]
            for name, value in batch.items()
        }
        for batch in steps
        for replica in range(config["world"])
    ]
    stacked = {
        name: np.stack([element[name] for element in elements])
        for name in elements[0]
    }
    dataset = tf.data.Dataset.from_tensor_slices(stacked)
    return iter(strategy.distribute_datasets_from_function(lambda _: dataset))


def replay(path, strategy, shuffle_keys):
    """Runs a case and returns the deviations, a dict with the LIMITS' keys."""
    case = np.load(path)
    config = json.loads(str(case["config"]))
    model, initial = build(config, strategy, shuffle_keys)
    rng = np.random.default_rng(config["seed"] + 1)
    queue = rng.standard_normal((config["K"], config["dim"]), dtype=np.float32)
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    model.queue.keys.assign(queue)
    steps = iterator(
        config,
        strategy,
        batches(config, case["permutations"], rng, shuffle_keys),
    )
    step = model.make_train_function()
    loss, logits = [], {}
    for number in range(config["steps"]):
        loss.append(float(step(steps)["loss"]))
        name = f"logits_step{number}"
        if name in case:
            found = np.concatenate(
                [
                    value.numpy()
                    for value in strategy.experimental_local_results(
                        model.recorded
                    )
                ]
            )
            width = case[name].shape[1]
            logits[number] = np.abs(found[:, :width] - case[name]).max()
    last = config["steps"] - 1
    return {
        "losses": relative(loss, case["losses"]),
        "first_logits": logits[0],
        "last_logits": logits[last] / np.abs(case[f"logits_step{last}"]).max(),
        "queue": np.abs(model.queue.keys.numpy() - case["queue"]).max(),
        "queue_ptr": abs(
            int(model.queue.pointer.numpy()) - int(case["queue_ptr"])
        ),
        **weight_deviations(model, initial, case),
    }


def weight_deviations(model, initial, case):
    """Deviations of norms and stored tensors of both encoders."""
    values = {
        side: {
            name: torch_layout.to_torch(variable.numpy())
            for name, variable in torch_layout.named_variables(encoder).items()
        }
        for side, encoder in (
            ("query", model.query_encoder),
            ("key", model.key_encoder),
        )
    }
    names = [str(name) for name in case["names"]]
    norms = {
        side: [np.linalg.norm(values[side][name]) for name in names]
        for side in values
    }
    deltas = [
        np.linalg.norm(values["query"][name] - initial[name]) for name in names
    ]
    whole = max(
        np.abs(values[side][name] - case[key]).max() / np.abs(case[key]).max()
        for key, side, name in (
            ("conv1_query", "query", "conv1.weight"),
            ("conv1_key", "key", "conv1.weight"),
            ("bn1_key_mean", "key", "bn1.running_mean"),
            ("bn1_key_var", "key", "bn1.running_var"),
        )
    )
    return {
        "norms": max(
            relative(norms["query"], case["query_norms"]),
            relative(norms["key"], case["key_norms"]),
        ),
        "tensors": whole,
        "query_delta_norms": relative(deltas, case["query_delta_norms"]),
    }


def relative(found, expected):
    """Largest deviation as a fraction of the expected value."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(
        np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1e-6))
    )


def beyond(found):
    """Names of the deviations that exceed their limit, or are no number."""
    return [name for name in LIMITS if not found[name] <= LIMITS[name]]


def run_here(world, paths, shuffles):
    """Replays the cases of one replica count in this process."""
    strategy = distribution.make_strategy(f"cpu:{world}")
    good = True
    for path in paths:
        for shuffle_keys in shuffles:
            found = replay(path, strategy, shuffle_keys)
            names = beyond(found)
            figures = "  ".join(f"{k} {found[k]:.1e}" for k in LIMITS)
            verdict = f"BEYOND: {', '.join(names)}" if names else "ok"
            print(
                f"{pathlib.Path(path).name} {shuffle_keys}: {figures}  "
                f"{verdict}",
                flush=True,
            )
            good = good and not names
    return 0 if good else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--world", type=int, help="run in this process")
    parser.add_argument(
        "--shuffles", nargs="+", default=SHUFFLES, choices=SHUFFLES
    )
    arguments = parser.parse_args()
    shuffles = arguments.shuffles
    if arguments.world:
        return run_here(arguments.world, arguments.files, shuffles)
    groups = {}
    for path in arguments.files:
        world = json.loads(str(np.load(path)["config"])).get("world", 1)
        groups.setdefault(world, []).append(path)
    # Strategies of one process collide: a process per replica count.
    statuses = [
        subprocess.run(
            [sys.executable, __file__, *paths, "--world", str(world)]
            + ["--shuffles", *shuffles]
        ).returncode
        for world, paths in sorted(groups.items())
    ]
    return 1 if any(statuses) else 0


if __name__ == "__main__":
    sys.exit(main())
