"""The published recipes' views in parts, from numbers that are drawn at once.

The numbers of a view are a function of its seed alone, yet those of a whole
step are drawn, and turned into parameters, in a few operations.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data import image_ops, photometric, resize

_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)  # [24, 4]
_SIZES = (image_ops.BOX_UNIFORMS, 4, 4, 6)
_NUMBERS = sum(_SIZES)  # a multiple of four, what one step of Philox gives
CHOICE = image_ops.BOX_UNIFORMS + 1 + photometric.ROW


class Draws(NamedTuple):
    """All random numbers of a view, float32 uniforms in [0, 1).

    Those of many views have a first axis more.
    """

    box: tf.Tensor  # [BOX_UNIFORMS]
    order: tf.Tensor  # scalar, as the next four
    jitter: tf.Tensor
    gray: tf.Tensor
    blur: tf.Tensor
    flip: tf.Tensor
    factors: tf.Tensor  # [4]: brightness, contrast, saturation, hue
    sigma: tf.Tensor  # scalar
    spare: tf.Tensor  # [4]: solarize, and three for recipes of one's own


def draw(seed):
    """Draws a view's numbers in one call; use each of them once.

    Args:
      seed: int64 [2]; those of one first number are unrelated streams.
    """
    return _named(_uniforms(seed, [_NUMBERS]))


def draw_many(seed, count):
    """Draws of the views seed, seed + [0, 1], …, count of them."""
    return _named(_uniforms(seed, [count, _NUMBERS]))


def _uniforms(seed, shape):
    # Philox is a function of a key and a counter, so that the numbers of
    # views that follow one another are one long draw.
    seed = tf.bitcast(tf.convert_to_tensor(seed, tf.int64), tf.uint64)
    blocks = tf.constant([_NUMBERS // 4, 0], tf.uint64)
    return tf.raw_ops.StatelessRandomUniformV2(
        shape=shape, key=seed[:1], counter=seed[1] * blocks, alg=1
    )


def _named(uniforms):
    box, factors, spare, others = tf.split(uniforms, _SIZES, axis=-1)
    order, jitter, gray, blur, flip, sigma = tf.unstack(others, axis=-1)
    return Draws(box, order, jitter, gray, blur, flip, factors, sigma, spare)


class Augmentation(NamedTuple):
    """A published recipe's views: a function of a Recipe's `augment`.

    The stream takes it in parts: `choose` for all views of a step at once,
    then `boxes` of an image, and `view` (or, where the device distorts, `crop`)
    of each box; or, for small images of one size, `crop_batch` and
    `distort_batch`.

    Attributes:
      low: float in 0..1, smallest share of the area that a crop takes.
      reach: of brightness, contrast, saturation and hue: factors are uniform
        in 1 - x..1 + x, the hue's shift in -x..x turns.
      jitter, gray, blur, solarize: floats, probabilities.
      gray_first: whether grey comes before the jitter.
      high: float in 0..1, largest share of the area that a crop takes.
    """

    low: float
    reach: tuple = (0.0, 0.0, 0.0, 0.0)
    jitter: float = 0.0
    gray: float = 0.0
    blur: float = 0.0
    gray_first: bool = False
    solarize: float = 0.0
    high: float = 1.0

    def __call__(self, image, size, seed):
        """A random view, uint8 [size, size, 3] (see Recipe)."""
        choice = self.choose(seed, 1)[0]
        return self.view(image, size, self.boxes(image, choice), choice)

    def choose(self, seed, count):
        """All that is random in the views seed, seed + [0, 1], ….

        Args:
          seed: int64 [2]. count: int, views.

        Returns:
          float32 [count, CHOICE]: the box's uniforms, whether to flip, and the
          row of a Distortion.
        """
        draws = draw_many(seed, count)
        none, gray = photometric.NONE, photometric.GREY
        factors, order = jitter_numbers(draws, self.reach)
        jittered = draws.jitter[:, tf.newaxis] < self.jitter
        colour = tf.where(jittered, order, none)
        gray = tf.where(draws.gray < self.gray, gray, none)[:, tf.newaxis]
        parts = [gray, colour] if self.gray_first else [colour, gray]
        sigma = tf.where(draws.blur < self.blur, 0.1 + 1.9 * draws.sigma, 0.0)
        flip = tf.cast(draws.flip < 0.5, tf.float32)[:, tf.newaxis]
        inverted = tf.cast(draws.spare[:, 0] < self.solarize, tf.float32)
        distortion = photometric.Distortion(
            tf.concat(parts, axis=-1), factors, sigma, inverted
        )
        return tf.concat([draws.box, flip, distortion.to_row()], axis=-1)

    def boxes(self, images, choices):
        """The crops' boxes int32 [..., 4]; choices float32 [..., CHOICE]."""
        shape = tf.shape(images)[-3:-1]
        box, _, _ = _split(choices)
        return image_ops.sample_box(shape, box, (self.low, self.high))

    @property
    def distorts(self):
        """Whether it does more than crop and flip."""
        return any((self.jitter, self.gray, self.blur, self.solarize))

    def view(self, image, size, box, choice):
        """The view, uint8 [size, size, C]; C is 3 where it distorts."""
        if not self.distorts:
            return self.crop(image, size, box, choice)
        planes = resize.crop_to_planes(image, box, size)
        _, flip, distortion = _split(choice)
        distortion = photometric.Distortion.from_row(distortion)
        made = photometric.distort(planes, distortion, flip)
        if not self.solarize:
            return made
        return tf.cond(
            distortion.solarize > 0,
            lambda: photometric.solarize(made),
            lambda: made,
        )

    def crop(self, image, size, box, choice):
        """The view before its distortion, uint8 [size, size, C]."""
        planes = resize.crop_to_planes(image, box, size)
        _, flip, _ = _split(choice)
        view = image_ops.to_uint8(resize.from_planes(planes))
        return image_ops.flip_horizontal(view, flip)

    def distortions(self, choices):
        """What `crop` leaves to the device: float32 [..., photometric.ROW]."""
        return _split(choices)[2]

    def crop_batch(self, images, size, choices):
        """Crops of images of one size, in few operations.

        Args:
          images: uint8 [n, H, W, 3]. size: int. choices: float32 [n, CHOICE].

        Returns:
          float32 [n, size, size, 3] in 0..255.
        """
        _, flip, _ = _split(choices)
        flip = flip[:, tf.newaxis, tf.newaxis, tf.newaxis]
        crops = resize.crop_batch(images, self.boxes(images, choices), size)
        return tf.where(flip, crops[:, :, ::-1], crops)

    def distort_batch(self, crops, choices):
        """Distorts crops [n, size, size, 3] by their choices; float32."""
        return photometric.distort_batch(crops, self.distortions(choices))


class Seeded(NamedTuple):
    """Any function of a Recipe's `augment`, in the parts of an Augmentation."""

    augment: Callable

    def choose(self, seed, count):
        """Seeds int64 [count, 2]."""
        numbers = seed[1] + tf.range(count, dtype=tf.int64)
        return tf.stack([tf.fill([count], seed[0]), numbers], axis=1)

    def boxes(self, images, choices):
        """Nothing: the function finds its own."""
        del images
        return tf.zeros([*choices.shape[:-1], 0], tf.int32)

    def view(self, image, size, box, choice):
        """The view, uint8 [size, size, 3]."""
        del box
        return self.augment(image, size, choice)


def in_parts(augment):
    """A Recipe's `augment` with the methods that the stream takes it in."""
    return augment if isinstance(augment, Augmentation) else Seeded(augment)


def crop_and_flip(low):
    """The augmentation of training with labels (MoCo v1, Sec. 4.1).

    Args:
      low: float in 0..1, smallest share of the area that a crop takes.

    Returns:
      a function of a Recipe's `augment`.
    """
    return Augmentation(low)


def _split(choices):
    """Uniforms of the box, flip bool [...], row of the distortion."""
    sizes = [image_ops.BOX_UNIFORMS, 1, photometric.ROW]
    box, flip, distortion = tf.split(choices, sizes, axis=-1)
    return box, flip[..., 0] > 0, distortion


def jitter_numbers(draws, reach):
    """Factors float32 [..., 4] and order int32 [..., 4] of a colour jitter."""
    factors = (2.0 * draws.factors - 1.0) * reach + [1.0, 1.0, 1.0, 0.0]
    return factors, tf.gather(_ORDERS, tf.cast(draws.order * 24, tf.int32))
