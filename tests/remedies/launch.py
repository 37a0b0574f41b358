"""Rows of launch/: the scripts that start others."""

import importlib.util
import socket
import sys
import tomllib
import types

from moco_tf.serving import server
from tests.remedies import following, messages

ROWS = following.Rows("launch/*.py")


class Served(Exception):
    """The server was opened."""


def serve(*words):
    """Runs launch/serve_local.py up to the open port; returns how it ended."""
    path = messages.ROOT / "launch" / "serve_local.py"
    spec = importlib.util.spec_from_file_location("serve_local", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sys.argv = ["serve_local.py", "--model=x", *words]
    try:
        script.main()
    except SystemExit as end:
        return str(end)
    except Served:
        return "served"


def listen(app, host, port, threads, max_bytes):
    """As local_http.listen, without a server behind the port."""
    with socket.create_server((host, port)):
        raise Served


@ROWS.followed("launch/serve_local.py:main", "Pass another --port, or 0")
def port_that_is_taken(monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(server, "RestApp", lambda *_: None)
    monkeypatch.setitem(
        sys.modules,
        "moco_tf.serving.local_http",
        types.SimpleNamespace(listen=listen),
    )
    monkeypatch.setattr(
        "moco_tf.serving.local_http",
        sys.modules["moco_tf.serving.local_http"],
        raising=False,
    )
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        yield lambda: serve(f"--port={taken}")
        yield lambda: serve("--port=0")
    yield lambda: serve(f"--port={taken}")  # any that is free


WAITRESS = "waitress"


class Missing:
    """A finder of modules that has no waitress."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == WAITRESS:
            raise ModuleNotFoundError("No module named it", name=WAITRESS)


@ROWS.followed("launch/serve_local.py:main", "Install the extra: ")
def waitress_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "moco_tf.serving.local_http", False)
    monkeypatch.delattr("moco_tf.serving.local_http", raising=False)
    for name in [n for n in sys.modules if n.partition(".")[0] == WAITRESS]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    text = yield serve
    project = tomllib.loads((messages.ROOT / "pyproject.toml").read_text())
    extra = text.partition(".[")[2].partition("]")[0]
    packages = project["project"]["optional-dependencies"][extra]
    yield lambda: " ".join(packages).index(WAITRESS)


ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("launch/serve_local.py:_whole.read", "must be a whole number"),
)
