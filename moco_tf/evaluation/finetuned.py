"""A classifier whose backbone is trained too."""

import tensorflow as tf

from moco_tf.data import views
from moco_tf.evaluation import classifier
from moco_tf.models import given


class FineTuned(classifier.Classifier):
    """A pre-trained backbone and a new head, both trained with labels.

    BatchNorm is in training mode, as in MoCo's transfer experiments
    (arXiv:1911.05722, section 4.2).

    Attributes:
      head: keras.Model, features -> logits, as of heads.classification_head.
    """

    def __init__(
        self,
        backbone,
        head,
        labels,
        recipe,
        label_smoothing=0.0,
        mixing=None,
    ):
        """Joins both parts.

        Args:
          backbone: keras.Model, normalised images -> features [N, F].
          head: keras.Model, features [N, F] -> logits [N, classes].
          labels: int64 [N] of the training source, 0..classes - 1.
          recipe: views.Recipe, whose normalisation the backbone expects.
          label_smoothing: float in 0..1.
          mixing: augment.Mixing of a replica's batch, or None.
        """
        super().__init__(labels, recipe, "fine_tuned")
        self._backbone = backbone
        self.head = head
        self.label_smoothing = label_smoothing
        self._mixing = mixing

    @property
    def backbone(self):
        return self._backbone

    def trained_variables(self):
        parts = (self._backbone, self.head)
        return [v for part in parts for v in part.trainable_variables]

    def train_step(self, batch):
        """One step of SGD on all weights, inside a replica.

        Args:
          batch: query uint8 [N, H, W, 3]; index int64 [N]; valid bool [N].

        Returns:
          dict of the scalars in METRICS; top1 counts an image that is blended
          with others as its own class.
        """
        labels = targets = self.labels_of(batch)
        images = views.normalize(
            batch["query"], self.recipe.mean, self.recipe.std
        )
        if self._mixing:
            targets = tf.one_hot(labels, self.head.output_shape[-1])
            images, targets = self._mixing(images, targets, self.step)
        with tf.GradientTape() as tape:
            logits = self._classify(images, training=True)
            loss = classifier.cross_entropy(
                targets, logits, self.label_smoothing
            )
            # Keras sums gradients over replicas.
            loss_share = loss / self.replicas
        self.optimizer.minimize(loss_share, self.trained_variables(), tape=tape)
        return self.report(batch, labels, logits, loss)

    @tf.function
    def logits(self, images):
        images = views.normalize(images, self.recipe.mean, self.recipe.std)
        return self._classify(images, training=False)

    def _classify(self, images, training):
        features = given.call(self._backbone, images, training)
        features = tf.cast(features, tf.float32)
        return given.call(self.head, features, training)
