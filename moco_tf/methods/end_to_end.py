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

    WHOLE_BATCH = "a query's negatives are the whole batch"

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
            "end_to_end",
            backbone,
            temperature,
            shuffle_keys=shuffle_keys,
            **common,
        )
        if not shared_encoder:
            self.key_encoder = self.query_encoder.clone()

    def train_step(self, batch):
        """One step (v1, Eq. 1), inside a replica.

        Args:
          batch: query, key: uint8 or normalised float [N, H, W, 3]; order int64
            [G]; valid bool [N] (see the stream's contract).

        Returns:
          dict of the scalars in METRICS.
        """
        query_view, key_view = self.normalized(batch)  # keys: shuffled order
        slots = tf.range(batch["order"].shape[0], dtype=tf.int64)  # [G]
        positives = shuffle.this_replica(slots)[:, tf.newaxis] == slots

        def contrast(rows):
            query = self.vectors(self.query_encoder, rows["query"])
            encoder = self.key_encoder or self.query_encoder
            key = self.vectors(encoder, rows["key"])
            # Gradients flow back through the gather, to every replica.
            keys = shuffle.unshuffle(shuffle.all_gather(key), batch["order"])
            loss, logits = losses.info_nce(
                query,
                shuffle.this_replica(keys),
                keys,
                self.temperature,
                masked=positives,  # [N, G]: they are no negatives
            )
            return loss, self.scores(logits)

        rows = {"query": query_view, "key": key_view}
        loss, scores = self.descend(contrast, rows)
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}

    def trained_variables(self):
        variables = list(self.query_encoder.trainable_variables)
        if self.key_encoder is not None:
            variables += self.key_encoder.trainable_variables
        return variables

    def encodings(self, batch):
        return {
            name: encoding._replace(trained=True)
            for name, encoding in super().encodings(batch).items()
        }

    @classmethod
    def chance_loss(cls, settings, run):
        """ln(G): a query's own key and G - 1 others."""
        del settings
        return math.log(run.batch_size)

    @classmethod
    def dictionary_bytes(cls, settings, run, rows):
        """Logits of the keys of the global batch."""
        del settings
        return losses.logit_bytes(rows, run.batch_size)
