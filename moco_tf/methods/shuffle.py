"""Shuffled BatchNorm: moving keys and images between replicas (v1, sec. 3.3).

Slot j of a step is row j of the global batch; replica r of R owns slots
r * G / R to (r + 1) * G / R - 1. `order` is a permutation of the slots: the
i-th key that is encoded belongs to slot order[i]. A query and its positive key
then meet different companions in BatchNorm, which could else leak which key
belongs to which query.
"""

import tensorflow as tf

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
    context = tf.distribute.get_replica_context()
    # identity: a gather of a tensor that was made outside the replica fails
    # where a worker has one replica.
    gathered = context.all_gather(tf.identity(tensor), axis=0)
    gathered = _dense_gradient(gathered)
    # The gather forgets the static shape.
    shape = [replicas * tensor.shape[0], *tensor.shape[1:]]
    return tf.ensure_shape(gathered, shape)


@tf.custom_gradient
def _dense_gradient(tensor):
    """The tensor; the gather's gradient does not take slices of one."""
    return tf.identity(tensor), tf.convert_to_tensor


def gather_images(images):
    """Gathers the images of all replicas; uint8 travels as one byte a value.

    Collectives carry no uint8, so eight values travel as one int64.

    Args:
      images: uint8 or float32 [b, H, W, 3].

    Returns:
      [R * b, H, W, 3] of the same dtype.
    """
    if images.dtype != tf.uint8 or batch_norm.replica_count() == 1:
        return all_gather(images)
    shape = images.shape
    size = shape[1] * shape[2] * shape[3]
    flat = tf.reshape(images, [shape[0], size])
    flat = tf.pad(flat, [[0, 0], [0, -size % 8]])
    words = tf.bitcast(tf.reshape(flat, [shape[0], -1, 8]), tf.int64)
    flat = tf.bitcast(all_gather(words), tf.uint8)
    flat = tf.reshape(flat, [flat.shape[0], -1])[:, :size]
    return tf.reshape(flat, [-1, *shape[1:]])


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
    high, low = tf.unstack(tf.cast(packed[:, -2:], tf.int64), axis=1)
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
      order: int32 [G], a permutation.

    Returns:
      [G, C]; row j belongs to slot j.
    """
    return tf.gather(rows, tf.math.invert_permutation(order))
