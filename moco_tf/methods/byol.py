"""BYOL (arXiv:2006.07733): predict what a momentum encoder makes of a view."""

from typing import Any

import tensorflow as tf

from moco_tf.methods import losses, two_views
from moco_tf.methods.momentum import rising_momentum, update_momentum
from moco_tf.models import heads


class BYOL(two_views.TwoViews):
    """An online encoder with a predictor, and a target: no negatives.

    Attributes:
      query_encoder: Encoder, the online backbone and projector.
      predictor: keras.Model, float32 [N, C] -> [N, C].
      key_encoder: Encoder, the target.
    """

    NEEDS = ("total_steps", "hidden", "bn_splits", "sync_bn")
    METRICS = ("loss", "unreadable", "positive", "spread")
    MULTI_CROP = True

    def __init__(
        self,
        backbone: tf.keras.Model,
        total_steps: int,
        momentum: float = 0.996,
        hidden: int = 4096,
        bn_splits: int = 1,
        sync_bn: bool = False,
        **common: Any,
    ) -> None:
        """Builds online network and target, equal at the start.

        Args:
          backbone: keras.Model, float [N, H, W, 3] -> [N, F].
          total_steps: of the whole run, K of the momentum's schedule.
          momentum: float in 0..1, tau_base, the momentum of the first step.
          hidden: features of the predictor's hidden layer; 0: as many as of
            its input.
          bn_splits: BatchNorm groups of a replica's batch, in the predictor.
          sync_bn: whether that BatchNorm takes the batches of all replicas.
          **common: of TwoViews; published: head "byol", dim 256.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__("byol", backbone, **common)
        dim = self.query_encoder.dim
        if not 0 <= momentum <= 1 or total_steps < 1:
            raise ValueError(
                "momentum must lie in 0..1 and total_steps be at least 1. "
                f"Received momentum={momentum}, total_steps={total_steps}."
            )
        self.key_encoder = self.query_encoder.clone()
        self.predictor = heads.bn_mlp(
            dim,
            hidden,
            dim,
            bn_splits=bn_splits,
            synchronized=sync_bn,
            name="predictor",
        )
        self.first_momentum = momentum
        self.total_steps = total_steps

    def trained_variables(self):
        return [
            *self.query_encoder.trainable_variables,
            *self.predictor.trainable_variables,
        ]

    def passes(self, batch):
        first, second = self.normalized(batch)
        online, target = self.query_encoder, self.key_encoder
        return {
            "query": two_views.Pass(online, first, True),
            "other query": two_views.Pass(online, second, True),
            "key": two_views.Pass(target, first, False),
            "other key": two_views.Pass(target, second, False),
            **self.small_passes(batch),
        }

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
        rows = {
            "views": first,
            "targets": second_target,
            "other_views": second,
            "other_targets": first_target,
            **self.small_views(batch),
        }

        def regress(rows):
            loss = losses.normalized_mse(
                self.predict_targets(rows["views"]), rows["targets"]
            ) + losses.normalized_mse(
                self.predict_targets(rows["other_views"]), rows["other_targets"]
            )
            if "small" in rows:
                loss = self.with_small(loss, rows)
            return loss, {"positive": 1.0 - loss / 4.0}

        loss, scores = self.descend(regress, rows)
        # After the optimiser's step, as in Algorithm 1.
        momentum = rising_momentum(
            self.first_momentum, self.step, self.total_steps
        )
        update_momentum(self.key_encoder, self.query_encoder, momentum)
        return {
            "loss": loss,
            **scores,
            "spread": losses.spread(first_target),
            "unreadable": self.unreadable(batch),
        }

    def with_small(self, loss, rows):
        """Multi-crop: twice the mean over the pairs of a view and a target.

        Small views predict both targets and are none (SwAV, arXiv:2006.09882,
        Sec. 3.2).
        """
        small = two_views.flat(rows["small"])
        count = rows["small"].shape[1]
        predictions = self.predict_targets(small)
        others = sum(
            losses.normalized_mse(
                predictions, tf.repeat(rows[name], count, axis=0)
            )
            for name in ("targets", "other_targets")
        )
        return (loss + count * others) / (1.0 + count)

    def predict_targets(self, images):
        """Unit vectors float32 [N, C] that the online network predicts."""
        projections = self.project(self.query_encoder, images)
        predictions = self.predictor(projections, training=True)
        return tf.math.l2_normalize(predictions, axis=1)
