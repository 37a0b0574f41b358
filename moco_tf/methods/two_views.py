"""What methods have in common that make two views of an image into a loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf.data import image_ops
from moco_tf.methods import losses, method, shuffle
from moco_tf.models import cloning
from moco_tf.models import encoder as encoders


class Pass(NamedTuple):
    """What goes through an encoder in a step, and whether gradients come back.

    Attributes:
      encoder: Encoder. images: normalised float [N, H, W, 3]. trained: bool.
    """

    encoder: tf.keras.Model
    images: tf.Tensor
    trained: bool


class TwoViews(method.Method):
    """A method of an encoder and two views of every image.

    A subclass defines `train_step`, and `chance_loss` and `check` where they
    have something to say.

    Attributes:
      query_encoder: Encoder that is evaluated, saved and exported.
      key_encoder: Encoder of the keys, if they have one of their own, or None.
      queue: KeyQueue, or None.
      momentum: float, m of the key encoder's update if it is always the same,
        or None.
      mean, std: of the channels in 0..1; normalise uint8 images.
      shuffle_keys: how the stream orders the key views: one of
        shuffle.KINDS; "none": row i of both views is of one image.
    """

    # Facts of a run that the class takes as arguments besides its section's
    # fields: of "seed", "images" (N of the source), "total_steps",
    # "steps_per_epoch", "hidden", "bn_splits" (of a pass of a replica) and
    # "sync_bn".
    NEEDS: tuple[str, ...] = ()
    KEY_VIEWS = True  # whether a batch holds "key" and "order"
    INPUTS: tuple[str, ...] = ("rgb",)  # of model.input, that it takes
    MULTI_CROP = False  # whether small views, if there are any, are trained on
    # Why a loss that refuses parts of a batch needs it whole.
    WHOLE = "a query's negatives are the whole batch"

    def __init__(
        self,
        name: str,
        backbone: tf.keras.Model,
        head: str = "mlp",
        dim: int = 128,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        micro_batches: int = 1,
        jit_compile: bool = False,
        recompute: bool = False,
        shuffle_keys: str = "none",
    ) -> None:
        """Builds the encoder; what all methods take as arguments.

        Args:
          name: str.
          backbone: keras.Model, float [N, H, W, 3] -> [N, F].
          head: one of heads.KINDS, as "fc" (MoCo v1, one linear layer) or "mlp"
            (v2, two layers); or a keras.Model, [N, F] -> float32 [N, C].
          dim: C, features of a query or key; of a head that is named.
          mean, std: of the channels in 0..1; normalise uint8 images.
          micro_batches: parts that a replica's batch is encoded in, one after
            another; the step is the same, with less memory.
          jit_compile: whether XLA compiles the encoders.
          recompute: whether activations are made again on the way back.
          shuffle_keys: one of shuffle.KINDS.

        Raises:
          ValueError: for a value outside its range, or a backbone that cannot
            be one.
        """
        super().__init__(name, micro_batches, jit_compile)
        encoder = encoders.make_encoder(backbone, head, dim, recompute)
        if shuffle_keys not in shuffle.KINDS:
            raise ValueError(
                f"shuffle_keys must be one of {shuffle.KINDS}. Received "
                f"shuffle_keys={shuffle_keys!r}."
            )
        if self.replicas > 1:
            _refuse_shared_statistics(encoder.backbone)
        self.query_encoder = encoder
        self.key_encoder: Any = None
        self.queue: Any = None
        self.momentum: Any = None
        self.mean, self.std = tuple(mean), tuple(std)
        self.shuffle_keys = shuffle_keys

    @classmethod
    def chance_loss(cls, section, batch_size):
        """The loss of features that tell nothing, in nats, or None.

        Args:
          section: of the method, of a configuration.
          batch_size: G, images of a step.
        """
        del section, batch_size
        return None

    @classmethod
    def check(cls, config, replicas):
        """Refuses a configuration that the method cannot honour (ValueError).

        Args:
          config: ConfigDict. replicas: int.
        """

    @classmethod
    def dictionary_bytes(cls, config, images, rows):
        """Bytes that a replica keeps of keys, and of a step's logits.

        Args:
          config: ConfigDict. images: N of the source. rows: of a replica.
        """
        del config, images, rows
        return 0

    @classmethod
    def trained_passes(cls, section):
        """How many views of an image are encoded with gradients."""
        del section
        return 2 if cls.KEY_VIEWS else 1

    @classmethod
    def describe(cls, config, images):
        """The method's settings, and its loss at chance, in words.

        Args:
          config: ConfigDict. images: N of the source.
        """
        del images
        section = config[config.method]
        words = ", ".join(f"{name} {value}" for name, value in section.items())
        chance = cls.chance_loss(section, config.train.batch_size)
        if chance is not None:
            words += f"; loss at chance {chance:.3f}"
        return words

    @property
    def backbone(self):
        return self.query_encoder.backbone

    def trained_variables(self):
        return self.query_encoder.trainable_variables

    def refuse_micro_batches(self):
        """For a loss that needs the batch whole: ValueError for parts of it."""
        if self.micro_batches != 1:
            less = "For less memory, use recompute=True."
            raise ValueError(
                f"{type(self).__name__} needs micro_batches=1: {self.WHOLE}. "
                f"Received micro_batches={self.micro_batches}. "
                + (less if "rgb" in self.INPUTS else "Lower the batch size.")
            )

    @classmethod
    def refuse_configured_parts(cls, config):
        """As `refuse_micro_batches`, of a configuration."""
        if config.train.micro_batches > 1:
            less = "; for less memory, --config.model.recompute=true"
            raise ValueError(
                f"The method {config.method} needs train.micro_batches=1: "
                f"{cls.WHOLE}. Received {config.train.micro_batches}. Pass "
                "--config.train.micro_batches=1"
                + (f"{less}." if "rgb" in cls.INPUTS else ".")
            )

    def normalized(self, batch):
        """Normalised images of both views; the key's in the stream's order."""
        key = batch["key"]
        if self.shuffle_keys == "gather":
            images = shuffle.gather_images(key)
            key = tf.gather(images, shuffle.own_rows(batch["order"]))
        return self.normalize(batch["query"]), self.normalize(key)

    def normalize(self, images):
        """Normalised float32 of uint8 images; others are normalised already."""
        return image_ops.normalize(images, self.mean, self.std)

    def small_views(self, batch):
        """The small views of multi-crop, if the stream makes any.

        Returns:
          {"small": normalised float [N, V, s, s, 3]}, or {}.
        """
        if "small" not in batch:
            return {}
        return {"small": self.normalize(batch["small"])}

    def small_vectors(self, rows):
        """Of the rows of `small_views`, encoded in one pass.

        Returns:
          V, int; unit vectors float32 [V N, C], an image's next to each other.
        """
        small = rows["small"]
        return small.shape[1], self.vectors(self.query_encoder, flat(small))

    def unreadable(self, batch):
        """Share of samples that another one stands in for, float32 scalar."""
        return tf.reduce_mean(1.0 - tf.cast(batch["valid"], tf.float32))

    def passes(self, batch):
        """What is encoded in a step, for who looks into one.

        Returns:
          dict of Pass by a name in words.
        """
        if not self.KEY_VIEWS:
            images = self.normalize(batch["query"])
            return {"query": Pass(self.query_encoder, images, True)}
        query_view, key_view = self.normalized(batch)
        key_encoder = self.key_encoder or self.query_encoder
        return {
            "query": Pass(self.query_encoder, query_view, True),
            "key": Pass(key_encoder, key_view, False),
            **self.small_passes(batch),
        }

    def small_passes(self, batch):
        """The pass of the small views, if there are any."""
        return {
            name: Pass(self.query_encoder, flat(images), True)
            for name, images in self.small_views(batch).items()
        }


class Contrastive(TwoViews):
    """A method whose loss tells a query's own key from others by cosine.

    A subclass sets `temperature`.
    """

    METRICS = (*method.Method.METRICS, "positive", "hardest_negative")
    HISTOGRAMS = tf.TensorShape([2, losses.BINS])

    def scores(self, logits):
        """Figures of logits [N, 1 + K] for the log, means over N by name."""
        return {
            "instance_top1": losses.instance_top1(logits),
            **losses.similarities(logits, self.temperature),
        }


def side_by_side(first, second):
    """Rows of two views [N, ...], an image's next to each other: [2N, ...].

    So that a BatchNorm group holds both views of the same images, in parts of
    one replica's batch as on several replicas.
    """
    pairs = tf.stack([first, second], axis=1)
    return tf.reshape(pairs, [2 * first.shape[0], *first.shape[1:]])


def flat(views):
    """Views [N, V, ...] as rows [V N, ...], an image's next to each other."""
    return tf.reshape(views, [-1, *views.shape[2:]])


def _refuse_shared_statistics(backbone):
    """Keras' BatchNorm averages its statistics over replicas when it is read.

    Saving and restoring them then changes bits, and a resumed run is another.
    """
    kind = tf.keras.layers.BatchNormalization
    found = [
        layer.name
        for layer in cloning.sublayers(backbone)
        if isinstance(layer, kind)
    ]
    if found:
        raise ValueError(
            "On several replicas a backbone must not hold Keras' "
            f"BatchNormalization. Received {found[:3]} in {backbone.name!r}. "
            "Use moco_tf.models.cloning.swap_batch_norm(backbone) to replace "
            "them with their weights."
        )
