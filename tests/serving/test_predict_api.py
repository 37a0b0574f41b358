import base64
import json
import tracemalloc

import numpy as np
import pytest

from moco_tf.serving import predict_api

SIGNATURES = {
    "serving_default": {
        "image_bytes": predict_api.Input(np.dtype("S"), (None,))
    },
    "embed_tensors": {
        "images": predict_api.Input(np.dtype("f4"), (None, 2, 2, 3))
    },
    "embed_images": {
        "images": predict_api.Input(np.dtype("u1"), (None, None, None, 3))
    },
    "two": {
        "a": predict_api.Input(np.dtype("f4"), (None,)),
        "b": predict_api.Input(np.dtype("f4"), (None,)),
    },
}


def _parse(message, max_rows=4):
    body = message if isinstance(message, bytes) else json.dumps(message)
    return predict_api.parse(body, SIGNATURES, max_rows)


def _b64(data):
    return {"b64": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    "message",
    [
        {"instances": [_b64(b"x\0"), _b64(b"")]},
        {
            "instances": [
                {"image_bytes": _b64(b"x\0")},
                {"image_bytes": _b64(b"")},
            ]
        },
        {"inputs": [_b64(b"x\0"), _b64(b"")]},
        {"inputs": {"image_bytes": [_b64(b"x\0"), _b64(b"")]}},
        {
            "signature_name": "serving_default",
            "instances": [_b64(b"x\0"), _b64(b"")],
        },
    ],
)
def test_bytes_come_in_any_form_of_the_format(message):
    request = _parse(message)
    assert request.signature == "serving_default"
    assert request.inputs["image_bytes"].tolist() == [b"x\0", b""]
    assert request.by_row == ("instances" in message)


def test_numbers_take_the_dtype_and_shape_of_the_input():
    rows = np.arange(24).reshape(2, 2, 2, 3)
    for name, dtype in (("embed_tensors", "f4"), ("embed_images", "u1")):
        request = _parse({"signature_name": name, "instances": rows.tolist()})
        assert request.inputs["images"].dtype == dtype
        np.testing.assert_array_equal(request.inputs["images"], rows)


def test_two_inputs_are_named_in_each_row():
    rows = [{"a": 1, "b": 2}, {"b": 4, "a": 3}]
    request = _parse({"signature_name": "two", "instances": rows})
    assert request.inputs["a"].tolist() == [1, 3]
    assert request.inputs["b"].tolist() == [2, 4]


@pytest.mark.parametrize(
    "message, status, text",
    [
        (b"{", 400, "must be JSON"),
        (b"[" * 100_000, 400, "must be JSON"),
        (b"\xff\xfe", 400, "must be JSON"),
        ([1], 400, "must be a JSON object"),
        ({"signature_name": "other", "instances": [1]}, 400, "no signature"),
        ({"signature_name": [1], "instances": [1]}, 400, "no signature"),
        ({}, 400, 'either "instances" or "inputs"'),
        ({"instances": [1], "inputs": [1]}, 400, "either"),
        ({"instances": []}, 400, "not empty"),
        ({"instances": {"a": 1}}, 400, "must be a list"),
        ({"inputs": {"other": []}}, 400, "must hold image_bytes"),
        ({"inputs": {"image_bytes": []}}, 400, "a list, not empty"),
        ({"instances": ["text"]}, 400, '{"b64": TEXT}'),
        ({"instances": [{"b64": "%%"}]}, 400, "not base64"),
        ({"instances": [{"b64": 3}]}, 400, "not base64"),
        ({"instances": [{"b64": "é"}]}, 400, "not base64"),
        ({"instances": [_b64(b"x")] * 5}, 413, "more than 4 rows. Received 5"),
        (
            {"signature_name": "embed_tensors", "instances": [[1, 2]]},
            400,
            "shape [any, 2, 2, 3]. Received [1, 2]",
        ),
        (
            {"signature_name": "embed_tensors", "instances": [[1], [1, 2]]},
            400,
            "numbers, in rows of one shape",
        ),
        (
            {"signature_name": "embed_tensors", "instances": [None]},
            400,
            "must be numbers",
        ),
        (
            {"signature_name": "embed_images", "instances": [[[[0, 0, 256]]]]},
            400,
            "0 to 255",
        ),
        (
            {"signature_name": "embed_images", "instances": [[[[0, 0, -1]]]]},
            400,
            "0 to 255",
        ),
        (
            {"signature_name": "embed_images", "instances": [[[[0, 0.5, 1]]]]},
            400,
            "whole numbers",
        ),
        (
            {"signature_name": "embed_images", "instances": [[[]]]},
            400,
            "must have the shape",
        ),
        (
            {"signature_name": "two", "inputs": {"a": [1], "b": [1, 2]}},
            400,
            "as many rows",
        ),
        ({"signature_name": "two", "instances": [1]}, 400, "name its inputs"),
    ],
)
def test_what_is_not_understood_is_told_with_its_status(message, status, text):
    with pytest.raises(predict_api.RequestError) as error:
        _parse(message)
    assert error.value.status == status
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("16777216", "of whole ones at most 16777215"),
        ("-9223372036854775808", "of whole ones at most 16777215"),
        ("18446744073709551615", "of whole ones at most 16777215"),
        ("-1e39", "Received -1e+39 in row 1"),
        ("3.5e38", "Received 3.5e+38 in row 1"),
        ("NaN", "Received nan in row 1"),
        ("Infinity", "Received inf in row 1"),
        ("1" + "0" * 30, "must be numbers"),
        ("false", "must be numbers"),
    ],
)
@pytest.mark.parametrize("other", ["1", "0.5"])
def test_numbers_that_float32_cannot_hold_are_refused(number, text, other):
    rows = f'[{{"a": {other}, "b": 1}}, {{"a": {number}, "b": 1}}]'
    body = f'{{"signature_name": "two", "instances": {rows}}}'
    with pytest.raises(predict_api.RequestError) as error:
        _parse(body.encode())
    assert text in str(error.value)


@pytest.mark.parametrize(
    "number", ["16777215", "-16777215", "3.4e38", "1e-50", "16777217.0"]
)
def test_numbers_that_float32_holds_are_taken(number):
    rows = f'[{{"a": 0.5, "b": 1}}, {{"a": {number}, "b": 1}}]'
    body = f'{{"signature_name": "two", "instances": {rows}}}'
    assert _parse(body.encode()).inputs["a"][1] == np.float32(number)


def test_no_number_is_answered_that_json_does_not_have():
    for number in (np.nan, np.inf):
        outputs = {"features": np.array([[1.0], [number]], np.float32)}
        with pytest.raises(predict_api.RequestError, match="of row 1") as error:
            predict_api.render(outputs, True)
        assert error.value.status == 500


_PLUS = bytes([251, 239, 190]) * 3 + b"\xff"  # "++++++…" and "/w==" in base64


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.rstrip("="),
        lambda text: f"\n {text[:5]}\r\n\t{text[5:]}\n",
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f"DATA:image/svg+xml;charset=utf-8;base64,{text}",
    ],
)
def test_base64_is_read_in_every_form_that_has_one_meaning(change):
    text = change(base64.b64encode(_PLUS).decode())
    request = _parse({"instances": [{"b64": text}]})
    assert request.inputs["image_bytes"].tolist() == [_PLUS]


@pytest.mark.parametrize(
    "text", ["ab cd", "a", "abcde", "ab=c", "ab===", "=", "%2B", "data:,abc"]
)
def test_what_has_no_one_meaning_is_refused_with_the_way(text):
    with pytest.raises(predict_api.RequestError) as error:
        _parse({"instances": [{"b64": text}]})
    assert "image_bytes of row 0 is not base64: it" in str(error.value)
    assert "as `base64 -w0 FILE` prints it" in str(error.value)


@pytest.mark.parametrize(
    "value", [{"b64x": "a" * 99}, [[[1]]], 12, None, "x" * 99, {}, []]
)
def test_what_is_no_file_is_shown_by_its_beginning(value):
    with pytest.raises(predict_api.RequestError) as error:
        _parse({"instances": [value]})
    assert len(str(error.value)) < 300


def test_no_body_takes_long_to_refuse():
    """What took the square of its length would take hours here."""
    blanks = {"instances": [{"b64": " " * 4_000_000}]}
    assert _parse(blanks).inputs["image_bytes"].tolist() == [b""]
    names = [f'"{number}": 0' for number in range(400_000)]
    text = f"{{{', '.join([*names, names[-1]])}}}"
    with pytest.raises(predict_api.RequestError, match="'399999' twice"):
        predict_api.parse(text.encode(), SIGNATURES, 64)
    deep = f'{{"instances": {"[" * 980}{"]" * 980}}}'
    with pytest.raises(predict_api.RequestError):
        predict_api.parse(deep.encode(), SIGNATURES, 64)


def test_one_output_is_answered_without_its_name():
    outputs = {"features": np.array([[1.5, 2.0]], np.float32)}
    by_row = json.loads(predict_api.render(outputs, True))
    assert by_row == {"predictions": [[1.5, 2.0]]}
    by_column = json.loads(predict_api.render(outputs, False))
    assert by_column == {"outputs": [[1.5, 2.0]]}


def test_several_outputs_are_answered_by_row_or_by_column():
    outputs = {
        "classes": np.array([[b"cat", b"dog"]], object),
        "valid": np.array([True]),
        "raw_bytes": np.array([b"\xff"], object),
    }
    row = {"classes": ["cat", "dog"], "valid": True}
    row["raw_bytes"] = {"b64": "/w=="}
    answer = json.loads(predict_api.render(outputs, True))
    assert answer == {"predictions": [row]}
    answer = json.loads(predict_api.render(outputs, False))
    assert answer["outputs"]["classes"] == [["cat", "dog"]]


@pytest.mark.parametrize(
    "rows",
    [
        [[0] * 2000 + ["a" * 50_000]],  # NumPy would make each of them as long
        [[[[1.0, None, 2.0]]]],
        [[[[1.0, True, 2.0]]]],
        [[[[10**400, 1.0, 2.0]]]],
        [1, [2]],
        [[1], [2, 3]],
    ],
    ids=["text", "null", "true", "huge", "mixed", "ragged"],
)
def test_what_is_no_number_is_refused_before_it_takes_memory(rows):
    tracemalloc.start()
    try:
        with pytest.raises(predict_api.RequestError, match="must be numbers"):
            _parse({"signature_name": "embed_tensors", "instances": rows})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**21
