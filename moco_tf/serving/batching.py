"""Requests of several clients, answered together by one call of a model."""

import collections
import threading
import time

import numpy as np

from moco_tf.serving import predict_api


class Batcher:
    """Gathers rows of one form for a short time and runs them together.

    A call of the model costs much the same for one row as for some, so waiting
    clients are answered together. Requests of another form wait their turn.
    """

    def __init__(self, run, max_rows=64, wait=0.002, max_waiting=1024):
        """Starts the thread that runs the model.

        Args:
          run: (signature, dict of arrays) -> dict of arrays.
          max_rows: int, of a call of the model.
          wait: seconds that a request waits for others.
          max_waiting: int, rows that may wait; more are refused.
        """
        self._run = run
        self._max_rows = max_rows
        self._wait = wait
        self._max_waiting = max_waiting
        self._waiting: collections.deque = collections.deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def submit(self, signature, inputs, timeout):
        """Runs the rows of a request, alone or with others.

        Args:
          signature: str. inputs: dict name -> array, rows first.
          timeout: seconds.

        Returns:
          dict name -> array, the rows of the request.

        Raises:
          RequestError: 503 when too many rows wait, 504 after the timeout, 500
            when the model fails.
        """
        waiting = _Waiting(signature, inputs)
        with self._changed:
            if self._closed or self._rows + waiting.rows > self._max_waiting:
                raise predict_api.RequestError(
                    503, "Too many rows are waiting. Try again later."
                )
            self._waiting.append(waiting)
            self._rows += waiting.rows
            self._changed.notify_all()
        if not waiting.done.wait(timeout):
            self._leave(waiting)
            raise predict_api.RequestError(
                504,
                "The model took too long. Send fewer rows in a request, or try "
                "again later.",
            )
        if waiting.error is not None:
            raise waiting.error
        return waiting.outputs

    def _leave(self, waiting):
        """Takes out a request that nobody waits for any more."""
        waiting.abandoned = True
        with self._changed:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                self._rows -= waiting.rows

    def close(self):
        """Answers what waits and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _serve(self):
        while True:
            group = self._take()
            if not group:
                return
            self._answer([w for w in group if not w.abandoned])

    def _take(self):
        """The next requests of one form; empty when closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                return []
            deadline = self._waiting[0].since + self._wait
            while self._rows < self._max_rows and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            group: list = []
            rows = 0
            form = self._waiting[0].form
            while self._waiting and self._waiting[0].form == form:
                more = self._waiting[0].rows
                if group and rows + more > self._max_rows:
                    break
                rows += more
                group.append(self._waiting.popleft())
            self._rows -= rows
            return group

    def _answer(self, group):
        if not group:
            return
        try:
            parts = self._parts(group)
        except Exception as error:  # each client gets it; the server goes on
            failure = predict_api.RequestError(500, _first_line(error))
            for waiting in group:
                waiting.finish(error=failure)
            return
        for waiting, outputs in zip(group, parts, strict=True):
            waiting.finish(outputs)

    def _parts(self, group):
        """Outputs of each request of a group, which runs as one."""
        inputs = {
            name: np.concatenate([w.inputs[name] for w in group])
            for name in group[0].inputs
        }
        outputs = self._run(group[0].signature, inputs)
        ends = np.cumsum([waiting.rows for waiting in group])
        return [
            {name: x[end - w.rows : end] for name, x in outputs.items()}
            for w, end in zip(group, ends, strict=True)
        ]


class _Waiting:
    """A request that waits for its answer."""

    def __init__(self, signature, inputs):
        self.signature = signature
        self.inputs = inputs
        self.rows = len(next(iter(inputs.values())))
        shapes = [(key, x.shape[1:]) for key, x in sorted(inputs.items())]
        self.form = (signature, tuple(shapes))
        self.since = time.monotonic()
        self.done = threading.Event()
        self.outputs = self.error = None
        self.abandoned = False

    def finish(self, outputs=None, error=None):
        self.outputs, self.error = outputs, error
        self.done.set()


def _first_line(error):
    text = str(error).strip() or type(error).__name__
    return f"The model failed: {text.splitlines()[0][:200]}"
