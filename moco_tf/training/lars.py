"""LARS (arXiv:1708.03888), as SimCLR and BYOL were trained."""

import tensorflow as tf

_TRUST = 0.001  # eta of Eq. 6


class LARS(tf.keras.optimizers.Optimizer):
    """Momentum SGD whose rate follows the ratio of a weight to its gradient.

        g = gradient + weight_decay * w
        v = momentum * v + learning_rate * (0.001 * |w| / |g|) * g
        w = w - v

    Deviation: biases and BatchNorm's parameters, variables of one axis, are
    neither decayed nor adapted (ratio 1), as in SimCLR (arXiv:2002.05709, App.
    B.1, and its code) and BYOL. Unlike in `MomentumSGD`, the velocity holds the
    rate.
    """

    def __init__(
        self, learning_rate, momentum=0.9, weight_decay=0.0, name="lars"
    ):
        """Makes the optimiser.

        Args:
          learning_rate: float or LearningRateSchedule.
          momentum: float in 0..1, of the velocity.
          weight_decay: float, added to the gradient as weight_decay * w, after
            the reduction over replicas.
          name: of the optimiser.
        """
        # Keras' argument would decay by the decoupled rule.
        super().__init__(name=name, weight_decay=None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum = momentum
        self.coupled_decay = weight_decay

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self.velocities = [
            self.add_variable_from_reference(weight, "velocity")
            for weight in var_list
        ]
        self._built = True

    def update_step(self, gradient, variable):
        """Updates one weight inside a replica, with the reduced gradient."""
        velocity = self.velocities[self._index_dict[self._var_key(variable)]]
        rate = tf.cast(self.learning_rate, variable.dtype)
        if variable.shape.rank > 1:
            gradient = gradient + self.coupled_decay * variable
            weight_norm, norm = tf.norm(variable), tf.norm(gradient)
            known = tf.logical_and(weight_norm > 0, norm > 0)
            rate = rate * tf.where(known, _TRUST * weight_norm / norm, 1.0)
        velocity.assign(self.momentum * velocity + rate * gradient)
        variable.assign_sub(velocity)

    def get_config(self):
        # The arguments alone: Keras' own options are none of them.
        return {
            "name": self.name,
            "learning_rate": self._serialize_hyperparameter(
                self._learning_rate
            ),
            "momentum": self.momentum,
            "weight_decay": self.coupled_decay,
        }
