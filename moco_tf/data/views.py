"""The published recipes, spelled out: one image in, one view out.

A recipe is two functions and the normalisation of its data. One of your own
is a function of the same form, for example v2 without colour and with cutout:

    def augment(image, size, seed):
        draws = views.draw(seed)
        image = views.random_resized_crop(image, size, draws, (0.2, 1.0))
        centre = tf.cast(draws.spare * size, tf.int32)
        image = image_ops.cutout(image, centre, size // 2, fill=127.0)
        image = image_ops.flip_horizontal(image, draws.flip < 0.5)
        return image_ops.to_uint8(image)

    recipe = views.RECIPES["v2"]._replace(augment=augment)
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data import image_ops

normalize = image_ops.normalize  # what follows a view, next to the recipes

_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)  # [24, 4]


class Recipe(NamedTuple):
    """How images become views.

    Attributes:
      augment: (uint8 [H, W, 3], size int, seed int64 [2]) -> uint8
        [size, size, 3], a random view, a pure function of its arguments.
        AutoGraph does not read it: write tf.cond, not `if`, on tensors.
      evaluate: (uint8 [H, W, 3], size int) -> uint8 [size, size, 3].
      mean, std: per channel, of pixels in 0..1, for `normalize`.
    """

    augment: Callable
    evaluate: Callable
    mean: tuple
    std: tuple


class Draws(NamedTuple):
    """All random numbers of a view, float32 uniforms in [0, 1)."""

    box: tf.Tensor  # [BOX_UNIFORMS]
    order: tf.Tensor  # scalar, as the next four
    jitter: tf.Tensor
    gray: tf.Tensor
    blur: tf.Tensor
    flip: tf.Tensor
    factors: tf.Tensor  # [4]: brightness, contrast, saturation, hue
    sigma: tf.Tensor  # scalar
    spare: tf.Tensor  # [2], for operations that the recipes here do not have


def draw(seed):
    """Draws a view's numbers in one call; use each of them once.

    Args:
      seed: int64 [2].
    """
    sizes = [image_ops.BOX_UNIFORMS, 4, 2, 6]
    uniforms = tf.random.stateless_uniform([sum(sizes)], seed, alg="philox")
    box, factors, spare, others = tf.split(uniforms, sizes)
    order, jitter, gray, blur, flip, sigma = tf.unstack(others)
    return Draws(box, order, jitter, gray, blur, flip, factors, sigma, spare)


def augment_v1(image, size, seed):
    """MoCo v1 (arXiv:1911.05722, Sec. 3.3), in the published code's order."""
    draws = draw(seed)
    image = random_resized_crop(image, size, draws, scale=(0.2, 1.0))
    image = sometimes(0.2, draws.gray, image_ops.grayscale, image)
    image = color_jitter(image, draws, 0.4, 0.4, 0.4, 0.4)
    image = image_ops.flip_horizontal(image, draws.flip < 0.5)
    return image_ops.to_uint8(image)


def augment_v2(image, size, seed):
    """MoCo v2 (arXiv:2003.04297, Sec. 2): weaker hue, and blur."""
    draws = draw(seed)

    def jitter(image):
        return color_jitter(image, draws, 0.4, 0.4, 0.4, 0.1)

    def blur(image):
        return image_ops.gaussian_blur(image, 0.1 + 1.9 * draws.sigma)

    image = random_resized_crop(image, size, draws, scale=(0.2, 1.0))
    image = sometimes(0.8, draws.jitter, jitter, image)
    image = sometimes(0.2, draws.gray, image_ops.grayscale, image)
    image = sometimes(0.5, draws.blur, blur, image)
    image = image_ops.flip_horizontal(image, draws.flip < 0.5)
    return image_ops.to_uint8(image)


def augment_cifar(image, size, seed):
    """The authors' CIFAR-10 notebook: smaller crops, no blur."""
    draws = draw(seed)

    def jitter(image):
        return color_jitter(image, draws, 0.4, 0.4, 0.4, 0.1)

    image = random_resized_crop(image, size, draws, scale=(0.08, 1.0))
    image = image_ops.flip_horizontal(image, draws.flip < 0.5)
    image = sometimes(0.8, draws.jitter, jitter, image)
    image = sometimes(0.2, draws.gray, image_ops.grayscale, image)
    return image_ops.to_uint8(image)


def crop_and_flip(low):
    """The augmentation of training with labels (MoCo v1, Sec. 4.1).

    Args:
      low: float in 0..1, smallest share of the area that a crop takes.

    Returns:
      a function of a Recipe's `augment`.
    """

    def augment(image, size, seed):
        draws = draw(seed)
        image = random_resized_crop(image, size, draws, scale=(low, 1.0))
        image = image_ops.flip_horizontal(image, draws.flip < 0.5)
        return image_ops.to_uint8(image)

    return augment


def evaluate_imagenet(image, size):
    """Short side to 256/224 of the size, then the centre: 256 and 224."""
    short_side = round(size * 256 / 224)
    view = image_ops.resize_and_centre_crop(image, short_side, size)
    return image_ops.to_uint8(view)


def evaluate_cifar(image, size):
    """Short side to the size, then the centre: a 32 x 32 image as it is."""
    view = image_ops.resize_and_centre_crop(image, size, size)
    return image_ops.to_uint8(view)


def random_resized_crop(image, size, draws, scale):
    """A box of `scale` of the area, ratio 3/4..4/3, resized to a square.

    Args:
      image: uint8 [H, W, 3]. size: int, pixels.
      draws: Draws. scale: (low, high), fractions of the image's area.

    Returns:
      float32 [size, size, 3] in 0..255.
    """
    box = image_ops.sample_box(tf.shape(image)[:2], draws.box, scale)
    return image_ops.resized_crop(image, box, size)


def color_jitter(image, draws, brightness, contrast, saturation, hue):
    """torchvision's ColorJitter: random factors, in a random order.

    Args:
      image: float32 [H, W, 3] in 0..255. draws: Draws.
      brightness, contrast, saturation: x in 0..1, the factor is uniform in
        1 - x..1 + x.
      hue: h in 0..0.5 turns, the shift is uniform in -h..h.
    """
    reach = [brightness, contrast, saturation, hue]
    factors = (2.0 * draws.factors - 1.0) * reach + [1.0, 1.0, 1.0, 0.0]
    order = tf.gather(_ORDERS, tf.cast(draws.order * 24, tf.int32))
    return image_ops.color_jitter(image, order, *tf.unstack(factors))


def sometimes(probability, uniform, operation, image):
    """Applies an operation with a probability; else it costs nothing."""
    return tf.cond(
        uniform < probability, lambda: operation(image), lambda: image
    )


# To add a recipe, add a line.
RECIPES = {
    "v1": Recipe(
        augment_v1,
        evaluate_imagenet,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "v2": Recipe(
        augment_v2,
        evaluate_imagenet,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "cifar": Recipe(
        augment_cifar,
        evaluate_cifar,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
}
