"""Requests to a served encoder, with the answer that each must get.

One table: test_requests.py sends each case over a socket of its own to one
server, and tools/serving_requests.py writes the cases into docs/serving.md.
The last column is what TensorFlow Serving does with the same request by its
documentation (api_rest.md) and sources (json_tensor.cc, http_rest_api_util.cc,
evhttp_request.cc), read and not run.
"""

import base64
import gzip
import io
import json
import struct
import zlib
from typing import NamedTuple

import PIL.Image

# Of the server that the cases are sent to.
MAX_ROWS = 8
MAX_BODY = 2**20
MAX_PIXELS = 1_000_000
SIDE = 8  # of the images of its embed_tensors
MODEL = "/v1/models/encoder"
PREDICT = f"{MODEL}:predict"


class Case(NamedTuple):
    """A request and its answer.

    Attributes:
      request: in words, for the page.
      sent: bytes on the wire.
      status: int, of the answer.
      answer: text that the answer holds.
      serving: what TensorFlow Serving does; "same" for the same status, "—"
        where its library for HTTP (libevent) decides, which was not read.
      closes: whether the connection is closed behind the answer; if not, the
        next request on it must be answered.
    """

    request: str
    sent: bytes
    status: int
    answer: str
    serving: str = "same"
    closes: bool = False


def request(verb, path, body=b"", length=True, **headers):
    """The bytes of a request; headers as Content_Encoding="gzip"."""
    lines = [f"{verb} {path} HTTP/1.1", "Host: localhost"]
    if length and (body or verb == "POST"):
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{k.replace('_', '-')}: {v}" for k, v in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def post(message, **headers):
    """The bytes of a request to predict; the message as JSON, text or bytes."""
    if not isinstance(message, bytes | str):
        message = json.dumps(message)
    body = message.encode() if isinstance(message, str) else message
    return request("POST", PREDICT, body, **headers)


def image(form="PNG", size=(6, 5), colour=(250, 130, 247)):
    """The bytes of an image of one colour."""
    file = io.BytesIO()
    PIL.Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def instances(*rows, **more):
    return {"instances": list(rows), **more}


def _chunk(kind, data):
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(side, before=b""):
    """A PNG that claims side x side pixels, with chunks before its pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + before
        + _chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + _chunk(b"IEND", b"")
    )


def large_text():
    """A chunk of PNG that unfolds to more than readers of headers allow."""
    text = zlib.compress(b" " * 70_000_000, 9)
    return _chunk(b"zTXt", b"Comment\0\0" + text)


def gif(canvas, frame):
    """A GIF whose canvas is of another size (width, height) than its frame."""
    data = bytearray(image("GIF", frame))
    data[6:10] = struct.pack("<HH", *canvas)
    return bytes(data)


def gif_frame(width, height):
    """A GIF whose frame claims a size."""
    data = bytearray(image("GIF", (6, 5)))
    position = 13 + 3 * (2 << (data[10] & 7))
    while data[position] == 0x21:  # extensions of one part
        position += 2
        while data[position]:
            position += 1 + data[position]
        position += 1
    data[position + 5 : position + 9] = struct.pack("<HH", width, height)
    data[6:10] = struct.pack("<HH", 6, 5)
    return bytes(data)


def bmp(width, height):
    data = bytearray(image("BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def jpeg(width, height):
    data = bytearray(image("JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


PNG = image()
GOOD = instances(b64(PNG))
TEXT = b64(PNG)["b64"]
# Base64 with + and / in it, where the two alphabets differ.
ODD = next(
    text
    for size in range(1, 99)
    if "+" in (text := b64(image(colour=(size, 7 * size % 256, 3)))["b64"])
    and "/" in text
)
TENSOR = [[[0.5, -1, 2]] * SIDE] * SIDE


def tensors(value, **more):
    """A request of one row of numbers, the first replaced by JSON text."""
    rows = json.dumps(instances(TENSOR, signature_name="embed_tensors", **more))
    return post(rows.replace("0.5", value, 1))


def pixels(value):
    row = f"[[[{value}, 1, 2]]]"
    return post(f'{{"signature_name": "embed_images", "instances": [{row}]}}')


_VALID = '"valid": true'
_NOT_VALID = '"valid": false'
_HUGE = 30_000

PATHS = [
    Case("`GET /healthz`", request("GET", "/healthz"), 200, "ok", "404"),
    Case("`GET` model", request("GET", MODEL), 200, "AVAILABLE"),
    Case(
        "`GET` model`/versions/1`",
        request("GET", f"{MODEL}/versions/1"),
        200,
        "AVAILABLE",
    ),
    Case(
        "`GET` model`/metadata`",
        request("GET", f"{MODEL}/metadata"),
        200,
        '"dtype": "DT_STRING"',
    ),
    Case(
        "`GET /V1/Models/encoder`",
        request("GET", "/V1/Models/encoder"),
        200,
        "AVAILABLE",
    ),
    Case("`HEAD` model", request("HEAD", MODEL), 200, "", "400"),
    Case("`OPTIONS` predict", request("OPTIONS", PREDICT), 200, "", "400"),
    Case("`OPTIONS *`", request("OPTIONS", "*"), 200, "", "—"),
    *(
        Case(
            f"`{verb}` predict, with a body",
            request(verb, PREDICT, b"GET / HTTP/1.1\r\n\r\n"),
            405,
            "Use POST here",
            "400 or 501",
        )
        for verb in ("PUT", "DELETE", "PATCH", "TRACE", "BREW")
    ),
    Case("`GET` predict", request("GET", PREDICT), 405, "Use POST", "400"),
    Case(
        "`POST` model, with a body",
        request("POST", MODEL, b"GET / HTTP/1.1\r\n\r\n"),
        405,
        "Use GET",
        "400",
    ),
    Case("`GET /`", request("GET", "/"), 404, "/v1/models/encoder"),
    Case(
        "another model",
        request("GET", "/v1/models/other"),
        404,
        "/v1/models/encoder",
    ),
    Case(
        "another version",
        request("POST", f"{MODEL}/versions/2:predict", b"{}"),
        404,
        "Version 2 is not served; 1 is",
    ),
    Case(
        "a version of 5,000 digits",
        request("GET", f"{MODEL}/versions/{'9' * 5000}"),
        400,
        "up to 19 digits. Received one of 5000. Use 1",
    ),
    Case(
        "a version's label",
        request("GET", f"{MODEL}/labels/stable"),
        404,
        "no labels here. Received 'stable'. Use /versions/1",
        "200 where it has the label",
    ),
    *(
        Case(
            f"`{verb}`",
            request("POST", MODEL + verb, b"{}"),
            400,
            'Use :predict; for classes, in an export that has them, with "sig',
        )
        for verb in (":classify", ":regress")
    ),
]
FRAMING = [
    Case(
        "no body, no `Content-Length`",
        request("POST", PREDICT, length=False),
        411,
        "body is missing",
        "400",
    ),
    Case("`Content-Length: 0`", post(b""), 411, "body is missing", "400"),
    Case(
        "`Content-Length: -5`",
        request("POST", PREDICT, length=False, Content_Length="-5"),
        400,
        "Content-Length",
        "—",
        closes=True,
    ),
    Case(
        "`Content-Length: five`",
        request("POST", PREDICT, length=False, Content_Length="five"),
        400,
        "Content-Length",
        "—",
        closes=True,
    ),
    Case(
        "two lengths that differ",
        request("POST", PREDICT, b"{}", Content_Length="3"),
        400,
        "Content-Length",
        "—",
        closes=True,
    ),
    Case(
        "a body behind the length",
        request(
            "POST", PREDICT, b'{}{"more": 1}\r\n\r\n', False, Content_Length="2"
        ),
        400,
        "instances",
        "—",
        closes=True,
    ),
    Case(
        "in chunks",
        request(
            "POST",
            PREDICT,
            f"{len(json.dumps(GOOD)):x}\r\n{json.dumps(GOOD)}\r\n0\r\n\r\n".encode(),
            length=False,
            Transfer_Encoding="chunked",
        ),
        200,
        _VALID,
    ),
    Case(
        "in chunks, the size no number",
        request(
            "POST",
            PREDICT,
            b"zz\r\n{}\r\n",
            False,
            Transfer_Encoding="chunked",
        ),
        400,
        "chunk",
        "—",
        closes=True,
    ),
    Case(
        "`Transfer-Encoding: gzip`",
        request("POST", PREDICT, b"x", False, Transfer_Encoding="gzip"),
        501,
        "Transfer-Encoding",
        "—",
        closes=True,
    ),
    Case(
        "`Expect: 100-continue`",
        post(GOOD, Expect="100-continue"),
        200,
        _VALID,
    ),
    Case(
        "`Expect: 100-continue` with a length of 1 TB",
        request(
            "POST",
            PREDICT,
            length=False,
            Expect="100-continue",
            Content_Length=10**12,
        ),
        413,
        "max_body",
        "—",
        closes=True,
    ),
    Case(
        "a body above `--max_body_mb`",
        post(b" " * (MAX_BODY + 1)),
        413,
        f"more than {MAX_BODY} bytes",
        "—",
    ),
    Case(
        "a header of 300 kB",
        request("GET", MODEL, X_Long="x" * 300_000),
        431,
        "max_header",
        "—",
        closes=True,
    ),
    Case(
        "HTTP/1.0",
        post(GOOD).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        200,
        _VALID,
        closes=True,
    ),
    Case("no HTTP", b"hello\r\n\r\n", 400, "", "—", closes=True),
]
PACKING = [
    Case(
        "`Content-Encoding: gzip`",
        post(gzip.compress(json.dumps(GOOD).encode()), Content_Encoding="gzip"),
        200,
        _VALID,
    ),
    Case(
        "`Content-Encoding: identity`",
        post(GOOD, Content_Encoding="identity"),
        200,
        _VALID,
    ),
    Case(
        "gzip without the header",
        post(gzip.compress(json.dumps(GOOD).encode())),
        415,
        "Add the header Content-Encoding: gzip",
        "400",
    ),
    Case(
        "the header without gzip",
        post(GOOD, Content_Encoding="gzip"),
        400,
        "the body is not gzip",
    ),
    Case(
        "gzip, cut",
        post(
            gzip.compress(json.dumps(GOOD).encode())[:-9],
            Content_Encoding="gzip",
        ),
        400,
        "it ends too early",
    ),
    Case(
        "gzip that unfolds to 64 MB",
        post(gzip.compress(b" " * 2**26), Content_Encoding="gzip"),
        413,
        f"more than {MAX_BODY} bytes",
        "read up to 100 MB",
    ),
    *(
        Case(
            f"`Content-Encoding: {name}`",
            post(GOOD, Content_Encoding=name),
            415,
            "must be gzip or identity",
            "header ignored",
        )
        for name in ("br", "deflate", "zstd")
    ),
    Case(
        "`Content-Encoding: gzip, gzip`",
        post(GOOD, Content_Encoding="gzip, gzip"),
        415,
        "must be gzip or identity",
        "unpacked once",
    ),
]
BODIES = [
    Case(
        "`curl`'s own `Content-Type`",
        post(GOOD, Content_Type="application/x-www-form-urlencoded"),
        200,
        _VALID,
    ),
    Case(
        "UTF-8 with a byte order mark",
        post(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
        200,
        _VALID,
    ),
    Case("UTF-16", post(json.dumps(GOOD).encode("utf-16")), 200, _VALID, "400"),
    Case("`{`", post("{"), 400, "must be JSON"),
    Case("`[[[[…`, 9,999 deep", post("[" * 9999), 400, "must be JSON"),
    Case("a list", post([1]), 400, "must be a JSON object"),
    Case(
        "the image itself (`image/png`)",
        post(PNG, Content_Type="image/png"),
        415,
        "Received a PNG. Send the file's bytes as base64 in JSON",
        "400",
    ),
    Case(
        "base64 alone",
        post(TEXT, Content_Type="text/plain"),
        415,
        "Received base64 alone. Put it in",
        "400",
    ),
    Case(
        "a form (`curl -F image=@FILE`)",
        post(
            b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\n"
            + PNG
            + b"\r\n--x--\r\n",
            Content_Type="multipart/form-data; boundary=x",
        ),
        415,
        "Received a form (multipart). Send the file's bytes as base64",
        "400",
    ),
    Case("`{}`", post({}), 400, 'either "instances" or "inputs"'),
    Case(
        "both forms",
        post(GOOD | {"inputs": [b64(PNG)]}),
        400,
        'either "instances" or "inputs"',
    ),
    Case("no rows", post(instances()), 400, "not empty"),
    Case(
        "a name twice in an object",
        post(f'{{"instances": [], {json.dumps(GOOD)[1:]}'),
        400,
        "'instances' twice",
        "the first counts",
    ),
    Case(
        "more rows than `--max_rows`",
        post(instances(*[b64(b"")] * (MAX_ROWS + 1))),
        413,
        f"more than {MAX_ROWS} rows",
        "200",
    ),
    Case("rows", post(GOOD), 200, '{"predictions": [{"features": ['),
    Case(
        "rows with names",
        post(instances({"image_bytes": b64(PNG)})),
        200,
        '{"predictions": [{"features": [',
    ),
    Case(
        "a column",
        post({"inputs": [b64(PNG)]}),
        200,
        '{"outputs": {"features": [[',
    ),
    Case(
        "a column with a name",
        post({"inputs": {"image_bytes": [b64(PNG)]}}),
        200,
        '{"outputs": {"features": [[',
    ),
    Case(
        "another name",
        post({"inputs": {"image": [b64(PNG)]}}),
        400,
        "must hold image_bytes",
    ),
    Case(
        '`"signature_name"`',
        post(GOOD | {"signature_name": "classify"}),
        200,
        '"classes": ["',
    ),
    Case(
        "another signature",
        post(GOOD | {"signature_name": "other"}),
        400,
        "This model has classify, embed_images, embed_tensors, neighbours",
    ),
    Case(
        '`"signatureName"`',
        post(GOOD | {"signatureName": "classify"}),
        400,
        'Write "signature_name"',
        "ignored",
    ),
]
BASE64 = [
    Case('`{"b64": TEXT}`', post(instances({"b64": ODD})), 200, _VALID),
    Case(
        "URL-safe (`-`, `_`)",
        post(instances({"b64": ODD.translate(str.maketrans("+/", "-_"))})),
        200,
        _VALID,
        "400",
    ),
    Case(
        "without padding",
        post(
            instances(
                {
                    "b64": b64(PNG + b"\0" * (1 - len(PNG) % 3))["b64"].rstrip(
                        "="
                    )
                }
            )
        ),
        200,
        _VALID,
    ),
    Case(
        "in lines",
        post(instances({"b64": base64.encodebytes(PNG).decode()})),
        200,
        _VALID,
    ),
    Case(
        '`{"b64": "data:image/png;base64,TEXT"}`',
        post(instances({"b64": f"data:image/png;base64,{TEXT}"})),
        200,
        _VALID,
        "400",
    ),
    Case(
        '`"data:image/png;base64,TEXT"`',
        post(instances(f"data:image/png;base64,{TEXT}")),
        200,
        _VALID,
        "taken for the file's bytes",
    ),
    Case(
        '`"TEXT"`',
        post(instances(TEXT)),
        400,
        'must be {"b64": TEXT} in each row, TEXT the base64',
        "taken for the file's bytes",
    ),
    Case(
        "a path or an address",
        post(instances("https://localhost/a.png")),
        400,
        "Paths and addresses are not opened here",
        "taken for the file's bytes",
    ),
    Case(
        "a blank where a `+` was",
        post(instances({"b64": ODD.replace("+", " ")})),
        400,
        "is not base64: it has ' '",
        "blank left out",
    ),
    Case(
        "escaped (`%2B`)",
        post(instances({"b64": ODD.replace("+", "%2B")})),
        400,
        "is not base64: it has '%'",
    ),
    Case(
        "cut within four letters",
        post(instances({"b64": TEXT[:-7]})),
        400,
        "is not base64: it is cut",
    ),
    Case('`{"b64": 3}`', post(instances({"b64": 3})), 400, "not base64"),
    Case('`{"b64": ""}`', post(instances({"b64": ""})), 200, _NOT_VALID),
    Case("a cut image", post(instances(b64(PNG[:40]))), 200, _NOT_VALID),
]
NUMBERS = [
    Case("numbers in `embed_tensors`", tensors("0.5"), 200, "normalised"),
    Case("`1e2`", tensors("1e2"), 200, "normalised"),
    Case("`16777217.0`", tensors("16777217.0"), 200, "normalised"),
    Case(
        "`16777217`",
        tensors("16777217"),
        400,
        "of whole ones at most 16777215 (float32)",
    ),
    Case(
        "`1e39`, beyond float32",
        tensors("1e39"),
        400,
        "Received 1e+39 in row 0",
    ),
    Case("`1e400`", tensors("1e400"), 400, "Received inf in row 0"),
    Case(
        "`NaN`", tensors("NaN"), 400, "Received nan in row 0", "200 with `NaN`"
    ),
    Case(
        "`-Infinity`",
        tensors("-Infinity"),
        400,
        "Received -inf in row 0",
        "200 with `NaN`",
    ),
    Case(
        "`3e38`, where features overflow",
        post(
            instances(
                [[[3e38] * 3] * SIDE] * SIDE, signature_name="embed_tensors"
            )
        ),
        500,
        "no finite number",
        "200 with `Infinity`",
    ),
    Case("`true`", tensors("true"), 400, "must be numbers"),
    Case('`"1"`', tensors('"1"'), 400, "must be numbers"),
    Case("`null`", tensors("null"), 400, "must be numbers"),
    Case("`[]`", tensors("[]"), 400, "must be numbers"),
    Case(
        "a file in `embed_tensors`",
        post(GOOD | {"signature_name": "embed_tensors"}),
        400,
        "Files go to a signature of bytes, as serving_default",
    ),
    Case(
        "another shape",
        post(instances([1, 2], signature_name="embed_tensors")),
        400,
        "shape [any, 8, 8, 3]. Received [1, 2]",
    ),
    Case("0 to 255 in `embed_images`", pixels("255"), 200, _VALID),
    Case("`256`", pixels("256"), 400, "0 to 255", "200, the lower 8 bits"),
    Case("`-1`", pixels("-1"), 400, "0 to 255", "200, the lower 8 bits"),
    Case("`0.5`", pixels("0.5"), 400, "whole numbers from 0 to 255"),
]
SIZES = [
    *(
        Case(
            f"{name} above `--max_pixels`",
            post(instances(b64(PNG), b64(data))),
            413,
            f"Received {_HUGE} x {_HUGE} in row 1",
            "decoded",
        )
        for name, data in (
            ("a PNG", png(_HUGE)),
            (
                "a PNG behind text that unfolds to 70 MB, of pixels",
                png(_HUGE, large_text()),
            ),
            ("a JPEG", jpeg(_HUGE, _HUGE)),
            ("a BMP", bmp(_HUGE, _HUGE)),
            ("a BMP from the top down", bmp(_HUGE, -_HUGE)),
            ("a GIF's frame", gif_frame(_HUGE, _HUGE)),
            ("a GIF's canvas", gif((_HUGE, _HUGE), (6, 5))),
        )
    ),
]
GROUPS = {
    "Paths and methods": PATHS,
    "Framing": FRAMING,
    "Packing": PACKING,
    "Bodies": BODIES,
    "Bytes of a file": BASE64,
    "Numbers": NUMBERS,
    "Sizes": SIZES,
}


def markdown():
    """The table of the page docs/serving.md."""
    lines = [
        "| request | status | the answer holds | TensorFlow Serving |",
        "|---|---|---|---|",
    ]
    for group, cases in GROUPS.items():
        lines.append(f"| **{group}** | | | |")
        for case in cases:
            closed = ", closes" if case.closes else ""
            answer = f"`{case.answer}`" if case.answer else ""
            lines.append(
                f"| {case.request} | {case.status}{closed} | {answer} | "
                f"{case.serving} |"
            )
    return "\n".join(lines)
