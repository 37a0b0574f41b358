"""Backbones of keras-cv, built from their generic classes.

The named presets of keras-cv 0.9 ask a model hub even without weights; the
generic classes with the arguments below work offline. They keep keras-cv's own
initialisation, padding and BatchNorm settings, so they are no substitute for
our ResNets where published MoCo figures are to be reproduced.
"""

import tensorflow as tf

from moco_tf.models import batch_norm, cloning, resnet

_RESNET_50 = {
    "stackwise_filters": [64, 128, 256, 512],
    "stackwise_blocks": [3, 4, 6, 3],
    "stackwise_strides": [1, 2, 2, 2],
    "block_type": "block",
}
_EFFICIENTNET_V2 = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "stackwise_kernel_sizes": [3] * 6,
    "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
    "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2, 2, 1, 2],
    "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * 3,
    # Deviation: published with stochastic depth. Its random state would be
    # no part of a checkpoint, so a resumed run would differ.
    "skip_connection_dropout": 0.0,
}

_MOBILENET_V3_SMALL = {
    "stackwise_expansion": [1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
    "stackwise_filters": [16] + [24] * 2 + [40] * 3 + [48] * 2 + [96] * 3,
    "stackwise_kernel_size": [3] * 3 + [5] * 8,
    "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": [0.25, None, None] + [0.25] * 8,
    "stackwise_activation": ["relu"] * 3 + ["hard_swish"] * 8,
}
_MOBILENET_V3_LARGE = {
    "stackwise_expansion": [1, 4] + [3] * 4 + [6, 2.5, 2.3, 2.3] + [6] * 5,
    "stackwise_filters": (
        [16] + [24] * 2 + [40] * 3 + [80] * 4 + [112] * 2 + [160] * 3
    ),
    "stackwise_kernel_size": [3] * 3 + [5] * 3 + [3] * 6 + [5] * 3,
    "stackwise_stride": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": ([None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5),
    "stackwise_activation": ["relu"] * 6 + ["hard_swish"] * 9,
}

# Name: (class in keras_cv.models, arguments).
BACKBONES: dict[str, tuple[str, dict]] = {
    "resnet50": ("ResNetBackbone", _RESNET_50),
    "resnet50v2": ("ResNetV2Backbone", _RESNET_50),
    "efficientnetv2_b0": (
        "EfficientNetV2Backbone",
        {
            **_EFFICIENTNET_V2,
            "stackwise_num_repeats": [1, 2, 2, 3, 5, 8],
            "stackwise_input_filters": [32, 16, 32, 48, 96, 112],
            "stackwise_output_filters": [16, 32, 48, 96, 112, 192],
        },
    ),
    "efficientnetv2_s": (
        "EfficientNetV2Backbone",
        {
            **_EFFICIENTNET_V2,
            "stackwise_num_repeats": [2, 4, 4, 6, 9, 15],
            "stackwise_input_filters": [24, 24, 48, 64, 128, 160],
            "stackwise_output_filters": [24, 48, 64, 128, 160, 256],
        },
    ),
    "densenet121": (
        "DenseNetBackbone",
        {"stackwise_num_repeats": [6, 12, 24, 16]},
    ),
    "mobilenetv3_small": ("MobileNetV3Backbone", _MOBILENET_V3_SMALL),
    "mobilenetv3_large": ("MobileNetV3Backbone", _MOBILENET_V3_LARGE),
}


def build(
    name,
    *,
    norm=batch_norm.BatchNorm,
    image_size=None,
    precision="float32",
):
    """Makes a backbone with average pooling and our BatchNorm.

    Args:
      name: key of BACKBONES.
      norm: BatchNorm, or a functools.partial of it with its `splits` and
        `synchronized`; keras-cv's momentum and epsilon are kept.
      image_size: pixels of a square image; None takes any size.
      precision: "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
      keras.Model, normalised float [N, H, W, 3] -> float32 [N, F].

    Raises:
      ValueError: The name or precision is unknown, or keras-cv is absent.
    """
    if name not in BACKBONES:
        raise ValueError(
            f"The keras-cv backbone must be one of {tuple(BACKBONES)}. "
            f"Received {name!r}."
        )
    resnet.check_precision(precision)
    class_name, arguments = BACKBONES[name]
    with cloning.global_policy(precision):
        trunk = getattr(_keras_cv().models, class_name)(
            **arguments,
            include_rescaling=False,  # images come normalised
            input_shape=(image_size, image_size, 3),
        )
    features = tf.keras.layers.GlobalAveragePooling2D(
        name="avgpool", dtype="float32"
    )(trunk.output)
    model = tf.keras.Model(trunk.input, features, name=name)
    return cloning.swap_batch_norm(model, norm=norm)


def _keras_cv():
    """Imports keras-cv when it is first used: it takes seconds."""
    try:
        import keras_cv
    except ImportError as error:
        raise ValueError(
            "A keras_cv backbone needs keras-cv 0.9, which does not import "
            f"here: {error}. Install it (pip install keras-cv==0.9.0), or "
            "choose a ResNet of ours: --config.model.backbone=resnet50."
        ) from error
    return keras_cv
