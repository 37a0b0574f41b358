"""What the doctor says of an exchange of R replicas, right and with faults.

    python -m tests.doctor.exchanges R OUT.npz

Strategies of one process collide: each number of replicas has its process.
"""

import sys
from unittest import mock

import numpy as np
import tensorflow as tf

from moco_tf.doctor import exchange
from moco_tf.methods import shuffle
from moco_tf.training import distribution

LOAD = exchange.Load(rows=2, size=3, channels=3, dim=4, weights=100)


def _first_only(gradients):
    """A sum that leaves the last replica out."""
    context = tf.distribute.get_replica_context()
    last = context.num_replicas_in_sync - 1
    counts = tf.not_equal(context.replica_id_in_sync_group, last)
    factor = tf.cast(counts, tf.float32)
    gradients = [factor * gradient for gradient in gradients]
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)


def _swapped(gather):
    """A gather whose second half of images comes first."""

    def gather_images(images, rows=None):
        return tf.roll(gather(images, rows), 1, axis=0)

    return gather_images


def _other_order(gather):
    """A gather of keys that mixes the replicas' order up."""

    def gather_keys(keys, samples):
        gathered, numbers = gather(keys, samples)
        return tf.roll(gathered, 1, axis=0), tf.roll(numbers, 1, axis=0)

    return gather_keys


def main(count, path):
    strategy = distribution.make_strategy(f"cpu:{count}")
    findings = {"right": exchange.check_gather(strategy, LOAD).finding}
    with mock.patch.object(exchange, "_TIMES", 1):
        for name, module, function, fault in (
            ("images", shuffle, "gather_images", _swapped),
            (
                "gradient of keys, keys, samples",
                shuffle,
                "gather_keys",
                _other_order,
            ),
            ("sum of weights", exchange, "_sum", lambda _: _first_only),
        ):
            broken = fault(getattr(module, function))
            with mock.patch.object(module, function, broken):
                row = exchange.check_gather(strategy, LOAD)
            findings[name] = row.finding
    np.savez(path, **findings)


if __name__ == "__main__":
    main(*sys.argv[1:])
