"""What is promised of every method in the table."""

import pathlib
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf.methods import online_probe, table
from moco_tf.training import checkpoints
from tests import replicas, small_run
from tests.methods import every_method
from tools import gpu_placement

METHODS = sorted(table.METHODS)


def _recipes():
    return [
        (name, config)
        for name, entry in table.METHODS.items()
        for config in entry.configs
    ]


@pytest.mark.parametrize(("name", "config"), _recipes())
def test_its_configurations_name_it(name, config):
    assert configs.load(config).method == name


def test_every_configuration_of_pre_training_is_in_the_table():
    assert sorted(config for _, config in _recipes()) == configs.names()


class Run(NamedTuple):
    """What one replica computed with a method, step by step."""

    losses: list
    states: list  # at the start, and after STEPS
    folder: pathlib.Path  # checkpoints: half, after STEPS, and end
    features: list  # of `_images`, of the encoder after STEPS
    fixed: list  # losses of a batch that comes again and again
    graph: tf.Graph  # of a step


@pytest.fixture(scope="module", params=METHODS)
def run(request, tmp_path_factory):
    """A method's name, and its Run; one trace serves all."""
    name, count = request.param, every_method.STEPS
    folder = tmp_path_factory.mktemp(name)
    method = every_method.make_method(name)
    states = [every_method.state(method)]
    steps = list(every_method.batches(method, 2 * count))
    losses = every_method.train(method, steps[:count])
    states.append(every_method.state(method))
    checkpoints.save(method, folder / "half", 1, {})
    features = [x.numpy() for x in method.query_encoder.features(_images())]
    losses += every_method.train(method, steps[count:])
    checkpoints.save(method, folder / "end", 1, {})
    graph = method.step_graph
    still = every_method.STILL.get(name)
    if still:
        fields = {f"{name}__{key}": value for key, value in still.items()}
        method = every_method.make_method(name, **fields)
    again = every_method.batches(method, 80, fixed=True)
    fixed = every_method.train(method, again)
    return name, Run(losses, states, folder, features, fixed, graph)


def _images():
    return tf.random.stateless_normal([2, 16, 16, 3], [0, 1])


def test_the_loss_falls_on_a_fixed_batch(run):
    _, result = run
    assert np.isfinite(result.fixed).all()
    assert np.mean(result.fixed[-5:]) < 0.9 * np.mean(result.fixed[3:8])


def test_a_step_stays_on_the_gpu(run, two_replicas):
    name, result = run
    assert gpu_placement.unexpected(result.graph) == []
    assert two_replicas[f"{name}/unexpected"].tolist() == []


def test_a_resumed_run_has_the_same_bits_with_a_probe_beside_it(run, tmp_path):
    name, result = run
    labels = np.arange(every_method.IMAGES) % 4 - 1  # -1: without
    labels = online_probe.Labels(labels, 3)
    method = every_method.make_method(name, labels=labels)
    half = checkpoints.latest(result.folder / "half")
    every_method.restore_beside_probe(method, half)
    assert int(method.step) == every_method.STEPS
    steps = list(every_method.batches(method, 2 * every_method.STEPS))
    every_method.train(method, steps[every_method.STEPS :])
    checkpoints.save(method, tmp_path, 1, {})
    state = small_run.state(tmp_path)
    small_run.assert_same_bits(
        small_run.without_probe(state), small_run.state(result.folder / "end")
    )
    # It has learned beside it.
    log = method.step_log.read(every_method.STEPS, 2 * every_method.STEPS)
    losses = log["probe_loss"]
    assert losses[0] == pytest.approx(np.log(3), rel=1e-6)
    assert losses[1] > 0 and losses[1] != losses[0]


def test_the_encoder_alone_is_restored_from_its_checkpoint(run):
    name, result = run
    encoder = every_method.make_method(name, seed=1).query_encoder
    path = checkpoints.latest(result.folder / "half")
    checkpoints.restore_query_encoder(encoder, path)
    features = encoder.features(_images())
    for feature, expected in zip(features, result.features, strict=True):
        np.testing.assert_array_equal(feature, expected)
    weights = [w.numpy() for w in encoder.trainable_variables]
    for weight, value in zip(weights, result.states[1].values(), strict=False):
        np.testing.assert_array_equal(weight, value)


@pytest.fixture(scope="module")
def two_replicas(tmp_path_factory):
    """Losses and variables of two runs on two replicas (see every_method)."""
    folder = tmp_path_factory.mktemp("replicas")
    return replicas.run(every_method, 2, folder)


def test_two_replicas_compute_what_one_does(run, two_replicas):
    name, result = run
    # Few steps: after some more, a ReLU turns rounding into a difference.
    np.testing.assert_allclose(
        two_replicas[f"0/{name}/losses"],
        result.losses[: every_method.STEPS],
        rtol=1e-5,
    )
    before, after = result.states
    moved = difference = 0.0
    for key, value in after.items():
        moved += np.sum(np.square(value - before[key]))
        difference += np.sum(np.square(value - two_replicas[f"0/{name}/{key}"]))
    assert np.sqrt(difference) < 1e-4 * np.sqrt(moved)


@pytest.mark.parametrize("name", METHODS)
def test_two_deterministic_runs_have_the_same_bits(name, two_replicas):
    one, two = (
        {
            key.partition("/")[2]: value
            for key, value in two_replicas.items()
            if key.startswith(f"{run}/{name}/")
        }
        for run in range(2)
    )
    assert len(one) > 10
    small_run.assert_same_bits(one, two)
