"""Encoder: a backbone (image to feature) and a projection head.

`build_backbone` makes a backbone by name; any functional keras.Model from
images [N, H, W, 3] to features [N, F] is one too. `Encoder` joins a backbone
and a head, as a query or key encoder.
"""

import functools
import re
from collections.abc import Callable, Iterable

import tensorflow as tf

from moco_tf import naming
from moco_tf.models import (
    batch_norm,
    cloning,
    heads,
    keras_cv_backbones,
    resnet,
)

RESNETS = {f"resnet{depth}": depth for depth in resnet.DEPTHS}
KERAS_CV = "keras_cv:"  # before a name of keras_cv_backbones.BACKBONES

# Parts of our ResNets that can be frozen, by the names of their layers.
STAGES = {
    "stem": re.compile(r"conv1|bn1"),
    **{f"stage{n}": re.compile(rf"layer{n}\..*") for n in range(1, 5)},
}

# The last layer of a residual block of our ResNets.
_BLOCK_END = re.compile(r"layer\d+\.\d+\.relu")


def backbone_names():
    """The names that `build_backbone` takes, a list of str."""
    keras_cv = [KERAS_CV + name for name in keras_cv_backbones.BACKBONES]
    return [*RESNETS, *keras_cv]


def build_backbone(
    name: str,
    *,
    width: float = 1.0,
    stem: str = "imagenet",
    norm: Callable[..., tf.keras.layers.Layer] = batch_norm.BatchNorm,
    image_size: int | None = None,
    precision: str = "float32",
    channels: int = 3,
    model_name: str | None = None,
) -> tf.keras.Model:
    """Makes a backbone by name.

    Args:
      name: one of `backbone_names()`.
      width: factor of the channels; ResNets only.
      stem: "imagenet" or "cifar"; ResNets only.
      norm: factory of the normalisation layers: BatchNorm, a
        functools.partial of it (its `splits`, `synchronized`) or, for ResNets
        only, resnet.layer_norm.
      image_size: pixels of a square image; None takes any size.
      precision: "float32", "mixed_bfloat16" or "mixed_float16".
      channels: of the images.
      model_name: of the keras.Model; None: the backbone's name.

    Returns:
      keras.Model, normalised float [N, H, W, channels] -> float32 [N, F].

    Raises:
      ValueError: The name is unknown or an argument does not fit it.
    """
    if name in RESNETS:
        return resnet.resnet(
            RESNETS[name],
            width,
            stem,
            norm=norm,
            image_size=image_size,
            precision=precision,
            channels=channels,
            name=model_name,
        )
    if name not in backbone_names():
        raise ValueError(
            f"backbone must be one of {backbone_names()}. Received {name!r}."
        )
    kind = "layer" if norm is resnet.layer_norm else "batch"
    if (width, stem, kind, channels) != (1.0, "imagenet", "batch", 3):
        raise ValueError(
            "width, stem, norm and inputs other than rgb are options of the "
            f"ResNets alone. Received width={width}, stem={stem!r}, norm="
            f"{kind!r}, channels={channels} for backbone {name!r}. Leave them "
            'at 1.0, "imagenet", "batch" and 3.'
        )
    return keras_cv_backbones.build(
        name.removeprefix(KERAS_CV),
        norm=norm,
        image_size=image_size,
        precision=precision,
    )


def feature_size(backbone):
    """Number of features F of a backbone.

    Args:
      backbone: keras.Model, images [N, H, W, 3] -> features [N, F].

    Returns:
      int.

    Raises:
      ValueError: The model is not functional, or its output is not one
        [N, F] tensor of known F.
    """
    if not cloning.is_functional(backbone):
        raise ValueError(
            "A backbone must be a functional keras.Model, so that its output "
            "is known and the key encoder can be made alike. Received "
            f"{type(backbone).__name__} {backbone.name!r}. Wrap it: inputs = "
            "keras.Input([size, size, 3]); "
            "keras.Model(inputs, backbone(inputs))."
        )
    shape = backbone.output_shape
    if not isinstance(shape, tuple):
        raise ValueError(
            "A backbone must have one output of shape [N, F]. Received "
            f"outputs of shapes {shape} from {backbone.name!r}. Make a "
            "keras.Model of the one to train."
        )
    if len(shape) != 2 or shape[-1] is None:
        raise ValueError(
            "A backbone must return features of shape [N, F] with a known F. "
            f"Received an output of shape {shape} from {backbone.name!r}. For "
            "a feature map add keras.layers.GlobalAveragePooling2D() or "
            "keras.layers.Flatten() at its end."
        )
    return int(shape[-1])


def check_stages(backbone: str, stages: Iterable[str]) -> None:
    """Refuses to freeze what a backbone does not have.

    Args:
      backbone: its name. stages: to freeze.

    Raises:
      ValueError: naming the stages that there are.
    """
    if stages and backbone not in RESNETS:
        raise ValueError(
            "model.freeze knows the stages of the ResNets alone. Received "
            f"{','.join(stages)!r} for {backbone!r}. Pass "
            "--config.model.freeze= to train all of it."
        )
    for name in stages:
        if name not in STAGES:
            raise ValueError(
                f"model.freeze must name stages: {', '.join(STAGES)}, with "
                f"commas between. Received {name!r}. "
                + naming.suggestion(name, STAGES)
            )


def freeze(backbone: tf.keras.Model, stages: Iterable[str]) -> None:
    """Freezes stages of a ResNet, of both where there are two in a backbone.

    Their variables are trained no more, and their BatchNorm uses its moving
    statistics, which stay. Copies of the backbone are frozen likewise.

    Args:
      backbone: keras.Model, not called in training yet; changed in place.
      stages: names of STAGES.
    """
    for layer in cloning.sublayers(backbone):
        if any(STAGES[name].fullmatch(layer.name) for name in stages):
            layer.trainable = False
            if isinstance(layer, batch_norm.BatchNorm):
                layer.frozen = True


def make_encoder(backbone, head, dim, recompute=False):
    """Joins a backbone and a head.

    Args:
      backbone: keras.Model, float [N, H, W, 3] -> [N, F].
      head: keras.Model, [N, F] -> float32 [N, C], or one of heads.KINDS.
      dim: C, of a head by name.
      recompute: see Encoder.

    Returns:
      Encoder.

    Raises:
      ValueError: The parts do not fit each other.
    """
    features = feature_size(backbone)
    if isinstance(head, str):
        head = heads.projection_head(head, features, dim)
    return Encoder(backbone, head, recompute=recompute)


class Encoder(tf.keras.Model):
    """A backbone followed by a projection head.

    Attributes:
      backbone: keras.Model, images [N, H, W, 3] -> features [N, F].
      head: keras.Model, float32 [N, F] -> float32 [N, C].
    """

    def __init__(self, backbone, head, name="encoder", recompute=False):
        """Joins both parts.

        Args:
          backbone: functional keras.Model, images [N, H, W, 3] -> [N, F].
          head: functional keras.Model, as of heads.projection_head.
          name: str.
          recompute: whether training keeps few activations and computes the
            others again, see `recomputing`.

        Raises:
          ValueError: The parts do not fit each other.
        """
        super().__init__(name=name)
        features = feature_size(backbone)
        if head.input_shape[-1] != features:
            raise ValueError(
                "The head must take the backbone's features. Received a head "
                f"for {head.input_shape[-1]} and a backbone of {features} "
                f"features. Make it by projection_head(kind, {features}, dim)."
            )
        self.backbone = backbone
        self.head = head
        self._recompute = recompute
        self._train_backbone = functools.partial(
            call_as_keras, backbone, training=True
        )
        if recompute:
            self._train_backbone = recomputing(backbone)

    @property
    def dim(self):
        """C, the features of a projection."""
        return self.head.output_shape[-1]

    def call(self, images, training=False, with_features=False):
        """Projects images.

        Args:
          images: normalised float [N, H, W, 3].
          training: whether BatchNorm uses the batch.
          with_features: whether to return the backbone's features, too.

        Returns:
          float32 [N, C], not L2-normalised; with_features: float32 [N, F] and
          that.
        """
        features, projections = self._encode(images, training)
        return (features, projections) if with_features else projections

    def features(self, images):
        """Features for evaluation; BatchNorm uses its moving statistics.

        Args:
          images: normalised float [N, H, W, 3].

        Returns:
          backbone features float32 [N, F] and projection float32 [N, C].
        """
        return self._encode(images, training=False)

    def _encode(self, images, training):
        if training:
            features = self._train_backbone(images)
        else:
            features = call_as_keras(self.backbone, images, training=False)
        features = tf.cast(features, tf.float32)
        projection = call_as_keras(self.head, features, training=training)
        return features, tf.cast(projection, tf.float32)

    def clone(self):
        """Makes an encoder of the same architecture with a copy of the weights.

        Returns:
          Encoder; shares no variable with this one.

        Raises:
          ValueError: A layer cannot be made again from its config.
        """
        return Encoder(
            _clone(self.backbone),
            _clone(self.head),
            self.name,
            self._recompute,
        )


def _clone(model):
    try:
        return cloning.clone(model)
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            "The key encoder is a copy of the query encoder, but a layer of "
            f"{model.name!r} cannot be made again from its config: {error} "
            "Give the layer a get_config() that returns its constructor's "
            "arguments."
        ) from error


def call_as_keras(model, inputs, training):
    """Calls a model whose layers are converted by AutoGraph.

    Keras promises that to whoever writes a layer: `if` on a tensor works in
    it. Training steps run without AutoGraph (methods/method.py), so that a
    user's backbone or head needs it switched on again.

    Args:
      model: keras.Model.
      inputs: tensor that the model takes.
      training: bool.

    Returns:
      tensor that the model returns.
    """
    return _converted_call()(model, inputs, training)


@functools.cache
def _converted_call():
    return tf.autograph.to_graph(_call)


def _call(model, inputs, training):
    return model(inputs, training=training)


def recomputing(backbone):
    """Makes a backbone's training call that needs less memory, but is slower.

    Only the outputs of its residual blocks are kept; what lies between is
    computed again in the backward pass (arXiv:1604.06174). BatchNorm's moving
    statistics change in the forward pass only.

    Args:
      backbone: functional keras.Model, one of our ResNets.

    Returns:
      function of images float [N, H, W, 3] -> features [N, F].

    Raises:
      ValueError: for a backbone whose blocks are not known.
    """
    ends = [
        layer.output
        for layer in backbone.layers
        if _BLOCK_END.fullmatch(layer.name)
    ]
    if not ends:
        raise ValueError(
            "model.recompute knows the blocks of the ResNets alone. Received "
            f"{backbone.name!r}. Use model.recompute=false; for less "
            "memory, a smaller batch."
        )
    # The last block's output is kept for the pooling anyway.
    starts = [backbone.input, *ends[:-1]]
    blocks = [
        tf.keras.Model(start, end)
        for start, end in zip(
            starts, [*ends[:-1], backbone.output], strict=True
        )
    ]

    def run(images):
        for block in blocks:
            images = tf.recompute_grad(_moves_statistics_once(block))(images)
        return images

    return run


def _moves_statistics_once(block):
    """A block's training call; BatchNorm's statistics change in the first."""
    calls = []

    def run(rows):
        calls.append(rows)
        with batch_norm.frozen_statistics(len(calls) > 1):
            return block(rows, training=True)

    return run
