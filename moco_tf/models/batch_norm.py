"""BatchNorm with groups inside a batch and statistics of one replica.

`BatchNorm` is the layer of all our networks. Around the calls of its layers,
`micro_batch` and `frozen_statistics` say how the moving statistics change.
`replica_count`, `replica_mean` and `replica_moments` are statistics of a batch
that lies on several replicas.
"""

import contextlib
import threading
from typing import Any

import tensorflow as tf

_current = threading.local()  # replicas are traced in threads of their own


class BatchNorm(tf.keras.layers.Layer):
    """Batch normalisation over the last axis (arXiv:1502.03167).

    In training the batch is cut in `splits` groups of contiguous rows and each
    is normalised by its own mean and variance, so that one replica with R
    groups computes what R replicas compute (MoCo v1, section 3.3).
    Synchronised, R replicas compute what one does with the whole batch in one
    group, as in fine-tuning (section 4.2).

    Differences to keras.layers.BatchNormalization:
      * `training=True` uses the batch's statistics whatever `trainable` is: a
        frozen key encoder still normalises by its batch. A layer that is
        `frozen` does not.
      * The moving statistics belong to the replica. They change without
        communication; reading and saving takes the first replica's (those of
        all are the same where they are synchronised).
      * The moving variance is unbiased (Bessel's correction), as in torch.

    Parameters and statistics are float32 under a mixed-precision policy too.

    Attributes:
      gamma, beta: float32 [C] variables or None.
      moving_mean, moving_variance: float32 [C] variables. With groups they
        follow the mean over the groups of the groups' statistics.
    """

    def __init__(
        self,
        splits=1,
        momentum=0.9,
        epsilon=1e-5,
        center=True,
        scale=True,
        synchronized=False,
        frozen=False,
        **kwargs,
    ):
        """Checks the arguments.

        Args:
          splits: groups of a training batch, at least 1.
          momentum: float in 0..1, the share of the old moving statistics that
            an update keeps (1 minus torch's momentum).
          epsilon: positive float, added to the variance.
          center: whether there is a beta.
          scale: whether there is a gamma.
          synchronized: whether training takes the statistics of the batches of
            all replicas together; `splits` must be 1 then.
          frozen: whether training, too, normalises by the moving statistics,
            which then stay as they are.
          **kwargs: of keras.layers.Layer (name, dtype, trainable).

        Raises:
          ValueError: An argument is outside its range.
        """
        super().__init__(**kwargs)
        if splits < 1 or splits != int(splits):
            raise ValueError(
                "splits must be a whole number of at least 1. Received "
                f"splits={splits}."
            )
        if not 0 <= momentum <= 1 or epsilon <= 0:
            raise ValueError(
                "momentum must lie in 0..1 and epsilon above 0. Received "
                f"momentum={momentum}, epsilon={epsilon}."
            )
        if synchronized and splits != 1:
            raise ValueError(
                "Synchronised statistics are those of one group of all "
                f"samples. Received splits={splits}, synchronized=True. Pass "
                "splits=1."
            )
        self.splits = int(splits)
        self.momentum = float(momentum)
        self.epsilon = float(epsilon)
        self.center = center
        self.scale = scale
        self.synchronized = synchronized
        self.frozen = frozen
        self.supports_masking = True
        self._starts: Any = None

    def build(self, input_shape):
        """Creates the variables.

        Args:
          input_shape: [N, ..., C] with a known C, rank 2 or more.

        Raises:
          ValueError: for another shape.
        """
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                "BatchNorm needs a batch axis and a last axis of known size. "
                f"Received shape {tuple(input_shape)} at layer {self.name}."
            )
        channels = int(input_shape[-1])
        self.gamma = self._add_parameter("gamma", channels, "ones", self.scale)
        self.beta = self._add_parameter("beta", channels, "zeros", self.center)
        self.moving_mean = self._add_statistic("moving_mean", channels, "zeros")
        self.moving_variance = self._add_statistic(
            "moving_variance", channels, "ones"
        )
        super().build(input_shape)

    def call(self, inputs, training=None):
        """Normalises.

        Args:
          inputs: float [N, ..., C]; in training N is a multiple of `splits`.
          training: whether to use the batch's statistics and to update the
            moving ones.

        Returns:
          float, shape and dtype of the inputs.

        Raises:
          ValueError: In training, a batch that the groups do not divide, or
            groups of one value a channel.
        """
        return self._normalize_any_rank(inputs, training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def follow_parts(self):
        """Makes room for the statistics that a `micro_batch` begins with.

        They are no weights: no checkpoint and no export has them.
        """
        if self._starts is not None:
            return
        self._starts = _Untracked(
            tf.Variable(
                tf.zeros(moving.shape),
                trainable=False,
                synchronization=tf.VariableSynchronization.AUTO,
                aggregation=tf.VariableAggregation.NONE,
            )
            for moving in (self.moving_mean, self.moving_variance)
        )

    def begin_part(self, number):
        """Keeps the moving statistics as a part begins with them.

        Args:
          number: int32 scalar, of the part; before the first there is nothing
            that its calls must leave as it is.
        """
        statistics = self.moving_mean, self.moving_variance
        for start, moving in zip(self._starts.values, statistics, strict=True):
            start.assign(tf.where(tf.equal(number, 0), 0.0, moving))

    def get_config(self):
        return {
            **super().get_config(),
            "splits": self.splits,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "synchronized": self.synchronized,
            "frozen": self.frozen,
        }

    def _add_parameter(self, name, channels, initializer, wanted):
        if not wanted:
            return None
        return self.add_weight(
            name=name,
            shape=[channels],
            dtype=tf.float32,
            initializer=initializer,
            experimental_autocast=False,
        )

    def _add_statistic(self, name, channels, initializer):
        # AUTO and NONE: every replica assigns to its own copy, no collective.
        return self.add_weight(
            name=name,
            shape=[channels],
            dtype=tf.float32,
            initializer=initializer,
            trainable=False,
            synchronization=tf.VariableSynchronization.AUTO,
            aggregation=tf.VariableAggregation.NONE,
            experimental_autocast=False,
        )

    # AutoGraph would convert all below before the first step. (Not `call`:
    # Keras inspects the names of its arguments.)
    @tf.autograph.experimental.do_not_convert
    def _normalize_any_rank(self, inputs, training):
        if inputs.shape.rank == 4:
            return self._normalize(inputs, training)
        shape = tf.shape(inputs)
        # The fused op takes images only: [N, positions, 1, C].
        positions = inputs.shape[1:-1].num_elements()
        positions = -1 if positions is None else positions
        images = tf.reshape(inputs, [shape[0], positions, 1, inputs.shape[-1]])
        outputs = tf.reshape(self._normalize(images, training), shape)
        return tf.ensure_shape(outputs, inputs.shape)

    def _normalize(self, images, training):
        if not training or self.frozen:
            return self._fused(
                images, False, self.moving_mean, self.moving_variance
            )[0]
        if self.synchronized and replica_count() > 1:
            return self._normalize_globally(images)
        self._check_batch(images.shape)
        groups = [images]
        if self.splits > 1:
            # A fused op for each group costs 1.1 to 2 times one for all;
            # groups as channels (transposed) or as moments cost 3 to 5 times.
            groups = tf.split(images, self.splits)
        outputs, means, variances = zip(
            *[self._fused(group, True, [], []) for group in groups],
            strict=True,
        )
        self._update(means, variances)
        return outputs[0] if self.splits == 1 else tf.concat(outputs, axis=0)

    def _normalize_globally(self, images):
        """Normalises by the statistics of the batches of all replicas."""
        rows = tf.cast(images, tf.float32)
        mean, variance, count = replica_moments(rows)
        self._update([mean], [variance * count / (count - 1.0)])
        scale = tf.math.rsqrt(variance + self.epsilon)
        outputs = (rows - mean) * (
            scale if self.gamma is None else scale * self.gamma
        )
        if self.beta is not None:
            outputs += self.beta
        return tf.cast(outputs, images.dtype)

    def _fused(self, images, training, mean, variance):
        """Output, mean and (in training: unbiased) variance of a group."""
        channels = images.shape[-1:]
        # Of the fused ops only the raw one returns the batch's statistics.
        result = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=tf.ones(channels) if self.gamma is None else self.gamma,
            offset=tf.zeros(channels) if self.beta is None else self.beta,
            mean=tf.convert_to_tensor(mean, tf.float32),
            variance=tf.convert_to_tensor(variance, tf.float32),
            epsilon=self.epsilon,
            is_training=training,
        )
        return result.y, result.batch_mean, result.batch_variance

    def _update(self, means, variances):
        """Moves the statistics towards the mean of those of the groups."""
        if getattr(_current, "frozen", False):
            return
        number, count = getattr(_current, "part", (None, 1))
        rate = (1.0 - self.momentum) / (self.splits * count)
        starts: Any = (None, None)
        if number is not None:
            starts = self._starts.values
        for moving, start, values in (
            (self.moving_mean, starts[0], means),
            (self.moving_variance, starts[1], variances),
        ):
            value = values[0] if self.splits == 1 else tf.add_n(values)
            if start is None:
                kept = self.momentum * moving
            else:
                kept = start + self.momentum * (moving - start)
            moving.assign(kept + rate * value)

    def _check_batch(self, shape):
        batch, positions = shape[0], shape[1:3].num_elements()
        if batch is not None and batch % self.splits:
            raise ValueError(
                "The batch of a replica must be a multiple of the number of "
                f"BatchNorm groups. Received a batch of {batch} and "
                f"splits={self.splits} at layer {self.name}. Change the batch "
                "size or the number of groups."
            )
        if batch is None or positions is None:
            return
        if batch // self.splits * positions == 1:
            raise ValueError(
                "BatchNorm needs more than one value per channel in training: "
                "normalising a single value gives 0 for any image. Received "
                f"shape {tuple(shape)} in {self.splits} groups at layer "
                f"{self.name}. Use larger images, a larger batch or fewer "
                "groups."
            )


class _Untracked:
    """Variables that are of no layer: a plain object, which Keras passes by."""

    def __init__(self, values):
        self.values = tuple(values)


@contextlib.contextmanager
def micro_batch(number, count, layers):
    """Marks calls of layers as those with one of `count` parts of a batch.

    The moving statistics after all parts are those of the batch in `count`
    times as many groups, however often a part calls a layer: the old values
    are scaled by `momentum` with the calls of the first part alone, and what a
    later part adds is scaled with its own further calls.

    Args:
      number: int32 scalar, the part, 0..count-1, called in this order.
      count: int, parts of the batch.
      layers: the BatchNorm that may be called, which `follow_parts`.
    """
    _current.part = (number, count)
    for layer in layers:
        layer.begin_part(number)
    try:
        yield
    finally:
        del _current.part


def current_part():
    """The part that `micro_batch` marks, hashable; None outside of it.

    Two calls of layers that are traced in one graph are the same program only
    if they are calls with the same part.
    """
    number: Any = getattr(_current, "part", (None, 1))[0]
    return number.ref() if tf.is_tensor(number) else number


def layers_of(model):
    """The BatchNorm in a model, a list."""
    return [each for each in model.submodules if isinstance(each, BatchNorm)]


@contextlib.contextmanager
def frozen_statistics(frozen=True):
    """Leaves the moving statistics of the layers that are called as they are.

    Args:
      frozen: whether it does; False: the statistics change.
    """
    before = getattr(_current, "frozen", False)
    _current.frozen = frozen
    try:
        yield
    finally:
        _current.frozen = before


def replica_count():
    """Number of replicas that share a global batch, an int."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replica_mean(value):
    """Mean of a tensor over all replicas.

    Args:
      value: float tensor; the same shape on every replica.

    Returns:
      float tensor of that shape, the same on every replica.
    """
    if replica_count() == 1:
        return value
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def replica_moments(rows):
    """Mean and variance of each channel over the batches of all replicas.

    Each replica's mean and variance travel in one exchange and are joined by
    the law of total variance. Exchanging means of squares would be half of it,
    but lose the variance of channels whose mean is far from 0. The gradient
    flows back to the rows of all replicas.

    Args:
      rows: float32 [N, ..., C]; N is the same on every replica.

    Returns:
      mean float32 [C]; variance float32 [C], biased; number of values of a
      channel over all replicas, float32 scalar.

    Raises:
      ValueError: outside a replica.
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            "Statistics of all replicas can be taken inside a replica alone. "
            "Received a call in the strategy's scope. Call the layer in "
            "strategy.run, or with training=False."
        )
    replicas = context.num_replicas_in_sync
    local = tf.stack(_moments(rows))  # [2, C]
    # Each replica fills its row and adds zeros to the others': a gather whose
    # shape stays known.
    row = tf.one_hot(context.replica_id_in_sync_group, replicas)
    gathered = row[:, tf.newaxis, tf.newaxis] * local  # [R, 2, C]
    gathered = context.all_reduce(tf.distribute.ReduceOp.SUM, gathered)
    means, variances = gathered[:, 0], gathered[:, 1]  # [R, C]
    mean = tf.reduce_mean(means, axis=0)
    variance = tf.reduce_mean(
        variances + tf.math.squared_difference(means, mean), axis=0
    )
    count = tf.size(rows) // rows.shape[-1] * replicas
    return mean, variance, tf.cast(count, tf.float32)


@tf.custom_gradient
def _moments(rows):
    """Mean and variance [C] of rows float32 [N, ..., C].

    TensorFlow's gradient spreads that of each into an image of its own, which
    a GPU then transposes where it has the channels first.
    """
    mean, variance = tf.nn.moments(rows, list(range(rows.shape.rank - 1)))
    count = tf.cast(tf.size(rows) // rows.shape[-1], tf.float32)

    def gradient(of_mean, of_variance):
        return of_mean / count + (rows - mean) * (2.0 * of_variance / count)

    return (mean, variance), gradient
