"""The trace of a few steps, as TensorBoard finds it."""

import pytest
import tensorflow as tf

from moco_tf.monitoring import profile


def _drive(traced, steps):
    """Runs a compiled step after another, as `fit` does."""

    @tf.function
    def step(x):
        return tf.linalg.matmul(x, x, name="the_product")

    x = tf.ones([4, 4])
    for number in range(1, steps + 1):
        traced.before_step(number)
        x = step(x)
        traced.on_step(None, number)
    traced.on_end(None, steps)


def _traces(folder):
    return list(folder.glob("plugins/profile/*/*.xplane.pb"))


def test_the_steps_are_traced_once(tmp_path):
    _drive(profile.Profile(tmp_path, 3, 4), steps=6)
    (trace,) = _traces(tmp_path)
    assert b"the_product" in trace.read_bytes()


def test_a_run_that_ends_sooner_writes_what_there_is(tmp_path):
    _drive(profile.Profile(tmp_path, 2, 100), steps=3)
    assert len(_traces(tmp_path)) == 1


def test_steps_that_never_come_write_nothing(tmp_path):
    _drive(profile.Profile(tmp_path, 50, 60), steps=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [(0, 3), (5, 4)])
def test_other_steps_are_refused(steps, tmp_path):
    with pytest.raises(ValueError, match="first and a last step"):
        profile.Profile(tmp_path, *steps)
