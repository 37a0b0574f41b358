"""Tiny files of weights in the layouts of others, put together by hand."""

import functools
import pathlib
import sys

import numpy as np

from moco_tf import config as configs
from moco_tf.evaluation import frozen
from moco_tf.models import resnet
from tests.weights import torch_files

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import torch_layout

FIELDS = {"data.image_size": "32"}
QUEUE, DIM, STEPS = 24, 8, 700


@functools.cache
def _variables(head, depth, stem, stages):
    """The variables of an encoder, whose names and shapes are read."""
    del stages  # of the network, which tests/shallow.py changes
    config = configs.load(
        "moco_v2_imagenet",
        {
            "model.backbone": f"resnet{depth}",
            "model.width": "0.0625",
            "model.dim": str(DIM),
            "model.head": head,
            "model.stem": stem,
            **FIELDS,
        },
    )
    return torch_layout.named_variables(frozen.build_encoder(config))


def tensors(seed=3, head="mlp", depth=18, counted=True, stem="imagenet"):
    """An encoder's tensors by torch's names, with BatchNorm's counters."""
    named = _variables(head, depth, stem, resnet.DEPTHS[depth])
    rng = np.random.default_rng(seed)
    values = {}
    for name, value in torch_layout.reference_weights(named, seed).items():
        if name.endswith(("running_mean", "running_var")):
            value = value + rng.uniform(0, 0.5, value.shape).astype(np.float32)
        if name.startswith("fc") and value.ndim == 1:
            value = rng.standard_normal(value.shape).astype(np.float32)
        values[name] = value
        if counted and name.endswith("running_var"):
            counter = name.replace("running_var", "num_batches_tracked")
            values[counter] = np.array(STEPS)
    return values


def state_dict(head="mlp", counted=True, depth=18):
    """The state dict of a published checkpoint."""
    rng = np.random.default_rng(4)
    queue = rng.standard_normal((DIM, QUEUE)).astype(np.float32)
    queue /= np.linalg.norm(queue, axis=0)
    state = {
        "module.queue": queue,
        "module.queue_ptr": np.array([16]),
    }
    for seed, side in ((3, "q"), (5, "k")):
        for name, value in tensors(seed, head, depth, counted).items():
            state[f"module.encoder_{side}.{name}"] = value
    return state


def velocities(state):
    """SGD's momentum of the query encoder's parameters, in order."""
    rng = np.random.default_rng(6)
    start = "module.encoder_q."
    ends = ("running_mean", "running_var", "num_batches_tracked")
    return [
        rng.standard_normal(value.shape).astype(np.float32)
        for name, value in state.items()
        if name.startswith(start) and not name.endswith(ends)
    ]


def write_moco(path, state, momentum=None, layout="zip", epoch=200):
    """Writes a published checkpoint."""
    file = torch_files.File(layout)
    plain = torch_files.plain
    opcodes = b"}(" + plain("epoch") + plain(epoch)
    opcodes += plain("arch") + plain("resnet18")
    opcodes += plain("state_dict") + b"ccollections\nOrderedDict\n)R("
    for name, value in state.items():
        opcodes += plain(name) + file.tensor(value)
    opcodes += b"u"
    if momentum is not None:
        opcodes += plain("optimizer") + b"}(" + plain("state") + b"}("
        # Old versions of torch number parameters by their addresses.
        numbers = [9000 + 16 * n for n in range(2 * len(momentum))]
        for number, value in zip(numbers, momentum, strict=False):
            opcodes += plain(number) + b"}" + plain("momentum_buffer")
            opcodes += file.tensor(value) + b"s"
        group = {"lr": 0.03, "momentum": 0.9, "params": numbers}
        opcodes += b"u" + plain("param_groups") + plain([group]) + b"u"
    path.write_bytes(file.bytes(opcodes + b"u"))
    return path


def assert_same_tensors(actual, expected):
    """The same names, shapes, types and bytes, in the same order."""
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        assert actual[name].shape == value.shape, name
        assert actual[name].tobytes() == value.tobytes(), name
