"""Random numbers of keras-cv's layers as a function of a seed.

keras-cv draws from stateful operations and generators of TensorFlow. No
checkpoint holds the state of the operations, so a resumed run would go on with
other numbers. Here the layers are traced with stateless draws in their place.
"""

import contextlib
import threading

import tensorflow as tf

_REPLACED = ("uniform", "normal", "gamma", "shuffle")
_lock = threading.RLock()


class SeededDraws:
    """Stands in for tf.random and for the generator of keras-cv's layers.

    The n-th draw after `use` is a function of the seed and n, of the Philox
    generator. Arguments are those of tf.random; `seed` and `name` are ignored.
    """

    def __init__(self):
        self._seed = None
        self._count = 0

    @contextlib.contextmanager
    def use(self, seed=None):
        """Makes everything inside draw from here.

        Args:
          seed: int64 [2]; None where layers are made, which draw nothing yet.

        Side effects: while it lasts, functions of tf.random are replaced; other
          threads that enter here wait.
        """
        names = [*_REPLACED, "get_global_generator"]
        with _lock:
            before = {name: getattr(tf.random, name) for name in names}
            outer = self._seed, self._count
            self._seed, self._count = seed, 0
            try:
                for name in _REPLACED:
                    setattr(tf.random, name, getattr(self, name))
                # A layer asks for it once, when it is made.
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
