"""The dictionary as a queue of keys (MoCo v1, section 3.2)."""

import tensorflow as tf


class KeyQueue(tf.Module):
    """A ring of K keys; each position remembers its sample and its step.

    Every replica holds a copy and writes the same gathered keys to it, so the
    copies stay equal without any communication.

    Attributes:
      keys: float32 [K, C] variable, rows of unit length.
      samples: int64 [K] variable, the sample index of each key; -1 for the
        random keys that the queue starts with.
      steps: int64 [K] variable, the step that wrote each key; -1 likewise.
      pointer: int64 variable, the next position to write, in 0..K-1.
    """

    def __init__(self, size, dim, seed=0):
        """Fills the queue with random unit vectors.

        Args:
          size: K, number of keys.
          dim: C, features of a key.
          seed: int, seed of the random keys.
        """
        super().__init__(name="key_queue")
        noise = tf.random.stateless_normal([size, dim], seed=[seed, 0])
        self.keys = tf.Variable(
            tf.math.l2_normalize(noise, axis=1), trainable=False, name="keys"
        )
        never = tf.fill([size], tf.constant(-1, tf.int64))
        self.samples = tf.Variable(never, trainable=False, name="samples")
        self.steps = tf.Variable(never, trainable=False, name="steps")
        self.pointer = tf.Variable(
            tf.constant(0, tf.int64), trainable=False, name="pointer"
        )

    @property
    def size(self):
        return self.keys.shape[0]

    def enqueue(self, keys, samples, step):
        """Overwrites the oldest keys; wraps around for any number of keys.

        Args:
          keys: float32 [G, C], G <= K, the same on every replica.
          samples: int64 [G], sample index of each key.
          step: int64 scalar, the current step.
        """
        count = keys.shape[0]
        if count > self.size:
            raise ValueError(
                "The queue must hold at least the keys of one step. Received "
                f"{count} keys for a queue of {self.size}. Use a larger queue "
                "or a smaller batch."
            )
        positions = (self.pointer + tf.range(count, dtype=tf.int64)) % self.size
        _scatter(self.keys, keys, positions)
        _scatter(self.samples, samples, positions)
        _scatter(self.steps, tf.fill([count], step), positions)
        self.pointer.assign((self.pointer + count) % self.size)


def _scatter(variable, rows, positions):
    variable.scatter_update(tf.IndexedSlices(rows, positions))
