"""What every method inherits: the log of its steps and where fit starts."""

import pytest
import tensorflow as tf

from moco_tf.methods import method


class Counter(method.Method):
    """Takes the batch's value as its loss; learns nothing."""

    def train_step(self, batch):
        return {"loss": batch, "instance_top1": 0.5, "unreadable": 0.0}


@pytest.fixture
def counter():
    model = Counter("counter")
    model.compile()
    return model


def _fit(model, first, epochs):
    """Fits epochs of three steps on first, first + 1, …"""
    values = tf.data.Dataset.range(first, 3 * epochs)
    values = values.map(lambda x: tf.cast(x, tf.float32))
    epochs_seen = []
    on_begin = tf.keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epochs_seen.append(epoch)
    )
    model.fit(
        values,
        epochs=epochs,
        steps_per_epoch=3,
        callbacks=[on_begin],
        verbose=0,
    )
    return epochs_seen


def test_the_log_holds_what_each_step_returned(counter):
    assert _fit(counter, 0, 2) == [0, 1]
    assert counter.step.numpy() == 6
    log = counter.step_log.read(2, 5)
    assert log["loss"] == [2.0, 3.0, 4.0]
    assert log["instance_top1"] == [0.5] * 3
    assert all(0 <= wait < 10 for wait in log["input_wait"])


def test_fit_starts_inside_an_epoch(counter):
    counter.step.assign(4)
    counter.start_at(1, 1)
    assert _fit(counter, 4, 3) == [1, 2]
    assert counter.step.numpy() == 9
    assert counter.step_log.read(4, 9)["loss"] == [4.0, 5.0, 6.0, 7.0, 8.0]


def test_the_log_is_a_ring_of_its_last_steps():
    log = method.StepLog(["loss"])
    capacity = log.CAPACITY
    for step in (0, capacity - 1, capacity, capacity + 1):
        row = tf.cast([step], tf.float32)
        log.write(tf.constant(step, tf.int64), row)
    result = log.read(capacity - 1, capacity + 2)["loss"]
    assert result == [capacity - 1, capacity, capacity + 1]
    assert log.read(5, 5) == {"loss": []}


def test_more_steps_than_the_log_holds_are_refused():
    log = method.StepLog(["loss"])
    with pytest.raises(ValueError, match="holds 1024.*steps 0 to 1024"):
        log.read(0, 1025)


def test_a_method_must_name_its_backbone_and_variables(counter):
    with pytest.raises(AttributeError, match="Counter names no backbone"):
        _ = counter.backbone
    with pytest.raises(AttributeError, match="Counter names no variables"):
        counter.trained_variables()


def test_a_step_returns_whether_its_process_asks_to_leave(counter, tmp_path):
    step = counter.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(1.0).repeat(3))
    assert float(step(batches)["leave"]) == 0.0
    counter.leave.ask()
    assert float(step(batches)["leave"]) == 1.0
    # It is of this process, not of the run.
    path = tf.train.Checkpoint(model=counter).write(str(tmp_path / "state"))
    names = [name for name, _ in tf.train.list_variables(path)]
    assert any("model/step/" in name for name in names)
    assert not any("leave" in name or "asked" in name for name in names)


def test_the_seconds_waited_for_input_are_taken_on_the_host(monkeypatch):
    seconds = iter([1.0, 3.5])
    monkeypatch.setattr(method.time, "perf_counter", lambda: next(seconds))
    train = method.TrainFunction(lambda batch, wait: (batch, wait.numpy()))
    assert train(iter(["a batch"])) == ("a batch", 2.5)
    with pytest.raises(StopIteration):
        train(iter([]))


def test_a_step_holds_neither_a_clock_nor_the_input(counter):
    _fit(counter, 0, 1)
    kinds = {
        operation.type for operation in counter.step_graph.get_operations()
    }
    assert "ResourceScatterUpdate" in kinds  # the log
    assert not kinds & {"Timestamp", "PyFunc", "IteratorGetNext"}
    waits = counter.step_log.read(0, 3)["input_wait"]
    assert all(0 < seconds < 600 for seconds in waits)
