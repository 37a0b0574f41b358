"""The threads of the local server: who asks for little does not wait."""

import threading
import urllib.request

import pytest

pytest.importorskip("waitress", reason="needs the extra serving")

from moco_tf.serving import local_http  # noqa: E402


@pytest.fixture(name="served")
def _served():
    """A port, whose predictions wait for an event, and two events."""
    entered, go_on = threading.Semaphore(0), threading.Event()

    def app(environ, start_response):
        if environ["PATH_INFO"].endswith(":predict"):
            entered.release()
            go_on.wait(60)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"{}"]

    server, port = local_http.listen(app, "127.0.0.1", 0, 2, 1000)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield port, entered, go_on
    go_on.set()
    server.close()


def test_a_busy_server_says_that_it_lives(served):
    port, entered, go_on = served
    answers = []

    def ask(path):
        address = f"http://127.0.0.1:{port}{path}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            answers.append(path)
            return answer.read()

    predict = "/v1/models/x:predict"
    clients = [threading.Thread(target=ask, args=[predict]) for _ in range(3)]
    for client in clients:
        client.start()
    for _ in range(2):  # both threads
        assert entered.acquire(timeout=30)
    assert ask("/healthz") == b"{}"
    assert answers == ["/healthz"]
    go_on.set()
    for client in clients:
        client.join(60)
    assert answers.count(predict) == 3
