"""TensorFlow Serving's REST predict format: JSON bodies to arrays, and back.

    {"signature_name": NAME, "instances": [ROW, …]}        row form
    {"signature_name": NAME, "inputs": {INPUT: [ROW, …]}}  column form

A ROW is a value, or {INPUT: value} where named; bytes are {"b64": TEXT}.
What TensorFlow Serving would read otherwise is refused, never guessed.
"""

import base64
import collections
import contextlib
import itertools
import json
import re
import string
from typing import NamedTuple

import numpy as np

# The usual body, for messages.
FORM = '{"instances": [{"b64": TEXT}]}'
_LETTERS = string.ascii_letters + string.digits + "+/"
_BASE64 = re.compile("(?:[A-Za-z0-9+/]+={0,2})?")
_DATA_ADDRESS = re.compile("data:[^,]*?;base64,", re.IGNORECASE)
_LINE_ENDS = re.compile("[\r\n]")
_URL_SAFE = str.maketrans("-_", "+/")
_SIGNATURES = ("signature", "signaturename", "signaturedef")  # letters only
_MAX_INTEGER = 2**24 - 1  # float32 holds every whole number up to it
_MOST_AXES = 32  # of an array of NumPy


class RequestError(Exception):
    """A refusal of a request, with its HTTP status and headers of its own."""

    def __init__(self, status, message, headers=None):
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


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
        message = json.loads(body, object_pairs_hook=_no_name_twice)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            400, f"The body must be JSON: {error}. Send {FORM}."
        ) from None
    if not isinstance(message, dict):
        raise RequestError(400, f"The body must be a JSON object. Send {FORM}.")
    name = _signature(message, signatures)
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
            f"{max(rows)}. Send the others in another request.",
        )
    arrays = {
        key: _array(key, column, wanted[key]) for key, column in columns.items()
    }
    return Request(name, arrays, by_row)


def _no_name_twice(pairs):
    """An object of JSON as a dict; readers differ in which of two counts."""
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"an object has the name {twice[:100]!r} twice")
    return content


def _signature(message, signatures):
    """The name of the signature that a body asks for."""
    for key in message:
        letters = re.sub("[^a-z]", "", key.lower())
        if key != "signature_name" and letters in _SIGNATURES:
            raise RequestError(
                400,
                f"There is no {key!r} in a request; without a name the "
                'signature would be serving_default. Write "signature_name".',
            )
    name = message.get("signature_name") or "serving_default"
    if not isinstance(name, str) or name not in signatures:
        raise RequestError(
            400,
            f"There is no signature {str(name)[:100]!r}. This model has "
            f"{', '.join(sorted(signatures))}.",
        )
    return name


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
        raise RequestError(
            400, f'"inputs" must hold {", ".join(wanted)}: lists of rows.'
        )
    for key, column in inputs.items():
        if not isinstance(column, list) or not column:
            raise RequestError(400, f"{key} must be a list, not empty.")
    return inputs


def _array(name, column, form):
    """A column as an array of the input's dtype and shape."""
    if form.dtype.kind == "S":
        values = [_bytes(name, row, value) for row, value in enumerate(column)]
        array = np.empty(len(values), object)
        array[:] = values
        return array
    array = np.array(None)
    # Of a text among numbers NumPy would make each of them as long as it is.
    if _are_numbers(column):
        # Rows of several lengths; a number that no float64 holds.
        with contextlib.suppress(ValueError, OverflowError):
            array = np.array(column)
    if array.dtype.kind not in "iuf":
        raise RequestError(
            400,
            f"{name} must be numbers, in rows of one shape, of a size that "
            "float32 holds. Files go to a signature of bytes, as "
            "serving_default.",
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
    if form.dtype.kind == "f":
        _check_float32(name, array, column)
    return array.astype(form.dtype)


def _are_numbers(column):
    """Whether a nested list holds numbers alone, and neither true nor false."""
    for _ in range(_MOST_AXES):
        kinds = set(map(type, column))
        if kinds != {list}:
            return kinds <= {int, float}
        column = list(itertools.chain.from_iterable(column))
    return False


def _check_float32(name, array, column):
    """Refuses numbers that float32 cannot hold, by their row."""
    largest = np.finfo(np.float32).max
    # As float64: the size of the least int64 is no int64.
    sizes = np.abs(array.astype(np.float64))
    # Compared as they are: a conversion would overflow with a warning.
    wrong = ~(sizes <= largest)  # also of NaN
    rule = f"finite numbers, at most {largest:.4g} (float32)"
    if not wrong.any() and sizes.max() > _MAX_INTEGER:
        wrong = sizes > _MAX_INTEGER
        if array.dtype.kind == "f":  # of the decimals, float32 has the nearest
            wrong &= _are_integers(column, array)
        rule = f"of whole ones at most {_MAX_INTEGER} (float32)"
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        value = array[wrong].flat[0]
        raise RequestError(
            400,
            f"{name} must be {rule}. Received {value} in row {row}. Pixels "
            "are normalised: (RGB / 255 - mean) / std.",
        )


def _are_integers(column, array):
    """Which entries of a nested list are written without a point; as array."""
    flat = column
    for _ in range(array.ndim - 1):
        flat = [entry for part in flat for entry in part]
    return np.array([type(x) is int for x in flat]).reshape(array.shape)


def _bytes(name, row, value):
    """The bytes of a file in JSON: {"b64": TEXT}, or the address of data."""
    text = value
    if isinstance(value, dict) and set(value) == {"b64"}:
        text = value["b64"]
        if not isinstance(text, str):
            raise _not_base64(name, row, f"it is {type(text).__name__}")
    elif not (isinstance(value, str) and _DATA_ADDRESS.match(value)):
        received = _shortened(value)
        raise RequestError(
            400,
            f'{name} must be {{"b64": TEXT}} in each row, TEXT the base64 of '
            f"the bytes of a file. Received {received} in row {row}. Paths "
            "and addresses are not opened here.",
        )
    return _from_base64(name, row, text)


def _shortened(value):
    """A value of JSON as its beginning shows it, however deep or long it is."""
    if isinstance(value, list):
        return "[…]" if value else "[]"
    if isinstance(value, dict):
        names = [json.dumps(name[:20]) for name in itertools.islice(value, 3)]
        return f"{{{', '.join(f'{name}: …' for name in names)}}}"
    text = json.dumps(value[:60] if isinstance(value, str) else value)
    return text if len(text) < 60 else f"{text[:50]}…"


def _from_base64(name, row, text):
    """Decodes base64: either alphabet, lines or one, with padding or without.

    None of this can be read in two ways. A blank can: it may be a + that a form
    took for one, so it is refused.
    """
    address = _DATA_ADDRESS.match(text)
    text = text[address.end() :] if address else text
    lines = _LINE_ENDS.split(text)
    text = "".join(line.strip() for line in lines).translate(_URL_SAFE)
    if not _BASE64.fullmatch(text):
        odd = text.lstrip(_LETTERS)[:1]  # the first that is none of them
        raise _not_base64(name, row, f"it has {odd!r}")
    text = text.rstrip("=")
    if len(text) % 4 == 1:
        raise _not_base64(name, row, "it is cut")
    return base64.b64decode(text + "=" * (-len(text) % 4))


def _not_base64(name, row, why):
    return RequestError(
        400,
        f"{name} of row {row} is not base64: {why}. Send the base64 of the "
        "file's bytes, as `base64 -w0 FILE` prints it.",
    )


def render(outputs, by_row):
    """The body of an answer.

    Args:
      outputs: dict name -> array, rows first. by_row: form of the request.

    Returns:
      bytes, JSON.

    Raises:
      RequestError: 500 for numbers that JSON cannot hold.
    """
    for name, value in outputs.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            row = int(np.argwhere(~np.isfinite(value))[0][0])
            raise RequestError(
                500,
                f"The output {name} of row {row} is no finite number, which "
                "JSON cannot hold: the row's pixels are too large, or the "
                "weights are damaged. Send normalised pixels, or serve another "
                "export.",
            )
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
