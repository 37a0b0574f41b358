"""What a synchronised BatchNorm computes on R replicas.

    python -m tests.models.synchronized_worker R OUT.npz

Strategies of one process collide: each number of replicas has its process.
"""

import sys

import numpy as np
import tensorflow as tf

from moco_tf.models import batch_norm
from moco_tf.training import distribution

BATCH = 8  # G
# name: (shape, mean of the values, dtype policy, arguments)
CASES = {
    "images": ([BATCH, 3, 5, 4], 1.0, "float32", {}),
    "features": ([BATCH, 6], 1.0, "float32", {}),
    "far": ([BATCH, 4, 4, 3], 3000.0, "float32", {}),
    "bfloat16": ([BATCH, 4, 4, 3], 1.0, "mixed_bfloat16", {}),
    "bare": ([BATCH, 6], 1.0, "float32", {"center": False, "scale": False}),
}


def inputs(name):
    """Rows float32 [G, ...], and the gradient that arrives at the outputs."""
    shape, mean = CASES[name][:2]
    rng = np.random.default_rng(0)
    # Rows differ in mean and spread, so that each replica's share does.
    spread = np.linspace(0.5, 2.0, BATCH).reshape(
        [BATCH] + [1] * len(shape[1:])
    )
    rows = mean + spread * (1.0 + rng.standard_normal(shape))
    return rows.astype(np.float32), rng.standard_normal(shape).astype(
        np.float32
    )


def make_layer(name):
    """A layer with moving statistics and parameters that differ by channel."""
    shape, _, policy, arguments = CASES[name]
    layer = batch_norm.BatchNorm(
        momentum=0.75, synchronized=True, dtype=policy, **arguments
    )
    layer.build([None, *shape[1:]])
    channels = shape[-1]
    if layer.gamma is not None:
        layer.gamma.assign(np.linspace(0.5, 1.5, channels))
        layer.beta.assign(np.linspace(-1.0, 1.0, channels))
    return layer


def step(layer, rows, upstream):
    """Outputs, gradients of rows and parameters, new moving statistics."""
    rows = tf.cast(rows, layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        outputs = layer(rows, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * upstream)
    names = ["dx", "dgamma", "dbeta"][: 1 + len(layer.trainable_weights)]
    wanted = [rows, *layer.trainable_weights]
    results = dict(zip(names, tape.gradient(loss, wanted), strict=True))
    results["outputs"] = outputs
    return {name: tf.cast(value, tf.float32) for name, value in results.items()}


def compute(strategy, name):
    """Name of the result -> array [R, ...], one entry for each replica."""
    with strategy.scope():
        layer = make_layer(name)
    parts = [np.split(x, strategy.num_replicas_in_sync) for x in inputs(name)]
    distributed = [
        strategy.experimental_distribute_values_from_function(
            lambda context, part=part: tf.constant(
                part[context.replica_id_in_sync_group]
            )
        )
        for part in parts
    ]
    run = tf.function(lambda x, dy: strategy.run(step, args=(layer, x, dy)))
    results = run(*distributed)
    results["mean"] = layer.moving_mean
    results["variance"] = layer.moving_variance
    return {
        f"{name}_{key}": np.stack(
            [x.numpy() for x in strategy.experimental_local_results(value)]
        )
        for key, value in results.items()
    }


def refusal(strategy):
    """The message of a call outside a replica."""
    with strategy.scope():
        try:
            make_layer("features")(inputs("features")[0], training=True)
        except ValueError as error:
            return str(error)
    return "none"


def main(replicas, path):
    """Runs all cases on logical CPU devices and saves what they give."""
    strategy = distribution.make_strategy(f"cpu:{replicas}")
    results = {"refusal": refusal(strategy)}
    for name in CASES:
        results |= compute(strategy, name)
    np.savez(path, **results)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
