"""Weighted k-nearest-neighbour vote.

The protocol of Wu et al., "Unsupervised Feature Learning via Non-Parametric
Instance Discrimination" (arXiv:1805.01978), section 3.4; MoCo's CIFAR demo
uses it with k = 200 and temperature 0.1.
"""

import numpy as np
import tensorflow as tf

from moco_tf import counting

# Rows per block: one block of similarities is 512 x 65,536 floats, 128 MB,
# however large the bank and the query set are.
QUERY_BLOCK = 512
BANK_BLOCK = 65_536


@tf.function(reduce_retracing=True)
def merge_nearest(query, bank, offset, similarity, index):
    """Merges one block of the bank into the nearest so far.

    Args:
      query: float32 [Q, C], unit rows. bank: float32 [B, C], unit rows.
      offset: int64 scalar, number of the block's first row in the bank.
      similarity: float32 [Q, m], index: int64 [Q, m]; nearest first. m is
        the number to keep; entries still free hold -inf.

    Returns:
      similarity, index of the same shapes.
    """
    keep = tf.shape(similarity)[1]
    product = tf.matmul(query, bank, transpose_b=True)  # [Q, B]
    value, row = tf.math.top_k(product, tf.minimum(keep, tf.shape(bank)[0]))
    # Earlier blocks come first: of equals, top_k takes the first,
    # so a tie goes to the lower index, as it would without blocks.
    value = tf.concat([similarity, value], axis=1)
    row = tf.concat([index, tf.cast(row, tf.int64) + offset], axis=1)
    similarity, column = tf.math.top_k(value, keep)
    return similarity, tf.gather(row, column, axis=1, batch_dims=1)


def unit_rows(rows, name):
    """Returns the rows as float32, L2-normalised; a zero row stays zero."""
    rows = np.asarray(rows, np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(
            f"kNN needs finite features. Received NaN or infinite values in "
            f"the {name} features: the encoder has diverged or its checkpoint "
            "is damaged. Give an earlier --checkpoint."
        )
    return tf.math.l2_normalize(tf.constant(rows), axis=1, epsilon=1e-24)


def nearest(bank, query, k, query_block=QUERY_BLOCK, bank_block=BANK_BLOCK):
    """Finds the k nearest rows of the bank to each query, by cosine.

    Args:
      bank: float [B, C]. query: float [Q, C]. Neither need be normalised.
      k: number of neighbours, 1 to B.
      query_block: rows of the query per block. bank_block: of the bank.

    Returns:
      similarity: float32 [Q, k], nearest first; of equals the lower index.
      index: int64 [Q, k], row numbers of the bank.

    Raises:
      ValueError: for shapes that do not match, a k that the bank cannot
        serve, or features that are not finite.
    """
    if (
        np.ndim(bank) != 2
        or np.ndim(query) != 2
        or (np.shape(bank)[1] != np.shape(query)[1])
    ):
        raise ValueError(
            "kNN needs a bank [B, C] and queries [Q, C] of the same C. "
            f"Received bank {np.shape(bank)}, query {np.shape(query)}."
        )
    check_k(k, len(bank))
    similarity = np.full([len(query), k], -np.inf, np.float32)
    index = np.zeros([len(query), k], np.int64)
    blocks = range(0, len(bank), bank_block)  # each meets all queries
    total = len(blocks) * len(query)
    with counting.counted(total, 0, "searching", "queries") as bar:
        for first in blocks:
            block = unit_rows(bank[first : first + bank_block], "bank")
            for start in range(0, len(query), query_block):
                rows = slice(start, start + query_block)
                similarity[rows], index[rows] = merge_nearest(
                    unit_rows(query[rows], "query"),
                    block,
                    tf.constant(first, tf.int64),
                    tf.constant(similarity[rows]),
                    tf.constant(index[rows]),
                )
                bar.add(len(similarity[rows]))
    return similarity, index


def check_k(k, size):
    """Refuses a number of neighbours that a bank of `size` cannot serve."""
    if not 1 <= k <= size:
        raise ValueError(
            "kNN's k must be from 1 to the number of images in the bank. "
            f"Received k={k}, a bank of {size}. Lower k (config.knn.k of a "
            "run, --k of `knn`) or give a larger bank."
        )


def check_labels(labels, size, classes, name):
    """Returns the labels as int64 [size], after checking their range."""
    if labels is None:
        raise ValueError(
            f"kNN needs labels. Received a {name} without labels: give a "
            "folder of class folders or a data set that has them."
        )
    labels = np.asarray(labels, np.int64)
    if labels.shape != (size,):
        raise ValueError(
            f"kNN needs one label per image. Received {labels.shape} labels "
            f"for {size} images in the {name}."
        )
    if size and not (0 <= labels.min() and labels.max() < classes):
        raise ValueError(
            f"kNN labels must be from 0 to classes - 1. Received {name} "
            f"labels from {labels.min()} to {labels.max()}, "
            f"classes={classes}."
        )
    return labels


def check_temperature(temperature):
    """Refuses a temperature that is not above 0."""
    if not temperature > 0:
        raise ValueError(
            "kNN's temperature must be above 0: a vote weighs "
            "exp(similarity / temperature). "
            f"Received temperature={temperature}."
        )


def check_scores(k, temperature):
    """Refuses a temperature whose votes float32 cannot hold."""
    check_temperature(temperature)
    room = np.log(np.finfo(np.float32).max) - np.log(k)
    if 1 / temperature > room:
        raise ValueError(
            f"Votes of k={k} neighbours must fit in float32: temperature must "
            f"be {np.ceil(1e4 / room) / 1e4:.4f} or more. Received "
            f"temperature={temperature}."
        )


def count_votes(weight, label, classes):
    """Sums the weights of each class: [Q, k], int [Q, k] -> [Q, classes]."""
    cell = np.arange(len(label))[:, np.newaxis] * classes + label
    total = np.bincount(
        cell.ravel(), weight.ravel(), minlength=len(label) * classes
    )
    return total.reshape(len(label), classes)


def winners(similarity, label, temperature, classes):
    """The best-scored class of each query, of the votes of its neighbours.

    Args:
      similarity: float [Q, k], nearest first. label: int64 [Q, k].
      temperature: positive. classes: int.

    Returns:
      int64 [Q]; of classes with equal scores the lower number.
    """
    # Scores relative to the nearest neighbour's: the same winner, and no
    # temperature is too small for the exponential.
    distance = similarity.astype(np.float64)
    distance -= distance[:, :1]
    votes = count_votes(np.exp(distance / temperature), label, classes)
    return votes.argmax(axis=1)


def weighted_vote(bank, bank_labels, query, k, temperature, classes):
    """Scores each class by its share of the k nearest neighbours.

    score(c) = sum over the k nearest i with label c of
    exp(similarity_i / temperature).

    Args:
      bank: float [B, C], bank_labels: int [B], query: float [Q, C].
      k: neighbours, 1 to B. temperature: positive, in units of cosine.
      classes: number of classes; one that the bank lacks scores 0.

    Returns:
      float32 [Q, classes].

    Raises:
      ValueError: as `nearest` does, for labels outside the classes, and for
        a temperature whose scores float32 cannot hold.
    """
    check_scores(k, temperature)
    labels = check_labels(bank_labels, len(bank), classes, "bank")
    similarity, index = nearest(bank, query, k)
    weight = np.exp(similarity.astype(np.float64) / temperature)
    return count_votes(weight, labels[index], classes).astype(np.float32)


def sweep(bank, bank_labels, query, query_labels, ks, temperatures, classes):
    """Measures top-1 accuracy for every k and temperature in one pass.

    Args:
      bank, bank_labels, query, query_labels, classes: as `weighted_vote`.
      ks: neighbour counts. temperatures: positive numbers.

    Returns:
      dict (k, temperature) -> share of queries, 0..1, as `hits`.

    Raises:
      ValueError: as `hits` does.
    """
    right = hits(
        bank, bank_labels, query, query_labels, ks, temperatures, classes
    )
    return {key: int(rows.sum()) / len(query) for key, rows in right.items()}


def hits(bank, bank_labels, query, query_labels, ks, temperatures, classes):
    """Says which queries every k and temperature class right, in one pass.

    Args:
      bank, bank_labels, query, query_labels, classes: as `weighted_vote`.
      ks: neighbour counts. temperatures: positive numbers.

    Returns:
      dict (k, temperature) -> bool [Q], whether a query's best-scored class is
      its own; of classes with equal scores the lower number wins.

    Raises:
      ValueError: as `weighted_vote` does, and for an empty query set.
    """
    for temperature in temperatures:
        check_temperature(temperature)
    labels = check_labels(bank_labels, len(bank), classes, "bank")
    truth = check_labels(query_labels, len(query), classes, "query")
    if not len(query) or not len(ks) or not len(temperatures):
        raise ValueError(
            "kNN needs at least one query, one k and one temperature. "
            f"Received {len(query)} queries, ks={ks}, "
            f"temperatures={temperatures}."
        )
    check_k(min(ks), len(bank))
    similarity, index = nearest(bank, query, max(ks))
    right = {
        (k, t): np.zeros(len(query), bool) for k in ks for t in temperatures
    }
    with counting.counted(len(query), 0, "voting", "queries") as bar:
        for start in range(0, len(query), QUERY_BLOCK):
            rows = slice(start, start + QUERY_BLOCK)
            label = labels[index[rows]]
            for k, t in right:
                winner = winners(similarity[rows, :k], label[:, :k], t, classes)
                right[k, t][rows] = winner == truth[rows]
            bar.add(len(label))
    return right


def top1(bank, bank_labels, query, query_labels, k, temperature, classes):
    """Returns the top-1 accuracy, 0..1, of one k and temperature (`sweep`)."""
    result = sweep(
        bank,
        bank_labels,
        query,
        query_labels,
        ks=[k],
        temperatures=[temperature],
        classes=classes,
    )
    return result[k, temperature]
