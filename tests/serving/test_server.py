"""The application without a socket: what goes wrong inside it."""

import io
import json

import pytest

from moco_tf.serving import server
from tests.serving import request_cases, served_model


@pytest.fixture(name="app", scope="module")
def _app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    served_model.save(folder)
    app = server.RestApp(folder, "a model")
    yield app
    app.close()


def _call(app, path, method="GET", body=b""):
    """Status, headers, body and log of a request."""
    log, started = io.StringIO(), []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path.encode().decode("latin-1"),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": log,
    }
    answer = app(environ, lambda *start: started.extend(start))
    return started[0], dict(started[1]), b"".join(answer), log.getvalue()


@pytest.mark.parametrize(
    "fault", [KeyError("x"), RecursionError(), MemoryError(), TypeError("y")]
)
def test_any_exception_is_an_answer_in_json_and_a_line_of_the_log(
    app, monkeypatch, fault
):
    def fail(*_):
        raise fault

    monkeypatch.setattr(app._batcher, "submit", fail)
    body = json.dumps(request_cases.GOOD).encode()
    path = "/v1/models/a model:predict"
    status, _, answer, log = _call(app, path, "POST", body)
    assert status == "500 Internal Server Error"
    name = type(fault).__name__
    text = f"The server failed ({name}): its log has more."
    assert json.loads(answer) == {"error": text}
    assert f"{name}" in log and "Traceback" in log


def test_head_has_the_headers_of_get_and_no_body(app):
    path = "/v1/models/a model"
    for wanted in (path, "/v1/models/other"):
        status, headers, body, _ = _call(app, wanted)
        assert _call(app, wanted, "HEAD")[:3] == (status, headers, b"")
        assert int(headers["Content-Length"]) == len(body)


@pytest.mark.parametrize(
    ("path", "verbs"),
    [
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/v1/models/a model:predict", "POST, OPTIONS"),
        ("/v1/models/a model/metadata", "GET, HEAD, OPTIONS"),
    ],
)
def test_what_a_path_takes_is_said(app, path, verbs):
    assert _call(app, path, "OPTIONS")[1]["Allow"] == verbs
    status, headers, _, _ = _call(app, path, "PUT")
    assert (status, headers["Allow"]) == ("405 Method Not Allowed", verbs)


@pytest.mark.parametrize(
    ("version", "status"),
    [("3", 200), ("003", 200), ("4", 404), ("0", 404), ("9" * 20, 400)],
)
def test_versions_are_whole_numbers(app, version, status):
    path = f"/v1/models/a model/versions/{version}"
    assert _call(app, path)[0].startswith(str(status))


def test_folders_whose_names_are_no_numbers_are_no_versions(tmp_path):
    for name in ("²", "٣", "tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    with pytest.raises(ValueError, match="must be a SavedModel"):
        server.newest_version(tmp_path)
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "saved_model.pb").touch()
    assert server.newest_version(tmp_path) == (tmp_path / "12", 12)


@pytest.mark.parametrize("name", ["", "a/b", "a:b"])
def test_a_name_that_no_path_can_hold_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="--name=encoder"):
        server.RestApp(tmp_path, name)
