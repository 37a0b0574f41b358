import ast
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import lane
from moco_tf.training import optimizers, schedules


def _step(optimizer, weight, gradient):
    optimizer.apply_gradients([(tf.constant(gradient), weight)])


def test_sgdw_decays_by_a_share_of_the_weight_whatever_the_rate():
    weight = tf.Variable([1.0])
    _step(optimizers.sgdw(0.5, 0.9, 0.1), weight, [0.0])
    np.testing.assert_allclose(weight.numpy(), [0.9], rtol=1e-6)


def test_sgdw_two_steps_by_hand():
    weight = tf.Variable([1.0])
    optimizer = optimizers.sgdw(0.5, 0.9, 0.1)
    _step(optimizer, weight, [1.0])  # 0.9 - 0.5
    np.testing.assert_allclose(weight.numpy(), [0.4], rtol=1e-6)
    _step(optimizer, weight, [2.0])  # 0.36 + 0.9 * (-0.5) - 1.0
    np.testing.assert_allclose(weight.numpy(), [-1.09], rtol=1e-6)


def test_sgdw_decay_follows_the_schedule():
    schedule = schedules.Step(0.5, [1], steps_per_epoch=1, decay=0.1)
    weight = tf.Variable([1.0])
    optimizer = optimizers.sgdw(schedule, 0.0, 0.2)
    _step(optimizer, weight, [0.0])  # rate 0.5: decay 0.2
    np.testing.assert_allclose(weight.numpy(), [0.8], rtol=1e-6)
    _step(optimizer, weight, [0.0])  # rate 0.05: decay 0.02
    np.testing.assert_allclose(weight.numpy(), [0.8 * 0.98], rtol=1e-6)


def test_sgdw_decay_is_stated_for_the_base_rate_not_for_the_warm_up():
    schedule = schedules.Step(0.5, [9], steps_per_epoch=1, warmup_epochs=2)
    weight = tf.Variable([1.0])
    optimizer = optimizers.sgdw(schedule, 0.0, 0.2)
    _step(optimizer, weight, [0.0])  # half the base rate: decay 0.1
    np.testing.assert_allclose(weight.numpy(), [0.9], rtol=1e-6)


def test_sgdw_takes_keras_schedules_by_their_first_rate():
    keras = tf.keras.optimizers.schedules
    schedule = keras.PiecewiseConstantDecay([0], [0.4, 0.1])
    weight = tf.Variable([1.0])
    optimizer = optimizers.sgdw(schedule, 0.0, 0.2)
    _step(optimizer, weight, [0.0])
    _step(optimizer, weight, [0.0])
    np.testing.assert_allclose(weight.numpy(), [0.8 * 0.95], rtol=1e-6)


def test_sgdw_refuses_a_base_rate_of_zero():
    keras = tf.keras.optimizers.schedules
    schedule = keras.PolynomialDecay(0.0, 10, 1.0)
    with pytest.raises(ValueError, match=r"above 0.*Received 0\.0"):
        optimizers.sgdw(schedule, 0.9, 0.1)


def test_sgdw_state_saves_as_configuration():
    schedule = tf.keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    config = optimizers.sgdw(schedule, 0.9, 0.1).get_config()
    again = optimizers.ScheduledDecay(0.1, schedule, 0.5)
    assert config["weight_decay"]["class_name"] == "ScheduledDecay"
    np.testing.assert_allclose(again(1), 0.05, rtol=1e-6)


def test_lamb_first_step_by_hand():
    # After bias correction the first Adam direction is g / (|g| + 1e-6) = 1;
    # with the decay it is [1.3, 1.4] for w = [3, 4] and weight decay 0.1.
    # The layer's ratio is |w| / |direction| = 5 / sqrt(3.65).
    weight = tf.Variable([3.0, 4.0])
    _step(optimizers.lamb(0.01, 0.1), weight, [2.0, 0.5])
    ratio = 5.0 / np.sqrt(1.3**2 + 1.4**2)
    expected = np.array([3.0, 4.0]) - 0.01 * ratio * np.array([1.3, 1.4])
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5)


def test_lamb_decay_scales_with_the_schedule():
    # No gradient: the direction is 0.1 * w, the ratio 10, the step rate * w.
    schedule = schedules.Step(0.5, [1], steps_per_epoch=1, decay=0.1)
    weight = tf.Variable([1.0])
    optimizer = optimizers.lamb(schedule, 0.1)
    _step(optimizer, weight, [0.0])
    np.testing.assert_allclose(weight.numpy(), [0.5], rtol=1e-5)
    _step(optimizer, weight, [0.0])
    np.testing.assert_allclose(weight.numpy(), [0.475], rtol=1e-5)


_TWO_REPLICAS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from moco_tf.training import optimizers

class Line(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.w = self.add_weight("w", [1], initializer="ones")

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(batch) * self.w[0] / 2.0  # replicas
        self.optimizer.minimize(loss, [self.w], tape=tape)
        return {}

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for make in (
    lambda: optimizers.sgdw(0.5, 0.9, 0.1),
    lambda: optimizers.lamb(0.5, 0.1),
):
    with strategy.scope():
        model = Line()
        model.compile(make())
    data = tf.data.Dataset.from_tensor_slices([[1.0], [3.0]]).batch(2)
    model.fit(data, epochs=1, verbose=0)
    print("weights", [float(v.numpy()[0]) for v in model.w.values])
"""


def test_two_replicas_sum_the_gradients_once_and_decay_once():
    # Replica gradients 1 / 2 and 3 / 2 sum to 2, the mean over the batch.
    # SGDW: 1 - 0.1 - 0.5 * 2 = -0.1. LAMB: the ratio makes the step
    # rate * |w| = 0.5 whatever the gradient.
    result = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            textwrap.dedent(_TWO_REPLICAS),
        ],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    values = [
        ast.literal_eval(line.removeprefix("weights "))
        for line in result.stdout.splitlines()
        if line.startswith("weights ")
    ]
    np.testing.assert_allclose(values, [[-0.1, -0.1], [0.5, 0.5]], rtol=1e-5)
    assert "end of life" not in result.stderr.lower()


def _weights():
    """Three weights: a matrix, a vector, one that is zero."""
    random = np.random.default_rng(1)
    values = (random.normal(size=(7, 5)), random.normal(size=4), np.zeros(3))
    return [tf.Variable(value, dtype=tf.float32) for value in values]


def _run(make, steps=100):
    """Weights, after steps on one stream of gradients, and their optimiser.

    They shrink as in training; a gradient is 0 now and then.
    """
    weights, random = _weights(), np.random.default_rng(2)
    optimizer = make()
    for step in range(steps):
        gradients = [
            tf.constant(random.normal(size=w.shape) * 0.98**step, tf.float32)
            * (step % 7 != 3)
            for w in weights
        ]
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
    return weights, optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.lamb(0.02, 0.1),
        lambda: optimizers.lamb(schedules.Cosine(0.02, 10, 10), 0.01),
        lambda: optimizers.sgdw(0.02, 0.9, 1e-3),
        lambda: optimizers.sgdw(schedules.Cosine(0.02, 10, 10), 0.9, 1e-3),
        lambda: optimizers.sgdw(0.02, 0.0, 1e-3),
    ],
)
def test_ours_are_tensorflow_addons_over_100_steps(make, monkeypatch):
    pytest.importorskip("tensorflow_addons")
    expected, _ = _run(make)
    monkeypatch.setattr(lane, "HAS_ADDONS", False)
    weights, ours = _run(make)
    assert type(ours).__module__ == optimizers.__name__
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, rtol=0, atol=1e-6)
        assert np.abs(weight).max() > 1e-3


@pytest.mark.parametrize("name", ["lamb", "sgdw"])
def test_a_checkpoint_goes_from_ours_to_tensorflow_addons_and_back(
    name, monkeypatch, tmp_path
):
    pytest.importorskip("tensorflow_addons")

    def make():
        schedule = schedules.Cosine(0.02, 10, 10)
        return optimizers.make_optimizer(name, schedule, 0.9, 1e-3)

    theirs = _run(make, 3)
    monkeypatch.setattr(lane, "HAS_ADDONS", False)
    ours = _run(make, 2)
    for writer, reader in ((theirs, ours), (ours, theirs)):
        path = _checkpoint(writer).write(str(tmp_path / "x"))
        for variable in reader[1].variables():
            variable.assign(tf.zeros_like(variable))
        _checkpoint(reader).read(path).assert_consumed()
        assert int(reader[1].iterations) == 3
        for one, other in zip(
            writer[1].variables(), reader[1].variables(), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def _checkpoint(run):
    weights, optimizer = run
    return tf.train.Checkpoint(weights=weights, optimizer=optimizer)
