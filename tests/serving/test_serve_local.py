import base64
import concurrent.futures
import http.client
import io
import json
import pathlib
import re
import runpy
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import PIL.Image
import pytest

from moco_tf.cli import quiet
from tests.serving import served_model

pytest.importorskip(
    "waitress", reason='needs the extra: pip install -e ".[serving]"'
)
from moco_tf.serving import local_http  # noqa: E402 of the extra

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATH = "/v1/models/encoder"


@pytest.fixture(name="port", scope="module")
def _port(tmp_path_factory):
    """The port of a server in a process of its own."""
    model = tmp_path_factory.mktemp("export")
    served_model.save(model)
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "launch" / "serve_local.py"),
            f"--model={model}",
            "--port=0",
            "--max_rows=8",
            "--max_body_mb=1",
            "--max_pixels=1000000",
            "--threads=8",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    yield int(re.search(r":(\d+)/v1/models/encoder", line)[1])
    process.terminate()
    process.wait(20)


def _image(colour, kind="PNG", size=(6, 5)):
    file = io.BytesIO()
    PIL.Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def _call(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def _predict(port, images, **message):
    rows = [{"b64": base64.b64encode(data).decode()} for data in images]
    body = json.dumps({"instances": rows, **message})
    return _call(port, "POST", f"{PATH}:predict", body)


def test_images_of_several_formats_are_answered_in_order(port):
    images = [
        _image((200, 10, 30)),
        _image((1, 2, 3), "BMP"),
        b"not an image",
        _image((9, 8, 7), "GIF"),
        _image((90, 90, 90), "JPEG"),
    ]
    status, answer = _predict(port, images)
    assert status == 200
    rows = answer["predictions"]
    assert [row["valid"] for row in rows] == [True, True, False, True, True]
    np.testing.assert_allclose(
        [row["features"] for row in rows],
        [[200, 10, 30], [1, 2, 3], [0, 0, 0], [9, 8, 7], [90, 90, 90]],
        atol=1,
    )


def test_numbers_are_answered_in_columns(port):
    images = np.arange(24.0).reshape(2, 2, 2, 3)
    body = json.dumps(
        {"signature_name": "embed_tensors", "inputs": images.tolist()}
    )
    status, answer = _call(port, "POST", f"{PATH}/versions/3:predict", body)
    assert status == 200
    np.testing.assert_allclose(answer["outputs"], images.mean(axis=(1, 2)))


def test_status_metadata_and_health(port):
    assert _call(port, "GET", "/healthz") == (200, {"status": "ok"})
    status, answer = _call(port, "GET", PATH)
    assert status == 200
    assert answer["model_version_status"] == [
        {
            "version": "3",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ]
    status, answer = _call(port, "GET", f"{PATH}/metadata")
    described = answer["metadata"]["signature_def"]["signature_def"]
    assert described.keys() == {"serving_default", "embed_tensors"}
    images = described["embed_tensors"]["inputs"]["images"]
    assert images["dtype"] == "DT_FLOAT"
    sizes = [part["size"] for part in images["tensor_shape"]["dim"]]
    assert sizes == ["-1", "2", "2", "3"]


@pytest.mark.parametrize(
    "method, path, body, status, text",
    [
        ("GET", "/", None, 404, "nothing at '/'"),
        ("GET", "/v1/models/other", None, 404, "/v1/models/encoder"),
        ("GET", f"{PATH}/versions/2", None, 404, "Version 2 is not served; 3"),
        ("GET", f"{PATH}:predict", None, 405, "Use POST"),
        ("POST", PATH, "{}", 405, "Use GET"),
        ("POST", f"{PATH}:predict", "", 411, "body is missing"),
        ("POST", f"{PATH}:predict", "{", 400, "must be JSON"),
        ("POST", f"{PATH}:predict", "[" * 9999, 400, "must be JSON"),
        ("POST", f"{PATH}:predict", '{"instances": [1]}', 400, "b64"),
    ],
)
def test_other_requests_are_refused(port, method, path, body, status, text):
    received, answer = _call(port, method, path, body)
    assert received == status
    assert text in answer["error"]


def test_too_many_rows_and_bytes_are_refused(port):
    status, answer = _predict(port, [b"x"] * 9)
    assert (status, "more than 8 rows" in answer["error"]) == (413, True)
    status, answer = _predict(port, [b"x" * 2**20])
    assert status == 413


def test_a_body_in_chunks_is_read(port):
    def parts():
        yield b'{"instances": '
        yield b"[1]}"

    status, answer = _call(port, "POST", f"{PATH}:predict", parts())
    assert (status, "b64" in answer["error"]) == (400, True)


def _bomb(side):
    """A PNG that claims side x side pixels, all of them zero, in a few kB."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return (
            struct.pack(">I", len(data))
            + kind
            + data
            + (struct.pack(">I", check))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (side + 1) * min(side, 2000), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused_by_its_header(port):
    status, answer = _predict(port, [_image((1, 1, 1)), _bomb(30_000)])
    assert status == 413
    assert "Received 30000 x 30000 in row 1" in answer["error"]


def test_clients_at_the_same_time_get_their_own_answers(port):
    def ask(number):
        colour = (number, 255 - number, 7)
        status, answer = _predict(port, [_image(colour)])
        assert status == 200
        return answer["predictions"][0]["features"] == [*map(float, colour)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(120)))


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_a_host_of_a_name_or_of_two_addresses_is_served(host):
    """localhost is two addresses where a machine has IPv6."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        return [environ["PATH_INFO"][:2].encode()]

    try:
        server, port = local_http.listen(app, host, 0, 1, max_bytes=99)
    except OSError:
        pytest.skip("no IPv6 here")
    threading.Thread(target=server.run, daemon=True).start()
    with socket.create_connection((host, port), timeout=20) as client:
        client.sendall(b"GET /a HTTP/1.1\r\nContent-Length: x\r\n\r\n")
        assert b'{"error": "Bad Request' in client.makefile("rb").read()
    server.close()


def test_slow_clients_hold_up_nobody(port):
    """Twice as many as threads send a byte and then nothing."""
    slow = []
    for _ in range(16):
        client = socket.create_connection(("127.0.0.1", port))
        head = f"POST {PATH}:predict HTTP/1.1\r\nHost: x\r\n"
        client.sendall(f"{head}Content-Length: 500\r\n\r\n{{".encode())
        slow.append(client)
    start = time.monotonic()
    status, _ = _predict(port, [_image((1, 2, 3))])
    assert status == 200
    # Were they waited for, it would take their 30 s.
    assert time.monotonic() - start < 20
    for client in slow:
        client.close()


def test_a_client_that_leaves_does_no_harm(port):
    for _ in range(5):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(f"POST {PATH}:predict HTTP/1.1\r\nHost".encode())
        client.close()
    assert _call(port, "GET", "/healthz")[0] == 200


def test_a_port_that_is_taken_is_named_with_a_way_out(port, tmp_path):
    served_model.save(tmp_path)
    command = [sys.executable, str(ROOT / "launch" / "serve_local.py")]
    command += [f"--model={tmp_path}", f"--port={port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert f"127.0.0.1:{port} cannot be opened" in done.stderr
    assert "Pass another --port, or 0" in done.stderr
    assert len(done.stderr.splitlines()) == 1  # no notices of TensorFlow


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--model"),
        (["--model=x", "--port=70000"], "from 0 to 65535. Received '70000'"),
        (["--model=x", "--max_rows=0"], "from 1 to 1024. Received '0'"),
    ],
)
def test_a_server_that_cannot_start_says_why(words, message):
    process = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "serve_local.py"), *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode != 0
    assert message in process.stderr


def test_a_server_without_a_model_says_so(monkeypatch):
    # In this process, which has TensorFlow already.
    script = str(ROOT / "launch" / "serve_local.py")
    monkeypatch.setattr(sys, "argv", [script, "--model=/nowhere"])
    monkeypatch.setattr(quiet, "prepare", lambda: None)
    with pytest.raises(SystemExit, match="error: .* must be a SavedModel"):
        runpy.run_path(script, run_name="__main__")
