"""Contrastive losses: pure functions of features."""

import tensorflow as tf

BINS = 40  # of the histograms of similarities
_SAMPLE = 2**16  # cosines of negatives in a histogram, about


def info_nce(query, key, queue, temperature, masked=None):
    """InfoNCE over one positive and K queued negatives (MoCo v1, Eq. 1).

    Args:
      query: float32 [N, C], L2-normalised; the only input that takes gradients.
      key: float32 [N, C], L2-normalised; row i is the positive of query i.
      queue: float32 [K, C], L2-normalised negatives.
      temperature: positive float; logits are cosine / temperature.
      masked: bool [N, K] or None; negatives that a query leaves out.

    Returns:
      loss: float32 scalar, mean over N, in nats.
      logits: float32 [N, 1 + K], positive first; that of a negative left out
        is the least float32.
    """
    positive = tf.reduce_sum(query * key, axis=1, keepdims=True)  # [N, 1]
    negative = tf.matmul(query, queue, transpose_b=True)  # [N, K]
    logits = tf.concat([positive, negative], axis=1) / temperature
    if masked is not None:
        masked = tf.pad(masked, [[0, 0], [1, 0]])  # never the positive
        logits = tf.where(masked, logits.dtype.min, logits)
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


def similarities(logits, temperature):
    """How near the queries are to their own keys and to the queued ones.

    Args:
      logits: float32 [N, 1 + K], positive first, of info_nce.
      temperature: positive float, of the logits.

    Returns:
      dict of float32: "positive" and "hardest_negative", scalars, means over
      the queries of the cosine with the own key and the nearest queued one;
      "histograms" [2, BINS], shares of the cosines -1..1 of own keys (row 0)
      and of a sample of queued ones (row 1) in bins of equal width.
    """
    cosines = logits * temperature
    hardest = tf.reduce_max(cosines[:, 1:], axis=1)
    # A few queries have cosines enough; all would cost time at every step.
    queries = max(1, _SAMPLE // (logits.shape[1] - 1))
    negatives = tf.reshape(cosines[:queries, 1:], [-1])
    return {
        "positive": tf.reduce_mean(cosines[:, 0]),
        "hardest_negative": tf.reduce_mean(hardest),
        "histograms": tf.stack(
            [_histogram(cosines[:, 0]), _histogram(negatives)]
        ),
    }


def _histogram(cosines):
    """Shares float32 [BINS] of cosines [M]; those left out count nowhere."""
    known = tf.cast(cosines >= -1.5, tf.float32)
    place = tf.cast((cosines + 1) * (BINS / 2), tf.int32)
    place = tf.clip_by_value(place, 0, BINS - 1)
    counts = tf.math.unsorted_segment_sum(known, place, BINS)
    return counts / tf.maximum(tf.reduce_sum(known), 1)
