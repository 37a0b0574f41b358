"""BYOL (arXiv:2006.07733): predict a momentum encoder's output of a view."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from moco_tf.methods import losses, two_views
from moco_tf.methods.momentum import (
    check_momentum,
    rising_momentum,
    update_momentum,
)
from moco_tf.models import batch_norm, heads


class BYOL(two_views.TwoViews):
    """An online encoder with a predictor, and a target: no negatives.

    Attributes:
      query_encoder: Encoder, the online backbone and projector.
      predictor: keras.Model, float32 [N, C] -> [N, C].
      key_encoder: Encoder, the target.
    """

    NEEDS = ("total_steps", "hidden", "norm")
    METRICS = ("loss", "unreadable", "positive", "spread")
    MULTI_CROP = True
    BEHIND_HEAD = ("predictor",)

    def __init__(
        self,
        backbone: tf.keras.Model,
        total_steps: int,
        momentum: float = 0.996,
        hidden: int = 4096,
        norm: Callable[..., tf.keras.layers.Layer] = batch_norm.BatchNorm,
        **common: Any,
    ) -> None:
        """Builds online network and target, equal at the start.

        Args:
          backbone: keras.Model, float [N, H, W, 3] -> [N, F].
          total_steps: of the whole run, K of the momentum's schedule.
          momentum: float in 0..1, tau_base, the momentum of the first step.
          hidden: features of the predictor's hidden layer; 0: as many as of
            its input.
          norm: BatchNorm, or a functools.partial of it with its `splits` and
            `synchronized`; in the predictor.
          **common: of TwoViews; published: head "byol", dim 256.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__("byol", backbone, **common)
        dim = self.query_encoder.dim
        check_momentum(momentum)
        if total_steps < 1:
            raise ValueError(
                "total_steps must be at least 1. Received "
                f"total_steps={total_steps}."
            )
        self.key_encoder = self.query_encoder.clone()
        self.predictor = heads.bn_mlp(
            dim, hidden, dim, norm=norm, name="predictor"
        )
        self.first_momentum = momentum
        self.total_steps = total_steps

    def train_step(self, batch):
        """One step of Algorithm 1, inside a replica.

        Args:
          batch: query, key: uint8 or normalised float [N, H, W, 3], two views
            of the same images; valid bool [N] (see the stream's contract).

        Returns:
          dict of the scalars in METRICS.
        """
        first, second = self.normalized(batch)
        first_target = self.encode(self.key_encoder, first)  # [N, C]
        second_target = self.encode(self.key_encoder, second)
        rows = {"first": first, "second_target": second_target}
        rows |= {"second": second, "first_target": first_target}
        rows |= self.small_views(batch)

        def regress(rows):
            loss = losses.normalized_mse(
                self.predict(rows["first"]), rows["second_target"]
            ) + losses.normalized_mse(
                self.predict(rows["second"]), rows["first_target"]
            )
            if "small" in rows:
                loss = self.with_small_views(loss, rows)
            return loss, {"positive": 1.0 - loss / 4.0}

        loss, scores = self.descend(regress, rows)
        # After the optimiser's step, as in Algorithm 1.
        momentum = rising_momentum(
            self.first_momentum, self.step, self.total_steps
        )
        update_momentum(self.key_encoder, self.query_encoder, momentum)
        scores["spread"] = losses.spread(first_target)
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}

    def predict(self, images):
        """Targets of another view, predicted by the online network.

        Args:
          images: normalised float [N, H, W, 3].

        Returns:
          unit vectors float32 [N, C].
        """
        projections = self.project(self.query_encoder, images)
        predictions = self.predictor(projections, training=True)
        return tf.math.l2_normalize(predictions, axis=1)

    def with_small_views(self, loss, rows):
        """Multi-crop: twice the mean over the pairs of a view and a target.

        Small views predict both targets and are none (SwAV, arXiv:2006.09882,
        Sec. 3.2).
        """
        count = rows["small"].shape[1]
        predictions = self.predict(two_views.flat(rows["small"]))
        small_loss = sum(
            losses.normalized_mse(
                predictions, tf.repeat(rows[name], count, axis=0)
            )
            for name in ("second_target", "first_target")
        )
        return (loss + count * small_loss) / (1.0 + count)

    def trained_variables(self):
        return [
            *self.query_encoder.trainable_variables,
            *self.predictor.trainable_variables,
        ]

    def encodings(self, batch):
        first, second = self.normalized(batch)
        online, target = self.query_encoder, self.key_encoder
        return {
            "query": two_views.Encoding(online, first, True),
            "other query": two_views.Encoding(online, second, True),
            "key": two_views.Encoding(target, first, False),
            "other key": two_views.Encoding(target, second, False),
            **self.small_encodings(batch),
        }
