"""TensorFlow Serving's REST predict format: JSON bodies to arrays, and back.

    {"signature_name": NAME, "instances": [ROW, …]}        row form
    {"signature_name": NAME, "inputs": {INPUT: [ROW, …]}}  column form

A ROW is a value, or {INPUT: value} where named; bytes are {"b64": TEXT}.
"""

import base64
import binascii
import json
from typing import NamedTuple

import numpy as np


class RequestError(Exception):
    """A refusal of a request, with its HTTP status."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Input(NamedTuple):
    """One input of a signature: NumPy dtype ("S" for bytes) and shape."""

    dtype: np.dtype
    shape: tuple  # None where any size will do


class Request(NamedTuple):
    """The content of a body."""

    signature: str
    inputs: dict  # name -> array, rows first
    by_row: bool  # the form of the answer


def parse(body, signatures, max_rows):
    """Reads a body.

    Args:
      body: bytes.
      signatures: dict name -> dict input name -> Input.
      max_rows: int, of a request.

    Returns:
      Request.

    Raises:
      RequestError: 400 for what is not understood, 413 for too many rows.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"The body must be JSON: {error}") from None
    if not isinstance(message, dict):
        raise RequestError(400, "The body must be a JSON object.")
    name = message.get("signature_name") or "serving_default"
    if not isinstance(name, str) or name not in signatures:
        raise RequestError(
            400,
            f"There is no signature {name!r}. This model has "
            f"{', '.join(sorted(signatures))}.",
        )
    wanted = signatures[name]
    by_row = "instances" in message
    if by_row == ("inputs" in message):
        raise RequestError(400, 'Give either "instances" or "inputs".')
    if by_row:
        columns = _columns(message["instances"], wanted)
    else:
        columns = _named(message["inputs"], wanted)
    rows = {len(column) for column in columns.values()}
    if len(rows) != 1:
        raise RequestError(400, "All inputs must have as many rows.")
    if max(rows) > max_rows:
        raise RequestError(
            413,
            f"A request must not have more than {max_rows} rows. Received "
            f"{max(rows)}.",
        )
    arrays = {
        key: _array(key, column, wanted[key]) for key, column in columns.items()
    }
    return Request(name, arrays, by_row)


def _columns(instances, wanted):
    """Rows to columns."""
    if not isinstance(instances, list) or not instances:
        raise RequestError(
            400, '"instances" must be a list of rows, not empty.'
        )
    if all(_is_named(row, wanted) for row in instances):
        return {key: [row[key] for row in instances] for key in wanted}
    if len(wanted) > 1:
        raise RequestError(
            400, f"Each row must name its inputs: {', '.join(wanted)}."
        )
    return {next(iter(wanted)): instances}


def _is_named(row, wanted):
    return isinstance(row, dict) and set(row) == set(wanted)


def _named(inputs, wanted):
    """The columns of the column form; one input need not be named."""
    if isinstance(inputs, list) and len(wanted) == 1:
        inputs = {next(iter(wanted)): inputs}
    if not isinstance(inputs, dict) or set(inputs) != set(wanted):
        raise RequestError(400, f'"inputs" must hold {", ".join(wanted)}.')
    for key, column in inputs.items():
        if not isinstance(column, list) or not column:
            raise RequestError(400, f"{key} must be a list, not empty.")
    return inputs


def _array(name, column, form):
    """A column as an array of the input's dtype and shape."""
    if form.dtype.kind == "S":
        values = [_bytes(name, value) for value in column]
        array = np.empty(len(values), object)
        array[:] = values
        return array
    try:
        array = np.array(column)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "iuf":
        raise RequestError(
            400, f"{name} must be numbers, in rows of one shape."
        )
    expected = ", ".join("any" if n is None else str(n) for n in form.shape)
    fits = array.ndim == len(form.shape) and all(
        n is None or n == size
        for n, size in zip(form.shape, array.shape, strict=True)
    )
    if not fits or not array.size:
        raise RequestError(
            400,
            f"{name} must have the shape [{expected}]. Received "
            f"{list(array.shape)}.",
        )
    if form.dtype.kind == "u" and (
        array.dtype.kind == "f" or array.min() < 0 or array.max() > 255
    ):
        raise RequestError(400, f"{name} must be whole numbers from 0 to 255.")
    return array.astype(form.dtype)


def _bytes(name, value):
    if not isinstance(value, dict) or set(value) != {"b64"}:
        raise RequestError(400, f'{name} must be {{"b64": TEXT}} in each row.')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise RequestError(400, f"{name} holds what is not base64.") from None


def render(outputs, by_row):
    """The body of an answer.

    Args:
      outputs: dict name -> array, rows first. by_row: form of the request.

    Returns:
      bytes, JSON.
    """
    columns = {name: _plain(name, value) for name, value in outputs.items()}
    if len(columns) == 1:
        (only,) = columns.values()
        answer = {"predictions": only} if by_row else {"outputs": only}
    elif by_row:
        rows = zip(*columns.values(), strict=True)
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        answer = {"predictions": named}
    else:
        answer = {"outputs": columns}
    return json.dumps(answer).encode()


def _plain(name, value):
    """A column of JSON values; bytes of outputs named *_bytes are base64."""
    if value.dtype.kind not in "OS":
        return value.tolist()
    if name.endswith("_bytes"):

        def text(entry):
            return {"b64": base64.b64encode(entry).decode()}
    else:

        def text(entry):
            return entry.decode("utf-8", "replace")

    flat = [text(bytes(entry)) for entry in value.ravel()]
    shaped = np.empty(len(flat), object)
    shaped[:] = flat
    return shaped.reshape(value.shape).tolist()
