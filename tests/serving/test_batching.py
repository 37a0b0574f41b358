import threading

import numpy as np
import pytest

from moco_tf.serving import batching, predict_api
from tests import waiting


class _Model:
    """Doubles its rows; remembers its calls; waits where a test wants it."""

    def __init__(self):
        self.calls = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()

    def __call__(self, signature, inputs):
        self.entered.set()
        self.go_on.wait(10)
        self.calls.append((signature, len(inputs["x"])))
        if (inputs["x"] < 0).any():
            raise ValueError("negative\nmore")
        return {"y": 2 * inputs["x"]}


@pytest.fixture(name="model")
def _model():
    return _Model()


@pytest.fixture(name="batcher")
def _batcher(model):
    batcher = batching.Batcher(model, max_rows=4, wait=0.05, max_waiting=8)
    yield batcher
    model.go_on.set()
    batcher.close()


def test_rows_that_nobody_waits_for_leave_the_queue(batcher, model):
    model.go_on.clear()
    first = threading.Thread(target=_submit_all, args=[batcher, [[1.0] * 4]])
    first.start()
    assert model.entered.wait(10)
    for _ in range(3):  # 8 rows may wait
        (late,) = _submit_all(batcher, [[2.0] * 4], timeout=0.05)
        assert late.status == 504
    model.go_on.set()
    first.join()
    (answer,) = _submit_all(batcher, [[3.0]])
    assert answer["y"].tolist() == [6.0]


def _submit_all(batcher, columns, signature="s", timeout=10):
    """Submits at once, from a thread each; results or errors in order."""
    results = [None] * len(columns)

    def submit(index):
        column = np.array(columns[index], np.float32)
        try:
            results[index] = batcher.submit(signature, {"x": column}, timeout)
        except predict_api.RequestError as error:
            results[index] = error

    threads = [
        threading.Thread(target=submit, args=[index])
        for index in range(len(columns))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_each_request_gets_its_own_rows(batcher):
    columns = [[n, n + 0.5] for n in range(4)]  # no more may wait
    results = _submit_all(batcher, columns)
    for column, outputs in zip(columns, results, strict=True):
        assert outputs["y"].tolist() == [2 * x for x in column]


def test_what_waits_is_run_together_up_to_the_limit(batcher, model):
    model.go_on.clear()
    first = threading.Thread(target=_submit_all, args=[batcher, [[0]]])
    first.start()
    assert model.entered.wait(10)
    others = threading.Thread(target=_submit_all, args=[batcher, [[1]] * 6])
    others.start()
    waiting.wait_for(lambda: batcher._rows >= 6)
    model.go_on.set()
    first.join()
    others.join()
    assert model.calls == [("s", 1), ("s", 4), ("s", 2)]


def test_rows_of_another_form_are_not_mixed(batcher, model):
    results = _submit_all(batcher, [[1], [[1, 2]], [2], [[3, 4]]])
    assert [outputs["y"].shape for outputs in results] == (
        [(1,), (1, 2), (1,), (1, 2)]
    )
    assert sum(rows for _, rows in model.calls) == 4


def test_a_larger_request_than_the_limit_runs_alone(batcher, model):
    (outputs,) = _submit_all(batcher, [list(range(7))])
    assert outputs["y"].tolist() == [2 * x for x in range(7)]
    assert model.calls == [("s", 7)]


def test_a_failure_is_reported_and_the_next_request_answered(batcher):
    (error,) = _submit_all(batcher, [[-1]])
    assert (error.status, str(error)) == (500, "The model failed: negative")
    (outputs,) = _submit_all(batcher, [[3]])
    assert outputs["y"].tolist() == [6]


@pytest.mark.parametrize("fault", [MemoryError(), np.float32(1)])
def test_whatever_the_model_does_the_next_request_is_answered(
    fault, batcher, model, monkeypatch
):
    def faulty(signature, inputs):
        if isinstance(fault, Exception):
            raise fault
        return {"y": fault}  # no rows

    monkeypatch.setattr(batcher, "_run", faulty)
    (error,) = _submit_all(batcher, [[1]])
    assert error.status == 500
    monkeypatch.undo()
    (outputs,) = _submit_all(batcher, [[3]])
    assert outputs["y"].tolist() == [6]


def test_too_many_rows_are_refused_at_once(batcher, model):
    model.go_on.clear()
    first = threading.Thread(target=_submit_all, args=[batcher, [[0]]])
    first.start()
    assert model.entered.wait(10)
    others = threading.Thread(target=_submit_all, args=[batcher, [[1]] * 8])
    others.start()
    waiting.wait_for(lambda: batcher._rows >= 8)
    (error,) = _submit_all(batcher, [[1]])
    assert error.status == 503
    model.go_on.set()
    first.join()
    others.join()


def test_a_client_that_waits_too_long_is_refused_and_forgotten(batcher, model):
    model.go_on.clear()
    first = threading.Thread(target=_submit_all, args=[batcher, [[0]]])
    first.start()
    assert model.entered.wait(10)
    (error,) = _submit_all(batcher, [[1]], timeout=0.05)
    assert error.status == 504
    model.go_on.set()
    first.join()
    _submit_all(batcher, [[2]])
    assert model.calls == [("s", 1), ("s", 1)]


def test_a_closed_batcher_takes_no_more(model):
    batcher = batching.Batcher(model)
    batcher.close()
    with pytest.raises(predict_api.RequestError, match="Try again later"):
        batcher.submit("s", {"x": np.zeros(1)}, 1)
