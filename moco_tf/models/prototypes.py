"""Prototypes: directions that features are compared with."""

import tensorflow as tf


class Prototypes(tf.keras.layers.Layer):
    """K directions in the projection's space, in float32.

    Attributes:
      kernel: float32 [C, K] variable.
    """

    def __init__(self, dim, count, name="prototypes"):
        """Starts uniform within 1 / sqrt(C), as torch's linear layers do.

        Args:
          dim: C, features of a projection.
          count: K.
          name: of the layer.
        """
        super().__init__(name=name, dtype="float32")
        limit = dim**-0.5
        self.kernel = self.add_weight(
            name="kernel",
            shape=[dim, count],
            initializer=tf.keras.initializers.RandomUniform(-limit, limit),
        )

    def normalize(self):
        """Makes every prototype of unit length (SwAV, App. A), in place."""
        self.kernel.assign(tf.math.l2_normalize(self.kernel, axis=0))

    def call(self, vectors, frozen=False, unit=False):
        """Compares vectors with the prototypes.

        Args:
          vectors: float32 [N, C], L2-normalised.
          frozen: bool, Python's or a tensor; True: no gradient of prototypes.
          unit: whether lengths are divided out here: a weight-normalised layer
            whose gains are 1 (arXiv:1602.07868, Eq. 2; DINO, App. C).

        Returns:
          float32 [N, K].
        """
        kernel = tf.convert_to_tensor(self.kernel)
        kernel = tf.where(frozen, tf.stop_gradient(kernel), kernel)
        if unit:
            kernel = tf.math.l2_normalize(kernel, axis=0)
        return tf.matmul(vectors, kernel)
