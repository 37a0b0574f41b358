"""SimCLR (arXiv:2002.05709): negatives are the other views of a batch."""

import math
from typing import Any

import tensorflow as tf

from moco_tf.methods import losses, shuffle, two_views


class SimCLR(two_views.Contrastive):
    """One encoder; every view's negatives are the other images' views.

    Deviation: from the authors' code, not the paper, as all methods here share
    these: the last gamma of a residual block starts at 1 (theirs 0), linear
    layers start uniform (theirs normal, 0.01), images are normalised.
    """

    MULTI_CROP = True
    WHOLE_BATCH = "a query's negatives are the whole batch"

    def __init__(
        self, backbone: tf.keras.Model, temperature: float = 0.1, **common: Any
    ) -> None:
        """Builds the encoder.

        Args:
          backbone: keras.Model, float [N, H, W, 3] -> [N, F].
          temperature: positive float, tau of Eq. 1.
          **common: of TwoViews; micro_batches is 1: negatives are of the batch,
            not of a part of it.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__("simclr", backbone, temperature, **common)

    def train_step(self, batch):
        """One step of Algorithm 1, inside a replica.

        Args:
          batch: query, key: uint8 or normalised float [N, H, W, 3], two views
            of the same images; valid bool [N] (see the stream's contract).

        Returns:
          dict of the scalars in METRICS.
        """
        first, second = self.normalized(batch)
        rows = {"views": two_views.side_by_side(first, second)}
        rows |= self.small_views(batch)

        def contrast(rows):
            views = self.vectors(self.query_encoder, rows["views"])  # [2N, C]
            # Gradients flow back through the gather, to every replica.
            all_views = shuffle.all_gather(views)  # [2G, C]
            positions = tf.range(all_views.shape[0], dtype=tf.int64)
            positions = shuffle.this_replica(positions)
            loss, logits = losses.nt_xent(
                views, all_views, positions, self.temperature
            )
            if "small" in rows:
                loss = self.with_small_views(
                    loss, rows, views, all_views, positions
                )
            return loss, self.scores(logits)

        loss, scores = self.descend(contrast, rows)
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}

    def with_small_views(self, loss, rows, views, all_views, positions):
        """The mean of the loss of large views and that of small ones.

        A small view has two terms, one for each large view of its image; a
        large one has one. Arguments are as of losses.nt_xent_small.
        """
        count, small = self.small_vectors(rows)
        small_loss = losses.nt_xent_small(
            small, views, all_views, positions, self.temperature
        )
        return (loss + count * small_loss) / (1.0 + count)

    def encodings(self, batch):
        return self.joint_encodings(batch)

    @classmethod
    def chance_loss(cls, settings, run):
        """ln(2G - 1): a view's other view and the views of other images."""
        del settings
        return math.log(2 * run.batch_size - 1)

    @classmethod
    def dictionary_bytes(cls, settings, run, rows):
        """Logits of all views with both large views of the global batch."""
        del settings
        views = 2 + run.small_views
        return losses.logit_bytes(views * rows, 2 * run.batch_size)
