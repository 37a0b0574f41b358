"""Instance discrimination end to end: keys of the current batch.

The first panel of MoCo's Figure 2 (arXiv:1911.05722): the dictionary is the
global batch, and both encoders learn by back-propagation.
"""

import math
from typing import Any

import tensorflow as tf

from moco_tf.methods import losses, shuffle, two_views


class EndToEnd(two_views.Contrastive):
    """A query and a key encoder, both trained, without a memory."""

    def __init__(
        self,
        backbone: tf.keras.Model,
        temperature: float = 0.2,
        shared_encoder: bool = False,
        shuffle_keys: str = "gather",
        **common: Any,
    ) -> None:
        """Builds both encoders, equal at the start.

        Args:
          backbone: keras.Model, float [N, H, W, 3] -> [N, F].
          temperature: positive float, tau of Eq. 1.
          shared_encoder: whether one encoder makes queries and keys.
          shuffle_keys: one of shuffle.KINDS.
          **common: of TwoViews; micro_batches is 1: the dictionary is the
            batch, not a part of it.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__(
            "end_to_end", backbone, shuffle_keys=shuffle_keys, **common
        )
        self.refuse_micro_batches()
        if temperature <= 0:
            raise ValueError(
                "temperature must be above 0. Received "
                f"temperature={temperature}."
            )
        self.temperature = temperature
        if not shared_encoder:
            self.key_encoder = self.query_encoder.clone()

    @classmethod
    def chance_loss(cls, section, batch_size):
        """ln(G): a query's own key and G - 1 others."""
        del section
        return math.log(batch_size)

    @classmethod
    def dictionary_bytes(cls, config, images, rows):
        """Logits of the keys of the global batch."""
        del images
        return losses.logit_bytes(rows, config.train.batch_size)

    @classmethod
    def check(cls, config, replicas):
        """Refuses parts of a batch: the dictionary is the batch."""
        cls.refuse_configured_parts(config)

    def passes(self, batch):
        found = super().passes(batch)
        return {name: one._replace(trained=True) for name, one in found.items()}

    def trained_variables(self):
        variables = list(self.query_encoder.trainable_variables)
        if self.key_encoder is not None:
            variables += self.key_encoder.trainable_variables
        return variables

    def train_step(self, batch):
        """One step (v1, Eq. 1), inside a replica.

        Args:
          batch: as MoCo's.

        Returns:
          dict of the scalars in METRICS.
        """
        query_view, key_view = self.normalized(batch)  # keys: shuffled order
        slots = tf.range(batch["order"].shape[0])  # [G]
        own = shuffle.own_rows(slots)[:, tf.newaxis] == slots  # [N, G]

        def contrast(rows):
            query = self.vectors(self.query_encoder, rows["query"])
            encoder = self.key_encoder or self.query_encoder
            key = self.vectors(encoder, rows["key"])
            # Gradients flow back through the gather, to every replica.
            keys = shuffle.unshuffle(shuffle.all_gather(key), batch["order"])
            loss, logits = losses.info_nce(
                query, shuffle.own_rows(keys), keys, self.temperature, own
            )
            return loss, self.scores(logits)

        rows = {"query": query_view, "key": key_view}
        loss, scores = self.descend(contrast, rows)
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}
