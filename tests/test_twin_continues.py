"""benchmarks/twin_continues.py: what the twin takes up of a checkpoint."""

import importlib
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.models import batch_norm
from moco_tf.training import checkpoints

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(name="script", scope="module")
def _script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("twin_continues")


@pytest.fixture(name="method", scope="module")
def _method():
    """MoCo of moco_cifar10; each velocity is its weight, times two."""
    config = configs.load("moco_cifar10")
    config.model.width = 0.125
    config.moco.queue_size = 1024
    method = plan.make_method(config, tf.distribute.get_strategy(), 1024)
    query, key = method.query_encoder, method.key_encoder
    for place, weight in enumerate(key.weights):
        weight.assign(weight + 0.5 + place)
    for weight, velocity in zip(
        query.trainable_variables, method.optimizer.velocities, strict=True
    ):
        velocity.assign(2 * weight)
    return method


@pytest.fixture(name="state", scope="module")
def _state(script, method, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    path = checkpoints.save(method, workdir, 1, {"epoch": 0.0})
    return script.state_of(path)


def _in_ours(array):
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, (0,)))


@pytest.mark.parametrize("name", ["query_encoder", "key_encoder"])
def test_layers_of_a_kind_are_in_the_order_of_the_network(state, method, name):
    encoder = getattr(method, name)
    kinds = {"conv": tf.keras.layers.Conv2D, "norm": batch_norm.BatchNorm}
    for kind, cls in kinds.items():
        of_kind = [x for x in encoder.backbone.layers if isinstance(x, cls)]
        assert len(of_kind) == 20
        for number, layer in enumerate(of_kind):
            ends = ("weight", "bias", "running_mean", "running_var")
            for end, weight in zip(ends, layer.weights, strict=False):
                array = state[f"{name}/{kind}/{number}/{end}"]
                np.testing.assert_array_equal(_in_ours(array), weight)
    (dense,) = encoder.head.layers[1:]
    for end, weight in zip(("weight", "bias"), dense.weights, strict=True):
        array = state[f"{name}/head/0/{end}"]
        np.testing.assert_array_equal(_in_ours(array), weight)


def test_a_shortcut_comes_after_its_block_as_in_the_twin(method):
    layers = method.query_encoder.backbone.layers
    norms = [x.name for x in layers if isinstance(x, batch_norm.BatchNorm)]
    shortcuts = [name for name in norms if "downsample" in name]
    assert len(shortcuts) == 3
    for name in shortcuts:
        block = name.partition(".downsample")[0]
        assert norms[norms.index(name) - 1] == f"{block}.bn2"


def test_every_parameter_has_its_velocity(state, method):
    keys = [key for key in state if key.startswith("velocity/")]
    assert len(keys) == len(method.query_encoder.trainable_variables)
    for key in keys:
        weight = state[key.replace("velocity", "query_encoder")]
        np.testing.assert_array_equal(state[key], 2 * weight)


def test_nothing_of_the_encoders_is_left_out(state, method):
    for name in ("query_encoder", "key_encoder"):
        keys = [key for key in state if key.startswith(f"{name}/")]
        assert len(keys) == len(getattr(method, name).weights)


def test_the_queue_comes_with_its_place(state, method):
    np.testing.assert_array_equal(state["queue"], method.queue.keys)
    assert state["pointer"] == method.queue.pointer
