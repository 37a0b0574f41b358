"""Large-batch optimisers of tensorflow-addons; the only module that uses it.

tensorflow-addons reached its end of life in May 2024. It works with the
TensorFlow that this project pins; the day it has to go, this file changes.

Both optimisers are Keras legacy optimisers: under a strategy `minimize` sums
the gradients over the replicas once, so the loss is divided by the number of
replicas before the tape, as for the project's own SGD.
"""

import warnings

import tensorflow as tf


def _import_addons():
    """Imports tensorflow-addons without its end-of-life warning."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_addons
    except ImportError as error:
        raise ValueError(
            'optimizer.name "lamb" and "sgdw" need the package '
            f"tensorflow-addons, which cannot be imported ({error}). Install "
            "it (pip install tensorflow-addons==0.23.0) or set "
            'optimizer.name to "sgd".'
        ) from error
    return tensorflow_addons


class ScheduledDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Weight decay that follows the learning rate.

    decay(step) = weight_decay * learning_rate(step) / base_rate, the
    schedule multiplier of Loshchilov & Hutter (arXiv:1711.05101, Alg. 1).
    """

    def __init__(self, weight_decay, learning_rate, base_rate):
        """Stores the pieces.

        Args:
          weight_decay: decay per step while the rate is `base_rate`.
          learning_rate: LearningRateSchedule.
          base_rate: rate that the decay is stated for, above 0.
        """
        super().__init__()
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.base_rate = base_rate

    def __call__(self, step):
        rate = tf.cast(self.learning_rate(step), tf.float32)
        return self.weight_decay / self.base_rate * rate

    def get_config(self):
        serialize = tf.keras.optimizers.schedules.serialize
        return {
            "weight_decay": self.weight_decay,
            "learning_rate": serialize(self.learning_rate),
            "base_rate": self.base_rate,
        }


def lamb(learning_rate, weight_decay):
    """Builds LAMB (arXiv:1904.00962) with its published betas and epsilon.

    LAMB multiplies its decay by the learning rate itself, so the decay
    follows any schedule.

    Args:
      learning_rate: float or LearningRateSchedule.
      weight_decay: decay added to the adapted gradient, for every parameter.

    Returns:
      a Keras legacy optimiser.

    Raises:
      ValueError: if tensorflow-addons is not installed.
    """
    addons = _import_addons()
    return addons.optimizers.LAMB(
        learning_rate=learning_rate, weight_decay=weight_decay
    )


def sgdw(learning_rate, momentum, weight_decay):
    """Builds SGD with decoupled weight decay (arXiv:1711.05101, Alg. 1).

    Each step: w -= decay * w, then velocity = momentum * velocity - rate *
    gradient and w += velocity. The decay is not multiplied by the rate: a
    coupled decay of 1e-4 at rate 0.03 corresponds to 3e-6 here.

    Args:
      learning_rate: float, or LearningRateSchedule, which the decay follows.
      momentum: of the velocity, 0..1.
      weight_decay: share of every weight taken off per step at the base rate:
        that of one of our schedules, of another schedule its rate at step 0.

    Returns:
      a Keras legacy optimiser.

    Raises:
      ValueError: if tensorflow-addons is not installed, or the base rate is
        not above 0.
    """
    addons = _import_addons()
    if isinstance(
        learning_rate, tf.keras.optimizers.schedules.LearningRateSchedule
    ):
        base_rate = getattr(learning_rate, "rate", None)
        if base_rate is None:
            base_rate = float(learning_rate(0))
        if not base_rate > 0:
            raise ValueError(
                "The first rate of a schedule for sgdw must be above 0: the "
                f"decay is scaled by rate / first rate. Received {base_rate}. "
                "Use a schedule of moco_tf.training.schedules for a warm-up."
            )
        weight_decay = ScheduledDecay(weight_decay, learning_rate, base_rate)
    return addons.optimizers.SGDW(
        weight_decay=weight_decay,
        learning_rate=learning_rate,
        momentum=momentum,
    )
