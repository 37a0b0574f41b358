"""Instance discrimination with a memory bank (arXiv:1805.01978).

The second panel of MoCo's Figure 2: keys are features of earlier epochs.
"""

import math
from typing import Any

import tensorflow as tf

from moco_tf.methods import dictionaries, losses, shuffle, two_views


class MemoryBank(two_views.Contrastive):
    """One encoder, and a bank with one feature of every image.

    Attributes:
      bank: FeatureBank.
    """

    NEEDS = ("seed", "images")
    KEY_VIEWS = False

    def __init__(
        self,
        backbone: tf.keras.Model,
        images: int,
        negatives: int = 4096,
        momentum: float = 0.5,
        temperature: float = 0.07,
        loss: str = "nce",
        seed: int = 0,
        **common: Any,
    ) -> None:
        """Builds the encoder and the bank.

        Args:
          backbone: keras.Model, float [N, H, W, 3] -> [N, F].
          images: of the source; the bank has a row for each.
          negatives: K, drawn from the bank at each step, for all queries.
          momentum: float in 0..1, share of the old feature.
          temperature: positive float, tau of Eq. 2.
          loss: "info_nce" (MoCo v1, Eq. 1) or "nce" (Eq. 7).
          seed: int, of the bank's first features and of the draws.
          **common: of TwoViews.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__("memory_bank", backbone, temperature, **common)
        dictionaries.check_loss(self.name, loss, self.micro_batches)
        self.bank = dictionaries.FeatureBank(
            images, self.query_encoder.dim, momentum, seed
        )
        self.images, self.negatives = images, negatives
        self.loss_name = loss

    def train_step(self, batch):
        """One step, inside a replica: Eq. 1 of MoCo, or Eq. 7 of InstDisc.

        Args:
          batch: query: uint8 or normalised float [N, H, W, 3]; index int64
            [N]; valid bool [N] (see the stream's contract).

        Returns:
          dict of the scalars in METRICS.
        """
        drawn = self.bank.draw(self.negatives, self.step)
        negatives = self.bank.read(drawn)  # [K, C]
        rows = {
            "query": self.normalize(batch["query"]),
            "key": self.bank.read(batch["index"]),
        }

        def contrast(rows):
            query = self.vectors(self.query_encoder, rows["query"])
            loss, logits = losses.info_nce(
                query, rows["key"], negatives, self.temperature
            )
            if self.loss_name == "nce":
                constant = self.bank.normalizer(logits)
                loss = losses.nce(logits, constant, self.images)
            return loss, self.scores(logits), query

        loss, scores, query = self.descend(contrast, rows)
        features, images = shuffle.gather_keys(query, batch["index"])
        self.bank.update(images, features)
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}

    @classmethod
    def chance_loss(cls, settings, run):
        """ln(K + 1) of InfoNCE; NCE has no such loss."""
        del run
        if settings.loss == "nce":
            return None
        return math.log(settings.negatives + 1)

    @classmethod
    def check(cls, settings, run):
        """Refuses parts of a batch where NCE's constant needs all of it."""
        super().check(settings, run)
        dictionaries.check_loss(run.method, settings.loss, run.micro_batches)

    @classmethod
    def dictionary_bytes(cls, settings, run, rows):
        """The bank, the drawn features and logits."""
        drawn = settings.negatives
        features = (run.images + drawn) * 4 * run.dim
        return features + losses.logit_bytes(rows, drawn)

    @classmethod
    def describe(cls, settings, run):
        """The settings, and the memory that the bank takes."""
        size = run.images * run.dim * 4 / 1e6
        words = super().describe(settings, run)
        return (
            f"{words}; bank of {run.images} features, {size:.1f} MB a replica"
        )
