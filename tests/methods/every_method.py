"""Each method of the table in its smallest form, and what R replicas make.

    python -m tests.methods.every_method R OUT.npz

Trains with deterministic operations, twice from the same start. Strategies of
one process collide: each number of replicas has its process.
"""

import sys
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.methods import method as method_lib
from moco_tf.methods import table
from moco_tf.models import batch_norm
from moco_tf.models import encoder as encoders
from moco_tf.training import checkpoints, distribution
from tests import reference_check
from tools import gpu_placement

BATCH, IMAGES, STEPS = 8, 40, 2
SMALL = {
    "data.source": "shapes:train",
    "data.image_size": 16,
    "model.backbone": "resnet18",
    "model.width": 0.125,
    "model.stem": "cifar",
    "model.dim": 8,
    "train.batch_size": BATCH,
    "train.epochs": 20,
    "train.precision": "float32",
    "optimizer.scaling": "none",
    "optimizer.learning_rate": 0.01,
    "schedule.warmup_epochs": 0,
    "knn.bank": "",
    "knn.query": "",
}
# Of a method's section, where the published value is too large.
OWN = {
    "moco": {"queue_size": 21},
    "memory_bank": {"negatives": 16},
    "swav": {
        "prototypes": 6,
        "epsilon": 0.5,
        "queue_size": 11,
        "queue_from_epoch": 0,
        "frozen_epochs": 0,
    },
    "dino": {"outputs": 12, "teacher_temperature": 0.2, "frozen_epochs": 0},
    "cmc": {"negatives": 16},
    "cpc": {"negatives": 32, "rows": 2, "blocks": 1, "patch_jitter": 0.4},
}
# For the loss of a batch that comes again: DINO's targets stand still, and
# targets are sharp.
STILL = {
    "dino": {
        "momentum": 1.0,
        "center_momentum": 1.0,
        "teacher_temperature": 0.04,
    },
    "swav": {"epsilon": 0.05},
}
SMALL_VIEWS, SMALL_SIZE = 2, 8


def make_config(name, **fields):
    """A configuration of a method, shrunk; fields with __ for the dot."""
    config = configs.load(table.METHODS[name].configs[0])
    config = config.copy_and_resolve_references()
    values = {
        f"{name}.{key}": value for key, value in OWN.get(name, {}).items()
    }
    if table.method_class(name).MULTI_CROP:
        values["data.small_views"] = SMALL_VIEWS
        values["data.small_size"] = SMALL_SIZE
    groups = 1 if config.model.sync_bn else 2
    hidden = 16 if config.model.hidden else 0
    values = SMALL | values
    values |= {"model.bn_groups": groups, "model.hidden": hidden}
    # Low temperatures make much of rounding.
    if "temperature" in config[name]:
        values[f"{name}.temperature"] = 0.5
    if config.schedule.name == "step":
        values["schedule.milestones"] = (18,)
    if config.model.input == "grid":
        values["model.patch"] = 8
    if config.optimizer.name == "adam":  # it makes much of rounding too
        values["optimizer.name"] = "sgd"
    values |= {key.replace("__", "."): fields[key] for key in fields}
    config.update_from_flattened_dict(values)
    return config


def make_method(name, strategy=None, labels=None, **fields):
    """A method, compiled, at step 0; with labels a probe trains beside it."""
    config = make_config(name, **fields)
    strategy = strategy or tf.distribute.get_strategy()
    plan.check(config, strategy.num_replicas_in_sync)
    with mock.patch.object(encoders, "build_backbone", tiny_backbone):
        return plan.make_method(config, strategy, IMAGES, labels)


def restore_beside_probe(method, path):
    """Restores a method with a probe from a checkpoint that has none."""
    log = method.step_log
    method.step_log = method_lib.StepLog([*method.METRICS, "input_wait"])
    reader = tf.train.Checkpoint(model=method)
    reader.read(f"{path}/state").expect_partial()
    count = len(method.METRICS)
    log.values[:, :count].assign(method.step_log.values[:, :count])
    method.step_log = log


def tiny_backbone(
    name, *, norm=batch_norm.BatchNorm, image_size=None, channels=3, **options
):
    """Two convolutions and BatchNorms in a ResNet's place: soon traced."""
    del name, options
    layers = tf.keras.layers
    images = tf.keras.Input([image_size, image_size, channels])
    x = images
    for place, filters in enumerate((8, 16)):
        x = layers.Conv2D(
            filters, 3, strides=2, padding="same", name=f"conv{place}"
        )(x)
        x = norm(name=f"bn{place}")(x)
        x = layers.ReLU()(x)
    return tf.keras.Model(images, layers.GlobalAveragePooling2D()(x))


def batches(method, count, fixed=False):
    """Global batches in the stream's form, from a seed."""
    rng = np.random.default_rng(5)
    for step in range(count):
        if step == 0 or not fixed:
            # Each image has a colour, each view a noise of its own.
            colours = rng.integers(0, 196, [BATCH, 1, 1, 3])
            noise = rng.integers(0, 60, [2, BATCH, 16, 16, 3])
            query, key = (colours + noise).astype(np.uint8)
            shape = [BATCH, SMALL_VIEWS, SMALL_SIZE, SMALL_SIZE, 3]
            small = colours[:, np.newaxis] + rng.integers(0, 60, shape)
            order = rng.permutation(BATCH)
        if method.shuffle_keys == "none":
            order = np.arange(BATCH)
        yield {
            "query": query,
            "key": key[order] if method.shuffle_keys == "address" else key,
            "index": (np.arange(BATCH) + (0 if fixed else BATCH * step))
            % IMAGES,
            "order": order,
            "valid": np.ones(BATCH, bool),
            "small": small.astype(np.uint8),
        }


def train(method, some_batches, strategy=None):
    """Trains on batches; returns the losses."""
    strategy = strategy or tf.distribute.get_strategy()
    world = strategy.num_replicas_in_sync
    some_batches = list(some_batches)
    iterator = reference_check.iterator(
        {"batch": BATCH, "world": world}, strategy, some_batches
    )
    step = method.make_train_function()
    return [float(step(iterator)["loss"]) for _ in some_batches]


def state(method):
    """What several replicas must have in common with one, by name."""
    return {
        f"{place}_{variable.name}": variable.numpy()
        for place, variable in enumerate(method.trained_variables())
    }


def main(world, path):
    """Writes losses and variables of two runs: "0/..." and "1/..."."""
    devices = f"cpu:{world}"
    strategy = distribution.make_strategy(devices, deterministic=True)
    results = {}
    for name in table.METHODS:
        method = make_method(name, strategy)
        assert method.replicas == world
        with tempfile.TemporaryDirectory() as start:
            checkpoints.save(method, start, 1, {})
            for run in range(2):
                checkpoints.restore(method, checkpoints.latest(start))
                losses = train(method, batches(method, STEPS), strategy)
                results[f"{run}/{name}/losses"] = losses
                for key, value in state(method).items():
                    results[f"{run}/{name}/{key}"] = value
        faults = gpu_placement.unexpected(method.step_graph)
        results[f"{name}/unexpected"] = np.array(faults, np.str_)
    np.savez(path, **results)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
