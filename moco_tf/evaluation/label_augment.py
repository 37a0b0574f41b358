"""keras-cv's augmentations for training with labels, as pure functions.

RandAugment is part of an image's view, made by the input pipeline from the seed
of the sample. MixUp and CutMix blend the images of a replica's batch by the
seed and the step. So a resumed run sees the same images as one that never
stopped.

keras-cv draws from stateful operations and generators of TensorFlow. No
checkpoint holds the state of the operations, so a resumed run would go on with
other numbers. Here its layers are traced with stateless draws instead
(`SeededDraws`).
"""

import contextlib
import threading

import tensorflow as tf

from moco_tf.data import image_ops
from moco_tf.models import cloning

# N of arXiv:1909.13719, which gives 2 for ResNet-50 (keras-cv's default is 3).
_OPERATIONS = 2
_REPLACED = ("uniform", "normal", "gamma", "shuffle")
_lock = threading.RLock()


def rand_augment(augment, magnitude):
    """Appends RandAugment (arXiv:1909.13719) to the views of a recipe.

    Args:
      augment: function of a views.Recipe.
      magnitude: float in 0..1, mean strength of the operations.

    Returns:
      a function of the same form: (uint8 [H, W, 3], size int, seed int64 [2])
      -> uint8 [size, size, 3].
    """
    draws = SeededDraws()
    # Its layers inside take the global policy.
    with cloning.global_policy("float32"), draws.use():
        layer = _keras_cv().layers.RandAugment(
            value_range=(0, 255),
            augmentations_per_image=_OPERATIONS,
            magnitude=magnitude,
        )

    @tf.function  # AutoGraph, which the input pipeline has off, reads keras-cv
    def distort(image, seed):
        with draws.use(seed):
            return layer(image)

    def augment_and_distort(image, size, seed):
        view = tf.cast(augment(image, size, seed), tf.float32)
        view = distort(view, tf.random.fold_in(seed, 0, alg="philox"))
        return image_ops.to_uint8(tf.ensure_shape(view, [size, size, 3]))

    return augment_and_distort


class Mixing:
    """MixUp (arXiv:1710.09412) and CutMix (arXiv:1905.04899) of a batch.

    Each image has a partner among its replica's images, and a share drawn for
    it. With both methods on, one is drawn for each batch with even odds, the
    same on all replicas.
    """

    def __init__(self, mixup, cutmix, seed):
        """Makes the layers.

        Args:
          mixup, cutmix: alpha of the Beta distribution of the shares; 0 = off,
            at least one is on.
          seed: int.
        """
        self._draws = SeededDraws()
        self._seed = seed
        self._layers = []
        layers = _keras_cv().layers
        with self._draws.use():
            if mixup:
                self._layers.append(layers.MixUp(mixup, dtype="float32"))
            if cutmix:
                kind = _exact_cut_mix(layers.CutMix)
                self._layers.append(kind(cutmix, dtype="float32"))

    def __call__(self, images, targets, step):
        """Blends a replica's images, in the graph.

        Args:
          images: float32 [n, S, S, 3].
          targets: float32 [n, classes], rows sum to 1.
          step: int64 scalar.

        Returns:
          images and targets, blended by the same shares.
        """
        seed = tf.stack([tf.constant(self._seed, tf.int64), step])
        choice = tf.random.stateless_uniform([], seed, alg="philox")
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.random.fold_in(seed, replica, alg="philox")

        def blend(layer):
            with self._draws.use(seed):
                mixed = layer({"images": images, "labels": targets})
            shape = images.shape
            return tf.ensure_shape(mixed["images"], shape), mixed["labels"]

        if len(self._layers) == 1:
            return blend(self._layers[0])
        mixup, cutmix = self._layers
        # Both: a condition would make the host wait for the GPU.
        return tf.nest.map_structure(
            lambda mixed, cut: tf.where(choice < 0.5, mixed, cut),
            blend(mixup),
            blend(cutmix),
        )


def _exact_cut_mix(base):
    """Corrects keras-cv's CutMix: labels weighed by the exchanged pixels.

    keras-cv weighs labels by the area of the box, also where a part of it lies
    outside the image. The published code counts the pixels inside.

    Args:
      base: keras_cv.layers.CutMix.

    Returns:
      a subclass of it.
    """

    class CutMix(base):  # type: ignore[misc,valid-type]
        def _cutmix(self, images):
            mixed, _, partners, *box = super()._cutmix(images)
            centre_y, centre_x, width, height = box
            rows = _covered(centre_y, height, images.shape[1])
            columns = _covered(centre_x, width, images.shape[2])
            share = 1.0 - rows * columns / (images.shape[1] * images.shape[2])
            return mixed, share, partners, *box

    return CutMix


def _covered(centre, length, size):
    """Counts the pixels 0..size - 1 that are up to length / 2 from centre."""
    centre, half = (tf.cast(x, tf.float32) for x in (centre, length / 2))
    pixels = tf.range(size, dtype=tf.float32)
    offset = pixels - centre[:, tf.newaxis]  # [n, size]
    half = half[:, tf.newaxis]
    inside = (offset >= -half) & (offset < half)
    return tf.reduce_sum(tf.cast(inside, tf.float32), axis=1)


class SeededDraws:
    """Replaces tf.random and the generator of keras-cv's layers.

    The n-th draw after `use` is a function of the seed and n, of the Philox
    generator. Arguments are those of tf.random; `seed` and `name` are ignored.
    """

    def __init__(self):
        self._seed = None
        self._count = 0

    @contextlib.contextmanager
    def use(self, seed=None):
        """Redirects all draws of its block to this object.

        Args:
          seed: int64 [2]; None to construct layers, which draw nothing yet.

        Side effects: in the block functions of tf.random are replaced, and
          other threads that call `use` wait.
        """
        names = [*_REPLACED, "get_global_generator"]
        with _lock:
            before = {name: getattr(tf.random, name) for name in names}
            outer = self._seed, self._count
            self._seed, self._count = seed, 0
            try:
                for name in _REPLACED:
                    setattr(tf.random, name, getattr(self, name))
                # A layer asks for it once, when it is constructed.
                tf.random.get_global_generator = lambda: self
                yield
            finally:
                for name, function in before.items():
                    setattr(tf.random, name, function)
                self._seed, self._count = outer

    def uniform(
        self, shape, minval=0, maxval=None, dtype=tf.float32, **ignored
    ):
        """As tf.random.uniform."""
        return tf.random.stateless_uniform(
            shape, self._next(), minval, maxval, dtype, alg="philox"
        )

    def normal(self, shape, mean=0.0, stddev=1.0, dtype=tf.float32, **ignored):
        """As tf.random.normal."""
        return tf.random.stateless_normal(
            shape, self._next(), mean, stddev, dtype, alg="philox"
        )

    def gamma(self, shape, alpha, beta=None, dtype=tf.float32, **ignored):
        """As tf.random.gamma, above 0.

        With a small alpha most draws are below what float32 holds; two zeros
        would make a Beta draw, x / (x + y), not a number.
        """
        drawn = tf.random.stateless_gamma(
            shape, self._next(), alpha, beta, dtype
        )
        return tf.maximum(drawn, drawn.dtype.as_numpy_dtype(1e-37))

    def shuffle(self, value, **ignored):
        """As tf.random.shuffle."""
        return tf.random.experimental.stateless_shuffle(
            value, self._next(), alg="philox"
        )

    def _next(self):
        if self._seed is None:
            raise ValueError(
                "A layer that draws from a seed must be called inside "
                "use(seed). Received a draw without a seed."
            )
        self._count += 1
        return tf.random.fold_in(self._seed, self._count, alg="philox")


def _keras_cv():
    """Imports keras-cv only where it is used: it takes seconds."""
    import keras_cv

    return keras_cv
