"""Multinomial logistic regression on stored features, by L-BFGS.

The linear probe of `compare`. It is convex: no rate, no order of the images and
no number of epochs decides how good an encoder looks, and features of any
length and any number of images are served alike. SciPy's L-BFGS-B (Byrd et al.,
1995) asks for the loss and its gradient; these are sums over blocks of rows,
which are read from the disk where they do not fit in memory.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import tensorflow as tf

from moco_tf import counting
from moco_tf.evaluation import cached_probe

# Weights of the squared norm beside the mean loss, strongest first: each start
# is the end of the one before.
PENALTIES = (1.0, 0.1, 0.01, 0.001, 0.0001)
HOLDOUT = 0.2  # of the training images, by which one of them is chosen
_STEPS = 200  # of L-BFGS at most
_PRECISION = 1e-6  # relative gain of the loss, below which it ends
_BLOCK = 16_384  # rows at once: 128 MB of 2048 features


class Classifier(NamedTuple):
    """A fitted classifier.

    Attributes:
      weights: float32 [1, F + 1, classes], of raw features, and last the bias:
        as cached_probe.scores takes them.
      penalty: float, the chosen one of PENALTIES.
    """

    weights: np.ndarray
    penalty: float


def fit(rows, labels, kept, classes, seed=0):
    """Fits a classifier, with the penalty that held-out images choose.

    Features are standardised: each has mean 0 and deviation 1 on the images
    that are trained on.

    Args:
      rows: float32 [n, F], in memory or mapped from the disk.
      labels: int64 [n]. kept: bool [n], whether an image is trained on.
      classes: int. seed: int, of the choice of the held-out images.

    Returns:
      Classifier.

    Raises:
      ValueError: where no image can be held out: no class has two.
    """
    held_out = cached_probe.hold_out(labels, kept, HOLDOUT, seed)
    if not held_out.any():
        raise ValueError(
            "The penalty of a linear probe is chosen by images that are held "
            "out, of classes with two or more. Received "
            f"{int(np.sum(kept))} images of which none can be held out. Give "
            "more images, or pass --skip_probe."
        )
    losses = []
    start = np.zeros([rows.shape[1] + 1, classes])
    with counting.counted(len(PENALTIES) + 1, 0, "fitting", "fits") as bar:
        trained = _Problem(rows, labels, kept & ~held_out, classes)
        for penalty in PENALTIES:
            start = trained.solve(penalty, start)
            logits = trained.raw(start)
            losses.append(_loss(rows, labels, held_out, logits))
            bar.add(1)
        # The simplest of those that are as good.
        penalty = PENALTIES[int(np.argmin(losses))]
        # Held-out images served the choice alone: the fit is to all of them.
        problem = _Problem(rows, labels, kept, classes)
        weights = problem.raw(problem.solve(penalty, start))
        bar.add(1)
    return Classifier(weights, penalty)


def _loss(rows, labels, chosen, weights):
    """The mean cross-entropy of the chosen rows, nats."""
    total = 0.0
    for block in _blocks(len(labels)):
        inside = chosen[block]
        if inside.any():
            part = np.asarray(rows[block])[inside]
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels[block][inside], cached_probe.scores(part, weights)[0]
            )
            total += float(tf.reduce_sum(tf.cast(losses, tf.float64)))
    return total / chosen.sum()


def _blocks(count):
    for first in range(0, count, _BLOCK):
        yield slice(first, first + _BLOCK)


class _Problem:
    """The loss of standardised rows of some images, and its minimum."""

    def __init__(self, rows, labels, kept, classes):
        """Reads mean and deviation of the features.

        Args:
          rows, labels, kept, classes: as of `fit`.
        """
        self._rows, self._labels, self._kept = rows, labels, kept
        self._count = int(kept.sum())
        self._shape = (rows.shape[1] + 1, classes)
        self._memory: list | None = None
        if rows.nbytes <= cached_probe.IN_MEMORY:
            self._memory = list(self._read())
        self._mean, self._scale = self._moments()

    def _read(self):
        """Yields float32 [m, F] rows and int64 [m] labels of the images."""
        for block in _blocks(len(self._labels)):
            inside = self._kept[block]
            if inside.any():
                rows = np.asarray(self._rows[block])[inside]
                yield (
                    tf.constant(rows),
                    tf.constant(self._labels[block][inside]),
                )

    def _moments(self):
        """Mean and 1 / deviation, float32 [F]; 0 of what does not vary."""
        mean = sum(
            tf.reduce_sum(tf.cast(rows, tf.float64), axis=0)
            for rows, _ in self._parts()
        )
        mean = mean / self._count
        squares = sum(
            tf.reduce_sum((tf.cast(rows, tf.float64) - mean) ** 2, axis=0)
            for rows, _ in self._parts()
        )
        deviation = np.sqrt(squares / self._count)
        varies = deviation > 1e-6 * (np.abs(mean) + deviation.max())
        scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
        return tf.cast(mean, tf.float32), tf.constant(scale, tf.float32)

    def _parts(self):
        return self._read() if self._memory is None else self._memory

    def solve(self, penalty, start):
        """The minimum of mean cross-entropy + penalty / 2 * squared norm.

        The bias has no penalty.

        Args:
          penalty: float. start: float64 [F + 1, classes].

        Returns:
          float64 [F + 1, classes], of standardised features; last the bias.
        """

        def value_and_gradient(flat):
            weights = flat.reshape(self._shape)
            given = tf.constant(weights, tf.float32)
            loss, gradient = 0.0, np.zeros(self._shape)
            for rows, labels in self._parts():
                part = _cross_entropy(
                    rows, labels, given, self._mean, self._scale
                )
                loss += float(part[0])
                gradient += part[1].numpy()
            loss, gradient = loss / self._count, gradient / self._count
            loss += penalty / 2 * np.sum(weights[:-1] ** 2)
            gradient[:-1] += penalty * weights[:-1]
            return loss, gradient.ravel()

        result = scipy.optimize.minimize(
            value_and_gradient,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _STEPS, "ftol": _PRECISION, "gtol": 1e-5},
        )
        return result.x.reshape(self._shape)

    def raw(self, weights):
        """Weights of standardised features as those of raw ones.

        Args:
          weights: float64 [F + 1, classes].

        Returns:
          float32 [1, F + 1, classes].
        """
        kernel = self._scale.numpy()[:, np.newaxis] * weights[:-1]
        bias = weights[-1] - self._mean.numpy() @ kernel
        return np.vstack([kernel, bias])[np.newaxis].astype(np.float32)


@tf.function(reduce_retracing=True)
def _cross_entropy(rows, labels, weights, mean, scale):
    """Summed cross-entropy, float64, and its gradient float32 [F + 1, c]."""
    x = (rows - mean) * scale
    logits = x @ weights[:-1] + weights[-1]
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    classes = tf.shape(weights)[1]
    error = tf.nn.softmax(logits) - tf.one_hot(labels, classes)
    kernel = tf.matmul(x, error, transpose_a=True)
    bias = tf.reduce_sum(error, axis=0, keepdims=True)
    gradient = tf.concat([kernel, bias], axis=0)
    return tf.reduce_sum(tf.cast(loss, tf.float64)), gradient
