"""Statistics of a batch that lies on several replicas."""

import tensorflow as tf


def replica_count():
    """Replicas that share a batch, an int."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def mean(value):
    """Mean of a tensor over all replicas."""
    if replica_count() == 1:
        return value
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def moments(rows):
    """Mean and variance of each channel over the batches of all replicas.

    Each replica's mean and variance travel in one exchange and are joined by
    the law of total variance. Exchanging means of squares would be half of it,
    but lose the variance of channels whose mean is far from 0. The gradient
    flows back to the rows of all replicas.

    Args:
      rows: float32 [N, ..., C]; all replicas hold as many.

    Returns:
      mean float32 [C]; variance float32 [C], biased; number of values of a
      channel over all replicas, float32 scalar.

    Raises:
      ValueError: outside a replica.
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            "Statistics of all replicas can be taken inside a replica alone. "
            "Received a call in the strategy's scope. Call the layer in "
            "strategy.run, or with training=False."
        )
    replicas = context.num_replicas_in_sync
    axes = list(range(rows.shape.rank - 1))
    own = tf.stack(tf.nn.moments(rows, axes))  # [2, C]
    # Each replica fills its row and adds zeros to the others': a gather whose
    # shape stays known.
    place = tf.one_hot(context.replica_id_in_sync_group, replicas)
    every = place[:, tf.newaxis, tf.newaxis] * own  # [R, 2, C]
    every = context.all_reduce(tf.distribute.ReduceOp.SUM, every)
    means, variances = every[:, 0], every[:, 1]  # [R, C]
    mean = tf.reduce_mean(means, axis=0)
    variance = tf.reduce_mean(
        variances + tf.math.squared_difference(means, mean), axis=0
    )
    count = tf.size(rows) // rows.shape[-1] * replicas
    return mean, variance, tf.cast(count, tf.float32)
