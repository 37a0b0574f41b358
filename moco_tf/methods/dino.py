"""DINO (arXiv:2104.14294) on a ResNet: a centred, sharpened teacher."""

import math
from typing import Any

import tensorflow as tf

from moco_tf.methods import losses, two_views
from moco_tf.methods.momentum import (
    check_momentum,
    rising_momentum,
    update_momentum,
)
from moco_tf.models import batch_norm, heads


class DINO(two_views.TwoViews):
    """A student and a teacher by momentum, both with an output of K classes.

    Attributes:
      query_encoder: Encoder, the student's backbone and projector.
      last_layer: Prototypes, the student's weight-normalised last layer.
      key_encoder, key_last_layer: the teacher's.
      center: float32 [K] variable, the teacher's mean output.
    """

    NEEDS = ("total_steps", "steps_per_epoch")
    METRICS = ("loss", "unreadable", "spread", "teacher_entropy", "clusters")
    MULTI_CROP = True
    BEHIND_HEAD = ("last_layer", "center")
    START_EQUAL = two_views.TwoViews.START_EQUAL | {
        "key_last_layer": "last_layer"
    }

    def __init__(
        self,
        backbone: tf.keras.Model,
        total_steps: int,
        steps_per_epoch: int,
        outputs: int = 65536,
        temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        first_teacher_temperature: float = 0.04,
        warmup_epochs: int = 30,
        momentum: float = 0.996,
        center_momentum: float = 0.9,
        frozen_epochs: int = 1,
        **common: Any,
    ) -> None:
        """Builds student and teacher, equal at the start.

        Args:
          backbone: keras.Model, float [N, H, W, 3] -> [N, F].
          total_steps: of the whole run. steps_per_epoch: int.
          outputs: K.
          temperature: positive float, tau_s of Eq. 1.
          teacher_temperature: positive float, tau_t after the warm-up.
          first_teacher_temperature: positive float, tau_t of the first epoch.
          warmup_epochs: in which tau_t rises, by the same amount an epoch.
          momentum: float in 0..1, lambda of the first step.
          center_momentum: float in 0..1, m of Eq. 4.
          frozen_epochs: first epochs in which the last layer does not learn.
          **common: of TwoViews. Published: head "dino", dim 256.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__("dino", backbone, **common)
        lowest = min(
            temperature, teacher_temperature, first_teacher_temperature
        )
        if lowest <= 0 or outputs < 2:
            raise ValueError(
                "Temperatures must be above 0 and outputs at least 2. Received "
                f"temperatures down to {lowest}, outputs={outputs}."
            )
        check_momentum(momentum)
        dim = self.query_encoder.dim
        self.key_encoder = self.query_encoder.clone()
        self.last_layer = heads.Prototypes(dim, outputs, "last_layer")
        self.key_last_layer = heads.Prototypes(dim, outputs, "key_last")
        self.key_last_layer.set_weights(self.last_layer.get_weights())
        self.center = tf.Variable(
            tf.zeros([outputs]), trainable=False, name="center"
        )
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.first_teacher_temperature = first_teacher_temperature
        self.warmup_epochs = warmup_epochs
        self.first_momentum = momentum
        self.center_momentum = center_momentum
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.frozen_steps = frozen_epochs * steps_per_epoch

    def train_step(self, batch):
        """One step of Algorithm 1, inside a replica.

        Args:
          batch: query, key: uint8 or normalised float [N, H, W, 3], two views
            of the same images; small uint8 or float [N, V, s, s, 3], if there
            are small views; valid bool [N] (see the stream's contract).

        Returns:
          dict of the scalars in METRICS.
        """
        first, second = self.normalized(batch)
        views = two_views.side_by_side(first, second)
        targets = self.encode(self.key_encoder, views)  # [2N, C]
        outputs = self.key_last_layer(targets, unit=True)  # [2N, K]
        probabilities = self.sharpen(outputs)  # [N, 2, K]
        rows = {
            "views": tf.stack([first, second], axis=1),
            "probabilities": probabilities,
            **self.small_views(batch),
        }

        def distil(rows):
            loss = sum(
                losses.cross_entropy(rows["probabilities"][:, side], scores)
                for side, scores in enumerate(self.predictions(rows))
            )
            return loss / 2.0, {}

        loss, _ = self.descend(distil, rows)
        self.move_center(outputs)
        momentum = rising_momentum(
            self.first_momentum, self.step, self.total_steps
        )
        update_momentum(self.key_encoder, self.query_encoder, momentum)
        update_momentum(self.key_last_layer, self.last_layer, momentum)
        return {
            "loss": loss,
            "spread": losses.spread(targets),
            "teacher_entropy": losses.entropy(probabilities),
            "clusters": two_views.clusters(probabilities),
            "unreadable": self.unreadable(batch),
        }

    def sharpen(self, outputs):
        """The teacher's probabilities float32 [N, 2, K] of outputs [2N, K]."""
        sharp = outputs - self.center
        sharp /= self.teacher_temperature_at(self.step)
        return tf.nn.softmax(tf.reshape(sharp, [-1, 2, sharp.shape[1]]))

    def predictions(self, rows):
        """The student's outputs that each of the teacher's is compared with.

        Args:
          rows: dict; "views" normalised float [N, 2, H, W, 3]; with "small",
            those of small views come after the other large view's.

        Returns:
          two float32 [N, 1 + V, K], for the teacher's outputs of either view.
        """
        large = self.student(rows["views"])  # [N, 2, K]
        others = [large[:, 1:], large[:, :1]]
        if "small" not in rows:
            return others
        small = self.student(rows["small"])  # [N, V, K]
        return [tf.concat([other, small], axis=1) for other in others]

    def student(self, views):
        """The student's outputs divided by its temperature.

        Args:
          views: normalised float [N, V, S, S, 3].

        Returns:
          float32 [N, V, K].
        """
        frozen = self.step < self.frozen_steps
        vectors = self.vectors(self.query_encoder, two_views.flat(views))
        scores = self.last_layer(vectors, frozen, unit=True) / self.temperature
        return tf.reshape(scores, [-1, views.shape[1], scores.shape[1]])

    def move_center(self, outputs):
        """Eq. 4: the centre follows the mean output of the global batch."""
        mean = batch_norm.replica_mean(tf.reduce_mean(outputs, axis=0))
        momentum = self.center_momentum
        self.center.assign(momentum * self.center + (1.0 - momentum) * mean)

    def teacher_temperature_at(self, step):
        """tau_t of an int64 step, float32: a line over the epochs."""
        first, last = self.first_teacher_temperature, self.teacher_temperature
        if not self.warmup_epochs:
            return tf.constant(last)
        epoch = tf.cast(step // self.steps_per_epoch, tf.float32)
        steps = max(1.0, self.warmup_epochs - 1.0)  # of one: first, then last
        progress = tf.minimum(epoch / steps, 1.0)
        return first + (last - first) * progress

    def trained_variables(self):
        return [
            *self.query_encoder.trainable_variables,
            *self.last_layer.trainable_variables,
        ]

    def encodings(self, batch):
        return self.joint_encodings(batch)

    @classmethod
    def chance_loss(cls, settings, run):
        """ln(K): all outputs are as likely."""
        del run
        return math.log(settings.outputs)

    @classmethod
    def dictionary_bytes(cls, settings, run, rows):
        """Both last layers, the centre, and outputs of all views."""
        count = settings.outputs
        views = 4 + run.small_views
        weights = 4 * count * (2 * run.dim + 1)
        return weights + losses.logit_bytes(views * rows, count)
