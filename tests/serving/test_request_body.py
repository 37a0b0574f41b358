"""Bodies of requests; the packed ones by the standard library's gzip."""

import base64
import gzip
import io

import pytest

from moco_tf.serving import predict_api, request_body
from tests.serving import request_cases


def _environ(body, **more):
    length = {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    return length | more


@pytest.mark.parametrize("packing", ["", "identity", "Identity"])
def test_a_body_comes_as_it_is(packing):
    environ = _environ(b"{}", HTTP_CONTENT_ENCODING=packing)
    assert request_body.read(environ, 2) == b"{}"


@pytest.mark.parametrize("packing", ["gzip", " GZIP ", "x-gzip"])
def test_gzip_is_unpacked_up_to_the_limit(packing):
    content = b"{}" * 500
    environ = _environ(gzip.compress(content), HTTP_CONTENT_ENCODING=packing)
    assert request_body.read(environ, len(content)) == content


def test_a_byte_beyond_the_limit_is_too_many():
    content = gzip.compress(b"x" * 1001)
    environ = _environ(content, HTTP_CONTENT_ENCODING="gzip")
    with pytest.raises(predict_api.RequestError, match="1000 bytes") as error:
        request_body.read(environ, 1000)
    assert error.value.status == 413


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (gzip.compress(b"{}", mtime=0)[:-1], "ends too early"),
        (gzip.compress(b"{}", mtime=0) * 2, "other bytes follow"),
        (b"{}", "incorrect header"),
    ],
)
def test_a_damaged_body_is_refused_with_the_reason(body, why):
    environ = _environ(body, HTTP_CONTENT_ENCODING="gzip")
    with pytest.raises(predict_api.RequestError, match=why) as error:
        request_body.read(environ, 99)
    assert error.value.status == 400


def test_an_unknown_packing_is_answered_with_the_known_ones():
    environ = _environ(b"{}", HTTP_CONTENT_ENCODING="br")
    with pytest.raises(predict_api.RequestError, match="'br'") as error:
        request_body.read(environ, 99)
    assert error.value.status == 415
    assert error.value.headers == {"Accept-Encoding": "gzip, identity"}


@pytest.mark.parametrize("length", ["", "0", "-3", "x"])
def test_a_body_without_a_length_is_missing(length):
    with pytest.raises(predict_api.RequestError, match="missing") as error:
        request_body.read({"CONTENT_LENGTH": length}, 99)
    assert error.value.status == 411


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (b"\xff\xd8\xff\xe0", "a JPEG"),
        (b"GIF89a", "a GIF"),
        (b"RIFF\0\0\0\0WEBP", "a WebP"),
        (b"II*\0" + b"\1" * 9, "a TIFF"),
        (b"%PDF-1.7", "a PDF"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 9, "a HEIC"),
    ],
)
def test_an_image_in_the_place_of_json_is_named(first, name):
    error = predict_api.RequestError(400, "must be JSON")
    named = request_body.explained(error, first, "")
    assert (named.status, f"Received {name}" in str(named)) == (415, True)
    other = name in ("a JPEG", "a GIF")
    assert (f"{name}. Send" in str(named)) == other  # no other file first


def test_base64_alone_is_to_be_put_into_json():
    error = predict_api.RequestError(400, "must be JSON")
    text = base64.b64encode(request_cases.PNG)
    named = request_body.explained(error, text, "text/plain")
    assert "base64 alone. Put it in: {" in str(named)


def test_other_refusals_stay_as_they_are():
    error = predict_api.RequestError(400, "no rows")
    assert request_body.explained(error, b"{}", "application/json") is error
