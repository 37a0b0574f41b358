"""Contrastive losses: pure functions of features."""

import math

import tensorflow as tf

BINS = 40  # of the histograms of similarities
_SAMPLE = 2**16  # cosines of negatives in a histogram, about


def info_nce(query, key, queue, temperature, masked=None):
    """InfoNCE over one positive and K queued negatives (MoCo v1, Eq. 1).

    Args:
      query: float32 [N, C], L2-normalised.
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
    labels = tf.zeros(tf.shape(logits)[:1], tf.int64)  # the positive's column
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_mean(loss), logits


def nt_xent(views, all_views, positions, temperature):
    """NT-Xent over the 2G views of a step (SimCLR, arXiv:2002.05709, Eq. 1).

    Args:
      views: float32 [2N, C], L2-normalised; rows 2i and 2i + 1 are of an image.
      all_views: float32 [2G, C], those of all replicas, in the same form.
      positions: int64 [2N], the rows of `views` in `all_views`.
      temperature: positive float; logits are cosine / temperature.

    Returns:
      as `info_nce`: the mean over 2N and logits [2N, 1 + 2G], of which a view
      itself and its positive's second column are left out.
    """
    pairs = tf.reshape(views, [-1, 2, views.shape[1]])
    others = tf.reshape(pairs[:, ::-1], views.shape)
    images = tf.range(all_views.shape[0], dtype=positions.dtype) // 2
    same_image = (positions // 2)[:, tf.newaxis] == images
    return info_nce(views, others, all_views, temperature, same_image)


def nt_xent_small(small, views, all_views, positions, temperature):
    """NT-Xent of small views and the large ones of all images.

    Multi-crop (SwAV, arXiv:2006.09882, Sec. 3.2): no small view is a negative,
    or a positive of another one.

    Args:
      small: float32 [V N, C], L2-normalised, an image's next to each other.
      views, all_views, positions, temperature: as of `nt_xent`.

    Returns:
      float32 scalar, mean over both large views of every small one, in nats.
    """
    pairs = tf.reshape(views, [-1, 2, views.shape[1]])
    count = small.shape[0] // pairs.shape[0]
    images = tf.range(all_views.shape[0], dtype=positions.dtype) // 2
    same_image = tf.repeat(positions[::2] // 2, count)[:, tf.newaxis] == images
    terms = [
        info_nce(
            small,
            tf.repeat(pairs[:, side], count, axis=0),
            all_views,
            temperature,
            same_image,
        )[0]
        for side in (0, 1)
    ]
    return (terms[0] + terms[1]) / 2.0


def nce(logits, constant, images):
    """Noise-contrastive estimation (InstDisc, arXiv:1805.01978, Eq. 4 to 7).

    A feature is of the image i with P(i) = exp(logit) / Z; negatives are drawn
    evenly, K of them with 1 / images each.

    Args:
      logits: float32 [N, 1 + K], positive first, of info_nce.
      constant: positive float32 scalar, Z.
      images: int, of the source.

    Returns:
      float32 scalar, mean over N, in nats.
    """
    negatives = logits.shape[1] - 1
    noise = math.log(negatives / images) + tf.math.log(constant)
    positive = tf.nn.softplus(noise - logits[:, 0])
    negative = tf.reduce_sum(tf.nn.softplus(logits[:, 1:] - noise), axis=1)
    return tf.reduce_mean(positive + negative)


def sinkhorn(scores, epsilon, iterations):
    """Codes that use all prototypes evenly (SwAV, arXiv:2006.09882, Eq. 3-5).

    Sinkhorn-Knopp on exp(scores / epsilon): prototypes get equal sums, then
    samples.

    Args:
      scores: float32 [B, K], cosines of features and prototypes.
      epsilon: positive float. iterations: int, at least 1.

    Returns:
      float32 [B, K]; rows sum to 1.
    """
    # In logarithms: a small epsilon would else leave float32's range.
    plan = scores / epsilon
    for _ in range(iterations):
        plan -= tf.reduce_logsumexp(plan, axis=0, keepdims=True)
        plan -= tf.reduce_logsumexp(plan, axis=1, keepdims=True)
    return tf.exp(plan)


def cross_entropy(targets, logits):
    """Cross-entropy of targets and logits of several views (SwAV, Eq. 2).

    Args:
      targets: float32 [N, K], rows sum to 1; take no gradient.
      logits: float32 [N, V, K].

    Returns:
      float32 scalar, mean over N and V, in nats.
    """
    targets = tf.stop_gradient(targets)[:, tf.newaxis]
    logs = tf.nn.log_softmax(logits)
    return -tf.reduce_mean(tf.reduce_sum(targets * logs, axis=-1))


def entropy(probabilities):
    """Mean entropy of probabilities float32 [..., K], in nats."""
    logs = tf.math.log(tf.maximum(probabilities, 1e-30))
    return -tf.reduce_mean(tf.reduce_sum(probabilities * logs, axis=-1))


def normalized_mse(predictions, targets):
    """2 - 2 cos, the squared distance of unit vectors (BYOL, Eq. 2).

    Args:
      predictions: float32 [N, C], L2-normalised.
      targets: float32 [N, C], L2-normalised; takes no gradient.

    Returns:
      float32 scalar in 0..4, mean over N.
    """
    cosines = tf.reduce_sum(predictions * tf.stop_gradient(targets), axis=1)
    return tf.reduce_mean(2.0 - 2.0 * cosines)


def spread(vectors):
    """Spread of unit vectors: about 1 if they are even, 0 if all are equal.

    Args:
      vectors: float32 [N, C], L2-normalised.

    Returns:
      float32 scalar: sqrt(C) times the mean over C of the standard deviation
      over N (SimSiam, arXiv:2011.10566, Sec. 4.1).
    """
    deviations = tf.math.reduce_std(vectors, axis=0)
    return tf.reduce_mean(deviations) * vectors.shape[1] ** 0.5


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


def logit_bytes(rows, columns):
    """Bytes of logits [rows, columns], their softmax and its gradient."""
    return 3 * 4 * rows * columns


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
    # Clipped before the cast: GPUs leave arithmetic of int32 to the host.
    bins = tf.clip_by_value((cosines + 1) * (BINS / 2), 0.0, BINS - 1.0)
    bins = tf.cast(bins, tf.int32)
    counts = tf.math.unsorted_segment_sum(known, bins, BINS)
    return counts / tf.maximum(tf.reduce_sum(known), 1)
