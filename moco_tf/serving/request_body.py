"""The body of an HTTP request: its length, its packing, what it is instead."""

import zlib

from moco_tf import file_kinds
from moco_tf.serving import predict_api

_PACKINGS = {"": False, "identity": False, "gzip": True, "x-gzip": True}
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib reads gzip's header with it
_NO_FILES = ("text", "unknown", "substitute")  # groups of file_kinds
_SERVED = (file_kinds.JPEG, file_kinds.PNG, file_kinds.GIF, file_kinds.BMP)


def read(environ, max_bytes):
    """Reads the body of a request, unpacked.

    Args:
      environ: of WSGI. max_bytes: int, of the body as sent, and unpacked.

    Returns:
      bytes, not empty.

    Raises:
      RequestError: 411 without a body, 413 for too many bytes, 415 for a
        packing other than gzip, 400 for a damaged body.
    """
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    if length <= 0:
        raise predict_api.RequestError(
            411, f"The body is missing. Send JSON: {predict_api.FORM}."
        )
    if length > max_bytes:
        raise _too_large(max_bytes, length)
    body = environ["wsgi.input"].read(length)
    packing = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if packing not in _PACKINGS:
        raise predict_api.RequestError(
            415,
            "The Content-Encoding of a body must be gzip or identity. "
            f"Received {packing[:100]!r}. Leave the header out and send the "
            "body as it is, or packed by gzip.",
            {"Accept-Encoding": "gzip, identity"},
        )
    return _unpack(body, max_bytes) if _PACKINGS[packing] else body


def _too_large(max_bytes, received):
    return predict_api.RequestError(
        413,
        f"A body must not have more than {max_bytes} bytes. Received "
        f"{received}. Send fewer rows in a request.",
    )


def _unpack(body, max_bytes):
    """Unpacks gzip, no further than one byte beyond the limit."""
    reader = zlib.decompressobj(_GZIP_WINDOW)
    try:
        unpacked = reader.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise _damaged(error) from None
    if len(unpacked) > max_bytes:
        raise _too_large(max_bytes, "more, unpacked")
    if not reader.eof:
        raise _damaged("it ends too early")
    if reader.unused_data:
        raise _damaged("other bytes follow it")
    return unpacked


def _damaged(why):
    return predict_api.RequestError(
        400,
        f"The Content-Encoding is gzip, but the body is not gzip: {why}. "
        "Leave the header out where the body is not packed.",
    )


def explained(error, body, content_type):
    """A refusal of a body, with what the body seems to be instead of JSON.

    Args:
      error: RequestError of `predict_api.parse`.
      body: bytes. content_type: str, the header of that name, or "".

    Returns:
      RequestError: another one where the body is a known other thing.
    """
    kind = file_kinds.kind_of(body[: file_kinds.HEAD])
    if kind == file_kinds.GZIP:
        return predict_api.RequestError(
            415,
            "The body must be JSON. Received gzip. Add the header "
            "Content-Encoding: gzip.",
        )
    if kind == file_kinds.BASE64:
        return predict_api.RequestError(
            415,
            "The body must be JSON. Received base64 alone. Put it in: "
            f"{predict_api.FORM}.",
        )
    if kind.group not in _NO_FILES:
        # Of what no model reads, first another file is to be made.
        first = "" if kind in _SERVED else f"{kind.remedy} "
        return predict_api.RequestError(
            415,
            f"The body must be JSON. Received {kind.name}. {first}Send the "
            f"file's bytes as base64 in JSON: {predict_api.FORM}. For a file: "
            """(printf '{"instances": [{"b64": "'; base64 -w0 FILE; """
            """printf '"}]}') | curl --data-binary @- ADDRESS""",
        )
    if content_type.lower().startswith("multipart/"):
        return predict_api.RequestError(
            415,
            "The body must be JSON. Received a form (multipart). Send the "
            f"file's bytes as base64 in JSON: {predict_api.FORM}.",
        )
    return error
