"""ResNet in torchvision's layout (arXiv:1512.03385, the "v1.5" variant)."""

import tensorflow as tf

from moco_tf.models import batch_norm

# Depth: (blocks of the four stages, whether they are bottlenecks).
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
STEMS = ("imagenet", "cifar")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
EXPANSION = 4  # channels out of a bottleneck, per channel inside


def resnet(
    depth,
    width=1.0,
    stem="imagenet",
    *,
    norm=batch_norm.BatchNorm,
    image_size=None,
    precision="float32",
    channels=3,
    name=None,
):
    """Makes a ResNet trunk with average pooling and no classifier.

    As in torchvision a bottleneck's stride is on its 3x3 convolution and
    padding is symmetric. Layers carry torchvision's module names.
    Convolutions start normal with deviation sqrt(2 / fan_out), gamma 1, beta 0.

    Args:
      depth: 18, 34, 50, 101 or 152.
      width: positive float, scales the channels of the stem and of all stages
        (rounded to a multiple of 8, at least 8).
      stem: "imagenet": 7x7 stride 2 and a max pool; "cifar": 3x3 stride 1, no
        pool, for images of about 32 pixels.
      norm: factory of the normalisation layers, function of dtype and name:
        BatchNorm, a functools.partial of it (its `splits`, `synchronized`), or
        `layer_norm`.
      image_size: pixels of a square image; None takes any size.
      precision: "float32", "mixed_bfloat16" or "mixed_float16". Variables and
        the output are float32 with each.
      channels: of the images.
      name: of the model; None: "resnet" and the depth.

    Returns:
      keras.Model, normalised float [N, H, W, channels] -> float32 [N, F].

    Raises:
      ValueError: An argument is outside its range.
    """
    _check(depth, width, stem, precision, norm)
    blocks, bottleneck = DEPTHS[depth]
    layers = _Layers(norm, precision)
    images = tf.keras.Input([image_size, image_size, channels], name="image")
    x = _stem(layers, images, _scaled(64, width), stem)
    for stage, count in enumerate(blocks):
        for block in range(count):
            x = _block(
                layers,
                x,
                channels=_scaled(64 * 2**stage, width),
                stride=2 if stage and not block else 1,
                bottleneck=bottleneck,
                name=f"layer{stage + 1}.{block}",
            )
    features = tf.keras.layers.GlobalAveragePooling2D(
        name="avgpool", dtype="float32"
    )(x)
    return tf.keras.Model(images, features, name=name or f"resnet{depth}")


def layer_norm(**options):
    """Makes a layer that normalises each image by itself (arXiv:1607.06450).

    Mean and variance are those of an image, over positions and channels; gamma
    and beta of a channel.

    Args:
      **options: of keras.layers.Layer (dtype, name).

    Returns:
      keras.Layer, float [N, H, W, C] -> [N, H, W, C].
    """
    return tf.keras.layers.GroupNormalization(groups=1, epsilon=1e-5, **options)


def _check(depth, width, stem, precision, norm):
    if depth not in DEPTHS:
        raise ValueError(
            f"depth must be one of {tuple(DEPTHS)}. Received depth={depth}."
        )
    if not width > 0:
        raise ValueError(f"width must be above 0. Received width={width}.")
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {STEMS}. Received {stem!r}.")
    if not callable(norm):
        raise ValueError(
            "norm must make a layer, as BatchNorm, a functools.partial of it "
            f"or resnet.layer_norm do. Received {norm!r}."
        )
    check_precision(precision)


def check_precision(precision):
    """Refuses a name that is not one of PRECISIONS (ValueError)."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {PRECISIONS}. Received {precision!r}."
        )


def _scaled(channels, width):
    return max(8, int(channels * width + 4) // 8 * 8)


def _stem(layers, images, channels, stem):
    if stem == "cifar":
        # The authors' CIFAR demo puts a fresh convolution here, which starts
        # uniform within 1 / sqrt(fan_in) as torch's layers do.
        uniform = tf.keras.initializers.VarianceScaling(
            1 / 3, mode="fan_in", distribution="uniform"
        )
        x = layers.conv(images, channels, 3, 1, "conv1", uniform)
        return layers.relu(layers.norm(x, "bn1"), "relu")
    x = layers.conv(images, channels, 7, 2, "conv1")
    x = layers.relu(layers.norm(x, "bn1"), "relu")
    # Zeros do for torch's padding of -inf: nothing after a ReLU is below 0,
    # and where 0 is the largest the ReLU passes no gradient.
    x = layers.pad(x, 1, "maxpool.pad")
    return tf.keras.layers.MaxPooling2D(
        3, 2, padding="valid", name="maxpool", dtype=layers.precision
    )(x)


def _block(layers, x, channels, stride, bottleneck, name):
    """A residual block: conv-BN-ReLU two or three times, plus the input."""
    # (channels, kernel, stride) of each convolution.
    convolutions = [(channels, 3, stride), (channels, 3, 1)]
    if bottleneck:
        convolutions = [
            (channels, 1, 1),
            (channels, 3, stride),
            (channels * EXPANSION, 1, 1),
        ]
    outputs = convolutions[-1][0]
    shortcut = x
    if stride != 1 or x.shape[-1] != outputs:
        shortcut = layers.conv(x, outputs, 1, stride, f"{name}.downsample.0")
        shortcut = layers.norm(shortcut, f"{name}.downsample.1")
    for number, (filters, kernel, step) in enumerate(convolutions, start=1):
        if number > 1:
            x = layers.relu(x, f"{name}.relu{number - 1}")
        x = layers.conv(x, filters, kernel, step, f"{name}.conv{number}")
        x = layers.norm(x, f"{name}.bn{number}")
    x = tf.keras.layers.Add(name=f"{name}.add", dtype=layers.precision)(
        [x, shortcut]
    )
    return layers.relu(x, f"{name}.relu")


class _Layers:
    """Makes layers of one precision and one kind of normalisation."""

    def __init__(self, norm, precision):
        self.make_norm = norm
        self.precision = precision

    def conv(self, x, filters, kernel, stride, name, initializer=None):
        """A convolution without bias, padded by kernel // 2 on each side."""
        if initializer is None:
            # A new one each time: Keras repeats the values of a reused one.
            initializer = tf.keras.initializers.VarianceScaling(
                2.0, mode="fan_out", distribution="untruncated_normal"
            )
        if stride > 1 and kernel > 1:
            # "same" would pad more after than before.
            x = self.pad(x, kernel // 2, f"{name}.pad")
        return tf.keras.layers.Conv2D(
            filters,
            kernel,
            stride,
            padding="same" if stride == 1 else "valid",
            use_bias=False,
            kernel_initializer=initializer,
            dtype=self.precision,
            name=name,
        )(x)

    def norm(self, x, name):
        """The normalisation that follows a convolution."""
        return self.make_norm(dtype=self.precision, name=name)(x)

    def relu(self, x, name):
        return tf.keras.layers.ReLU(dtype=self.precision, name=name)(x)

    def pad(self, x, amount, name):
        """Zeros around the map, as many on each side."""
        return tf.keras.layers.ZeroPadding2D(
            amount, dtype=self.precision, name=name
        )(x)
