"""How an image becomes its views: one view, and all views of a step.

An `Augmentation` is one view of a published recipe in parts: random choices, a
crop, a distortion. A `ViewStage` is the stage of the stream that makes the
query, the key and the small views of decoded images from them.

The random numbers of a view are a function of its seed alone, yet those of all
views of a step are drawn, and turned into parameters, in a few operations.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data import compiled_views, image_ops, photometric, resize

HOST, DEVICE, GRAPH = AUGMENT_ON = ("host", "device", "graph")
VIEW_NAMES = ("query", "key")
CHOICE = image_ops.BOX_UNIFORMS + 1 + photometric.ROW  # numbers of a choice

_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)  # [24, 4]
_SIZES = (image_ops.BOX_UNIFORMS, 4, 4, 6)  # of the parts of Draws
_NUMBERS = sum(_SIZES)  # a multiple of four, as one step of Philox draws
# Pixels; up to here an image's kernels take longer to call than to run. At 32 a
# batch at a time is a third faster than an image at a time, at 64 half as fast.
_SMALL = 32
_SMALL_COMPILED = 64  # the same of a compiled kernel: a call is 0.03 ms
_SMALL_KEYS = 2**32  # a seed is below this


class Augmentation(NamedTuple):
    """How a published recipe augments; callable, as `augment` of a Recipe.

    The stream calls it in parts: `choose` for all views of a step at once,
    then `boxes` of an image, and `view` (or, where the device distorts, `crop`)
    of each box; or, for small images of one size, `crop_batch` and
    `distort_batch`.

    Attributes:
      low: float in 0..1, smallest part of the area that a crop takes.
      reach: of brightness, contrast, saturation and hue: factors are uniform
        in 1 - x..1 + x, the hue's shift in -x..x turns.
      jitter, gray, blur, solarize: floats, probabilities.
      gray_first: bool, whether grey comes before the jitter.
      high: float in 0..1, largest part of the area that a crop takes.
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
        """A random view, uint8 [size, size, 3] (see `views.Recipe`)."""
        choice = self.choose(seed, 1)[0]
        return self.view(image, size, self.boxes(image, choice), choice)

    def choose(self, seed, count):
        """Draws all that is random in consecutive views.

        Args:
          seed: int64 [2], of the first view; the others have seed + [0, 1], ….
          count: int, views.

        Returns:
          choices float32 [count, CHOICE]: the box's numbers, whether to flip,
          and the row of a Distortion.
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
        box = image_ops.box_numbers(draws.box, (self.low, self.high))
        return tf.concat([box, flip, distortion.to_row()], axis=-1)

    def boxes(self, images, choices):
        """Boxes of the crops, int32 [..., 4]: top, left, height, width.

        Args:
          images: [..., H, W, C]. choices: float32 [..., CHOICE].
        """
        shape = tf.shape(images)[-3:-1]
        box, _, _ = _split(choices)
        return image_ops.box_of(shape, box)

    @property
    def distorts(self):
        """Whether views are changed after their crop and flip."""
        return any((self.jitter, self.gray, self.blur, self.solarize))

    def view(self, image, size, box, choice):
        """One view of an image.

        Args:
          image: uint8 [H, W, C]; C is 3 unless it only crops and flips.
          size: int. box: int32 [4]. choice: float32 [CHOICE].

        Returns:
          uint8 [size, size, C].
        """
        if not self.distorts:
            return self.crop(image, size, box, choice)
        planes = resize.crop_to_planes(image, box, size)
        _, flip, distortion = _split(choice)
        distortion = photometric.Distortion.from_row(distortion)
        view = photometric.distort(planes, distortion, flip)
        if not self.solarize:
            return view
        return tf.cond(
            distortion.solarize > 0,
            lambda: photometric.solarize(view),
            lambda: view,
        )

    def crop(self, image, size, box, choice):
        """As `view`, before the distortion."""
        planes = resize.crop_to_planes(image, box, size)
        _, flip, _ = _split(choice)
        view = image_ops.to_uint8(resize.from_planes(planes))
        return image_ops.flip_horizontal(view, flip)

    def distortions(self, choices):
        """Distortions left to the device: float32 [..., photometric.ROW]."""
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
        distortions = self.distortions(choices)
        return photometric.distort_batch(crops, distortions, skips=True)


class Seeded(NamedTuple):
    """Any other `augment` of a Recipe, in the parts that the stream calls.

    Attributes:
      augment: (uint8 [H, W, 3], size int, seed int64 [2]) -> uint8
        [size, size, 3].
    """

    augment: Callable

    def choose(self, seed, count):
        """The choice of a view is its seed: int64 [count, 2]."""
        numbers = seed[1] + tf.range(count, dtype=tf.int64)
        return tf.stack([tf.fill([count], seed[0]), numbers], axis=1)

    def boxes(self, images, choices):
        """Empty rows: the function crops by itself."""
        del images
        return tf.zeros([*choices.shape[:-1], 0], tf.int32)

    def view(self, image, size, box, choice):
        """The view, uint8 [size, size, 3]."""
        del box
        return self.augment(image, size, choice)


def in_parts(augment):
    """Wraps any `augment` of a Recipe into the parts that the stream calls.

    Args:
      augment: Augmentation, or a function (see `views.Recipe`).

    Returns:
      Augmentation or Seeded.
    """
    return augment if isinstance(augment, Augmentation) else Seeded(augment)


def crop_and_flip(low):
    """The augmentation of training with labels (MoCo v1, Sec. 4.1).

    Args:
      low: float in 0..1, smallest part of the area that a crop takes.

    Returns:
      Augmentation.
    """
    return Augmentation(low)


class SmallViews(NamedTuple):
    """The small views of multi-crop (SwAV, arXiv:2006.09882, Sec. 3.2).

    Attributes:
      parts: Augmentation, of all small views.
      count: int, small views of an image. size: int, pixels of a side.
    """

    parts: Any
    count: int  # type: ignore[assignment]  # not the method of tuples
    size: int


class ViewStage(NamedTuple):
    """Makes the views of images, by random choices for each position.

    Attributes:
      parts: (query, key), each an Augmentation or Seeded.
      size: int, pixels of a view's side.
      names: the views to make: VIEW_NAMES, or "query" alone.
      augment_on: "host", by a compiled kernel (compiled_views.py); "graph":
        on the host by TensorFlow; or "device": crops leave the host, and with
        each, under "query_distortion" or "key_distortion", the row of a
        Distortion for the device.
      small: SmallViews, made beside the others under "small", or None.
      channels: int, of an image.
    """

    parts: tuple
    size: int
    names: tuple
    augment_on: str
    small: Any = None
    channels: int = 3

    def check(self):
        """Refuses views that cannot be made on that device (ValueError)."""
        if self.augment_on not in AUGMENT_ON:
            raise ValueError(
                f"augment_on must be one of {AUGMENT_ON}. Received "
                f"augment_on={self.augment_on!r}."
            )
        if len({type(parts) for parts in self.parts}) > 1:
            raise ValueError(
                "A recipe's augment and augment_key must both be functions, or "
                f"both Augmentations. Received {self.parts}. Replace "
                "augment_key too, or set it to None: as augment."
            )
        if self.augment_on == DEVICE and not self._published():
            raise ValueError(
                "augment_on='device' needs a recipe made of Augmentations, "
                f"whose parts are known. Received {self._all_parts()}. Use "
                "config.data.augment_on=host."
            )
        if self.channels != 3 and not self._only_crops():
            raise ValueError(
                "Images of two files take views that crop and flip alone: "
                "colours are of one sensor. Received views that do more. Use "
                "config.data.views=cmc and config.data.augment_on=host."
            )

        if self.augment_on == HOST and self._distorts():
            compiled_views.require()

    @property
    def is_compiled(self):
        """Whether the compiled kernel makes the views, or their crops.

        Where it cannot be compiled, what crops and flips alone is made by
        TensorFlow, to the same bits.
        """
        compiles = self.augment_on != GRAPH and self._published()
        return compiles and compiled_views.is_there()

    def _distorts(self):
        return self._published() and any(
            part.distorts for part in self._all_parts()
        )

    def _published(self):
        return all(
            isinstance(parts, Augmentation) for parts in self._all_parts()
        )

    def _only_crops(self):
        on_host = self.augment_on != DEVICE and self._published()
        return on_host and not self._distorts()

    def _all_parts(self):
        return self.parts + ((self.small.parts,) if self.small else ())

    def choose(self, seed, positions):
        """Draws all that is random in the views of consecutive positions.

        Args:
          seed: int. positions: int64 [n].

        Returns:
          dict: "pair" [n, 2, ...], and with small views "small" [n, V, ...].
        """
        choices = {"pair": self._choose_pair(seed, positions)}
        if self.small:
            views, count = self.small.count, positions.shape[0]
            # Another key than the pair's: unrelated numbers.
            key = tf.constant(seed + _SMALL_KEYS, tf.int64)
            first = tf.stack([key, views * positions[0]])
            small = self.small.parts.choose(first, views * count)
            choices["small"] = tf.reshape(small, [count, views, -1])
        return choices

    def _choose_pair(self, seed, positions):
        first = tf.stack([tf.constant(seed, tf.int64), 2 * positions[0]])
        count = positions.shape[0]
        query, key = self.parts
        choices = query.choose(first, 2 * count)
        choices = tf.reshape(choices, [count, 2, choices.shape[-1]])
        if key == query:
            return choices
        others = key.choose(first, 2 * count)
        others = tf.reshape(others, choices.shape)
        return tf.stack([choices[:, 0], others[:, 1]], axis=1)

    def can_batch(self, shape):
        """Whether `views_of_batch` is the faster way, for a TensorShape."""
        return (
            shape.is_fully_defined()
            and shape[-1] == 3
            and self.size <= (_SMALL_COMPILED if self.is_compiled else _SMALL)
            and self._published()
        )

    def views_of_image(self, image, choices, wanted, if_wanted):
        """Makes the views of one image.

        Args:
          image: uint8 [H, W, C].
          choices: dict of `choose`, the rows of this image.
          wanted: bool [2], the query and the key view.
          if_wanted: function of a bool scalar and two functions (see
            `stream.Worker.if_wanted`).

        Returns:
          dict of uint8 by name: [S, S, C], and "small" [V, s, s, C].
        """
        if self.is_compiled:
            return self._compiled(image, choices, wanted)
        query, key = self.parts
        pair = choices["pair"]
        boxes = [
            parts.boxes(image, pair)[number]
            for number, parts in enumerate(self.parts)
        ]
        first = self._traced(query, self.size)
        # One trace for both views, where they are alike.
        other = first if key == query else self._traced(key, self.size)
        make = (first, other)
        views = {
            name: if_wanted(
                wanted[number],
                lambda number=number: make[number](
                    image, boxes[number], pair[number]
                ),
                lambda: tf.zeros(self._shape(self.size), tf.uint8),
            )
            for number, name in enumerate(self.names)
        }
        if self.small:
            views["small"] = if_wanted(
                wanted[0],  # they go where the query goes
                lambda: self._small_of_image(image, choices["small"]),
                lambda: tf.zeros(
                    [self.small.count, *self._shape(self.small.size)], tf.uint8
                ),
            )
        return views | self._distortions(choices)

    def _compiled(self, images, choices, wanted):
        sizes = dict.fromkeys(self.names, self.size)
        if self.small:
            sizes["small"] = self.small.size
        distorts = self.augment_on == HOST and self._distorts()
        views = compiled_views.make_views(
            images, choices, wanted, sizes, distorts
        )
        return views | self._distortions(choices)

    def _traced(self, parts, size):
        make = parts.crop if self.augment_on == DEVICE else parts.view

        @tf.function(autograph=False)
        def view(image, box, choice):
            pixels = make(image, size, box, choice)
            return tf.ensure_shape(pixels, self._shape(size))

        return view

    def _shape(self, size):
        return [size, size, self.channels]

    def _small_of_image(self, image, choices):
        parts, count, size = self.small
        boxes = parts.boxes(image, choices)
        view = self._traced(parts, size)
        return tf.stack(
            [view(image, boxes[i], choices[i]) for i in range(count)]
        )

    def views_of_batch(self, images, choices):
        """Makes all views of n images of one size.

        Args:
          images: uint8 [n, H, W, 3]. choices: dict of `choose`.

        Returns:
          dict as of `views_of_image`, with a first axis more.
        """

        if self.is_compiled:
            return self._compiled(images, choices, tf.constant([True, True]))

        def view(parts, size, choices):
            crops = parts.crop_batch(images, size, choices)
            if self.augment_on != DEVICE:
                crops = parts.distort_batch(crops, choices)
            return image_ops.to_uint8(crops)

        views = {
            name: view(self.parts[i], self.size, choices["pair"][:, i])
            for i, name in enumerate(self.names)
        }
        if self.small:
            parts, count, size = self.small
            chosen = [choices["small"][:, i] for i in range(count)]
            small = [view(parts, size, choice) for choice in chosen]
            views["small"] = tf.stack(small, axis=1)
        return views | self._distortions(choices)

    def _distortions(self, choices):
        if self.augment_on != DEVICE:
            return {}
        rows = self.parts[0].distortions(choices["pair"])
        distortions = {
            f"{name}_distortion": rows[..., number, :]
            for number, name in enumerate(self.names)
        }
        if self.small:
            rows = self.small.parts.distortions(choices["small"])
            distortions["small_distortion"] = rows
        return distortions


class Draws(NamedTuple):
    """All random numbers of a view, float32 uniforms in [0, 1).

    The draws of several views have a first axis more.
    """

    box: tf.Tensor  # [BOX_UNIFORMS]
    order: tf.Tensor  # scalar, as the next four
    jitter: tf.Tensor
    gray: tf.Tensor
    blur: tf.Tensor
    flip: tf.Tensor
    factors: tf.Tensor  # [4]: brightness, contrast, saturation, hue
    sigma: tf.Tensor  # scalar
    spare: tf.Tensor  # [4]: solarize, and three for a user's recipes


def draw(seed):
    """Draws the numbers of a view in one call; use each of them once.

    Args:
      seed: int64 [2]; other seeds give unrelated numbers.

    Returns:
      Draws.
    """
    return _named(_uniforms(seed, [_NUMBERS]))


def draw_many(seed, count):
    """Draws the numbers of `count` views: seed, seed + [0, 1], …."""
    return _named(_uniforms(seed, [count, _NUMBERS]))


def _uniforms(seed, shape):
    # Philox is a function of a key and a counter, so that the numbers of
    # consecutive views are one long draw.
    seed = tf.bitcast(tf.convert_to_tensor(seed, tf.int64), tf.uint64)
    blocks = tf.constant([_NUMBERS // 4, 0], tf.uint64)
    return tf.raw_ops.StatelessRandomUniformV2(
        shape=shape, key=seed[:1], counter=seed[1] * blocks, alg=1
    )


def _named(uniforms):
    box, factors, spare, others = tf.split(uniforms, _SIZES, axis=-1)
    order, jitter, gray, blur, flip, sigma = tf.unstack(others, axis=-1)
    return Draws(
        box=box,
        order=order,
        jitter=jitter,
        gray=gray,
        blur=blur,
        flip=flip,
        factors=factors,
        sigma=sigma,
        spare=spare,
    )


def jitter_numbers(draws, reach):
    """Factors float32 [..., 4] and order int32 [..., 4] of a colour jitter."""
    factors = (2.0 * draws.factors - 1.0) * reach + [1.0, 1.0, 1.0, 0.0]
    return factors, tf.gather(_ORDERS, tf.cast(draws.order * 24, tf.int32))


def _split(choices):
    """Numbers of the box, flip bool [...], row of the distortion."""
    sizes = [image_ops.BOX_UNIFORMS, 1, photometric.ROW]
    box, flip, distortion = tf.split(choices, sizes, axis=-1)
    return box, flip[..., 0] > 0, distortion
