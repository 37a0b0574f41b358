"""What every worker does around a step, driven by hand."""

import pathlib
import signal
import subprocess
import sys
import types

import pytest
import tensorflow as tf

from moco_tf.cluster import watchdog
from moco_tf.training import callbacks
from tests.training import fakes


class Noting(callbacks.StepCallback):
    """Notes the steps after which it is called."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.after, self.epochs = [], []

    def after_step(self):
        self.after.append((self.step, self.left))

    def finish_epoch(self):
        self.epochs.append(self.step)


@pytest.fixture
def watch():
    return watchdog.Guard()


@pytest.fixture
def callback(watch):
    made = Noting(4, 10, watch)
    made.resume(fakes.make_method())
    return made


def _drive(callback, asked_by_others=()):
    """Steps as `fit` makes them, until the callback stops them."""
    callback.model.stop_training = False
    own = []
    callback.model.leave = types.SimpleNamespace(
        ask=lambda: own.append(callback.step + 1)
    )
    while not callback.model.stop_training:
        callback.on_train_batch_begin(0)
        step = callback.step + 1
        word = float(step in asked_by_others or bool(own))
        callback.on_train_batch_end(0, {"leave": tf.constant(word)})
        if callback.ends_epoch():
            callback.on_epoch_end(0)
    return own


def test_a_run_stops_after_its_last_step(callback):
    assert _drive(callback) == []
    assert callback.after == [(step, False) for step in range(1, 11)]
    assert callback.epochs == [4, 8]
    assert not callback.left


def test_all_leave_one_step_after_the_word_of_any_worker(callback):
    _drive(callback, asked_by_others=(3,))
    # The word of step 3 is read after step 4, on all workers alike.
    assert callback.after[-1] == (4, True)
    assert callback.left
    # Not the evaluation: it may take longer than one has to leave.
    assert callback.epochs == []


def test_a_signal_is_told_to_the_others_once(callback, watch):
    watch.asked = signal.SIGTERM
    assert _drive(callback) == [1]
    assert callback.after[-1] == (2, True)


def test_a_word_that_comes_with_the_last_step_changes_nothing(callback):
    _drive(callback, asked_by_others=(9, 10))
    assert callback.after[-1] == (10, False)
    assert not callback.left


def test_signals_ask_and_the_exit_status_says_what_for():
    # In a process of its own: libraries that other tests load may leave the
    # stack of signal handlers in memory that is no longer theirs.
    code = """if True:
        import signal
        from moco_tf.cluster import watchdog
        watch = watchdog.Guard()
        watch.take_signals()
        signal.raise_signal(signal.SIGUSR1)
        print(watch.asked.name, watch.status())
        watch.asked = signal.SIGINT
        print(watch.status())
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["SIGUSR1", "138", "130"], done.stderr
