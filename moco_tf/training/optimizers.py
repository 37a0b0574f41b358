"""Optimisers: SGD as published, and LARS, LAMB and SGDW for large batches."""

import warnings

import tensorflow as tf

from moco_tf import lane

_TRUST = 0.001  # eta of LARS, Eq. 6


def _import_addons():
    """tensorflow-addons' optimisers, without its end-of-life warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_addons
    return tensorflow_addons.optimizers


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
      a Keras legacy optimiser: tensorflow-addons', or `LAMB` without it.
    """
    maker = _import_addons().LAMB if lane.HAS_ADDONS else LAMB
    return maker(learning_rate=learning_rate, weight_decay=weight_decay)


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
      a Keras legacy optimiser: tensorflow-addons', or `SGDW` without it.

    Raises:
      ValueError: if the base rate is not above 0.
    """
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
    maker = _import_addons().SGDW if lane.HAS_ADDONS else SGDW
    return maker(
        weight_decay=weight_decay,
        learning_rate=learning_rate,
        momentum=momentum,
    )


class LAMB(tf.keras.optimizers.legacy.Optimizer):
    """LAMB (arXiv:1904.00962, Alg. 2) where tensorflow-addons is not installed.

        m = b1 * m + (1 - b1) * g        v = b2 * v + (1 - b2) * g^2
        d = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + decay * w
        w = w - rate * |w| / |d| * d     the ratio is 1 where a norm is 0

    Its state has the names of tensorflow-addons' in a checkpoint.
    """

    def __init__(self, learning_rate, weight_decay, name="LAMB"):
        """Takes the arguments of `lamb`; betas and epsilon are the paper's."""
        super().__init__(name)
        self.epsilon = 1e-6
        self._set_hyper("weight_decay", weight_decay)
        self._set_hyper("learning_rate", learning_rate)
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", 0.9)
        self._set_hyper("beta_2", 0.999)

    def _create_slots(self, var_list):
        for slot in ("m", "v"):
            for weight in var_list:
                self.add_slot(weight, slot)

    def _prepare_local(self, var_device, var_dtype, apply_state):
        super()._prepare_local(var_device, var_dtype, apply_state)
        # t and what depends on it, read once for all weights of a replica.
        values = apply_state[var_device, var_dtype]
        step = tf.cast(self.iterations + 1, var_dtype)
        for name in ("weight_decay", "beta_1", "beta_2"):
            values[name] = tf.identity(self._get_hyper(name, var_dtype))
        for name in ("beta_1", "beta_2"):
            values[f"{name}_power"] = tf.pow(values[name], step)

    def _resource_apply_dense(self, grad, handle, apply_state):
        """Updates one weight inside a replica, with the reduced gradient."""
        values = apply_state[handle.device, handle.dtype.base_dtype]
        beta_1, beta_2 = values["beta_1"], values["beta_2"]
        mean, square = self.get_slot(handle, "m"), self.get_slot(handle, "v")
        mean = mean.assign(mean * beta_1 + grad * (1 - beta_1))
        square = square.assign(square * beta_2 + (grad * grad) * (1 - beta_2))
        mean = mean / (1.0 - values["beta_1_power"])
        square = square / (1.0 - values["beta_2_power"])
        direction = mean / (tf.sqrt(square) + self.epsilon)
        direction += values["weight_decay"] * handle
        weight_norm, norm = tf.norm(handle), tf.norm(direction)
        known = tf.logical_and(weight_norm > 0, norm > 0)
        ratio = tf.where(known, weight_norm / norm, 1.0)
        return handle.assign(handle - ratio * values["lr_t"] * direction)

    def get_config(self):
        names = ("learning_rate", "weight_decay")
        hypers = {name: self._serialize_hyperparameter(name) for name in names}
        return {"name": self._name, **hypers}


class SGDW(tf.keras.optimizers.legacy.SGD):
    """SGD with decoupled decay where tensorflow-addons is not installed.

    The formula is that of `sgdw`. Its state has the names of
    tensorflow-addons' in a checkpoint.
    """

    def __init__(self, weight_decay, learning_rate, momentum, name="SGDW"):
        """Takes the arguments of `sgdw`; the decay may be a schedule."""
        super().__init__(learning_rate, momentum, name=name)
        self._set_hyper("weight_decay", weight_decay)

    def _prepare_local(self, var_device, var_dtype, apply_state):
        super()._prepare_local(var_device, var_dtype, apply_state)
        decay = self._get_hyper("weight_decay", var_dtype)
        if callable(decay):  # a schedule
            decay = tf.cast(decay(self.iterations), var_dtype)
        apply_state[var_device, var_dtype]["weight_decay"] = tf.identity(decay)

    def _resource_apply_dense(self, grad, var, apply_state):
        """Decays one weight inside a replica, then updates it."""
        values = apply_state[var.device, var.dtype.base_dtype]
        decayed = var.assign_sub(values["weight_decay"] * var)
        with tf.control_dependencies([decayed]):
            return super()._resource_apply_dense(grad, var, apply_state)

    def get_config(self):
        decay = self._serialize_hyperparameter("weight_decay")
        names = ("name", "learning_rate", "momentum")
        given = super().get_config()
        return {**{name: given[name] for name in names}, "weight_decay": decay}


class MomentumSGD(tf.keras.optimizers.Optimizer):
    """SGD with coupled weight decay and momentum, as MoCo was trained.

        g = gradient + weight_decay * w      for every parameter
        v = momentum * v + g
        w = w - learning_rate * v

    Keras' own SGD differs twice: its decay is decoupled from the momentum, and
    its velocity contains the learning rate, which matters when that changes.
    """

    def __init__(
        self,
        learning_rate,
        momentum=0.9,
        weight_decay=0.0,
        name="sgd",
        rate_factors=(),
    ):
        """Makes the optimiser.

        Args:
          learning_rate: float or LearningRateSchedule.
          momentum: float in 0..1, of the velocity.
          weight_decay: float, added to the gradient as weight_decay * w, after
            the reduction over replicas. BatchNorm and biases decay too.
          name: of the optimiser.
          rate_factors: (variable, factor) pairs: the learning rate of these
            variables is as many times larger; no part of get_config().
        """
        # Keras' argument would decay by the decoupled rule.
        super().__init__(name=name, weight_decay=None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum = momentum
        self.coupled_decay = weight_decay
        self._rate_factors = {
            self._var_key(variable): factor for variable, factor in rate_factors
        }

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
        key = self._var_key(variable)
        position = self._index_dict[key]
        velocity = self.velocities[position]
        gradient = gradient + self.coupled_decay * variable
        rate = tf.cast(self.learning_rate, variable.dtype)
        # The last two lines of the formula in one pass over the memory.
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=rate * self._rate_factors.get(key, 1.0),
            grad=gradient,
            momentum=self.momentum,
        )

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


class LARS(MomentumSGD):
    """Momentum SGD whose rate follows a weight's norm (arXiv:1708.03888).

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
        """Takes the arguments of `MomentumSGD`; all weights have one rate."""
        super().__init__(learning_rate, momentum, weight_decay, name)

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


def make_optimizer(name, learning_rate, momentum, weight_decay):
    """An optimiser by its name in the configuration.

    Args:
      name: "sgd", "lars", "lamb", "sgdw" or "adam".
      learning_rate: float or LearningRateSchedule.
      momentum: float, of all but LAMB and Adam.
      weight_decay: float; its meaning differs by optimiser. Adam's is
        decoupled from the gradient (AdamW, arXiv:1711.05101).

    Raises:
      ValueError: for another name.
    """
    if name == "sgd":
        return MomentumSGD(learning_rate, momentum, weight_decay)
    if name == "lars":
        return LARS(learning_rate, momentum, weight_decay)
    if name == "lamb":
        return lamb(learning_rate, weight_decay)
    if name == "sgdw":
        return sgdw(learning_rate, momentum, weight_decay)
    if name == "adam":
        return tf.keras.optimizers.Adam(
            learning_rate, weight_decay=weight_decay or None, jit_compile=False
        )
    raise ValueError(
        "optimizer.name must be 'sgd', 'lars', 'lamb', 'sgdw' or 'adam'. "
        f"Received name={name!r}."
    )


def with_loss_scale(optimizer, precision):
    """The optimiser for a precision: of float16, one that scales the loss.

    Small gradients are zero in float16. The scale grows until a gradient is
    infinite; that step is left out, and the scale halved.

    Args:
      optimizer: Keras optimiser. precision: str, of train.precision.
    """
    if precision != "mixed_float16":
        return optimizer
    return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
