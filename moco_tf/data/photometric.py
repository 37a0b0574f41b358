"""The distortion of a view: its colours and sharpness, after its crop.

`distort` distorts one view on the host, where an operation that is not drawn
costs nothing; `distort_batch` a batch of crops on a replica's device, where
each image has its own numbers. Both are the arithmetic of image_ops.py.
"""

from typing import NamedTuple

import tensorflow as tf

from moco_tf.data import image_ops, resize

BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, NONE = range(6)
STEPS = 5  # the four of a jitter, and grey
ROW = STEPS + 4 + 2


class Distortion(NamedTuple):
    """The operations of a view, in order; a batch of them has a first axis.

    Attributes:
      steps: int32 [STEPS], of the numbers above.
      factors: float32 [4]: brightness, contrast and saturation, >= 0, and the
        hue's shift in turns.
      sigma: float32 scalar, of the blur that follows, 0..2 pixels; 0: none.
      solarize: float32 scalar; above 0, the light half is inverted at the end.
    """

    steps: tf.Tensor
    factors: tf.Tensor
    sigma: tf.Tensor
    solarize: tf.Tensor

    def to_row(self):
        """float32 [ROW], as it travels in a batch."""
        steps = tf.cast(self.steps, tf.float32)
        last = tf.stack([self.sigma, self.solarize], axis=-1)
        return tf.concat([steps, self.factors, last], axis=-1)

    @classmethod
    def from_row(cls, row):
        """The inverse of `to_row`."""
        steps, factors, last = tf.split(row, [STEPS, 4, 2], axis=-1)
        sigma, solarize = tf.unstack(last, axis=-1)
        return cls(tf.cast(steps, tf.int32), factors, sigma, solarize)


def distort(view, distortion, flip):
    """Distorts one view on the host.

    Args:
      view: float32 [S, 3, S] in 0..255, on its side (see resize.py).
      distortion: Distortion.
      flip: bool scalar, whether left and right change places at the end.

    Returns:
      uint8 [S, S, 3], upright.
    """
    steps, factors, sigma, _ = distortion
    last = tf.reduce_max(
        tf.where(tf.equal(steps, NONE), 0, tf.range(STEPS) + 1)
    )
    colours = (view, steps, last, factors)
    return tf.cond(
        sigma > 0,
        lambda: _blurred(
            resize.from_planes(_soft(*colours, sigma, flip)), sigma
        ),
        lambda: resize.from_planes(_sharp(*colours, flip)),
    )


def distort_batch(images, distortions, skips=False):
    """Distorts a batch of crops on a replica's device, under XLA too.

    Every operation is computed for every image, and the drawn one taken.

    Args:
      images: uint8 or float32 [b, S, S, 3] in 0..255.
      distortions: float32 [b, ROW], of `Distortion.to_row`.
      skips: bool, whether an operation that no image draws is left out: on the
        host. A GPU would wait until the host knows.

    Returns:
      float32 [b, S, S, 3] in 0..255.
    """
    steps, factors, sigma, solarize = _parts(distortions)
    # All steps but the hue's are blends: GREY with a factor of 0, NONE with a
    # factor of 1.
    hue = factors[:, HUE, tf.newaxis, tf.newaxis]
    ones = tf.ones_like(sigma)
    factors = tf.stack(
        [*tf.unstack(factors[:, :HUE], axis=1), ones, 0.0 * ones, ones], axis=1
    )
    planes = tuple(tf.unstack(tf.cast(images, tf.float32), axis=-1))
    for step in tf.unstack(steps, axis=1):
        factor = tf.gather(factors, tf.cast(step, tf.int32), batch_dims=1)
        factor = factor[:, tf.newaxis, tf.newaxis]
        step = step[:, tf.newaxis, tf.newaxis]
        other = tf.where(
            tf.equal(step, CONTRAST),
            image_ops.mean_luminance(planes),
            image_ops.luminance(planes),
        )
        other = tf.where(tf.equal(step, BRIGHTNESS), 0.0, other)
        blended = image_ops.blend(planes, other, factor)
        planes = _where_drawn(
            tf.equal(step, HUE),
            lambda planes=planes: image_ops.shift_hue(planes, hue),
            blended,
            skips,
        )
    planes = tf.stack(planes)
    planes = _where_drawn(
        sigma[:, tf.newaxis, tf.newaxis] > 0,
        lambda: image_ops.blur_batch(planes, sigma),
        planes,
        skips,
    )
    images = tf.transpose(planes, [1, 2, 3, 0])
    return _where_drawn(
        solarize[:, tf.newaxis, tf.newaxis, tf.newaxis] > 0,
        lambda: _solarized(images),
        images,
        skips,
    )


def _parts(distortions):
    """Distortion of rows float32 [b, ROW], its steps as floats.

    GPUs leave comparisons of int32 to the host.
    """
    steps, factors, last = tf.split(distortions, [STEPS, 4, 2], axis=-1)
    return Distortion(steps, factors, *tf.unstack(last, axis=-1))


def _where_drawn(drawn, make, rest, skips):
    """What `make` returns for the images that draw it, and the rest.

    Args:
      drawn: bool, of each image. make: function -> tensors like `rest`.
      skips: bool, whether `make` is not called where no image draws it.
    """

    def choose():
        return tf.nest.map_structure(
            lambda made, left: tf.where(drawn, made, left), make(), rest
        )

    if not skips:
        return choose()
    return tf.cond(tf.reduce_any(drawn), choose, lambda: rest)


def solarize(view):
    """Inverts what is light: 128 and more become 127 and less.

    BYOL (arXiv:2006.07733, App. B), as Pillow's ImageOps.solarize.

    Args:
      view: uint8 [..., 3].

    Returns:
      the same dtype and shape.
    """
    return tf.where(view < 128, view, 255 - view)


def _solarized(images):
    """Of float32 in 0..255, with the values that uint8 would have."""
    return tf.cast(solarize(image_ops.to_uint8(images)), tf.float32)


# Three compiled calls: single kernels take several times as long. XLA compiles
# a branch for itself; else it would compute a blur again for each tap of the
# next loop, and split loops over threads that are busy with other views.


@tf.function(jit_compile=True, autograph=False)
def _sharp(view, steps, last, factors, flip):
    """Coloured and flipped, uint8 [S, 3, S]."""
    view = _colour(view, steps, last, factors)
    return _flipped(flip, lambda: image_ops.to_uint8(view))


@tf.function(jit_compile=True, autograph=False)
def _soft(view, steps, last, factors, sigma, flip):
    """Coloured, blurred along one axis and flipped, float32 [S, 3, S]."""
    view = _colour(view, steps, last, factors)
    return _flipped(flip, lambda: image_ops.blur_first_axis(view, sigma))


@tf.function(jit_compile=True, autograph=False)
def _blurred(view, sigma):
    """Blurred along the other axis, uint8 [S, S, 3]."""
    return tf.cond(
        sigma > 0,
        lambda: image_ops.to_uint8(image_ops.blur_first_axis(view, sigma)),
        lambda: image_ops.to_uint8(view),
    )


def _flipped(flip, make):
    return tf.cond(flip, lambda: make()[::-1], make)


def _colour(view, steps, last, factors):
    """The steps before `last` of a view float32 [S, 3, S]."""
    brightness, contrast, saturation, turns = tf.unstack(factors)

    def apply(number, *colours):
        branches = [  # by BRIGHTNESS, CONTRAST, …
            lambda: image_ops.brightness(colours, brightness),
            lambda: image_ops.contrast(colours, contrast),
            lambda: image_ops.saturation(colours, saturation),
            lambda: image_ops.shift_hue(colours, turns),
            lambda: image_ops.grey(colours),
            lambda: colours,
        ]
        return (number + 1, *tf.switch_case(steps[number], branches))

    _, *colours = tf.while_loop(
        lambda number, *_: number < last,
        apply,
        (0, *tf.unstack(view, axis=1)),
    )
    return tf.stack(colours, axis=1)
