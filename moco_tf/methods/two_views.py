"""The base of the pre-training methods: a loss of two views of an image."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf.data import image_ops
from moco_tf.methods import losses, method, online_probe, shuffle
from moco_tf.models import batch_norm, cloning
from moco_tf.models import encoder as encoders


@dataclasses.dataclass(frozen=True)
class Run:
    """What a method's class may ask of the run that it is to train in.

    Attributes:
      method: str, the method's name in the table.
      images: int, N of the source; 0 where they are not counted yet.
      batch_size: int, G, images of a step. micro_batches: int.
      input: str, what the encoder sees of an image (models/inputs.py).
      norm: str, "batch" or "layer". head: str, one of heads.KINDS.
      dim: int, C, features of a query or key.
      image_size, patch: int, pixels.
      small_views: int, V, small views of an image.
    """

    method: str
    images: int
    batch_size: int
    micro_batches: int
    input: str
    norm: str
    dim: int
    image_size: int
    patch: int
    small_views: int
    head: str = "fc"


class Encoding(NamedTuple):
    """An encoder and the images that it encodes in a step.

    Attributes:
      encoder: Encoder. images: normalised float [N, H, W, 3].
      trained: bool, whether gradients come back.
    """

    encoder: tf.keras.Model
    images: tf.Tensor
    trained: bool


class TwoViews(method.Method):
    """A method of an encoder and two views of every image.

    A subclass defines `train_step`, and `chance_loss`, `check` and
    `dictionary_bytes` where they have something to say.

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
    # "steps_per_epoch", "hidden" and "norm" (the factory of its BatchNorm).
    NEEDS: tuple[str, ...] = ()
    KEY_VIEWS = True  # whether a batch holds "key" and "order"
    INPUTS: tuple[str, ...] = ("rgb",)  # of model.input, that it takes
    MULTI_CROP = False  # whether small views, if there are any, are trained on
    # Attributes behind the query encoder's head, which a run hands on to one of
    # the same method that starts from it.
    BEHIND_HEAD: tuple[str, ...] = ()
    # Attributes that start equal to others.
    START_EQUAL: dict[str, str] = {"key_encoder": "query_encoder"}
    # Why the loss needs the whole batch at once; "": it takes micro-batches.
    WHOLE_BATCH = ""

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
        probe: online_probe.OnlineProbe | None = None,
        clip_norm: float = 0.0,
    ) -> None:
        """Builds the encoder; the arguments that all methods take.

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
          shuffle_keys: one of shuffle.KINDS. probe: OnlineProbe, or None.
          clip_norm: float, largest norm of the gradient of a step; 0: any.

        Raises:
          ValueError: for a value outside its range, or a backbone that cannot
            be one.
        """
        super().__init__(name, micro_batches, jit_compile, probe, clip_norm)
        self.refuse_micro_batches(name, micro_batches)
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

    @property
    def backbone(self):
        return self.query_encoder.backbone

    def trained_variables(self):
        return self.query_encoder.trainable_variables

    def start_equal(self):
        """Sets what starts equal to another part to what that is now.

        Returns:
          dict of the attributes that were set -> the ones that they equal.
        """
        equal = {
            name: other
            for name, other in self.START_EQUAL.items()
            if getattr(self, name) is not None
        }
        for name, other in equal.items():
            cloning.copy_weights(getattr(self, other), getattr(self, name))
        return equal

    def first_passes(self, batch_size):
        """How many batches `first_pass` takes before the first step, an int.

        Args:
          batch_size: int, of all replicas together.
        """
        del batch_size
        return 0

    def first_pass(self, batch):
        """What a method does with a batch before the first step."""
        raise NotImplementedError(f"{type(self).__name__} has no first pass.")

    def normalized(self, batch):
        """Normalised images of both views; the key's in the stream's order."""
        key = batch["key"]
        if self.shuffle_keys == "gather":
            dealt = shuffle.this_replica(batch["order"])
            key = shuffle.gather_images(key, dealt)
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
        """Unit vectors of the small views of `rows`, encoded together.

        Returns:
          V, int; float32 [V N, C], an image's next to each other.
        """
        small = rows["small"]
        return small.shape[1], self.vectors(self.query_encoder, flat(small))

    def encodings(self, batch):
        """The encoders of a step and their images, to look for a fault.

        Returns:
          dict of Encoding by a name in words, in the order of the step.
        """
        if not self.KEY_VIEWS:
            images = self.normalize(batch["query"])
            return {"query": Encoding(self.query_encoder, images, True)}
        query_view, key_view = self.normalized(batch)
        key_encoder = self.key_encoder or self.query_encoder
        return {
            "query": Encoding(self.query_encoder, query_view, True),
            "key": Encoding(key_encoder, key_view, False),
            **self.small_encodings(batch),
        }

    def joint_encodings(self, batch):
        """As `encodings`, where an encoder takes both views side by side."""
        views = side_by_side(*self.normalized(batch))
        encodings = {"query": Encoding(self.query_encoder, views, True)}
        if self.key_encoder is not None:
            encodings["key"] = Encoding(self.key_encoder, views, False)
        return encodings | self.small_encodings(batch)

    def small_encodings(self, batch):
        """The Encoding of the small views, if there are any."""
        return {
            name: Encoding(self.query_encoder, flat(images), True)
            for name, images in self.small_views(batch).items()
        }

    # What a run asks of the class. `settings` is an object with the fields of
    # the method's section of a configuration as attributes.

    @classmethod
    def chance_loss(cls, settings, run):
        """The loss of features that know nothing, in nats, or None.

        Args:
          settings: fields of the method's section. run: Run.
        """
        del settings, run
        return None

    @classmethod
    def check(cls, settings, run):
        """Refuses a run that the method cannot honour.

        Args:
          settings: fields of the method's section. run: Run.

        Raises:
          ValueError: with the rule, the value received and the remedy.
        """
        del settings
        if run.input not in cls.INPUTS:
            names = ", ".join(cls.INPUTS)
            raise ValueError(
                f"The method {run.method} takes model.input={names}. Received "
                f"{run.input!r}. Pass --config.model.input={cls.INPUTS[0]}."
            )
        if run.small_views and not cls.MULTI_CROP:
            raise ValueError(
                f"The method {run.method} has no use for small views. Received "
                f"data.small_views={run.small_views}. Pass "
                "--config.data.small_views=0."
            )
        cls.refuse_micro_batches(run.method, run.micro_batches)

    @classmethod
    def refuse_micro_batches(cls, name, count):
        """Refuses micro-batches where the loss needs the whole batch.

        Args:
          name: str, the method's. count: int, micro-batches.

        Raises:
          ValueError: for more than one.
        """
        if cls.WHOLE_BATCH and count != 1:
            less = ". A ResNet needs less memory with "
            less += "--config.model.recompute=true"
            raise ValueError(
                f"The method {name} needs train.micro_batches=1: "
                f"{cls.WHOLE_BATCH}. Received {count}. Pass "
                "--config.train.micro_batches=1"
                + (f"{less}." if "rgb" in cls.INPUTS else ".")
            )

    @classmethod
    def dictionary_bytes(cls, settings, run, rows):
        """Bytes that a replica keeps of keys, and of a step's logits.

        Args:
          settings: fields of the method's section. run: Run.
          rows: int, images of a replica; 0: without logits.
        """
        del settings, run, rows
        return 0

    @classmethod
    def trained_views(cls, settings):
        """How many large views of an image are encoded with gradients."""
        del settings
        return 2 if cls.KEY_VIEWS else 1

    @classmethod
    def describe(cls, settings, run):
        """The method's settings, and its loss at chance, in words.

        Args:
          settings: fields of the method's section. run: Run.
        """
        fields = vars(settings).items()
        words = ", ".join(f"{name} {value}" for name, value in fields)
        chance = cls.chance_loss(settings, run)
        if chance is not None:
            words += f"; loss at chance {chance:.3f}"
        return words


class Contrastive(TwoViews):
    """A method whose logits are cosines of a query, its key and negatives.

    Attributes:
      temperature: positive float; logits are cosine / temperature.
    """

    METRICS = (*method.Method.METRICS, "positive", "hardest_negative")
    HISTOGRAMS = tf.TensorShape([2, losses.BINS])

    def __init__(
        self,
        name: str,
        backbone: tf.keras.Model,
        temperature: float,
        **common: Any,
    ) -> None:
        """As of TwoViews.

        Raises:
          ValueError: for a value outside its range.
        """
        super().__init__(name, backbone, **common)
        if temperature <= 0:
            raise ValueError(
                "temperature must be above 0. Received "
                f"temperature={temperature}."
            )
        self.temperature = temperature

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


def clusters(assignments):
    """Into how many clusters assignments divide the images of a step.

    exp(I) of the mutual information of image and prototype, in the global
    batch: the entropy of the mean assignment, less the mean entropy. 1 if all
    images have the same assignment, be it to one prototype or to all of them;
    at most the prototypes, and the views of the batch.

    Args:
      assignments: float32 [..., K] of this replica; sums over K are 1.

    Returns:
      float32 scalar, the same on every replica.
    """
    rows = tf.reshape(assignments, [-1, assignments.shape[-1]])
    means = tf.concat(
        [tf.reduce_mean(rows, axis=0), [losses.entropy(rows)]], axis=0
    )
    means = batch_norm.replica_mean(means)  # one exchange
    return tf.exp(losses.entropy(means[:-1]) - means[-1])


def _refuse_shared_statistics(backbone):
    """Refuses Keras' BatchNormalization in a backbone on several replicas.

    Reading its statistics averages them over the replicas: saving and restoring
    changes bits, and a resumed run would be another.

    Raises:
      ValueError: with the names of such layers.
    """
    kind = tf.keras.layers.BatchNormalization
    names = [
        layer.name
        for layer in cloning.sublayers(backbone)
        if isinstance(layer, kind)
    ]
    if names:
        raise ValueError(
            "On several replicas a backbone must not hold Keras' "
            f"BatchNormalization. Received {names[:3]} in {backbone.name!r}. "
            "Use moco_tf.models.cloning.swap_batch_norm(backbone) to replace "
            "them with their weights."
        )
