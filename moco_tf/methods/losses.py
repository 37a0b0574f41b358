"""Contrastive losses: pure functions of features."""

import tensorflow as tf


def info_nce(query, key, queue, temperature):
    """InfoNCE over one positive and K queued negatives (MoCo v1, Eq. 1).

    Args:
      query: float32 [N, C], L2-normalised; the only input that takes gradients.
      key: float32 [N, C], L2-normalised; row i is the positive of query i.
      queue: float32 [K, C], L2-normalised negatives.
      temperature: positive float; logits are cosine / temperature.

    Returns:
      loss: float32 scalar, mean over N, in nats.
      logits: float32 [N, 1 + K], positive first.
    """
    positive = tf.reduce_sum(query * key, axis=1, keepdims=True)  # [N, 1]
    negative = tf.matmul(query, queue, transpose_b=True)  # [N, K]
    logits = tf.concat([positive, negative], axis=1) / temperature
    labels = tf.zeros(tf.shape(logits)[:1], tf.int32)  # the positive's column
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(loss), logits


def instance_top1(logits):
    """Fraction of queries whose own key beats every queued key.

    A (K + 1)-way retrieval score of the pretext task, not the accuracy of a
    classifier. Ties count as misses, so that collapsed features score 0.

    Args:
      logits: float32 [N, 1 + K], positive first.

    Returns:
      float32 scalar in 0..1.
    """
    wins = logits[:, 0] > tf.reduce_max(logits[:, 1:], axis=1)
    return tf.reduce_mean(tf.cast(wins, tf.float32))
