"""Learning rates by hand arithmetic from the published rules."""

import math

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.training import schedules


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
