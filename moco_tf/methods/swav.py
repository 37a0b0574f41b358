"""SwAV (arXiv:2006.09882): predict a view's code from another view."""

import math
from typing import Any

import tensorflow as tf

from moco_tf.methods import dictionaries, losses, shuffle, two_views
from moco_tf.models.heads import Prototypes


class SwAV(two_views.TwoViews):
    """An encoder and prototypes; a code assigns a view to prototypes.

    Attributes:
      prototypes: Prototypes, K directions; of unit length at every step.
      queue, other_queue: KeyQueue of the features of either view, or None.
    """

    NEEDS = ("seed", "steps_per_epoch")
    METRICS = ("loss", "unreadable", "positive", "spread", "clusters")
    MULTI_CROP = True
    BEHIND_HEAD = ("prototypes",)
    WHOLE_BATCH = "codes are shares of the whole batch"

    def __init__(
        self,
        backbone: tf.keras.Model,
        steps_per_epoch: int,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue_size: int = 0,
        queue_from_epoch: int = 15,
        frozen_epochs: int = 1,
        seed: int = 0,
        **common: Any,
    ) -> None:
        """Builds encoder, prototypes and, if wanted, the queues.

        Args:
          backbone: keras.Model, float [N, H, W, 3] -> [N, F].
          steps_per_epoch: int.
          prototypes: K.
          temperature: positive float, tau of Eq. 2.
          epsilon: positive float, of Eq. 3; less makes sharper codes.
          iterations: int, of Sinkhorn-Knopp.
          queue_size: features of either view that help to make codes; 0: none.
          queue_from_epoch: the first epoch (from 0) that uses them.
          frozen_epochs: first epochs in which prototypes do not learn.
          seed: int, of the queues' first features.
          **common: of TwoViews; micro_batches is 1: codes are of the batch, not
            of a part of it. Published: head "swav", dim 128.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__("swav", backbone, **common)
        if min(temperature, epsilon) <= 0 or prototypes < 2:
            raise ValueError(
                "temperature and epsilon must be above 0, prototypes at least "
                f"2. Received temperature={temperature}, epsilon={epsilon}, "
                f"prototypes={prototypes}."
            )
        dim = self.query_encoder.dim
        self.prototypes = Prototypes(dim, prototypes)
        self.temperature, self.epsilon = temperature, epsilon
        self.iterations = iterations
        self.frozen_steps = frozen_epochs * steps_per_epoch
        self.queue_from_step = queue_from_epoch * steps_per_epoch
        self.other_queue: Any = None
        if queue_size:
            self.queue = dictionaries.KeyQueue(queue_size, dim, seed)
            self.other_queue = dictionaries.KeyQueue(queue_size, dim, seed + 1)

    def train_step(self, batch):
        """One step of Algorithm 1 (App. A), inside a replica.

        Args:
          batch: query, key: uint8 or normalised float [N, H, W, 3], two views
            of the same images; small uint8 or float [N, V, s, s, 3], if there
            are small views; index int64 [N]; valid bool [N] (see the stream's
            contract).

        Returns:
          dict of the scalars in METRICS.
        """
        self.prototypes.normalize()
        first, second = self.normalized(batch)
        rows = {"views": two_views.side_by_side(first, second)}
        rows |= self.small_views(batch)

        def swap(rows):
            views = self.vectors(self.query_encoder, rows["views"])  # [2N, C]
            all_views = shuffle.all_gather(tf.stop_gradient(views))  # [2G, C]
            codes = self.codes(all_views)  # [N, K] for each view
            predictions = self.predictions(views, rows)  # [N, 1 + V, K] each
            loss = sum(
                losses.cross_entropy(code, scores / self.temperature)
                for code, scores in zip(codes, predictions, strict=True)
            )
            pairs = tf.reshape(views, [-1, 2, views.shape[1]])
            cosines = tf.reduce_sum(pairs[:, 0] * pairs[:, 1], axis=1)
            scores = {
                "positive": tf.reduce_mean(cosines),
                "spread": losses.spread(views),
                "clusters": two_views.clusters(tf.stack(codes)),
            }
            return loss / 2.0, scores, all_views

        loss, scores, all_views = self.descend(swap, rows)
        self.enqueue(all_views, batch["index"])
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}

    def predictions(self, views, rows):
        """Scores that predict each large view's code from other views.

        Args:
          views: float32 [2N, C], unit vectors of both large views.
          rows: dict; with "small", their scores come after the other view's
            (multi-crop, Sec. 3.2).

        Returns:
          two float32 [N, 1 + V, K], cosines with the prototypes.
        """
        frozen = self.step < self.frozen_steps
        scores = self.prototypes(views, frozen)
        scores = tf.reshape(scores, [-1, 2, scores.shape[1]])
        others = [scores[:, tf.newaxis, 1], scores[:, tf.newaxis, 0]]
        if "small" not in rows:
            return others
        count, small = self.small_vectors(rows)
        scores = self.prototypes(small, frozen)
        scores = tf.reshape(scores, [-1, count, scores.shape[1]])
        return [tf.concat([other, scores], axis=1) for other in others]

    def codes(self, all_views):
        """Codes of both views of this replica, each from its own view.

        Args:
          all_views: float32 [2G, C], the same on every replica.

        Returns:
          two float32 [N, K]; rows sum to 1, and no gradient flows back.
        """
        pairs = tf.reshape(all_views, [-1, 2, all_views.shape[1]])
        codes = []
        for side, queue in enumerate((self.queue, self.other_queue)):
            vectors = pairs[:, side]
            count = vectors.shape[0]
            if queue is None:
                codes.append(self._sinkhorn(vectors, count))
                continue
            # Not before it holds features of images alone.
            filled = -(-queue.size // count)
            uses_queue = self.step >= max(self.queue_from_step, filled)
            more = tf.concat([vectors, queue.keys], axis=0)
            # Both: a condition would wait for the GPU's step at every step.
            codes.append(
                tf.where(
                    uses_queue,
                    self._sinkhorn(more, count),
                    self._sinkhorn(vectors, count),
                )
            )
        return [shuffle.this_replica(code) for code in codes]

    def _sinkhorn(self, vectors, count):
        """Codes of the first `count` of vectors [M, C]."""
        scores = tf.stop_gradient(self.prototypes(vectors))
        return losses.sinkhorn(scores, self.epsilon, self.iterations)[:count]

    def enqueue(self, all_views, index):
        """Puts the features of a step, [2G, C], into the queues."""
        if self.queue is None:
            return
        pairs = tf.reshape(all_views, [-1, 2, all_views.shape[1]])
        samples = shuffle.all_gather(index)
        self.queue.enqueue(pairs[:, 0], samples, self.step)
        self.other_queue.enqueue(pairs[:, 1], samples, self.step)

    def trained_variables(self):
        return [
            *self.query_encoder.trainable_variables,
            *self.prototypes.trainable_variables,
        ]

    def encodings(self, batch):
        return self.joint_encodings(batch)

    @classmethod
    def chance_loss(cls, settings, run):
        """ln(K): all prototypes are as likely."""
        del run
        return math.log(settings.prototypes)

    @classmethod
    def check(cls, settings, run):
        """Refuses a queue that holds less than a batch."""
        super().check(settings, run)
        size, batch = settings.queue_size, run.batch_size
        if 0 < size < batch:
            raise ValueError(
                "swav.queue_size must be 0 or at least the batch size. "
                f"Received queue_size={size}, batch_size={batch}. Raise "
                f"config.swav.queue_size to {batch} or more, or pass "
                "--config.swav.queue_size=0 for no queue."
            )

    @classmethod
    def dictionary_bytes(cls, settings, run, rows):
        """Prototypes, queues, and scores of the global batch and the queues."""
        count, size = settings.prototypes, settings.queue_size
        scored = (run.batch_size + size) if rows else 0
        views = 2 + run.small_views
        stored = 4 * run.dim * count + 2 * size * (4 * run.dim + 16)
        logits = losses.logit_bytes(views * rows, count)
        return stored + 8 * count * scored + logits
