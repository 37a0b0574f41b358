"""Replays training steps of the published implementation on a device.

The figures are of 8 complete steps, in two cases, computed with PyTorch; every
input is drawn by NumPy from the seed. The tests hold the files that these are
taken from, which fix more of each case.
"""

import functools

import numpy as np
import tensorflow as tf

from moco_tf.doctor import table
from moco_tf.methods import moco
from moco_tf.models import batch_norm
from moco_tf.models import encoder as encoders
from moco_tf.training import distribution, optimizers
from moco_tf.weights import layouts

V1_TWO_GROUPS = dict(
    file="moco_v1_resnet18_2replicas.npz",
    arch="resnet18",
    head="fc",
    dim=128,
    queue_size=96,
    momentum=0.99,
    temperature=0.07,
    weight_decay=0.01,
    image_size=64,
    batch=16,
    groups=2,
    seed=12,
    rates=(0.0002, 0.0002, 0.0002, 0.0002, 0.0002, 0.0002, 0.0002, 0.0002),
    permutations=(
        (11, 14, 8, 1, 5, 13, 15, 0, 12, 10, 9, 3, 2, 6, 4, 7),
        (9, 8, 0, 2, 10, 13, 15, 1, 12, 6, 14, 5, 3, 7, 4, 11),
        (3, 11, 4, 7, 15, 9, 14, 1, 10, 13, 6, 2, 0, 5, 12, 8),
        (13, 11, 8, 15, 6, 4, 9, 0, 1, 5, 7, 2, 14, 12, 10, 3),
        (4, 7, 14, 12, 15, 2, 1, 0, 13, 5, 10, 3, 6, 9, 11, 8),
        (15, 8, 12, 14, 3, 6, 13, 9, 10, 11, 2, 0, 7, 4, 1, 5),
        (9, 10, 0, 1, 11, 4, 15, 6, 13, 14, 5, 12, 8, 7, 2, 3),
        (11, 9, 1, 10, 14, 7, 0, 6, 3, 4, 13, 5, 2, 8, 15, 12),
    ),
    losses=(
        0.0005758503684774041,
        1.79702627658844,
        2.444948196411133,
        2.9533615112304688,
        3.2010750770568848,
        3.399247884750366,
        3.599853992462158,
        3.5241448879241943,
    ),
    queue_pointer=32,
    moved=0.04914372494463476,
)

V2_ONE_GROUP = dict(
    file="moco_v2_resnet18_1replica.npz",
    arch="resnet18",
    head="mlp",
    dim=128,
    queue_size=96,
    momentum=0.99,
    temperature=0.2,
    weight_decay=0.0001,
    image_size=64,
    batch=16,
    groups=1,
    seed=11,
    rates=(
        0.002,
        0.0019238795325112869,
        0.0017071067811865474,
        0.00138268343236509,
        0.001,
        0.0006173165676349102,
        0.00029289321881345256,
        7.612046748871326e-05,
    ),
    permutations=(
        (9, 10, 2, 8, 0, 13, 7, 5, 4, 1, 14, 11, 6, 3, 12, 15),
        (13, 9, 15, 0, 5, 10, 8, 1, 7, 11, 6, 12, 2, 4, 3, 14),
        (11, 2, 8, 5, 0, 7, 9, 4, 10, 13, 6, 12, 3, 15, 1, 14),
        (6, 0, 9, 15, 5, 14, 4, 12, 1, 3, 2, 8, 7, 10, 11, 13),
        (11, 13, 1, 15, 9, 10, 12, 8, 0, 6, 5, 3, 4, 2, 7, 14),
        (4, 2, 14, 12, 1, 3, 13, 8, 10, 6, 11, 0, 15, 9, 5, 7),
        (0, 12, 7, 8, 1, 11, 6, 5, 4, 13, 2, 14, 9, 10, 15, 3),
        (2, 1, 5, 12, 3, 9, 8, 14, 13, 4, 7, 0, 10, 11, 6, 15),
    ),
    losses=(
        0.8117598295211792,
        2.525921106338501,
        3.1782894134521484,
        3.530479907989502,
        3.7876334190368652,
        4.033419132232666,
        4.208255767822266,
        4.170430660247803,
    ),
    queue_pointer=32,
    moved=0.10827234144700548,
)


CASES = (V1_TWO_GROUPS, V2_ONE_GROUP)
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


def check_reference(cases=CASES):
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
    named = layouts.named_variables(model.query_encoder)
    weights = _weights(named, case["seed"])
    for encoder in (model.query_encoder, model.key_encoder):
        variables = layouts.named_variables(encoder)
        for name, variable in variables.items():
            variable.assign(layouts.from_torch(weights[name]))
    rng = np.random.default_rng(case["seed"] + 1)
    shape = (case["queue_size"], case["dim"])
    queue = rng.standard_normal(shape, dtype=np.float32)
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    model.queue.keys.assign(queue)
    iterator = iter(_batches(case, rng))
    step = model.make_train_function()
    losses = [float(step(iterator)["loss"]) for _ in case["losses"]]
    moved = [
        np.linalg.norm(layouts.to_torch(named[name].numpy()) - value)
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
            norm=functools.partial(batch_norm.BatchNorm, splits=case["groups"]),
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
        name: _draw(rng, name, layouts.to_torch(variable.numpy()).shape)
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
    """The batches of a case, in the form of the stream's."""
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
                "order": np.array(order, np.int64),
                "valid": np.ones(case["batch"], bool),
            }
        )
    stacked = {name: np.stack([s[name] for s in steps]) for name in steps[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


def _deviation(values, expected):
    """The largest relative deviation of values, a float."""
    values, expected = np.asarray(values), np.asarray(expected)
    return float(np.max(np.abs(values - expected) / np.abs(expected)))
