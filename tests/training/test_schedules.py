"""Learning rates by hand arithmetic from the published rules."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from moco_tf.training import schedules
from tests import properties


def _rates(schedule, steps):
    return [float(schedule(tf.constant(s, tf.int64))) for s in steps]


def test_v1_drops_tenfold_at_each_milestone():
    schedule = schedules.Step(0.03, (120, 160), steps_per_epoch=10)
    steps = [0, 1199, 1200, 1599, 1600, 1999]
    np.testing.assert_allclose(
        _rates(schedule, steps),
        [0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003],
        rtol=1e-5,
    )


def test_v2_cosine_is_constant_within_an_epoch():
    schedule = schedules.Cosine(0.03, epochs=200, steps_per_epoch=10)
    expected = [0.03, 0.03, 0.015 * (1 + math.cos(math.pi / 200)), 0.015]
    np.testing.assert_allclose(
        _rates(schedule, [0, 9, 10, 1000]), expected, rtol=1e-5
    )


def test_the_cifar_demo_counts_epochs_from_one():
    schedule = schedules.Cosine(0.06, 200, steps_per_epoch=97, first_epoch=1)
    expected = [0.03 * (1 + math.cos(math.pi / 200)), 0.0]
    np.testing.assert_allclose(
        _rates(schedule, [0, 97 * 199]), expected, rtol=1e-5, atol=1e-8
    )


def test_a_rate_per_step_follows_the_fraction_of_the_epoch():
    schedule = schedules.Cosine(1.0, 4, steps_per_epoch=2, unit="step")
    expected = [0.5 * (1 + math.cos(math.pi * s / 8)) for s in range(8)]
    np.testing.assert_allclose(_rates(schedule, range(8)), expected, rtol=1e-5)


def test_warm_up_rises_linearly_and_the_cosine_starts_after_it():
    schedule = schedules.Cosine(1.0, 6, steps_per_epoch=1, warmup_epochs=2)
    expected = [0.5, 1.0]
    expected += [0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]
    np.testing.assert_allclose(
        _rates(schedule, range(6)), expected, rtol=1e-5, atol=1e-7
    )


def test_warm_up_per_step_moves_at_every_step():
    schedule = schedules.Step(
        1.0, (3,), steps_per_epoch=4, warmup_epochs=1, unit="step"
    )
    np.testing.assert_allclose(
        _rates(schedule, [0, 1, 2, 3, 4, 11, 12]),
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.1],
        rtol=1e-5,
    )


def test_another_unit_is_refused():
    with pytest.raises(ValueError, match="'epoch' or 'step'.*'batch'"):
        schedules.Step(1.0, (), steps_per_epoch=1, unit="batch")


@st.composite
def runs(draw):
    """Epochs, steps an epoch, warm-up epochs, unit."""
    epochs = draw(st.integers(1, 1000))
    return (
        epochs,
        draw(st.integers(1, 10_000)),
        draw(st.integers(0, epochs - 1)),
        draw(st.sampled_from(("epoch", "step"))),
    )


def _epochs_of(steps, run):
    """Float64 epochs of steps, and the share of the warm-up that is done."""
    _, per_epoch, warm_up, unit = run
    if unit == "epoch":
        done = steps // per_epoch
        return done.astype(float), (done + 1) / max(warm_up, 1)
    return steps / per_epoch, (steps + 1) / (per_epoch * max(warm_up, 1))


def _some_steps(draw, run):
    epochs, per_epoch, *_ = run
    step = st.integers(0, epochs * per_epoch - 1)
    return np.array(sorted(draw(st.lists(step, min_size=2, max_size=20))))


@properties.few
@given(data=st.data(), run=runs(), rate=st.floats(1e-4, 10))
def test_any_cosine_is_its_formula_and_never_rises_after_the_warm_up(
    data, run, rate
):
    epochs, per_epoch, warm_up, unit = run
    steps = _some_steps(data.draw, run)
    found = np.array(
        schedules.Cosine(rate, epochs, per_epoch, warm_up, unit)(steps)
    )
    at, warm = _epochs_of(steps, run)
    angle = np.pi * (at - warm_up) / (epochs - warm_up)
    falling = rate * 0.5 * (1 + np.cos(angle))
    expected = np.where(at < warm_up, rate * np.minimum(warm, 1), falling)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * rate)
    cold = found[at < warm_up]
    assert (np.diff(cold) >= 0).all() and (cold > 0).all()
    assert (np.diff(found[at >= warm_up]) <= 1e-6 * rate).all()


@properties.few
@given(data=st.data(), run=runs())
def test_a_cosine_that_counts_from_1_trains_and_never_rises(data, run):
    epochs, per_epoch, warm_up, unit = run
    steps = np.unique([0, *_some_steps(data.draw, run)])
    schedule = schedules.Cosine(1.0, epochs, per_epoch, warm_up, unit, 1)
    shares = np.array(schedule(steps))
    assert shares[0] > 0
    at, _ = _epochs_of(steps, run)
    assert (np.diff(shares[at >= warm_up]) <= 1e-6).all()


@properties.few
@given(data=st.data(), run=runs(), decay=st.floats(0.01, 1))
def test_any_milestones_lower_the_rate_at_their_epoch(data, run, decay):
    epochs, per_epoch, warm_up, unit = run
    milestones = sorted(data.draw(st.sets(st.integers(1, epochs), max_size=4)))
    steps = _some_steps(data.draw, run)
    edges = [m * per_epoch + side for m in milestones for side in (-1, 0)]
    steps = np.array([*steps, *edges], np.int64)
    found = np.array(
        schedules.Step(1.0, milestones, per_epoch, decay, warm_up, unit)(steps)
    )
    at, warm = _epochs_of(steps, run)
    reached = (at[:, np.newaxis] >= np.array(milestones)).sum(1)
    warm = np.minimum(warm, 1)
    expected = np.where(at < warm_up, warm, decay**reached)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
