"""What R replicas compute, in a separate process.

    python -m tests.methods.replica_worker R OUT.npz

Strategies of one process collide: each number of replicas has its process.
"""

import sys

import numpy as np
import tensorflow as tf

from moco_tf.methods import moco, online_probe, shuffle
from moco_tf.models import batch_norm, encoder
from moco_tf.training import distribution, optimizers
from tests import reference_check
from tools import gpu_placement

# Kinds of shuffling, the keys of the batch among the negatives, and "gather"
# with an online probe.
CASES = ("gather", "address", "batch_negatives", "probe")
BATCH = 8  # G
STEPS = 4
CLIP = 0.1  # far below the norm of the first gradients
QUEUE = 21  # not a multiple of the batch: the ring wraps within a step


def inputs():
    """Rows of a step, to be exchanged between replicas."""
    rng = np.random.default_rng(0)
    samples = [0, 1, 2**20 - 1, 2**20, 2**24 + 1, 2**40 + 12345, 2**43]
    return {
        "features": rng.standard_normal([BATCH, 6]).astype(np.float32),
        "samples": np.array([*samples, 2**44 - 1]),
        # 5 * 3 * 3 = 45 bytes, no multiple of 8.
        "bytes": rng.integers(0, 256, [BATCH, 5, 3, 3], dtype=np.uint8),
        "floats": rng.standard_normal([BATCH, 5, 3, 3]).astype(np.float32),
        "order": rng.permutation(BATCH),
    }


def exchange(rows, order):
    """All functions of `shuffle`, inside a replica."""
    keys, samples = shuffle.gather_keys(rows["features"], rows["samples"])
    images = shuffle.gather_images(rows["bytes"])
    local = shuffle.this_replica(order)
    dealt = tf.cast(tf.gather(images, local), tf.float32)
    return {
        "features": shuffle.all_gather(rows["features"]),
        "numbers": shuffle.all_gather(rows["samples"]),
        "keys": keys,
        "samples": samples,
        "bytes": images,
        "floats": shuffle.gather_images(rows["floats"]),
        "local": local,
        "restored": shuffle.unshuffle(shuffle.all_gather(dealt), order),
    }


def split(strategy, rows):
    """Deals rows [G, ...] to the replicas in order."""
    parts = np.split(rows, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )


def run_exchange(strategy):
    """Returns name -> [R, ...] of `exchange`, and name_static -> shape."""
    rows = inputs()
    order = tf.constant(rows.pop("order"))
    results = {}

    def note_shapes(local):
        result = exchange(local, order)
        for name, value in result.items():
            shape = value.shape.as_list()
            results[f"{name}_static"] = [-1 if d is None else d for d in shape]
        return result

    dealt = {name: split(strategy, value) for name, value in rows.items()}
    run = tf.function(lambda x: strategy.run(note_shapes, args=(x,)))
    for name, value in run(dealt).items():
        results[name] = np.stack(strategy.experimental_local_results(value))
    return results


def make_method(case="gather", groups=1):
    """A tiny MoCo with BatchNorm, for 8 x 8 images.

    Of the case "start" the stem is frozen and gradients are clipped.
    """
    tf.keras.utils.set_random_seed(1)
    layers = tf.keras.layers
    images = features = tf.keras.Input([8, 8, 3])
    if case == "start":
        features = layers.Conv2D(3, 3, padding="same", name="conv1")(images)
        features = batch_norm.BatchNorm(groups, name="bn1")(features)
    features = layers.Conv2D(6, 3, 2, use_bias=False, name="conv")(features)
    features = batch_norm.BatchNorm(groups, name="bn")(features)
    features = layers.GlobalAveragePooling2D()(layers.ReLU()(features))
    probe = None
    if case == "probe":
        labels = online_probe.Labels(np.arange(100 * STEPS) % 4 - 1, 3)
        probe = online_probe.OnlineProbe(6, labels, rate=1.0)
    backbone = tf.keras.Model(images, features)
    if case == "start":
        encoder.freeze(backbone, ["stem"])
    method = moco.MoCo(
        backbone,
        dim=5,
        queue_size=QUEUE,
        momentum=0.9,
        temperature=0.5,
        shuffle_keys="address" if case == "address" else "gather",
        batch_negatives=case == "batch_negatives",
        fill_queue=case == "start",
        clip_norm=CLIP if case == "start" else 0.0,
        probe=probe,
    )
    method.compile(optimizers.MomentumSGD(0.1, 0.9, 1e-3))
    method.build_optimizer()
    return method


def steps(case):
    """The global batches of the first steps."""
    rng = np.random.default_rng(1)
    shape = [BATCH, 8, 8, 3]
    for step in range(STEPS):
        order = rng.permutation(BATCH)
        query, key = rng.integers(0, 256, [2, *shape], dtype=np.uint8)
        yield {
            "query": query,
            "key": key[order] if case == "address" else key,
            "index": np.arange(BATCH) + 100 * step,
            "order": order,
            "valid": np.ones(BATCH, bool),
        }


def train(method, strategy, case):
    """Trains; returns what each replica holds, name -> [R, ...], and losses."""
    world = strategy.num_replicas_in_sync
    batches = reference_check.iterator(
        {"batch": BATCH, "world": world}, strategy, steps(case)
    )
    conv = method.key_encoder.backbone.get_layer("conv").kernel
    results = {"first_kernel": conv.numpy(), "losses": []}
    step = method.make_train_function()
    mean = method.key_encoder.backbone.get_layer("bn").moving_mean
    for number in range(STEPS):
        results["losses"].append(float(step(batches)["loss"]))
        if number == 0:
            results["first_mean"] = copies(strategy, mean)
    for name in ("keys", "samples", "steps", "pointer"):
        results[name] = copies(strategy, getattr(method.queue, name))
    weights = [
        *method.query_encoder.trainable_variables,
        *method.key_encoder.trainable_variables,
        *method.optimizer.variables,
    ]
    for number, weight in enumerate(weights):
        results[f"weight{number}"] = copies(strategy, weight)
    if method.probe is not None:
        for number, weight in enumerate(method.probe.variables):
            results[f"weight_of_probe{number}"] = copies(strategy, weight)
    results["logged"] = method.step_log.read(0, STEPS)["loss"]
    faults = gpu_placement.unexpected(method.step_graph)
    results["unexpected"] = np.array(faults, np.str_)
    return results


def fill(method, strategy):
    """Fills the queue before the first step; what each replica holds then."""
    world = strategy.num_replicas_in_sync
    batches = reference_check.iterator(
        {"batch": BATCH, "world": world}, strategy, steps("gather")
    )

    @tf.function(autograph=False)
    def show(batch):
        strategy.run(method.first_pass, args=(batch,))

    for _ in range(method.first_passes(BATCH)):
        show(next(batches))
    results = {
        f"filled_{name}": copies(strategy, getattr(method.queue, name))
        for name in ("keys", "samples", "steps", "pointer")
    }
    for side in ("query", "key"):
        parts = getattr(method, f"{side}_encoder").backbone.weights
        parts = [
            copies(strategy, weight).reshape(world, -1) for weight in parts
        ]
        results[f"filled_{side}"] = np.concatenate(parts, axis=1)
    return results


def frozen(method):
    """Values of the stem of both encoders, one after another."""
    layers = [
        encoder.backbone.get_layer(name)
        for encoder in (method.query_encoder, method.key_encoder)
        for name in ("conv1", "bn1")
    ]
    values = [w.numpy().reshape(-1) for layer in layers for w in layer.weights]
    return np.concatenate(values)


def start(method, strategy):
    """Fills the queue and trains; what each replica holds."""
    before = frozen(method)
    results = fill(method, strategy) | train(method, strategy, "gather")
    return results | {"frozen": np.stack([before, frozen(method)])}


def copies(strategy, variable):
    """A variable's value on each replica, [R, ...]."""
    values = strategy.experimental_local_results(variable)
    return np.stack([value.numpy() for value in values])


def refusal(strategy):
    """What MoCo says to Keras' BatchNormalization."""
    with strategy.scope():
        images = tf.keras.Input([8, 8, 3])
        layer = tf.keras.layers.BatchNormalization(name="theirs")
        features = tf.keras.layers.Flatten()(layer(images))
        try:
            moco.MoCo(tf.keras.Model(images, features))
        except ValueError as error:
            return str(error)
    return ""


def main(world, path):
    strategy = distribution.make_strategy(f"cpu:{world}")
    results = run_exchange(strategy)
    for case in CASES:
        with strategy.scope():
            method = make_method(case)
        result = train(method, strategy, case)
        results |= {f"{case}_{name}": v for name, v in result.items()}
    with strategy.scope():
        method = make_method("start")
    result = start(method, strategy)
    results |= {f"start_{name}": v for name, v in result.items()}
    np.savez(path, refusal=refusal(strategy), **results)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
