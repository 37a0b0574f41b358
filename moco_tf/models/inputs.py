"""Backbones for other inputs than RGB images: two sensors, or patches.

The kinds of input (`model.input`): "rgb", an image as it is; "lab", its
luminance and its colour, for two networks; "pair", two aligned images, for two
networks; "grid", grey patches that overlap by half.
"""

import numpy as np
import tensorflow as tf

from moco_tf.data import image_ops

# Kind of input: channels of its images.
CHANNELS = {"rgb": 3, "lab": 3, "pair": 6, "grid": 3}

# sRGB to XYZ (IEC 61966-2-1), each row over the white point D65.
_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
# Middle and half width of what sRGB has of L, a and b, as in CMC's code.
_LAB_MEAN = np.array([50.0, 6.025, -6.6895])
_LAB_STD = np.array([50.0, 92.208, 101.1675])


def make_backbone(kind, build, *, image_size, patch, mean, std):
    """Makes the backbone for a kind of input.

    Args:
      kind: one of CHANNELS.
      build: function that makes a backbone of image_size (pixels of a square
        image; None: any), channels and model_name, as encoder.build_backbone.
      image_size: pixels of a square image; None takes any size.
      patch: pixels of a patch's side; of "grid" alone.
      mean, std: of the channels, that the images are normalised by.

    Returns:
      keras.Model, float [N, H, W, CHANNELS[kind]] -> float32 [N, F].
    """
    if kind == "rgb":
        return build(image_size=image_size)
    size = patch if kind == "grid" else image_size

    def make(channels, name):
        return build(image_size=size, channels=channels, model_name=name)

    if kind == "lab":
        return lab_backbone(make, image_size, mean, std)
    if kind == "pair":
        return pair_backbone(make, image_size)
    return grid_backbone(make, image_size, patch, mean, std)


def make_head(kind, make, features):
    """Makes the head for a kind of input; two heads for "lab" and "pair".

    Args:
      kind: one of CHANNELS.
      make: function of a keyword `features`, a number -> head.
      features: F, of the backbone.

    Returns:
      keras.Model, [N, F] -> float32 [N, C]; [N, 2 C] of two heads.
    """
    if kind in ("lab", "pair"):
        return half_heads(make, features)
    return make(features=features)


def to_lab(pixels):
    """Converts sRGB to CIE Lab, by the white point D65.

    Args:
      pixels: float32 [..., 3] in 0..1.

    Returns:
      float32 [..., 3]: L in 0..100, a and b about -108..98.
    """
    low = pixels / 12.92
    high = ((tf.maximum(pixels, 0.04045) + 0.055) / 1.055) ** 2.4
    linear = tf.where(pixels <= 0.04045, low, high)
    matrix = (_XYZ / _WHITE[:, np.newaxis]).T.astype(np.float32)
    xyz = tf.tensordot(linear, matrix, axes=1)
    edge = 0.008856
    root = tf.maximum(xyz, edge) ** (1.0 / 3.0)
    f = tf.where(xyz > edge, root, 7.787 * xyz + 16.0 / 116.0)
    x, y, z = tf.unstack(f, axis=-1)
    lab = [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    return tf.stack(lab, axis=-1)


def lab_backbone(make, image_size, mean, std):
    """Makes a network for luminance and one for colour (CMC, arXiv:1906.05849).

    Args:
      make: function of a number of channels and a name -> keras.Model.
      image_size: pixels of a square image; None takes any size.
      mean, std: of the channels, that the images are normalised by.

    Returns:
      keras.Model, float [N, H, W, 3] -> float32 [N, 2 F]: L's features first.
    """
    images = tf.keras.Input([image_size, image_size, 3], name="image")
    lab = _Lab(mean, std, dtype="float32", name="lab")(images)
    luminance = _Channels(0, 1, dtype="float32", name="l")(lab)
    colour = _Channels(1, 3, dtype="float32", name="ab")(lab)
    features = [make(1, "luminance")(luminance), make(2, "colour")(colour)]
    return _joined(images, features, "halves")


def pair_backbone(make, image_size):
    """Makes a network for each of two aligned images, three channels each.

    Args:
      make: function of a number of channels and a name -> keras.Model.
      image_size: pixels of a square image; None takes any size.

    Returns:
      keras.Model, float [N, H, W, 6] -> float32 [N, 2 F]: those of the first
      three channels come first.
    """
    images = tf.keras.Input([image_size, image_size, 6], name="image")
    first = _Channels(0, 3, dtype="float32", name="first_file")(images)
    second = _Channels(3, 6, dtype="float32", name="second_file")(images)
    features = [make(3, "first")(first), make(3, "second")(second)]
    return _joined(images, features, "pair")


def _joined(images, features, name):
    joined = tf.keras.layers.Concatenate(name="both", dtype="float32")(features)
    return tf.keras.Model(images, joined, name=name)


def half_heads(make, features):
    """Makes a head for each half of the features, their outputs side by side.

    Args:
      make: function of a keyword `features`, a number -> head.
      features: 2 F, of both halves.

    Returns:
      keras.Model, [N, 2 F] -> float32 [N, 2 C].
    """
    inputs = tf.keras.Input([features], name="features", dtype=tf.float32)
    middle = features // 2
    outputs = []
    for name, bounds in (("l", (0, middle)), ("ab", (middle, features))):
        half = _Channels(*bounds, dtype="float32", name=f"{name}_features")
        head = make(features=middle)
        head = tf.keras.Model(head.inputs, head.outputs, name=f"{name}_head")
        outputs.append(head(half(inputs)))
    outputs = tf.keras.layers.Concatenate(name="both", dtype="float32")(outputs)
    return tf.keras.Model(inputs, outputs, name="head")


def grid_backbone(make, image_size, patch, mean, std):
    """Makes a network for the grey patches of an image (CPC, arXiv:1807.03748).

    Patches overlap by half. The features of an image are the mean over them
    (Sec. 3.2); the layer "grid" has those of each.

    Args:
      make: function of a number of channels and a name -> keras.Model.
      image_size: pixels of a square image.
      patch: pixels of a patch's side.
      mean, std: of the channels, that the images are normalised by.

    Returns:
      keras.Model, float [N, S, S, 3] -> float32 [N, F].
    """
    images = tf.keras.Input([image_size, image_size, 3], name="image")
    x = _Grey(mean, std, dtype="float32", name="grey")(images)
    x = _Patches(patch, dtype="float32", name="patches")(x)
    x = make(1, "patch")(x)
    side = patches_a_side(image_size, patch)
    x = _Grid(side, dtype="float32", name="grid")(x)
    x = tf.keras.layers.GlobalAveragePooling2D(name="mean", dtype="float32")(x)
    return tf.keras.Model(images, x, name="patches")


def patches_a_side(image_size, patch):
    """Number of patches in a row of an image, g; they overlap by half.

    Args:
      image_size: pixels of a square image. patch: pixels of a patch's side.
    """
    return (image_size - patch) // (patch // 2) + 1


class _Pixels(tf.keras.layers.Layer):
    """A layer of normalised images that works on their pixels in 0..1."""

    def __init__(self, mean, std, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.std = tuple(mean), tuple(std)

    def pixels(self, images):
        return tf.cast(images, tf.float32) * self.std + self.mean

    def get_config(self):
        return super().get_config() | {"mean": self.mean, "std": self.std}


class _Lab(_Pixels):
    """CIE Lab float32 [..., 3], each channel in about -1..1."""

    def call(self, images):
        return (to_lab(self.pixels(images)) - _LAB_MEAN) / _LAB_STD


class _Grey(_Pixels):
    """Luminance float32 [..., 1], by the mean and deviation of the green."""

    def call(self, images):
        pixels = self.pixels(images)
        grey = tf.reduce_sum(
            pixels * image_ops.LUMINANCE, axis=-1, keepdims=True
        )
        return (grey - self.mean[1]) / self.std[1]

    @property
    def black(self):
        """The value of a black pixel."""
        return -self.mean[1] / self.std[1]


class _Channels(tf.keras.layers.Layer):
    """The values first..last-1 of the last axis."""

    def __init__(self, first, last, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = first, last

    def call(self, values):
        return values[..., self.first : self.last]

    def get_config(self):
        return super().get_config() | {"first": self.first, "last": self.last}


class _Patches(tf.keras.layers.Layer):
    """Patches [N g g, p, p, 1] of grey images, row by row."""

    def __init__(self, patch, **kwargs):
        super().__init__(**kwargs)
        self.patch = patch

    def call(self, images):
        sizes, strides = [self.patch] * 2, [self.patch // 2] * 2
        patches = tf.image.extract_patches(
            images, [1, *sizes, 1], [1, *strides, 1], [1, 1, 1, 1], "VALID"
        )
        return tf.reshape(patches, [-1, *sizes, 1])

    def get_config(self):
        return super().get_config() | {"patch": self.patch}


class _Grid(tf.keras.layers.Layer):
    """Features of patches as a grid: [N g g, F] -> [N, g, g, F]."""

    def __init__(self, side, **kwargs):
        super().__init__(**kwargs)
        self.side = side

    def call(self, rows):
        return tf.reshape(rows, [-1, self.side, self.side, rows.shape[-1]])

    def get_config(self):
        return super().get_config() | {"side": self.side}
