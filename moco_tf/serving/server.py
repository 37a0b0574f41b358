"""A SavedModel behind TensorFlow Serving's REST paths, as a WSGI application.

GET  /healthz
GET  /v1/models/NAME[/versions/VERSION]            model status
GET  /v1/models/NAME[/versions/VERSION]/metadata   signatures
POST /v1/models/NAME[/versions/VERSION]:predict

Requests of several clients at a time are answered by one call of the model.
"""

import collections
import io
import json
import pathlib
import re
import threading
import time
from typing import NamedTuple

import numpy as np
import PIL.Image
import tensorflow as tf

from moco_tf.data import decode
from moco_tf.serving import predict_api

_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+))?"
    r"(?P<action>/metadata|:predict)?"
)
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Payload Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class Limits(NamedTuple):
    """Limits of one request."""

    body_bytes: int = 32 * 2**20
    rows: int = 64
    pixels: int = 40_000_000  # of one image, before it is decoded
    seconds: float = 60.0


DEFAULT_LIMITS = Limits()


def newest_version(path):
    """The version folder below an export folder, or the folder itself.

    Args:
      path: export/NAME or export/NAME/VERSION.

    Returns:
      Path of the SavedModel, version int (1 for a folder without a number).

    Raises:
      ValueError: where there is no SavedModel.
    """
    path = pathlib.Path(path).expanduser()
    folders = [path] if (path / "saved_model.pb").is_file() else []
    if not folders and path.is_dir():
        folders = [
            folder
            for folder in path.iterdir()
            if folder.name.isdigit() and (folder / "saved_model.pb").is_file()
        ]
    if not folders:
        raise ValueError(
            "A model that is served must be a SavedModel, or a folder of its "
            f"versions. Received {str(path)!r}. Make one with moco-tf export."
        )
    newest = max(folders, key=lambda p: int(p.name) if p.name.isdigit() else 1)
    return newest, int(newest.name) if newest.name.isdigit() else 1


class RestApp:
    """Answers requests for one version of one model."""

    def __init__(self, path, name, limits=DEFAULT_LIMITS, wait=0.002):
        """Loads the model.

        Args:
          path: of a SavedModel or a folder of its versions.
          name: str, of the model in the paths.
          limits: Limits. wait: seconds that a request waits for others.

        Raises:
          ValueError: where there is no SavedModel.
        """
        folder, self._version = newest_version(path)
        self._name = name
        self._limits = limits
        self._model = tf.saved_model.load(str(folder))
        self._signatures = {
            key: {
                argument: predict_api.Input(
                    np.dtype("S")
                    if spec.dtype == tf.string
                    else np.dtype(spec.dtype.as_numpy_dtype),
                    tuple(spec.shape.as_list()),
                )
                for argument, spec in function.structured_input_signature[
                    1
                ].items()
            }
            for key, function in self._model.signatures.items()
        }
        # Sizes are checked here; Pillow's own limit would warn before.
        PIL.Image.MAX_IMAGE_PIXELS = None
        self._batcher = Batcher(self._run, limits.rows, wait)

    def close(self):
        """Ends the thread that runs the model."""
        self._batcher.close()

    def __call__(self, environ, start_response):
        """WSGI: one request."""
        try:
            status, body = 200, self._answer(environ)
        except predict_api.RequestError as error:
            status = error.status
            body = json.dumps({"error": str(error)}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]
        start_response(f"{status} {_REASONS[status]}", headers)
        return [body]

    def _answer(self, environ):
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if path == "/healthz":
            return b'{"status": "ok"}'
        match = _PATH.fullmatch(path)
        if not match or match["name"] != self._name:
            raise predict_api.RequestError(
                404,
                f"There is nothing at {path!r}. The model is "
                f"/v1/models/{self._name}.",
            )
        if match["version"] and int(match["version"]) != self._version:
            raise predict_api.RequestError(
                404,
                f"Version {match['version']} is not served; {self._version} "
                "is.",
            )
        expected = "POST" if match["action"] == ":predict" else "GET"
        if method != expected:
            raise predict_api.RequestError(405, f"Use {expected} here.")
        if match["action"] == ":predict":
            return self._predict(environ)
        if match["action"] == "/metadata":
            return json.dumps(self._metadata()).encode()
        status = {"error_code": "OK", "error_message": ""}
        version = {
            "version": str(self._version),
            "state": "AVAILABLE",
            "status": status,
        }
        return json.dumps({"model_version_status": [version]}).encode()

    def _predict(self, environ):
        try:
            length = int(environ.get("CONTENT_LENGTH") or 0)
        except ValueError:
            length = 0
        if length <= 0:
            raise predict_api.RequestError(411, "The body is missing.")
        if length > self._limits.body_bytes:
            raise predict_api.RequestError(
                413,
                f"A body must not have more than {self._limits.body_bytes} "
                f"bytes. Received {length}.",
            )
        body = environ["wsgi.input"].read(length)
        request = predict_api.parse(body, self._signatures, self._limits.rows)
        for column in request.inputs.values():
            self._check_pixels(column)
        outputs = self._batcher.submit(
            request.signature, request.inputs, self._limits.seconds
        )
        return predict_api.render(outputs, request.by_row)

    def _check_pixels(self, column):
        """Refuses images that would fill the memory, by their headers."""
        if column.dtype.kind != "O":
            sizes = [column.shape[1:3]] if column.ndim == 4 else []
        else:
            sizes = [_size(data) for data in column]
        for row, (height, width) in enumerate(sizes):
            if height * width > self._limits.pixels:
                raise predict_api.RequestError(
                    413,
                    f"An image must not have more than {self._limits.pixels} "
                    f"pixels. Received {height} x {width} in row {row}.",
                )

    def _run(self, signature, inputs):
        tensors = {
            name: tf.constant(
                x.tolist() if x.dtype.kind == "O" else x,
                tf.string if x.dtype.kind == "O" else None,
            )
            for name, x in inputs.items()
        }
        outputs = self._model.signatures[signature](**tensors)
        return {name: value.numpy() for name, value in outputs.items()}

    def _metadata(self):
        """Signatures with inputs and outputs, dtype and shape."""
        described = {}
        for name, function in self._model.signatures.items():
            parts = {
                "inputs": function.structured_input_signature[1],
                "outputs": function.structured_outputs,
            }
            described[name] = {
                part: {
                    key: {"dtype": spec.dtype.name, "shape": list(spec.shape)}
                    for key, spec in specs.items()
                }
                for part, specs in parts.items()
            }
        spec = {"name": self._name, "version": str(self._version)}
        return {"model_spec": spec, "metadata": {"signature_def": described}}


def _size(data):
    """Height and width by an image's header; 0, 0 where it has none."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=decode.FORMATS) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError):
        return 0, 0  # the model reports the row as not valid


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
            waiting.abandoned = True
            raise predict_api.RequestError(504, "The model took too long.")
        if waiting.error is not None:
            raise waiting.error
        return waiting.outputs

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
