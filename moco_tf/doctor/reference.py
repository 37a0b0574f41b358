"""Replays whole training steps of the published implementation on a device."""

import numpy as np
import tensorflow as tf

from moco_tf.doctor import reference_figures, table
from moco_tf.methods import moco
from moco_tf.models import encoder as encoders
from moco_tf.serving import weight_names
from moco_tf.training import distribution, optimizers

CASES = (reference_figures.V1_TWO_GROUPS, reference_figures.V2_ONE_GROUP)
LIMITS = {  # relative; the last loss depends on every step before it
    "losses": 5e-4,
    "weights moved": 3e-2,
    "queue pointer": 0,
}


class _ListedRates(tf.keras.optimizers.schedules.LearningRateSchedule):
    """The rates of a case, one a step."""

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, step):
        return tf.gather(tf.constant(self.rates, tf.float32), step)


def row(cases=CASES):
    """The row of the table: all cases on the first device.

    Side effects: switches TensorFloat-32 off.
    """
    distribution.set_precision(False)
    worst, beyond = dict.fromkeys(LIMITS, 0.0), []
    for case in cases:
        for name, deviation in replay(case).items():
            worst[name] = max(worst[name], deviation)
            if not deviation <= LIMITS[name]:
                beyond.append(f"{name} of {case['file']}")
    figures = ", ".join(f"{name} {worst[name]:.1e}" for name in worst)
    steps = sum(len(case["losses"]) for case in cases)
    words = (
        f"{steps} steps of the published implementation on the first device: "
        f"largest deviations {figures}"
    )
    if beyond:
        remedy = (
            f"Beyond the limits: {', '.join(beyond)}. Training here computes "
            "something else: check the driver, the CUDA and cuDNN versions."
        )
        return table.Row("reference", words, table.FAIL, remedy)
    return table.Row("reference", words)


def replay(case):
    """Runs a case; returns the deviations, a dict with the keys of LIMITS."""
    model = _build(case)
    named = weight_names.named_variables(model.query_encoder)
    weights = _weights(named, case["seed"])
    for encoder in (model.query_encoder, model.key_encoder):
        variables = weight_names.named_variables(encoder)
        for name, variable in variables.items():
            variable.assign(weight_names.from_torch(weights[name]))
    rng = np.random.default_rng(case["seed"] + 1)
    shape = (case["queue_size"], case["dim"])
    queue = rng.standard_normal(shape, dtype=np.float32)
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    model.queue.keys.assign(queue)
    iterator = iter(_batches(case, rng))
    step = model.make_train_function()
    losses = [float(step(iterator)["loss"]) for _ in case["losses"]]
    moved = [
        np.linalg.norm(weight_names.to_torch(named[name].numpy()) - value)
        for name, value in weights.items()
        if "running" not in name
    ]
    pointer = int(model.queue.pointer.numpy())
    return {
        "losses": _deviation(losses, case["losses"]),
        "weights moved": _deviation(np.linalg.norm(moved), case["moved"]),
        "queue pointer": float(abs(pointer - case["queue_pointer"])),
    }


def _build(case):
    # Not in a strategy's scope: one replica, with the groups of several.
    model = moco.MoCo(
        encoders.build_backbone(
            case["arch"],
            bn_splits=case["groups"],
            image_size=case["image_size"],
        ),
        head=case["head"],
        dim=case["dim"],
        queue_size=case["queue_size"],
        momentum=case["momentum"],
        temperature=case["temperature"],
        shuffle_keys="gather",
    )
    rates = _ListedRates(case["rates"])
    model.compile(optimizers.MomentumSGD(rates, 0.9, case["weight_decay"]))
    model.build_optimizer()
    return model


def _weights(named, seed):
    """The seeded first weights of a case, by name, in torch's layout."""
    rng = np.random.default_rng(seed)
    return {
        name: _draw(rng, name, weight_names.to_torch(variable.numpy()).shape)
        for name, variable in named.items()
    }


def _draw(rng, name, shape):
    if name.endswith("running_mean"):
        return np.zeros(shape, np.float32)
    if name.endswith("running_var"):
        return np.ones(shape, np.float32)
    if len(shape) == 1 and name.startswith("fc"):
        return np.zeros(shape, np.float32)
    noise = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) == 4:  # out, in, height, width
        fan_out = shape[0] * shape[2] * shape[3]
        return noise * np.float32(np.sqrt(2 / fan_out))
    if len(shape) == 2:  # out, in
        return noise * np.float32(np.sqrt(1 / shape[1]))
    return 0.1 * noise + (1 if name.endswith("weight") else 0)


def _batches(case, rng):
    """The batches of a case, as the stream would deal them."""
    shape = (case["batch"], case["image_size"], case["image_size"], 3)
    steps = []
    for order in case["permutations"]:
        query = rng.standard_normal(shape, dtype=np.float32)
        noise = rng.standard_normal(shape, dtype=np.float32)
        steps.append(
            {
                "query": query,
                "key": (query + 0.3 * noise).astype(np.float32),
                "index": np.arange(case["batch"]),
                "order": np.array(order, np.int32),
                "valid": np.ones(case["batch"], bool),
            }
        )
    stacked = {name: np.stack([s[name] for s in steps]) for name in steps[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


def _deviation(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.max(np.abs(found - expected) / np.abs(expected)))
