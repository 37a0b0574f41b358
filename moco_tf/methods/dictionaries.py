"""Dictionaries: the queue of keys, and the memory bank.

The queue is that of MoCo (arXiv:1911.05722, Sec. 3.2), the bank that of
instance discrimination (arXiv:1805.01978, Sec. 3.1).
"""

import tensorflow as tf

from moco_tf.methods.momentum import check_momentum
from moco_tf.models import batch_norm

LOSSES = ("info_nce", "nce")  # of the methods with a bank


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


class FeatureBank(tf.Module):
    """One feature of every image, moved when its image is seen.

    Every replica holds a copy and writes the same gathered features to it, so
    the copies stay equal without any communication.

    Attributes:
      features: float32 [N, C] variable, rows of unit length.
      momentum: float, share of the old feature in the new one.
      constant: float32 variable, Z of NCE (Eq. 2); 0 before the first step.
    """

    def __init__(self, images, dim, momentum, seed=0):
        """Fills the bank with random unit vectors.

        Args:
          images: N of the source.
          dim: C, features of an image.
          momentum: float in 0..1.
          seed: int, of the first features and of the draws.

        Raises:
          ValueError: for a momentum outside its range.
        """
        super().__init__(name="feature_bank")
        check_momentum(momentum)
        # Deviation: of unit length from the start; the published ones are so
        # on the average.
        noise = tf.random.stateless_normal([images, dim], seed=[seed, 0])
        self.features = tf.Variable(
            tf.math.l2_normalize(noise, axis=1),
            trainable=False,
            name="features",
        )
        self.constant = tf.Variable(0.0, trainable=False, name="constant")
        self.momentum = momentum
        self._seed = seed

    def draw(self, count, step):
        """Random images of a step, the same on every replica.

        Args:
          count: K. step: int64 scalar.

        Returns:
          int64 [K], with replacement.
        """
        return tf.random.stateless_uniform(
            [count],
            seed=tf.stack([tf.constant(self._seed, tf.int64), step]),
            maxval=self.features.shape[0],
            dtype=tf.int64,
            alg="philox",  # the same on every device
        )

    def normalizer(self, logits):
        """Z, estimated from the first batch: N times the mean of exp(logit).

        Args:
          logits: float32 [b, 1 + K] of this replica.

        Returns:
          float32 scalar, the same on every replica and at every step.
        """
        mean = tf.reduce_mean(tf.exp(tf.stop_gradient(logits)))
        mean = batch_norm.replica_mean(mean)
        estimate = self.features.shape[0] * mean
        known = self.constant > 0
        self.constant.assign(tf.where(known, self.constant, estimate))
        return self.constant.read_value()

    def read(self, images):
        """Features float32 [n, C] of images int64 [n]."""
        return tf.gather(self.features, images)

    def update(self, images, features):
        """Moves the features of images that were seen, to unit length again.

        Args:
          images: int64 [G], the same on every replica. An image that stands in
            for an unreadable one may come twice: its first feature counts.
          features: float32 [G, C].
        """
        old = self.read(images)
        new = self.momentum * old + (1.0 - self.momentum) * features
        new = tf.math.l2_normalize(new, axis=1)
        # Writes of one row in an order that is left open must be equal.
        same = images[:, tf.newaxis] == images
        new = tf.gather(new, tf.argmax(same, axis=1))
        self.features.scatter_update(tf.IndexedSlices(new, images))


def check_loss(name, loss, micro_batches):
    """Refuses a loss that the methods with a bank do not have.

    Args:
      name: str, the method's. loss: one of LOSSES; "nce" needs the whole batch
        at once, for its constant. micro_batches: int.

    Raises:
      ValueError: for another loss, or for nce in micro-batches.
    """
    if loss not in LOSSES:
        raise ValueError(
            f"loss must be one of {LOSSES}. Received loss={loss!r}."
        )
    if loss == "nce" and micro_batches > 1:
        raise ValueError(
            f"{name}.loss=nce needs train.micro_batches=1: its constant is a "
            f"mean over the first batch. Received {micro_batches}. Pass "
            "--config.train.micro_batches=1, or "
            f"--config.{name}.loss=info_nce."
        )
