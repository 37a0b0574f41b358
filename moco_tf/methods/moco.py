"""Momentum Contrast (v1 arXiv:1911.05722, v2 arXiv:2003.04297)."""

import math
from typing import Any

import tensorflow as tf

from moco_tf.methods import dictionaries, losses, shuffle, two_views
from moco_tf.methods.momentum import update_momentum


class MoCo(two_views.Contrastive):
    """MoCo: a query encoder, a momentum key encoder and a queue of keys.

    Make it inside the strategy's scope, `compile(optimizer)` it and `fit` it
    on batches of the stream (moco_tf/data/stream.py).

    Attributes:
      query_encoder, key_encoder: Encoder, backbone and head.
      queue: KeyQueue.
    """

    NEEDS = ("seed",)
    MULTI_CROP = True

    def __init__(
        self,
        backbone: tf.keras.Model,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        symmetric: bool = False,
        mask_same_image: bool = False,
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
          shuffle_keys: one of shuffle.KINDS.
          seed: int, of the queue's first keys.
          **common: of TwoViews: head, dim, mean, std, micro_batches,
            jit_compile, recompute.

        Raises:
          ValueError: for a value outside its range, or a backbone that cannot
            be one.
        """
        super().__init__("moco", backbone, shuffle_keys=shuffle_keys, **common)
        if not 0 <= momentum <= 1 or temperature <= 0:
            raise ValueError(
                "momentum must lie in 0..1 and temperature above 0. Received "
                f"momentum={momentum}, temperature={temperature}."
            )
        self.key_encoder = self.query_encoder.clone()
        self.queue = dictionaries.KeyQueue(
            queue_size, self.query_encoder.dim, seed
        )
        self.momentum = momentum
        self.temperature = temperature
        self.symmetric = symmetric
        self.mask_same_image = mask_same_image

    @classmethod
    def chance_loss(cls, section, batch_size):
        """ln(K + 1), for each direction."""
        del batch_size
        directions = 2 if section.symmetric else 1
        return directions * math.log(section.queue_size + 1)

    @classmethod
    def dictionary_bytes(cls, config, images, rows):
        """The queue, with the image and the step of each key, and logits."""
        del images
        keys = config.moco.queue_size
        queries = cls.trained_passes(config.moco) + config.data.small_views
        logits = losses.logit_bytes(queries * rows, keys)
        return keys * (4 * config.model.dim + 16) + logits

    @classmethod
    def trained_passes(cls, section):
        """Both views are queries when it is symmetric."""
        return 2 if section.symmetric else 1

    @classmethod
    def check(cls, config, replicas):
        """Refuses a queue that does not hold the keys of a step."""
        size = config.moco.queue_size
        keys = config.train.batch_size * (2 if config.moco.symmetric else 1)
        if size < keys:
            raise ValueError(
                "moco.queue_size must be at least the number of keys of a step "
                "(the batch size, twice that when symmetric). Received "
                f"queue_size={size}, keys={keys}. Raise "
                "config.moco.queue_size or lower config.train.batch_size."
            )

    def train_step(self, batch):
        """One step of Algorithm 1 (v1, section 3.2), inside a replica.

        Args:
          batch: query, key: uint8 or normalised float [N, H, W, 3]; index int64
            [N]; order int32 [G]; valid bool [N] (see the stream's contract).

        Returns:
          dict of the scalars in METRICS.
        """
        order = batch["order"]
        query_view, key_view = self.normalized(batch)  # keys: shuffled order

        update_momentum(self.key_encoder, self.query_encoder, self.momentum)
        key = self.encode(self.key_encoder, key_view)  # [N, C]
        keys, samples = shuffle.gather_keys(key, batch["index"])  # [G, C]
        keys = shuffle.unshuffle(keys, order)  # in slot order
        rows = {"query": query_view, "key": shuffle.own_rows(keys)}
        rows |= {"index": batch["index"], **self.small_views(batch)}
        if self.symmetric:
            other_key = self.encode(self.key_encoder, query_view)
            other_keys = shuffle.all_gather(other_key)  # in slot order already
            rows["other_query"] = key_view
            rows["other_key"] = tf.gather(other_keys, shuffle.own_rows(order))
            rows["other_index"] = tf.gather(samples, shuffle.own_rows(order))

        def contrast(rows):
            loss, logits = self.contrast(*self.queries(rows))
            if self.symmetric:
                query = self.vectors(self.query_encoder, rows["other_query"])
                key, index = rows["other_key"], rows["other_index"]
                loss += self.contrast(query, key, index)[0]
            return loss, self.scores(logits)

        loss, scores = self.descend(contrast, rows)

        # After the logits: no key is a negative of its own query.
        self.queue.enqueue(keys, samples, self.step)
        if self.symmetric:
            self.queue.enqueue(other_keys, samples, self.step)
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}

    def queries(self, rows):
        """Queries, their keys and images; an image's small views are queries.

        As SwAV (arXiv:2006.09882, Sec. 3.2) has it, large views alone are keys.
        """
        query = self.vectors(self.query_encoder, rows["query"])
        key, index = rows["key"], rows["index"]
        if "small" not in rows:
            return query, key, index
        count, small = self.small_vectors(rows)
        return (
            tf.concat([query, small], axis=0),
            tf.concat([key, tf.repeat(key, count, axis=0)], axis=0),
            tf.concat([index, tf.repeat(index, count)], axis=0),
        )

    def contrast(self, query, key, index):
        """InfoNCE of queries [N, C] and their keys [N, C] with the queue.

        Deviation: with mask_same_image the keys of a query's own image, int64
        [N] of which is `index`, are no negatives of it; in v1 they are.
        """
        masked = None
        if self.mask_same_image:
            masked = index[:, tf.newaxis] == self.queue.samples
        keys = self.queue.keys
        return losses.info_nce(
            query, tf.stop_gradient(key), keys, self.temperature, masked
        )
