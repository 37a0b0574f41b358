"""What every worker does around a step, driven by hand."""

import pathlib
import signal
import subprocess
import sys
import types
from unittest import mock

import pytest

from moco_tf.cluster import membership, watchdog
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


EVERY = callbacks.LEAVE_EVERY


@pytest.fixture(name="watch")
def _watch(monkeypatch):
    """The guard of a worker."""
    monkeypatch.setattr(watchdog, "Watchdog", mock.Mock())
    monkeypatch.setattr(watchdog.faulthandler, "register", mock.Mock())
    cluster = membership.Cluster(("a:1", "b:1"), 1, "a test")
    return watchdog.Guard(cluster)


def _callback(watch, last=10):
    made = Noting(4, last, watch)
    made.resume(fakes.make_method())
    return made


class Word:
    """The word to leave of a step; reading it waits for the device."""

    def __init__(self, step, asked, read):
        self.step, self.asked, self.read = step, asked, read

    def __float__(self):
        self.read.append(self.step)
        return float(self.asked)


def _drive(callback, asked_by_others=()):
    """Steps as `fit` makes them, until the callback stops them.

    Returns:
      lists of steps: before which this process asked, whose word was read.
    """
    callback.model.stop_training = False
    own, read = [], []
    callback.model.leave = types.SimpleNamespace(
        ask=lambda: own.append(callback.step + 1)
    )
    while not callback.model.stop_training:
        callback.on_train_batch_begin(0)
        step = callback.step + 1
        asked = bool(own) or any(step >= first for first in asked_by_others)
        callback.on_train_batch_end(0, {"leave": Word(step, asked, read)})
        if callback.ends_epoch():
            callback.on_epoch_end(0)
    return own, read


def test_a_run_stops_after_its_last_step(watch):
    callback = _callback(watch)
    assert _drive(callback) == ([], [])
    assert callback.after == [(step, False) for step in range(1, 11)]
    assert callback.epochs == [4, 8]
    assert not callback.left


def test_all_leave_where_all_look_at_the_word_of_any_worker(watch):
    callback = _callback(watch, 5 * EVERY)
    own, read = _drive(callback, asked_by_others=(EVERY + 3,))
    assert (own, read) == ([], [EVERY, 2 * EVERY])
    assert callback.after[-1] == (2 * EVERY, True)
    assert callback.left
    # Not the evaluation: it may take longer than one has to leave.
    assert callback.epochs == list(range(4, 2 * EVERY, 4))


def test_a_signal_is_told_to_the_others_once(watch):
    callback = _callback(watch, 5 * EVERY)
    watch.asked = signal.SIGTERM
    assert _drive(callback) == ([1], [EVERY])
    assert callback.after[-1] == (EVERY, True)


def test_a_word_that_comes_with_the_last_step_changes_nothing(watch):
    callback = _callback(watch, EVERY)
    _drive(callback, asked_by_others=(EVERY,))
    assert callback.after[-1] == (EVERY, False)
    assert not callback.left


def test_a_process_on_its_own_leaves_at_once_and_asks_no_device():
    alone = watchdog.Guard()
    callback = _callback(alone)
    callback.after_step = lambda: setattr(alone, "asked", signal.SIGTERM)
    assert _drive(callback) == ([], [])
    assert (callback.step, callback.left) == (2, True)


def test_the_pages_say_after_how_many_steps_workers_look():
    for page in ("docs/scaling.md", "docs/design.md", "launch/README.md"):
        text = pathlib.Path(__file__).parents[2].joinpath(page).read_text()
        assert f"every {EVERY} steps" in text, page


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
