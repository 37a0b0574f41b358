"""The backbone and the head that a configuration names."""

import functools

from moco_tf.models import encoder as encoders
from moco_tf.models import heads, inputs


def make_parts(config, mean, std, bn_splits=1):
    """Makes them, for training or, with its one group, for inference.

    Args:
      config: ConfigDict of a pre-training.
      mean, std: of the channels, that images are normalised by.
      bn_splits: BatchNorm groups of a replica's batch.

    Returns:
      backbone: keras.Model, normalised float [N, H, W, 3] -> float32 [N, F];
        [N, H, W, 6] of the input "pair".
      head: keras.Model, [N, F] -> float32 [N, C]; [N, 2 C] of "lab" and "pair".
    """
    model, size = config.model, config.data.image_size
    if config.data.small_views:
        size = None  # the views have two sizes
    build = functools.partial(
        encoders.build_backbone,
        model.backbone,
        width=model.width,
        stem=model.stem,
        bn_splits=bn_splits,
        precision=config.train.precision,
        synchronized=model.sync_bn,
        norm=model.norm,
    )

    def part(size, channels, name):
        return build(image_size=size, channels=channels, model_name=name)

    def head(features):
        return heads.projection_head(
            model.head,
            features,
            model.dim,
            model.hidden,
            bn_splits,
            model.sync_bn,
        )

    if model.input in ("lab", "pair"):
        make = functools.partial(part, size)
        if model.input == "lab":
            backbone = inputs.halves(make, size, mean, std)
        else:
            backbone = inputs.pair(make, size)
        return backbone, inputs.half_heads(head, backbone.output_shape[-1])
    if model.input == "grid":
        make = functools.partial(part, model.patch)
        backbone = inputs.grid(make, size, model.patch, mean, std)
    else:
        backbone = build(image_size=size)
    return backbone, head(encoders.feature_size(backbone))
