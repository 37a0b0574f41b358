"""CMC (arXiv:1906.05849): the features of an image's two sensors match."""

import math
from typing import Any

import tensorflow as tf

from moco_tf.methods import dictionaries, losses, shuffle, two_views


class CMC(two_views.Contrastive):
    """An encoder for luminance and one for colour, each with a memory bank.

    Or of two files of one scene. The encoder's projections are both sensors'
    side by side: its input is "lab" or "pair" (see models/inputs.py).

    Attributes:
      banks: FeatureBank of luminance and FeatureBank of colour.
    """

    NEEDS = ("seed", "images")
    KEY_VIEWS = False
    INPUTS = ("lab", "pair")

    def __init__(
        self,
        backbone: tf.keras.Model,
        images: int,
        negatives: int = 16384,
        momentum: float = 0.5,
        temperature: float = 0.07,
        loss: str = "nce",
        seed: int = 0,
        **common: Any,
    ) -> None:
        """Builds the encoder and both banks.

        Args:
          backbone: keras.Model, float [N, H, W, 3] -> [N, 2 F].
          images: of the source; each bank has a row for each.
          negatives: K, drawn from the other sensor's bank at each step.
          momentum: float in 0..1, share of the old feature.
          temperature: positive float.
          loss: "info_nce" (Eq. 3) or "nce" (Sec. 3.3).
          seed: int, of the banks' first features and of the draws.
          **common: of TwoViews; the head has twice `dim` outputs.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__("cmc", backbone, temperature, **common)
        dictionaries.check_loss(self.name, loss, self.micro_batches)
        dim = self.query_encoder.dim
        if dim % 2:
            raise ValueError(
                "The head's outputs must be those of two sensors, as many of "
                f"each. Received {dim} outputs."
            )
        self.banks = [
            dictionaries.FeatureBank(images, dim // 2, momentum, seed + number)
            for number in range(2)
        ]
        self.images, self.negatives = images, negatives
        self.loss_name = loss

    def train_step(self, batch):
        """One step (Eq. 3 and 5), inside a replica.

        Args:
          batch: query: uint8 or normalised float [N, H, W, 3]; index int64
            [N]; valid bool [N] (see the stream's contract).

        Returns:
          dict of the scalars in METRICS.
        """
        drawn = self.banks[0].draw(self.negatives, self.step)
        negatives = [bank.read(drawn) for bank in self.banks]  # [K, C] each
        keys = [bank.read(batch["index"]) for bank in self.banks]
        rows = {
            "query": self.normalize(batch["query"]),
            "luminance": keys[0],
            "colour": keys[1],
        }

        def contrast(rows):
            luminance, colour = self.sensors(rows["query"])
            first, logits = self.contrast(
                luminance, rows["colour"], negatives[1], self.banks[1]
            )
            second, _ = self.contrast(
                colour, rows["luminance"], negatives[0], self.banks[0]
            )
            query = tf.concat([luminance, colour], axis=1)
            return first + second, self.scores(logits), query

        loss, scores, query = self.descend(contrast, rows)
        features, images = shuffle.gather_keys(query, batch["index"])
        for bank, half in zip(
            self.banks, tf.split(features, 2, axis=1), strict=True
        ):
            bank.update(images, half)
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}

    def sensors(self, images):
        """Unit vectors float32 [N, C] of luminance and of colour."""
        both = tf.split(self.project(self.query_encoder, images), 2, axis=1)
        return [tf.math.l2_normalize(half, axis=1) for half in both]

    def contrast(self, query, key, negatives, bank):
        """Loss and logits of one sensor's features with the other's bank."""
        loss, logits = losses.info_nce(query, key, negatives, self.temperature)
        if self.loss_name == "nce":
            loss = losses.nce(logits, bank.normalizer(logits), self.images)
        return loss, logits

    @classmethod
    def chance_loss(cls, settings, run):
        """ln(K + 1) of InfoNCE, for each sensor; NCE has no such loss."""
        del run
        if settings.loss == "nce":
            return None
        return 2 * math.log(settings.negatives + 1)

    @classmethod
    def check(cls, settings, run):
        """Refuses parts of a batch where NCE's constants need all of it."""
        super().check(settings, run)
        dictionaries.check_loss(run.method, settings.loss, run.micro_batches)

    @classmethod
    def dictionary_bytes(cls, settings, run, rows):
        """Both banks, the drawn features and logits."""
        drawn = settings.negatives
        features = 2 * (run.images + drawn) * 4 * run.dim
        return features + losses.logit_bytes(2 * rows, drawn)

    @classmethod
    def describe(cls, settings, run):
        """The settings, and the memory that the banks take."""
        size = 2 * run.images * run.dim * 4 / 1e6
        words = super().describe(settings, run)
        return f"{words}; two banks of {run.images} features, {size:.1f} MB"
