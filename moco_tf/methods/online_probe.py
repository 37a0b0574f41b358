"""A linear probe that trains beside a method, on features it computes anyway.

The step of a method stays what it is: `Method.project` shows the features of
the query encoder's first call, `Method.descend` takes them out of the loss (and
its micro-batches), and `OnlineProbe.follow` learns from them after the step.
Nothing of it goes back to the encoder: its bits are those of a run without.
"""

import contextlib
import math
import threading
from typing import NamedTuple

import numpy as np
import tensorflow as tf

FIGURES = ("probe_loss", "probe_train_top1")  # of a step
MOMENTUM = 0.9
_NONE = -1.0  # stands for a figure of a step without labels; none is below 0

_current = threading.local()  # replicas are traced in threads of their own


class Labels(NamedTuple):
    """What a probe learns: of_images int64 [N], -1 for none; classes, int."""

    of_images: np.ndarray
    classes: int


class OnlineProbe(tf.Module):
    """A linear classifier of backbone features, with an optimiser of its own.

    Its optimiser is SGD with momentum; the kernel's rate is divided by the mean
    squared length of the features (normalised LMS), so that one rate suits the
    features of every encoder: those that are k times as long make the same
    predictions.

    Attributes:
      kernel: float32 [F, classes] variable. bias: float32 [classes] variable.
      velocities: list of variables like these two.
      rate: positive float.
    """

    def __init__(self, features, labels, rate):
        """Starts at zeros, which draws no random number.

        Args:
          features: F, int.
          labels: Labels; the batch's `index` chooses among them.
          rate: positive float.
        """
        super().__init__(name="online_probe")
        self.kernel, self.bias, *self.velocities = (
            tf.Variable(tf.zeros(shape), trainable=False, name=name)
            for name, shape in (
                ("kernel", [features, labels.classes]),
                ("bias", [labels.classes]),
                ("kernel_velocity", [features, labels.classes]),
                ("bias_velocity", [labels.classes]),
            )
        )
        self.rate = rate
        self._labels = _LabelTable(labels.of_images)

    def follow(self, train_step, batch):
        """Does a step of a method, and one of the probe on its features.

        Args:
          train_step: of a Method, inside a replica. batch: dict, its argument.

        Returns:
          what `train_step` returns, and the scalars in FIGURES.

        Raises:
          ValueError: where the step shows no features; when it is traced.
        """
        _current.features = None
        figures = train_step(batch)
        features, _current.features = _current.features, None
        labels = self._labels.of(batch["index"])
        if features is None:
            raise _refusal("a step that calls no Method.descend")
        rows, images = features.shape[0], labels.shape[0]
        if not rows or not images or rows % images:
            raise _refusal(f"features of {rows} views of {images} images")
        # Of two views of an image, side by side, the first is the query.
        return figures | self.learn(features[:: rows // images], labels)

    def learn(self, features, labels):
        """One step on the mean cross-entropy over all labelled images.

        Args:
          features: float32 [N, F] of this replica; no gradient goes back.
          labels: int64 [N], -1 for none.

        Returns:
          dict of the scalars in FIGURES, over all replicas; -1 without labels.

        Side effects: moves the variables, on all replicas alike.
        """
        features = tf.stop_gradient(features)
        known = tf.cast(labels >= 0, tf.float32)  # [N]
        logits = tf.matmul(features, self.kernel) + self.bias
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.maximum(labels, 0), logits
        )
        hits = tf.cast(tf.argmax(logits, axis=1) == labels, tf.float32)
        lengths = tf.reduce_sum(tf.square(features), axis=1)
        targets = tf.one_hot(labels, self.bias.shape[0])
        errors = (tf.nn.softmax(logits) - targets) * known[:, tf.newaxis]
        kernel_gradient = tf.matmul(features, errors, transpose_a=True)
        sums = tf.stack(
            [tf.reduce_sum(known * x) for x in (1.0, losses, hits, lengths)]
        )
        context = tf.distribute.get_replica_context()
        *gradients, sums = context.all_reduce(
            tf.distribute.ReduceOp.SUM,
            [kernel_gradient, tf.reduce_sum(errors, axis=0), sums],
        )
        count, loss, correct, length = tf.unstack(sums)
        images = tf.maximum(count, 1.0)
        rate = self.rate * tf.math.divide_no_nan(images, length)
        self._move(gradients, images, (rate, self.rate), tf.minimum(count, 1.0))
        means = [
            tf.where(count > 0, total / images, _NONE)
            for total in (loss, correct)
        ]
        return dict(zip(FIGURES, means, strict=True))

    def _move(self, gradients, images, rates, seen):
        """SGD with momentum; without labels, `seen` is 0 and nothing moves."""
        for variable, velocity, gradient, rate in zip(
            (self.kernel, self.bias),
            self.velocities,
            gradients,
            rates,
            strict=True,
        ):
            kept = 1.0 - seen * (1.0 - MOMENTUM)
            moved = kept * velocity + gradient / images
            velocity.assign(moved)
            variable.assign_sub(seen * rate * moved)

    def classify(self, features):
        """The classes int64 [n] of features float32 [n, F], as NumPy arrays."""
        logits = features @ self.kernel.numpy() + self.bias.numpy()
        return logits.argmax(axis=1)

    def means(self, window):
        """The means of the figures of some steps, by their names.

        Args:
          window: name -> values of these steps, of the step log.

        Returns:
          dict; None for a figure that no step has, for want of labels.
        """
        known = {
            name: [value for value in window[name] if not value < 0]
            for name in FIGURES
        }
        return {
            name: math.fsum(values) / len(values) if values else None
            for name, values in known.items()
        }


class _LabelTable:
    """The labels of a source, on the device; never saved.

    A plain object, which no checkpoint follows. A variable, since a constant
    would be part of the graph, once for each replica.
    """

    def __init__(self, labels):
        self._labels = tf.Variable(
            tf.constant(labels, tf.int64), trainable=False, name="labels"
        )

    def of(self, index):
        """The labels int64 [n] of images int64 [n], in the graph."""
        return tf.gather(self._labels, index)


def is_watching():
    """Whether features of the query encoder are wanted in this place."""
    return getattr(_current, "shown", None) is not None


def show(features):
    """Offers features float32 [n, F]; the first of a loss are taken."""
    _current.shown.append(features)


def watch(probe, loss_of):
    """The loss function, which with a probe returns features at the end."""
    if probe is None:
        return loss_of

    def with_features(rows):
        with _watching() as shown:
            outputs = loss_of(rows)
        if not shown:
            raise _refusal("a loss that calls no Method.project")
        return (*outputs, shown[0])

    return with_features


def take(probe, outputs):
    """What the loss function returned; features of `watch` are kept."""
    if probe is None:
        return outputs
    *outputs, _current.features = outputs
    return tuple(outputs)


@contextlib.contextmanager
def _watching():
    before = getattr(_current, "shown", None)
    _current.shown = []
    try:
        yield _current.shown
    finally:
        _current.shown = before


def _refusal(received):
    return ValueError(
        "An online probe needs a method that calls Method.descend with a loss "
        "that begins with Method.project of the query views, an image's next "
        f"to each other. Received {received}. Pass --config.probe.online=false."
    )
