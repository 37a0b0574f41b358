"""Every case of the table of requests, over a socket, against one server."""

import http.client
import json
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from tests.serving import plain_served, request_cases
from tools import serving_requests

pytest.importorskip(
    "waitress", reason='needs the extra: pip install -e ".[serving]"'
)
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CASES = [
    pytest.param(case, id=f"{group}: {case.request}")
    for group, cases in request_cases.GROUPS.items()
    for case in cases
]


@pytest.fixture(name="port", scope="module")
def _port(tmp_path_factory):
    """The port of a server in a process of its own."""
    folder = tmp_path_factory.mktemp("export")
    plain_served.save(folder / "1")
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "launch" / "serve_local.py"),
            f"--model={folder}",
            "--port=0",
            f"--max_rows={request_cases.MAX_ROWS}",
            f"--max_body_mb={request_cases.MAX_BODY // 2**20}",
            f"--max_pixels={request_cases.MAX_PIXELS}",
            "--threads=4",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    yield int(re.search(r":(\d+)/v1/models/encoder", line)[1])
    process.terminate()
    process.wait(20)


def _answer(client, sent):
    """Status and text of the answer to a request; None for a closed end."""
    client.sendall(sent)
    return _read(client, sent.partition(b" ")[0].decode("latin-1"))


def _received(client):
    """The next bytes; none where the connection was closed."""
    try:
        return client.recv(2**16)
    except ConnectionResetError:
        return b""


def _read(client, method="GET"):
    answer = http.client.HTTPResponse(client, method=method)
    try:
        answer.begin()
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return None
    text = answer.read().decode()
    if text:
        json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON
        assert answer.headers["Content-Type"] == "application/json"
    return answer.status, text


@pytest.mark.parametrize("case", CASES)
def test_each_request_is_answered_as_the_table_says(port, case):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        status, text = _answer(client, case.sent)
        if status >= 400:
            (error,) = json.loads(text).items()
            assert error[0] == "error"
            text = error[1]
        assert (status, case.answer in text) == (case.status, True), text
        if case.closes:
            # What lay behind the body may have an answer too, whose first bytes
            # the reader of the other has taken with it.
            rest = b"".join(iter(lambda: _received(client), b""))
            for later in re.findall(rb"HTTP/1.1 (\d+)", rest):
                assert int(later) >= 400
        else:
            again = request_cases.request("GET", "/healthz")
            assert _answer(client, again) == (200, '{"status": "ok"}')


def test_the_page_has_the_table():
    page = (ROOT / "docs" / "serving.md").read_text()
    assert serving_requests.with_table(page) == page


def test_a_body_that_is_not_asked_for_is_not_sent(port):
    """With Expect, a client waits: no 100 comes for what will be refused."""
    sent = request_cases.request(
        "POST", request_cases.PREDICT, length=False,
        Expect="100-continue", Content_Length=10**12,
    )  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent)
        assert client.recv(99).startswith(b"HTTP/1.1 413")
    sent = request_cases.post(b"{}", Expect="100-continue")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent[:-2])
        assert client.recv(99).startswith(b"HTTP/1.1 100")
        client.sendall(b"{}")
        assert _read(client)[0] == 400


def test_the_command_for_a_file_works(port, tmp_path):
    """The remedy of a refused image, followed as it is printed."""
    file = tmp_path / "a b.png"
    file.write_bytes(request_cases.PNG)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        _, text = _answer(client, request_cases.post(request_cases.PNG))
    command = json.loads(text)["error"].partition("For a file: ")[2]
    command = command.partition(" | curl")[0].replace("FILE", f"'{file}'")
    body = subprocess.run(
        command, shell=True, capture_output=True, check=True
    ).stdout
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        status, text = _answer(client, request_cases.post(body))
    assert (status, '"valid": true' in text) == (200, True)


def test_requests_sent_at_once_are_answered_in_their_order(port):
    sent = [case.sent for case in request_cases.BODIES[:6]]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"".join(sent))
        file = client.makefile("rb")
        statuses = []
        for _ in sent:
            statuses.append(int(file.readline().split()[1]))
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            json.loads(file.read(length))
    assert statuses == [case.status for case in request_cases.BODIES[:6]]
