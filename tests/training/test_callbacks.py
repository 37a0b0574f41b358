"""What happens around the steps, driven by hand: losses, kNN, checkpoints."""

import io
import math

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.cluster import watchdog
from moco_tf.methods import method as method_lib
from moco_tf.monitoring import listener, metrics_csv, progress
from moco_tf.training import callbacks, checkpoints, schedules
from tests.training import fakes

STEPS_PER_EPOCH = 4
BATCH = 8


class Unreadable:
    """Notes what it is told."""

    def __init__(self):
        self.steps, self.checks = [], []

    def add(self, counts):
        assert set(counts.values()) == {BATCH // 4}
        self.steps += counts

    def check(self, bad, seen, session):
        assert session[0] <= bad and session[1] <= seen
        self.checks.append((bad, seen))


class Scores(listener.Listener):
    """kNN whose results are fixed: one (backbone, projection) an epoch."""

    def __init__(self, *scores):
        self.scores = list(scores)

    def on_epoch(self, method, row):
        backbone, projection = self.scores.pop(0)
        row |= {
            "knn_backbone": backbone,
            "knn_projection": projection,
            "uniformity": -2.0 - backbone,
        }


def _start(
    workdir, method, knn=None, layer="backbone", log=3, save=0, epochs=3
):
    """A callback that has taken up the method."""
    last_step = epochs * STEPS_PER_EPOCH
    metrics = metrics_csv.MetricsFile(workdir / "metrics.csv")
    step = int(method.step.numpy())
    metrics.cut_back(step, callbacks.oldest_step(step, STEPS_PER_EPOCH))
    listeners = [
        metrics,
        progress.Progress(last_step, STEPS_PER_EPOCH, stream=io.StringIO()),
    ]
    if knn:
        best = callbacks.BestCheckpoint(workdir, f"knn_{layer}", metrics.rows())
        listeners = [knn, best, *listeners]
    callback = callbacks.RunCallback(
        callbacks.Cadence(STEPS_PER_EPOCH, last_step, BATCH, log, save, 99),
        workdir=workdir,
        metrics=metrics,
        unreadable=Unreadable(),
        guard=watchdog.Guard(),
        listeners=listeners,
    )
    callback.resume(method)
    return callback


def _drive(callback, method, losses, unreadable=()):
    """What fit does around steps that return the losses."""
    callback.on_train_begin()
    for loss in losses:
        step = int(method.step.numpy())
        share = 0.25 if step in unreadable else 0.0
        method.step_log.write(method.step, tf.constant([loss, 0.5, share, 0.1]))
        method.step.assign_add(1)
        callback.on_train_batch_end(step)
        if (step + 1) % STEPS_PER_EPOCH == 0:
            callback.on_epoch_end(step // STEPS_PER_EPOCH)
    callback.on_train_end()
    return callback.metrics.rows()


@pytest.fixture
def method():
    return fakes.make_method()


def test_rows_hold_the_means_since_the_row_before(method, tmp_path):
    callback = _start(tmp_path, method)
    rows = _drive(callback, method, [4.0, 5.0, 9.0, 2.0, 1.0])
    assert [row["step"] for row in rows] == [3, 4]  # the fifth is not due
    assert [row["loss"] for row in rows] == [6.0, 2.0]
    assert [row["epoch"] for row in rows] == [1, 1]
    assert [row["epoch_loss"] for row in rows] == [None, 5.0]


def test_unreadable_samples_are_counted_and_their_steps_passed_on(
    method, tmp_path
):
    callback = _start(tmp_path, method)
    rows = _drive(callback, method, [1.0] * 8, unreadable=(1, 2, 6))
    # A quarter of a batch of eight in each of these steps.
    assert [row["unreadable"] for row in rows] == [4, 0, 2, 0]
    assert callback.unreadable.steps == [1, 2, 6]
    assert callback.unreadable.checks == [(4, 24), (4, 32), (6, 56), (6, 64)]


def test_the_first_step_which_compiles_is_not_in_the_speed(method, tmp_path):
    callback = _start(tmp_path, method, log=1)
    rows = _drive(callback, method, [1.0] * 3)
    assert rows[0]["images_per_second"] is None
    assert rows[0]["input_wait_share"] is None
    assert all(row["images_per_second"] > 0 for row in rows[1:])
    assert all(0 <= row["input_wait_share"] <= 1 for row in rows[1:])


@pytest.mark.parametrize(
    ("features", "expected"), [("backbone", 8), ("projection", 12)]
)
def test_the_best_is_the_one_with_the_best_knn_of_the_chosen_layer(
    method, tmp_path, features, expected
):
    knn = Scores((0.5, 0.7), (0.7, 0.5), (0.6, 0.9))
    callback = _start(tmp_path, method, knn, features)
    rows = _drive(callback, method, [1.0] * 12)
    found = [row["knn_backbone"] for row in rows if row["epoch_loss"]]
    assert found == [0.5, 0.7, 0.6]
    best = checkpoints.best(tmp_path)
    assert checkpoints.read_meta(best)["step"] == expected


def test_a_worse_knn_after_a_restart_does_not_become_the_best(method, tmp_path):
    callback = _start(tmp_path, method, Scores((0.7, 0.1)))
    _drive(callback, method, [1.0] * 4)
    callback = _start(tmp_path, method, Scores((0.6, 0.9)))
    _drive(callback, method, [1.0] * 4)
    assert checkpoints.read_meta(checkpoints.best(tmp_path))["step"] == 4


def test_without_knn_there_is_no_best(method, tmp_path):
    callback = _start(tmp_path, method)
    _drive(callback, method, [1.0] * 4)
    assert checkpoints.best(tmp_path) is None
    assert [step for step, _ in checkpoints.complete(tmp_path)] == [4]


def test_what_the_measure_finds_beside_knn_is_in_the_row(method, tmp_path):
    callback = _start(tmp_path, method, Scores((0.5, 0.25)))
    rows = _drive(callback, method, [1.0] * 4)
    assert [row["uniformity"] for row in rows] == [None, -2.5]
    assert rows[-1]["alignment"] is None


def test_checkpoints_come_within_an_epoch_and_at_its_end(method, tmp_path):
    callback = _start(tmp_path, method, save=3)
    _drive(callback, method, [1.0] * 9)
    saved = checkpoints.complete(tmp_path)
    assert [step for step, _ in saved] == [3, 4, 7, 8]
    meta = checkpoints.read_meta(saved[0][1])
    assert meta == {
        "step": 3,
        "epoch": 0.75,
        "replicas": 1,
        "last_step": 12,
    }


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_and_never_saved(
    method, tmp_path, loss
):
    callback = _start(tmp_path, method, log=4, save=2)
    with pytest.raises(FloatingPointError, match=f"step 3 is {loss}.*intact"):
        _drive(callback, method, [1.0, 1.0, loss, 1.0])
    assert [step for step, _ in checkpoints.complete(tmp_path)] == [2]
    with pytest.raises(FloatingPointError, match="step 3"):
        callback.save_interrupted()
    assert [step for step, _ in checkpoints.complete(tmp_path)] == [2]


def test_an_interrupted_run_is_saved_once(method, tmp_path):
    callback = _start(tmp_path, method)
    callback.save_interrupted()
    assert checkpoints.latest(tmp_path) is None  # no step is done
    _drive(callback, method, [1.0] * 2)
    callback.save_interrupted()
    path = checkpoints.latest(tmp_path)
    assert checkpoints.read_meta(path)["step"] == 2
    before = path.stat().st_mtime_ns
    callback.save_interrupted()
    assert path.stat().st_mtime_ns == before


def test_the_knn_of_an_epoch_that_was_cut_off_is_made_up_for(method, tmp_path):
    class Killed(listener.Listener):
        def on_epoch(self, method, row):
            raise KeyboardInterrupt

    callback = _start(tmp_path, method, Killed())
    with pytest.raises(KeyboardInterrupt):
        _drive(callback, method, [1.0] * 4)
    assert checkpoints.best(tmp_path) is None
    callback = _start(tmp_path, method, Scores((0.3, 0.2)))
    last = callback.metrics.rows()[-1]
    assert (last["knn_backbone"], last["epoch_loss"]) == (0.3, 1.0)
    assert checkpoints.read_meta(checkpoints.best(tmp_path))["step"] == 4


class Stopped(listener.Listener):
    """Ctrl-C at the end of a step, before its row is in metrics.csv."""

    def __init__(self, step):
        self.step = step

    def on_report(self, method, row):
        if row["step"] == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_step_that_was_saved_and_not_reported_is_made_up_for(
    method, tmp_path, epochs, capsys
):
    callback = _start(tmp_path, method, Stopped(4), epochs=epochs)
    with pytest.raises(KeyboardInterrupt):
        _drive(callback, method, [1.0, 2.0, 3.0, 6.0])
    callback.save_interrupted()
    callback = _start(tmp_path, method, Scores((0.3, 0.2)), epochs=epochs)
    assert "damaged" not in capsys.readouterr().out
    last = callback.metrics.rows()[-1]
    assert (last["step"], last["steps"], last["loss"]) == (4, 1, 6.0)
    assert (last["epoch_loss"], last["knn_backbone"]) == (3.0, 0.3)
    assert checkpoints.read_meta(checkpoints.best(tmp_path))["step"] == 4


@pytest.mark.parametrize(("log", "expected"), [(1, [2, 3, 4]), (3, [3, 4])])
def test_reports_may_come_at_other_steps_after_a_pause(
    method, tmp_path, log, expected, capsys
):
    """No step is lost, or reported twice, where log.every_steps changes."""
    callback = _start(tmp_path, method, log=4)
    _drive(callback, method, [5.0, 7.0])
    callback.save_interrupted()
    callback = _start(tmp_path, method, log=log)
    assert "damaged" not in capsys.readouterr().out
    written = _drive(callback, method, [1.0, 2.0])
    assert [row["step"] for row in written] == expected
    assert written[-1]["epoch_loss"] == 15 / 4
    assert sum(row["steps"] for row in written) == 4


def test_no_row_is_of_more_steps_than_the_log_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(method_lib.StepLog, "CAPACITY", 3)
    method = fakes.make_method()
    callback = _start(tmp_path, method, log=1)
    _drive(callback, method, [5.0])
    callback = _start(tmp_path, method, log=3)
    _drive(callback, method, [6.0])
    callback.save_interrupted()
    callback = _start(tmp_path, method, log=4)
    rows = _drive(callback, method, [7.0, 8.0])
    assert [row["step"] for row in rows] == [1, 4]
    assert rows[-1]["epoch_loss"] == 6.5


@pytest.mark.parametrize("done", [2, 4])
def test_a_run_goes_on_when_its_metrics_were_removed(method, tmp_path, done):
    callback = _start(tmp_path, method, log=1)
    _drive(callback, method, [1.0] * done)
    (tmp_path / "metrics.csv").unlink()
    callback = _start(tmp_path, method, log=1)
    rows = _drive(callback, method, [3.0] * (8 - done))
    assert rows[-1]["step"] == 8
    assert rows[-1]["loss"] == 3.0


@pytest.mark.parametrize("optimizer", ["sgd", "lamb", "sgdw"])
def test_the_logged_rate_is_the_one_of_the_step(tmp_path, optimizer):
    schedule = schedules.Cosine(0.4, 2, STEPS_PER_EPOCH, unit="step")
    method = fakes.make_method(optimizer, rate=schedule)
    callback = _start(tmp_path, method, log=1, epochs=2)
    views = tf.zeros([2, 4, 4, 3], tf.uint8)
    batch = {
        "query": views,
        "key": views,
        "index": tf.range(2, dtype=tf.int64),
        "order": tf.range(2),
        "valid": [True, True],
    }
    method.fit(
        tf.data.Dataset.from_tensors(batch).repeat(),
        steps_per_epoch=STEPS_PER_EPOCH,
        epochs=2,
        callbacks=[callback],
        verbose=0,
    )
    rates = [row["learning_rate"] for row in callback.metrics.rows()]
    expected = 0.2 * (1 + np.cos(np.pi * np.arange(8) / 8))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_worker_0_has_a_limit_again_after_it_has_measured(method, tmp_path):
    class Guard(watchdog.Guard):
        limits = []

        def limit(self, seconds, activity):
            self.limits.append((seconds, activity))

    callback = _start(tmp_path, method)
    callback.guard = Guard(stall_timeout=9.0)
    _drive(callback, method, [1.0] * 4)
    callback.guard.first_step()
    assert Guard.limits[-3:] == [
        (0, "the evaluation of an epoch"),
        (9.0, "the step after step 4"),
        (36.0, "the start of training"),
    ]


def test_a_checkpoint_of_weights_has_no_steps_to_report(tmp_path):
    """import-weights writes one of a later step, whose step log is empty."""
    method = fakes.make_method()
    method.step.assign(8)
    callback = _start(tmp_path, method, log=1)
    assert callback.metrics.rows() == []
    rows = _drive(callback, method, [3.0, 2.0])
    assert [(row["step"], row["steps"]) for row in rows] == [(9, 1), (10, 1)]
