"""Shuffled BatchNorm: moving keys and images between replicas (v1, sec. 3.3).

Slot j of a step is row j of the global batch; replica r of R owns slots
r * G / R to (r + 1) * G / R - 1. `order` is a permutation of the slots: the
i-th key that is encoded belongs to slot order[i]. A query and its positive key
then meet different companions in BatchNorm, which could else leak which key
belongs to which query.
"""

import tensorflow as tf
from tensorflow.python.distribute import distribute_utils, values

from moco_tf.models import batch_norm

# "gather": key images travel between replicas. "address": the stream has dealt
# them in shuffled order. "none": they stay in the order of the queries.
KINDS = ("gather", "address", "none")

_INDEX_BASE = 2**20  # splits an index in two parts that float32 holds exactly


def all_gather(tensor):
    """Concatenates the rows of all replicas in replica order.

    Args:
      tensor: [b, ...] of a dtype that collectives carry (float32, int64).

    Returns:
      [R * b, ...], the same on every replica. Gradients flow back to the rows'
      replicas, the sum of all replicas' losses.
    """
    replicas = batch_norm.replica_count()
    if replicas == 1:
        return tensor
    # identity: a gather of a tensor that was made outside the replica fails
    # where a worker has one replica.
    return _gather(tf.identity(tensor))


@tf.custom_gradient
def _gather(rows):
    """The rows of all replicas; gradients are summed over them."""
    context = tf.distribute.get_replica_context()
    shape = [context.num_replicas_in_sync * rows.shape[0], *rows.shape[1:]]

    def gradient_of_rows(gradient):
        gradient = tf.convert_to_tensor(gradient)  # no slices of one
        context = tf.distribute.get_replica_context()
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
        return this_replica(tf.ensure_shape(total, shape))

    gathered = context.merge_call(_gather_replicas, args=(rows,))
    # The gather forgets the static shape.
    return tf.ensure_shape(gathered, shape), gradient_of_rows


def _gather_replicas(strategy, rows):
    """Gathers a value of each replica, all of one shape.

    TensorFlow's own gather asks every replica for its number of rows, which the
    host must read before the rows can leave. So its launchers are called, as it
    calls them (private in TensorFlow 2.15).
    """
    extended = strategy.extended
    collectives = extended._get_cross_device_ops(rows)
    # Others than the default of --cross_device_ops have none.
    if tf.executing_eagerly() or not hasattr(collectives, "_launchers"):
        return extended._gather_to(rows, rows, axis=0)
    options = extended._communication_options
    return distribute_utils.regroup(
        [
            launcher._all_gather(row, options)
            for launcher, row in zip(
                collectives._launchers,
                strategy.experimental_local_results(rows),
                strict=True,
            )
        ],
        wrap_class=values.Mirrored,
    )


def gather_images(images, rows=None):
    """Images of all replicas; uint8 travels as one byte a value.

    Collectives carry no uint8, and GPUs do not gather any, so eight values are
    one int64 on the way.

    Args:
      images: uint8 or float32 [b, H, W, 3].
      rows: int64 [n], which of the R * b images; None: all.

    Returns:
      [n, H, W, 3] of the same dtype.
    """
    if rows is None:
        count = batch_norm.replica_count() * images.shape[0]
        rows = tf.range(count, dtype=tf.int64)
    if images.dtype != tf.uint8:
        return tf.gather(all_gather(images), rows)
    shape = images.shape
    size = shape[1] * shape[2] * shape[3]
    flat = tf.reshape(images, [shape[0], size])
    flat = tf.pad(flat, [[0, 0], [0, -size % 8]])
    words = tf.bitcast(tf.reshape(flat, [shape[0], -1, 8]), tf.int64)
    words = tf.gather(all_gather(words), rows)
    flat = tf.reshape(tf.bitcast(words, tf.uint8), [rows.shape[0], -1])
    return tf.reshape(flat[:, :size], [-1, *shape[1:]])


def gather_keys(keys, samples):
    """Gathers keys and sample indices in one collective.

    Args:
      keys: float32 [b, C].
      samples: int64 [b], below 2**44.

    Returns:
      keys float32 [G, C] and samples int64 [G], in replica order.
    """
    high = tf.cast(samples // _INDEX_BASE, tf.float32)
    low = tf.cast(samples % _INDEX_BASE, tf.float32)
    packed = tf.concat([keys, high[:, tf.newaxis], low[:, tf.newaxis]], axis=1)
    packed = all_gather(packed)
    # Cast one by one: GPUs leave the unstacking of integers to the host.
    high, low = (
        tf.cast(half, tf.int64) for half in tf.unstack(packed[:, -2:], axis=1)
    )
    return packed[:, :-2], high * _INDEX_BASE + low


def this_replica(rows):
    """The rows of this replica.

    Args:
      rows: [G, ...] for the whole step.

    Returns:
      [G / R, ...]
    """
    count = rows.shape[0] // batch_norm.replica_count()
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    start = tf.cast(replica, tf.int32) * count
    return tf.ensure_shape(
        rows[start : start + count], [count, *rows.shape[1:]]
    )


def unshuffle(rows, order):
    """Brings rows that were encoded in shuffled order back to slot order.

    Args:
      rows: [G, C]; row i belongs to slot order[i].
      order: int64 [G], a permutation.

    Returns:
      [G, C]; row j belongs to slot j.
    """
    # What sorts a permutation is its inverse. GPUs have no operation for that,
    # and leave int32 to the host on the way back.
    return tf.gather(rows, tf.cast(tf.argsort(order), tf.int64))
