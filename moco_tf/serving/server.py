"""A SavedModel behind TensorFlow Serving's REST paths, as a WSGI application.

GET  /healthz
GET  /v1/models/NAME[/versions/VERSION]            model status
GET  /v1/models/NAME[/versions/VERSION]/metadata   signatures
POST /v1/models/NAME[/versions/VERSION]:predict

HEAD and OPTIONS are answered too. Every answer is JSON, an error's as well.
Requests of several clients at a time are answered by one call of the model.
"""

import json
import re
import traceback
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from moco_tf import lane, paths
from moco_tf.models import saved_models
from moco_tf.serving import batching, image_size, predict_api, request_body

_NUMBER = re.compile("[0-9]+")
# In any case of the letters, as TensorFlow Serving has it; names have theirs.
_PATH = re.compile(
    r"/(?i:v1/models)/(?P<name>[^/:]+)"
    r"(?:/(?i:versions)/(?P<version>[0-9]+)|/(?i:labels)/(?P<label>[^/:]+))?"
    r"(?P<action>(?i:/metadata|:predict|:classify|:regress))?"
)
_VERSION_DIGITS = 19  # of the largest version, 2**63 - 1
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Payload Too Large",
    415: "Unsupported Media Type",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class Limits(NamedTuple):
    """Limits of one request."""

    body_bytes: int = 32 * 2**20  # also of what a packed body unfolds to
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
    path = paths.expand(path)
    folders = [path] if (path / "saved_model.pb").is_file() else []
    if not folders and path.is_dir():
        folders = [
            folder
            for folder in path.iterdir()
            if _NUMBER.fullmatch(folder.name)
            and (folder / "saved_model.pb").is_file()
        ]
    if not folders:
        raise ValueError(
            "A model that is served must be a SavedModel, or a folder of its "
            f"versions. Received {str(path)!r}. Make one with moco-tf export."
        )

    def number(folder):
        return int(folder.name) if _NUMBER.fullmatch(folder.name) else 1

    newest = max(folders, key=number)
    return newest, number(newest)


class RestApp:
    """Answers requests for one version of one model."""

    def __init__(self, path, name, limits=DEFAULT_LIMITS, wait=0.002):
        """Loads the model.

        Args:
          path: of a SavedModel or a folder of its versions.
          name: str, of the model in the paths.
          limits: Limits. wait: seconds that a request waits for others.

        Raises:
          ValueError: where there is no SavedModel, or for a name that no path
            can hold.
        """
        if not name or re.search("[/:]", name):
            raise ValueError(
                "The name of a served model must be text without / and :. "
                f"Received {name!r}. Pass --name=encoder."
            )
        folder, self._version = newest_version(path)
        self._name = name
        self._limits = limits
        self._model = saved_models.load(folder)
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
        self._described = _signature_defs(folder, self._signatures)
        self._batcher = batching.Batcher(self._run, limits.rows, wait)

    def close(self):
        """Ends the thread that runs the model."""
        self._batcher.close()

    def __call__(self, environ, start_response):
        """WSGI: one request."""
        headers = {}
        try:
            status, (body, headers) = 200, self._answer(environ)
        except predict_api.RequestError as error:
            status, headers = error.status, error.headers
            body = _error(error)
        except Exception as error:  # a fault of ours: the server goes on
            traceback.print_exc(file=environ["wsgi.errors"])
            status = 500
            body = _error(
                f"The server failed ({type(error).__name__}): its log has more."
            )
        rows = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *headers.items(),
        ]
        start_response(f"{status} {_REASONS[status]}", rows)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ):
        """The body of an answer, and headers of its own."""
        method = environ["REQUEST_METHOD"]
        # WSGI gives the bytes of a path as the characters of Latin-1.
        path = environ.get("PATH_INFO", "").encode("latin-1")
        path = path.decode("utf-8", "replace")
        if path == "*" and method == "OPTIONS":  # of the server as a whole
            return b"", {"Allow": "GET, HEAD, POST, OPTIONS"}
        action = self._find(path)
        verbs = "POST" if action == ":predict" else "GET, HEAD"
        allowed = {"Allow": f"{verbs}, OPTIONS"}
        if method == "OPTIONS":
            return b"", allowed
        if method not in verbs.split(", "):
            raise predict_api.RequestError(
                405, f"Use {verbs.split(',')[0]} here.", allowed
            )
        if action == ":predict":
            return self._predict(environ), {}
        if action == "/metadata":
            return json.dumps(self._metadata()).encode(), {}
        if action == "/healthz":
            return b'{"status": "ok"}', {}
        return json.dumps(self._status()).encode(), {}

    def _find(self, path):
        """What a path asks for: /healthz, /metadata, :predict or ""."""
        if path == "/healthz":
            return path
        match = _PATH.fullmatch(path)
        if not match or match["name"] != self._name:
            raise predict_api.RequestError(
                404,
                f"There is nothing at {path[:200]!r}. The model is "
                f"/v1/models/{self._name}.",
            )
        if match["label"]:
            raise predict_api.RequestError(
                404,
                f"Versions have no labels here. Received {match['label']!r}. "
                f"Use /versions/{self._version}, or leave it out.",
            )
        if match["version"]:
            self._check_version(match["version"])
        action = (match["action"] or "").lower()
        if action in (":classify", ":regress"):
            raise predict_api.RequestError(
                400,
                f"Signatures are of the kind predict. Received {action!r}. "
                "Use :predict; for classes, in an export that has them, with "
                '"signature_name": "classify".',
            )
        return action

    def _check_version(self, text):
        digits = text.lstrip("0")
        if len(digits) > _VERSION_DIGITS:
            raise predict_api.RequestError(
                400,
                f"A version has up to {_VERSION_DIGITS} digits. Received one "
                f"of {len(digits)}. Use {self._version}, or leave it out.",
            )
        if int(digits or 0) != self._version:
            raise predict_api.RequestError(
                404,
                f"Version {text} is not served; {self._version} is.",
            )

    def _predict(self, environ):
        body = request_body.read(environ, self._limits.body_bytes)
        try:
            request = predict_api.parse(
                body, self._signatures, self._limits.rows
            )
        except predict_api.RequestError as error:
            content_type = environ.get("CONTENT_TYPE", "")
            raise request_body.explained(error, body, content_type) from None
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
            sizes = [image_size.of_file(data) for data in column]
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
        # In one order, whatever order TensorFlow keeps them in.
        return {name: outputs[name].numpy() for name in sorted(outputs)}

    def _status(self):
        status = {"error_code": "OK", "error_message": ""}
        version = {
            "version": str(self._version),
            "state": "AVAILABLE",
            "status": status,
        }
        return {"model_version_status": [version]}

    def _metadata(self):
        """A GetModelMetadataResponse of TensorFlow Serving as JSON."""
        spec = {
            "name": self._name,
            "signature_name": "",
            "version": str(self._version),
        }
        return {
            "model_spec": spec,
            "metadata": {"signature_def": {"signature_def": self._described}},
        }


def _error(error):
    return json.dumps({"error": str(error)}).encode()


def _signature_defs(folder, names):
    """The SignatureDefs of a SavedModel by name, as protobuf's JSON."""
    content = (folder / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]
    return {
        name: json_format.MessageToDict(
            graph.signature_def[name],
            preserving_proto_field_name=True,
            **{lane.WITH_DEFAULTS: True},
        )
        for name in sorted(names)
    }
