"""CPC v1 (arXiv:1807.03748): predict patches some rows below a context."""

import math
from typing import Any

import tensorflow as tf

from moco_tf.methods import losses, online_probe, shuffle, two_views
from moco_tf.models import heads, inputs


class CPC(two_views.TwoViews):
    """An encoder of patches, a context over the grid, predictions of rows.

    Deviation: the patches' encoder is a complete ResNet v1.5, not the first
    three stages of a v2; negatives are drawn once a step, for all predictions.

    Attributes:
      context: keras.Model, float32 [N, g, g, C] -> [N, g, g, C].
      predictors: linear layers, W_k for k rows below.
    """

    NEEDS = ("seed",)
    KEY_VIEWS = False
    INPUTS = ("grid",)
    BEHIND_HEAD = ("context", "predictors")
    WHOLE_BATCH = "negatives are drawn from the whole batch"

    def __init__(
        self,
        backbone: tf.keras.Model,
        rows: int = 5,
        blocks: int = 3,
        negatives: int = 1024,
        patch_jitter: float = 0.0,
        seed: int = 0,
        **common: Any,
    ) -> None:
        """Builds encoder, context and predictors.

        Args:
          backbone: keras.Model of models/inputs.grid_backbone.
          rows: how many rows below a context are predicted; below g.
          blocks: of the context (models/heads.py).
          negatives: K, patches of the global batch that are drawn at each step.
          patch_jitter: float x in 0..1; brightness and contrast of each patch
            change by a factor of its own, in 1 - x..1 + x, as in the
            patch-based augmentation of CPC v2 (arXiv:1905.09272). 0: as v1.
          seed: int, of the draws.
          **common: of TwoViews; micro_batches is 1: negatives are of the whole
            batch.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__("cpc", backbone, **common)
        patches = self.backbone.get_layer("grid").output
        side, dim = patches.shape[1], self.query_encoder.dim
        if not 1 <= rows < side or blocks < 1 or negatives < 1:
            raise ValueError(
                f"rows must lie in 1..{side - 1} for {side} x {side} patches, "
                "blocks and negatives be at least 1. Received "
                f"rows={rows}, blocks={blocks}, negatives={negatives}."
            )
        if not 0 <= patch_jitter <= 1:
            raise ValueError(
                "patch_jitter must lie in 0..1. Received "
                f"patch_jitter={patch_jitter}."
            )
        self._encode_patches = _patch_encoder(self.backbone)
        self.side = side
        self.context = heads.context_network(side, dim, blocks)
        self.predictors = [
            tf.keras.layers.Dense(
                dim, use_bias=False, dtype="float32", name=f"predictor{row + 1}"
            )
            for row in range(rows)
        ]
        for layer in self.predictors:
            layer.build([None, dim])
        self.negatives = negatives
        self.patch_jitter = patch_jitter
        self.seed = seed

    def train_step(self, batch):
        """One step (Eq. 3 and 4, Sec. 3.2), inside a replica.

        Args:
          batch: query: uint8 or normalised float [N, H, W, 3]; valid bool [N]
            (see the stream's contract).

        Returns:
          dict of the scalars in METRICS.
        """
        rows = {"images": self.normalize(batch["query"])}

        def contrast(rows):
            patches = self.patches(rows["images"])  # [N, g, g, C]
            context = self.context(patches, training=True)
            all_patches = shuffle.all_gather(patches)
            all_patches = tf.reshape(all_patches, [-1, patches.shape[-1]])
            drawn = self.draw(all_patches.shape[0])  # [K] of G g g
            negatives = tf.gather(all_patches, drawn)  # [K, C]
            predictions = [
                self.predict(
                    below, predictor, context, patches, negatives, drawn
                )
                for below, predictor in enumerate(self.predictors, start=1)
            ]
            terms, logits = zip(*predictions, strict=True)
            wins = losses.instance_top1(logits[0])
            return sum(terms) / len(terms), {"instance_top1": wins}

        loss, scores = self.descend(contrast, rows)
        return {"loss": loss, **scores, "unreadable": self.unreadable(batch)}

    def patches(self, images):
        """Projections z float32 [N, g, g, C] of the patches of images."""
        encode = self._encode_patches
        if self.jit_encoders:
            encode = tf.function(encode, jit_compile=True, autograph=False)
        factors = None
        if self.patch_jitter:
            factors = self.patch_factors(images.shape[0] * self.side**2)
        features = tf.cast(encode(images, factors), tf.float32)
        if online_probe.is_watching():  # the backbone's output
            online_probe.show(tf.reduce_mean(features, axis=[1, 2]))
        flat = tf.reshape(features, [-1, features.shape[-1]])
        z = self.query_encoder.head(flat, training=True)
        return tf.reshape(z, [*features.shape[:3], z.shape[-1]])

    def patch_factors(self, count):
        """Factors of a step for the patches of this replica.

        Args:
          count: int, of patches in this replica, N g g.

        Returns:
          float32 [N g g, 2], of brightness and contrast; the same for an image
          whatever the replicas.
        """
        factors = tf.random.stateless_uniform(
            [count * self.replicas, 2],
            seed=tf.stack([tf.constant(self.seed, tf.int64), -1 - self.step]),
            minval=1.0 - self.patch_jitter,
            maxval=1.0 + self.patch_jitter,
            alg="philox",  # the same on every device
        )
        return shuffle.this_replica(factors)

    def draw(self, count):
        """Random patches of a step int64 [K], the same on every replica."""
        drawn = tf.random.stateless_uniform(
            [self.negatives],
            seed=tf.stack([tf.constant(self.seed, tf.int64), self.step]),
            maxval=count,
            dtype=tf.int32,
            alg="philox",  # the same on every device
        )
        # GPUs leave comparisons of int32 to the host.
        return tf.cast(drawn, tf.int64)

    def predict(self, below, predictor, context, patches, negatives, drawn):
        """InfoNCE of the patches `below` rows under each context.

        Args:
          below: int, k. predictor: W_k. context: float32 [N, g, g, C].
          patches: float32 [N, g, g, C]. negatives: float32 [K, C].
          drawn: int64 [K], which patches of the global batch they are.

        Returns:
          loss and logits [N (g - k) g, 1 + K]; a negative that is the positive
          is left out.
        """
        batch, side, _, dim = patches.shape
        numbers = tf.range(batch * self.replicas, dtype=tf.int64)
        numbers = shuffle.this_replica(numbers)[:, tf.newaxis] * side**2
        numbers += tf.range(side**2, dtype=tf.int64)
        numbers = tf.reshape(numbers, [batch, side, side])[:, below:]
        positives = tf.reshape(numbers, [-1, 1]) == drawn
        predicted = predictor(tf.reshape(context[:, :-below], [-1, dim]))
        targets = tf.reshape(patches[:, below:], [-1, dim])
        # f = exp(z W c): no unit vectors, and no temperature.
        return losses.info_nce(predicted, targets, negatives, 1.0, positives)

    def trained_variables(self):
        parts = [self.query_encoder, self.context, *self.predictors]
        return [v for part in parts for v in part.trainable_variables]

    @classmethod
    def chance_loss(cls, settings, run):
        """ln(K + 1)."""
        del run
        return math.log(settings.negatives + 1)

    @classmethod
    def check(cls, settings, run):
        """Refuses BatchNorm, by which a patch would know its image.

        And rows of patches to predict that the grid does not have.
        """
        super().check(settings, run)
        if run.norm != "layer":
            raise ValueError(
                "The method cpc needs model.norm=layer: BatchNorm tells a "
                f"patch what its image has. Received {run.norm!r}. "
                "Pass --config.model.norm=layer."
            )
        if run.head in heads.WITH_BATCH_NORM:
            raise ValueError(
                "The method cpc needs a model.head without BatchNorm, which "
                f"tells a patch what its image has. Received {run.head!r}. "
                "Pass --config.model.head=fc."
            )
        side = 0  # of patches that make no grid, which are refused later
        if run.patch > 1:
            side = inputs.patches_a_side(run.image_size, run.patch)
        if 1 < side <= settings.rows:
            raise ValueError(
                f"cpc.rows must be below the {side} rows of patches that an "
                f"image has. Received rows={settings.rows}. Pass "
                f"--config.cpc.rows={side - 1}, or a smaller "
                "config.model.patch."
            )

    @classmethod
    def dictionary_bytes(cls, settings, run, rows):
        """Logits of all predictions, of about half of the grid's rows each."""
        side = inputs.patches_a_side(run.image_size, run.patch)
        rows_below = sum(side - below for below in range(1, settings.rows + 1))
        predictions = rows * side * rows_below
        return losses.logit_bytes(predictions, settings.negatives)


def _patch_encoder(backbone):
    """A function of images and factors or None -> features [N, g, g, F].

    A function, so that a method does not have the encoder's layers twice.

    Args:
      backbone: keras.Model of models/inputs.grid_backbone.
    """
    _, grey, cut, encoder, grid, _ = backbone.layers

    def encode(images, factors):
        patches = cut(grey(images))
        if factors is not None:
            patches = jittered(patches, factors, grey.black)
        return grid(encoder(patches, training=True))

    return encode


def jittered(patches, factors, black):
    """Patches of another brightness, then of another contrast.

    Deviation: what becomes brighter than white or darker than black is not cut.

    Args:
      patches: normalised float32 [M, p, p, 1].
      factors: float32 [M, 2], of brightness and contrast; 1: as it is.
      black: float, the normalised value of a black pixel.
    """
    brightness, contrast = tf.split(factors[:, tf.newaxis, tf.newaxis], 2, -1)
    pixels = (patches - black) * brightness
    mean = tf.reduce_mean(pixels, axis=[1, 2, 3], keepdims=True)
    return mean + (pixels - mean) * contrast + black
