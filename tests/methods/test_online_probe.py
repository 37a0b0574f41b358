"""The linear probe that learns beside a method: its arithmetic, and refusals.

That it changes no bit of a method: test_every_method.py and test_shuffle.py.
"""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import online_probe
from moco_tf.training import checkpoints
from tests import small_run
from tests.methods import every_method

CLASSES, FEATURES = 3, 4


def _probe(rate=0.5, labels=(0, 1, 2, -1)):
    labels = online_probe.Labels(np.array(labels), CLASSES)
    return online_probe.OnlineProbe(FEATURES, labels, rate)


def _state(probe):
    variables = probe.kernel, probe.bias, *probe.velocities
    return [variable.numpy() for variable in variables]


def _softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_its_steps_are_those_of_numpy():
    rng = np.random.default_rng(0)
    probe = _probe(rate=0.5)
    kernel, bias = np.zeros([FEATURES, CLASSES]), np.zeros(CLASSES)
    moving = [np.zeros_like(kernel), np.zeros_like(bias)]
    for _ in range(3):
        features = rng.standard_normal([6, FEATURES])
        labels = rng.integers(0, CLASSES, 6)
        odds = _softmax(features @ kernel + bias)
        figures = probe.learn(tf.constant(features, tf.float32), labels)
        loss = -np.mean(np.log(odds[np.arange(6), labels]))
        np.testing.assert_allclose(figures["probe_loss"], loss, rtol=1e-5)
        wins = np.mean(odds.argmax(axis=1) == labels)
        np.testing.assert_allclose(figures["probe_train_top1"], wins)
        errors = (odds - np.eye(CLASSES)[labels]) / 6
        gradients = features.T @ errors, errors.sum(axis=0)
        length = np.mean(np.sum(features**2, axis=1))
        moving = [0.9 * v + g for v, g in zip(moving, gradients, strict=True)]
        kernel -= 0.5 / length * moving[0]
        bias -= 0.5 * moving[1]
    for value, expected in zip(
        _state(probe), [kernel, bias, *moving], strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_rows_without_a_label_do_not_count():
    rng = np.random.default_rng(1)
    rows = tf.constant(rng.standard_normal([5, FEATURES]), tf.float32)
    some, all_labelled = _probe(), _probe()
    for _ in range(2):
        with_others = some.learn(rows, np.array([2, -1, 0, -1, 1]))
        alone = all_labelled.learn(
            tf.gather(rows, [0, 2, 4]), np.array([2, 0, 1])
        )
    for name in online_probe.FIGURES:
        np.testing.assert_allclose(with_others[name], alone[name], rtol=1e-6)
    for one, other in zip(_state(some), _state(all_labelled), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_step_without_labels_moves_nothing_and_is_in_no_mean():
    probe = _probe()
    rows = tf.ones([2, FEATURES])
    first = probe.learn(rows, np.array([1, 1]))
    before = _state(probe)
    second = probe.learn(rows, np.array([-1, -1]))
    for one, other in zip(before, _state(probe), strict=True):
        np.testing.assert_array_equal(one, other)
    window = {name: [float(first[name]), float(second[name])] for name in first}
    assert probe.means(window) == {
        "probe_loss": pytest.approx(np.log(CLASSES)),
        "probe_train_top1": 0.0,
    }
    window = {name: [float(second[name])] for name in second}
    assert probe.means(window) == dict.fromkeys(online_probe.FIGURES)


def test_one_rate_suits_features_of_any_length():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal([20, FEATURES]).astype(np.float32)
    labels = rows[:, :CLASSES].argmax(axis=1)
    probes = {scale: _probe(rate=1.0) for scale in (1e-3, 1e3)}
    for _ in range(20):
        losses = [
            float(probe.learn(tf.constant(scale * rows), labels)["probe_loss"])
            for scale, probe in probes.items()
        ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for scale, probe in probes.items():
        assert np.mean(probe.classify(scale * rows) == labels) > 0.9


def _step(rows_of_loss):
    """A step that shows such rows of features in its loss."""

    def loss_of(rows):
        for rows_shown in rows_of_loss:
            online_probe.show(rows_shown)
        return tf.constant(0.0), {}

    def train_step(batch):
        watched = online_probe.watch("a probe", loss_of)
        loss, scores = online_probe.take("a probe", watched(batch))
        return {"loss": loss, **scores}

    return train_step


def test_of_views_side_by_side_it_learns_the_first_of_each_image():
    probe, expected = _probe(), _probe()
    views = tf.reshape(tf.range(4.0 * FEATURES), [4, FEATURES])
    small = tf.ones([6, FEATURES])  # of multi-crop, shown later
    index = tf.constant([2, 0], tf.int64)
    figures = probe.follow(_step([views, small]), {"index": index})
    assert set(figures) == {"loss", *online_probe.FIGURES}
    expected.learn(tf.gather(views, [0, 2]), np.array([2, 0]))
    for one, other in zip(_state(probe), _state(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_gradient_goes_back():
    probe, rows = _probe(), tf.ones([2, FEATURES])
    with tf.GradientTape() as tape:
        tape.watch(rows)
        figures = probe.learn(rows, np.array([0, 1]))
    assert tape.gradient(figures["probe_loss"], rows) is None


@pytest.mark.parametrize(
    ("step", "received"),
    [
        (lambda batch: {}, "calls no Method.descend"),
        (_step([]), "calls no Method.project"),
        (_step([tf.ones([3, FEATURES])]), "features of 3 views of 2 images"),
    ],
)
def test_a_method_that_shows_no_features_is_refused(step, received):
    batch = {"index": tf.constant([0, 1], tf.int64)}
    with pytest.raises(ValueError, match=received):
        _probe().follow(step, batch)


def test_it_changes_no_bit_in_micro_batches_under_xla_with_a_loss_scale(
    tmp_path,
):
    labels = np.arange(every_method.IMAGES) % 4 - 1  # -1: without
    labels = online_probe.Labels(labels, CLASSES)
    fields = {
        "train__micro_batches": 2,
        "train__jit_compile": True,
        "train__precision": "mixed_float16",
        "moco__symmetric": True,
    }
    states = []
    for beside in (None, labels):
        method = every_method.make_method("moco", labels=beside, **fields)
        steps = list(every_method.batches(method, every_method.STEPS))
        every_method.train(method, steps)
        checkpoints.save(method, tmp_path / f"{beside is None}", 1, {})
        states.append(small_run.state(tmp_path / f"{beside is None}"))
    off, on = states
    assert len(on) > len(off)
    small_run.assert_same_bits(off, small_run.without_probe(on))
    losses = method.step_log.read(0, every_method.STEPS)["probe_loss"]
    assert losses[0] == pytest.approx(np.log(CLASSES), rel=1e-6)
    assert 0 < losses[1] != losses[0]
