"""Converts between the tensors of a weight file and a run's variables."""

import numpy as np
import tensorflow as tf

from moco_tf import plan
from moco_tf.methods import online_probe
from moco_tf.training import checkpoints
from moco_tf.weights import layouts


def make_method(config, labels=None):
    """The method of a configuration, with a queue and an optimiser.

    Args:
      config: ConfigDict of a pre-training.
      labels: online_probe.Labels; None: without a probe.
    """
    # An epoch of one step: the schedule is in no checkpoint.
    images = config.train.batch_size
    strategy = tf.distribute.get_strategy()
    return plan.make_method(config, strategy, images, labels)


def shapes(encoder):
    """Shapes of an encoder's tensors in torch's layout, by name."""
    named = layouts.named_variables(encoder)
    return {
        name: tuple(layouts.to_torch(np.empty(v.shape, bool)).shape)
        for name, v in named.items()
    }


def assign(encoder, tensors):
    """Sets the variables of an encoder that tensors name.

    Returns:
      list of names whose values had to be rounded to float32.
    """
    rounded = []
    named = layouts.named_variables(encoder)
    for name, value in tensors.items():
        single = np.asarray(value, np.float32)
        if value.dtype == np.float64 and (single != value).any():
            rounded.append(name)
        named[name].assign(layouts.from_torch(single))
    return rounded


def collect(encoder):
    """The tensors of an encoder in torch's layout, dict name -> float32."""
    return {
        name: np.ascontiguousarray(layouts.to_torch(v.numpy()))
        for name, v in layouts.named_variables(encoder).items()
    }


def parameters(encoder):
    """Names of an encoder's trainable variables, in torch's order."""
    names = layouts.named_variables(encoder)
    return [name for name in names if ".running_" not in name]


def read_velocities(optimizer, encoder):
    """The velocities of a torch SGD, which lists the parameters in order.

    Args:
      optimizer: state dict of torch.optim.SGD, or anything else.
      encoder: Encoder whose parameters come first in it.

    Returns:
      dict name -> array in torch's layout, or None if the state is of another
      form.
    """
    names, expected = parameters(encoder), shapes(encoder)
    try:
        order = optimizer["param_groups"][0]["params"]
        velocities = {
            name: optimizer["state"][number]["momentum_buffer"]
            for name, number in zip(names, order, strict=False)
            if type(number) is int
        }
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    fits = len(velocities) == len(names) and all(
        isinstance(value, np.ndarray) and value.shape == expected[name]
        for name, value in velocities.items()
    )
    return velocities if fits else None


def _velocity_variables(method):
    """The optimiser's velocities of the query encoder's parameters, by name.

    Frozen parameters have none.
    """
    named = layouts.named_variables(method.query_encoder)
    by_variable = {
        weight.ref(): velocity
        for weight, velocity in zip(
            method.trained_variables(),
            method.optimizer.velocities,
            strict=True,
        )
    }
    return {
        name: by_variable[named[name].ref()]
        for name in parameters(method.query_encoder)
        if named[name].ref() in by_variable
    }


def assign_velocities(method, velocities):
    """Sets the velocities of a MomentumSGD by the parameters' names."""
    for name, variable in _velocity_variables(method).items():
        value = np.asarray(velocities[name], np.float32)
        variable.assign(layouts.from_torch(value))


def torch_optimizer(method, config):
    """The state dict of torch.optim.SGD over query and key encoder.

    The published code gives it both encoders' parameters; the key encoder's
    get no gradient, so they have no velocity; nor have frozen ones.

    Args:
      method: MoCo, with a MomentumSGD. config: of the run.

    Returns:
      dict, as optimizer.state_dict() of the published code.
    """
    names = parameters(method.query_encoder)
    velocities = _velocity_variables(method)
    state = {
        number: {
            "momentum_buffer": np.ascontiguousarray(
                layouts.to_torch(velocities[name].numpy())
            )
        }
        for number, name in enumerate(names)
        if name in velocities
    }
    group = {
        "lr": config.optimizer.learning_rate,
        "momentum": config.optimizer.momentum,
        "dampening": 0,
        "weight_decay": config.optimizer.weight_decay,
        "nesterov": False,
        "params": list(range(2 * len(names))),
    }
    return {"state": state, "param_groups": [group]}


def holds_queue(path):
    """Whether a checkpoint holds a queue, and not a query encoder alone."""
    with checkpoints.reader(path) as reader:
        names = reader.get_variable_to_shape_map()
    return any(name.startswith("model/queue/") for name in names)


def restore_method(config, path):
    """The method of a run, as in one of its checkpoints."""
    # A checkpoint is restored as a whole, with the run's online probe.
    classes = checkpoints.shape_of(path, "model/probe/bias")
    labels = None
    if classes:
        labels = online_probe.Labels(np.zeros(1, np.int64), *classes)
    method = make_method(config, labels)
    checkpoints.restore(method, path)
    return method


def batches_per_step(config):
    """Batches of a step that each encoder, and so each BatchNorm, sees."""
    # A symmetric loss takes both views as queries.
    return 2 if config[config.method].get("symmetric", False) else 1


def summarise_counts(counts):
    """Counters of BatchNorm for a JSON file: one number if they are equal.

    Args:
      counts: dict name -> array.

    Returns:
      int, dict name -> int, or None if there are none.
    """
    values = {name: int(value) for name, value in counts.items()}
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return values or None


def expand_counts(summary, names):
    """Reverses `summarise_counts`.

    Args:
      summary: int, dict name -> int, or None. names: of the encoder's tensors.

    Returns:
      dict name -> int64 array.
    """
    if summary is None:
        return {}
    if isinstance(summary, int):
        summary = dict.fromkeys(layouts.counters(names), summary)
    return {name: np.array(n, np.int64) for name, n in summary.items()}
