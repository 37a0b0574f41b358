"""A classifier that is trained with labels, and its evaluation."""

import numpy as np
import tensorflow as tf

from moco_tf.evaluation import features
from moco_tf.methods import method


class Classifier(method.Method):
    """What linear and fine-tuned classifiers share.

    A subclass defines `train_step(batch)`, and for `predict` the tf.function
    `logits`: float32 [n, classes] of uint8 [n, S, S, 3], in inference. Labels
    do not travel with the images: a batch names its samples, and the step looks
    up.

    Attributes:
      recipe: views.Recipe, whose normalisation the backbone expects.
    """

    METRICS = ("loss", "top1", "unreadable")

    def __init__(self, labels, recipe, name):
        """Stores the labels.

        Args:
          labels: int64 [N] of the training source, 0..classes - 1.
          recipe: views.Recipe of the encoder.
          name: str.
        """
        super().__init__(name=name)
        self._labels = np.asarray(labels, np.int64)
        self.recipe = recipe

    def labels_of(self, batch):
        """Labels int64 [b] of a batch."""
        return tf.gather(tf.constant(self._labels), batch["index"])

    def report(self, batch, labels, logits, loss):
        """The scalars of METRICS for a step."""
        correct = tf.equal(tf.argmax(logits, axis=1), labels)
        unreadable = tf.logical_not(batch["valid"])
        return {
            "loss": loss,
            "top1": tf.reduce_mean(tf.cast(correct, tf.float32)),
            "unreadable": tf.reduce_mean(tf.cast(unreadable, tf.float32)),
        }


def cross_entropy(labels, logits, smoothing=0.0):
    """Mean cross-entropy with smoothed targets (arXiv:1512.00567, Sec. 7).

    A target is (1 - smoothing) * target + smoothing / classes.

    Args:
      labels: int64 [n], or float32 [n, classes] that sum to 1.
      logits: float32 [n, classes]. smoothing: float in 0..1.

    Returns:
      float32 scalar, nats.
    """
    classes = logits.shape[1]
    targets = labels
    if labels.dtype.is_integer:
        targets = tf.one_hot(labels, classes)
    targets = (1.0 - smoothing) * targets + smoothing / classes
    return tf.reduce_mean(
        tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    )


def predict(method_, source, image_size, batch_size):
    """Logits of every readable image of a source.

    Args:
      method_: Classifier. source: Source.
      image_size: pixels. batch_size: images per forward pass.

    Returns:
      logits float32 [n, classes], index int64 [n].
    """
    found, places = [], []
    for images, index in features.evaluation_batches(
        source, method_.recipe, image_size, batch_size
    ):
        logits = method_.logits(features.filled(images, batch_size))
        found.append(logits.numpy()[: len(index)])
        places.append(index.numpy())
    if not found:
        raise features.none_readable(source)
    return np.concatenate(found), np.concatenate(places)
