"""Momentum Contrast (v1 arXiv:1911.05722, v2 arXiv:2003.04297)."""

import math
from typing import Any

import tensorflow as tf

from moco_tf.methods import dictionaries, losses, shuffle, two_views
from moco_tf.methods.momentum import (
    check_momentum,
    update_momentum,
    warmed_momentum,
)
from moco_tf.models import batch_norm


class MoCo(two_views.Contrastive):
    """MoCo: a query encoder, a momentum key encoder and a queue of keys.

    Make it inside the strategy's scope, `compile(optimizer)` it and `fit` it
    on batches of the stream (moco_tf/data/stream.py).

    Attributes:
      query_encoder, key_encoder: Encoder, backbone and head.
      queue: KeyQueue.
    """

    NEEDS = ("seed", "steps_per_epoch")
    MULTI_CROP = True

    def __init__(
        self,
        backbone: tf.keras.Model,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        symmetric: bool = False,
        mask_same_image: bool = False,
        batch_negatives: bool = False,
        momentum_warmup_epochs: int = 0,
        fill_queue: bool = False,
        steps_per_epoch: int = 1,
        shuffle_keys: str = "gather",
        seed: int = 0,
        **common: Any,
    ) -> None:
        """Builds both encoders, equal at the start, and the queue.

        Args:
          backbone: keras.Model, float [N, H, W, 3] -> [N, F].
          queue_size: K, keys in the dictionary.
          momentum: float in 0..1, m of Eq. 2.
          temperature: positive float, tau of Eq. 1.
          symmetric: sum of the losses of both directions (authors' CIFAR demo);
            a step then enqueues the keys of both views.
          mask_same_image: leave keys of a query's own image out of its
            negatives; a small data set comes round while they are queued.
          batch_negatives: the keys of a step's other images are negatives
            beside the queue: G - 1 fresh ones, G of the global batch.
          momentum_warmup_epochs: in which the momentum rises from 0 along a
            cosine; 0: it is the same from the first step on.
          fill_queue: whether the queue is to hold keys of images before the
            first step (`first_pass`); else it begins with random ones.
          steps_per_epoch: int, of the run; matters to that rise alone.
          shuffle_keys: one of shuffle.KINDS.
          seed: int, of the queue's first keys.
          **common: of TwoViews: head, dim, mean, std, micro_batches,
            jit_compile, recompute.

        Raises:
          ValueError: for a value outside its range, or a backbone that cannot
            be one.
        """
        super().__init__(
            "moco", backbone, temperature, shuffle_keys=shuffle_keys, **common
        )
        check_momentum(momentum)
        self.key_encoder = self.query_encoder.clone()
        self.queue = dictionaries.KeyQueue(
            queue_size, self.query_encoder.dim, seed
        )
        self.last_momentum = momentum
        self.warmup_steps = momentum_warmup_epochs * steps_per_epoch
        if not self.warmup_steps:
            self.momentum = momentum
        self.symmetric = symmetric
        self.mask_same_image = mask_same_image
        self.batch_negatives = batch_negatives
        self.fill_queue = fill_queue

    def train_step(self, batch):
        """One step of Algorithm 1 (v1, section 3.2), inside a replica.

        Args:
          batch: query, key: uint8 or normalised float [N, H, W, 3]; index int64
            [N]; order int64 [G]; valid bool [N] (see the stream's contract).

        Returns:
          dict of the scalars in METRICS.
        """
        query_view, key_view = self.normalized(batch)  # keys: shuffled order

        momentum = self.step_momentum()
        update_momentum(self.key_encoder, self.query_encoder, momentum)
        key = self.encode(self.key_encoder, key_view)  # [N, C]
        keys, samples = shuffle.gather_keys(key, batch["index"])  # [G, C], [G]
        keys = shuffle.unshuffle(keys, batch["order"])  # in slot order
        rows = {"query": query_view, "key": shuffle.this_replica(keys)}
        rows |= {"index": batch["index"], **self.small_views(batch)}
        if self.symmetric:
            rows, keys, samples = self.with_other_direction(
                rows, keys, samples, key_view, batch["order"]
            )

        dictionary = self.dictionary(keys, samples)

        def contrast(rows):
            query = self.vectors(self.query_encoder, rows["query"])  # [N, C]
            queries = self.with_small_views(query, rows)
            loss, logits = self.contrast(*queries, *dictionary)
            if self.symmetric:
                loss += self.other_loss(rows, dictionary)
            return loss, self.scores(logits)

        loss, scores = self.descend(contrast, rows)

        # After the logits: no key is a negative of its own query.
        self.queue.enqueue(keys, samples, self.step)
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}

    def first_passes(self, batch_size):
        """As many batches as fill the queue, if it is to be filled."""
        return self.fill_queue * -(-self.queue.size // batch_size)

    def first_pass(self, batch):
        """Puts the keys of a batch into the queue, inside a replica.

        Nothing learns, and the key encoder stays as it is, its BatchNorm's
        moving statistics too: it begins equal to the query encoder.

        Args:
          batch: as of `train_step`.
        """
        _, key_view = self.normalized(batch)
        with batch_norm.frozen_statistics():
            key = self.encode(self.key_encoder, key_view)
        keys, samples = shuffle.gather_keys(key, batch["index"])
        keys = shuffle.unshuffle(keys, batch["order"])
        self.queue.enqueue(keys, samples, self.step)

    def step_momentum(self):
        """m of Eq. 2 at this step."""
        if not self.warmup_steps:
            return self.last_momentum
        return warmed_momentum(self.last_momentum, self.step, self.warmup_steps)

    def dictionary(self, keys, samples):
        """The negatives of a step, and the images that queries leave out.

        Deviation: with batch_negatives the keys of this step, float32 [G, C],
        are negatives beside the queue, but those of a query's own image; in
        v1 the queue has all. With mask_same_image a query leaves its image's
        queued keys out; in v1 it does not.

        Args:
          keys: float32 [G, C]. samples: int64 [G], their images.

        Returns:
          negatives float32 [M, C], and int64 [M] or None: of each the image
          whose queries leave it out, -1 for none.
        """
        negatives, images = self.queue.keys, self.queue.samples
        if not self.mask_same_image:
            images = None
        if self.batch_negatives:
            negatives = tf.concat([tf.stop_gradient(keys), negatives], axis=0)
            if images is None:
                images = tf.fill([self.queue.size], tf.constant(-1, tf.int64))
            images = tf.concat([samples, images], axis=0)
        return negatives, images

    def contrast(self, query, key, index, negatives, images):
        """InfoNCE of queries [N, C], of images `index` [N], and their keys."""
        masked = None
        if images is not None:
            masked = index[:, tf.newaxis] == images
        return losses.info_nce(
            query, tf.stop_gradient(key), negatives, self.temperature, masked
        )

    def with_other_direction(self, rows, keys, samples, key_view, order):
        """The symmetric step: key views are queries, query views keys, too.

        Args:
          rows: dict of tensors of this replica, of the first direction.
          keys, samples: float32 [G, C], int64 [G], of the first direction.
          key_view: normalised float [N, H, W, 3], in the shuffled order of
            `order`, int64 [G].

        Returns:
          rows, keys [2G, C] and samples [2G] of both directions.
        """
        other_key = self.encode(self.key_encoder, rows["query"])
        other_keys = shuffle.all_gather(other_key)  # in slot order already
        shuffled = shuffle.this_replica(order)  # slots of the key views
        rows = rows | {
            "other_query": key_view,
            "other_key": tf.gather(other_keys, shuffled),
            "other_index": tf.gather(samples, shuffled),
        }
        keys = tf.concat([keys, other_keys], axis=0)
        return rows, keys, tf.concat([samples, samples], axis=0)

    def other_loss(self, rows, dictionary):
        """The loss of the key views as queries."""
        query = self.vectors(self.query_encoder, rows["other_query"])
        pairs = query, rows["other_key"], rows["other_index"]
        return self.contrast(*pairs, *dictionary)[0]

    def with_small_views(self, query, rows):
        """Queries, their keys and images; an image's small views are queries.

        As SwAV (arXiv:2006.09882, Sec. 3.2) has it, large views alone are keys.
        """
        key, index = rows["key"], rows["index"]
        if "small" not in rows:
            return query, key, index
        count, small = self.small_vectors(rows)
        return (
            tf.concat([query, small], axis=0),
            tf.concat([key, tf.repeat(key, count, axis=0)], axis=0),
            tf.concat([index, tf.repeat(index, count)], axis=0),
        )

    @classmethod
    def chance_loss(cls, settings, run):
        """ln(M + 1) of M negatives, for each direction."""
        directions = 2 if settings.symmetric else 1
        negatives = settings.queue_size
        if settings.batch_negatives:  # but an image's own keys
            negatives += directions * (run.batch_size - 1)
        return directions * math.log(negatives + 1)

    @classmethod
    def check(cls, settings, run):
        """Refuses a queue that does not hold the keys of a step."""
        super().check(settings, run)
        size = settings.queue_size
        keys = run.batch_size * (2 if settings.symmetric else 1)
        if size < keys:
            raise ValueError(
                "moco.queue_size must be at least the number of keys of a step "
                "(the batch size, twice that when symmetric). Received "
                f"queue_size={size}, keys={keys}. Pass "
                f"--config.moco.queue_size={keys} or more, or lower "
                "config.train.batch_size."
            )

    @classmethod
    def dictionary_bytes(cls, settings, run, rows):
        """The queue, with the image and the step of each key, and logits."""
        keys = settings.queue_size
        queries = cls.trained_views(settings) + run.small_views
        negatives = keys
        if settings.batch_negatives:
            negatives += cls.trained_views(settings) * run.batch_size
        logits = losses.logit_bytes(queries * rows, negatives)
        return keys * (4 * run.dim + 16) + logits

    @classmethod
    def trained_views(cls, settings):
        """Both views are queries when it is symmetric."""
        return 2 if settings.symmetric else 1
