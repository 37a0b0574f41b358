"""Processes that begin with TensorFlow imported, which costs them seconds.

A server imports it once for all tests of a pytest process, starts no device,
and forks. A child is a process as any other: its program, environment, folder,
output, signals and status are its own. Not its own are the hash seed, which the
children of a server share, and what an import itself does: tests of those, or
of variables that TensorFlow reads when it is imported, start a new Python.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import pathlib
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# They import the others; none of them starts a device.
MODULES = (
    "moco_tf.pretrain",
    "moco_tf.cli.main",
    "moco_tf.serving.server",
    "moco_tf.weights.importing",
    "moco_tf.weights.exporting",
)
_LENGTH = 8  # bytes of a number on a socket


class Process:
    """A process of a command line; what it writes goes to files.

    Attributes:
      pid: its number. returncode: as of subprocess.Popen; None while it runs.
    """

    def __init__(self, words, cwd=None):
        """Starts it.

        Args:
          words: [sys.executable, "-m", MODULE, ...], [..., FILE, ...] or
            [..., "-c", CODE, ...], which the server's Python runs.
          cwd: its folder; that of this process if None.
        """
        if words[0] != sys.executable:
            raise ValueError(f"only {sys.executable} is forked: {words[0]}")
        self.args = [str(word) for word in words]
        self.returncode = None
        self._files = [tempfile.TemporaryFile() for _ in range(2)]
        self._status, theirs = socket.socketpair()
        request = {
            "words": self.args[1:],
            "environment": dict(os.environ),
            "folder": str(cwd or os.getcwd()),
        }
        with theirs:
            fds = [*(file.fileno() for file in self._files), theirs.fileno()]
            _send(_server(), json.dumps(request).encode(), fds)
        self.pid = self._receive()

    def _receive(self):
        """A number of the server."""
        data = self._status.recv(_LENGTH)
        if not data:
            raise ChildProcessError("the server of tests/forked.py has ended")
        return int.from_bytes(data, "big", signed=True)

    def wait(self, timeout=None):
        """Waits until it has ended; returns the status."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = self._receive()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout) from None
        return self.returncode

    def poll(self):
        """The status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)

    def send_signal(self, kind):
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, kind)

    def communicate(self, timeout=None):
        """Waits; returns the texts of standard output and error."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send_signal(signal.SIGKILL)
            self.wait()
            raise
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return texts


def run(words, timeout=1200, cwd=None):
    """Runs a command line as subprocess.run does, with its output as text."""
    process = Process(words, cwd)
    texts = process.communicate(timeout)
    return subprocess.CompletedProcess(words, process.returncode, *texts)


def _send(connection, data, fds):
    length = len(data).to_bytes(_LENGTH, "big")
    socket.send_fds(connection, [length], fds)
    connection.sendall(data)


@functools.cache
def _server():
    """The socket of this process' server, which its first use starts."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def end():
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- In the server


def _serve(connection):
    """Forks for each request, until the other side has ended.

    Returns:
      in a child, the words of its command line; None at the end.
    """
    running = {}  # pid -> its descriptor, the socket for its status
    with selectors.DefaultSelector() as waiting:
        waiting.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.data is not None:
                    waiting.unregister(key.fd)
                    _report(key.data, *running.pop(key.data))
                    continue
                head, fds, _, _ = socket.recv_fds(connection, _LENGTH, 3)
                if not head:
                    return None
                size = int.from_bytes(head, "big")
                data = connection.recv(size, socket.MSG_WAITALL)
                pid = os.fork()
                if not pid:
                    connection.close()
                    for descriptor, status in running.values():
                        os.close(descriptor)
                        status.close()
                    return _become(json.loads(data), *fds)
                status = socket.socket(fileno=fds[2])
                os.close(fds[0])
                os.close(fds[1])
                descriptor = os.pidfd_open(pid)
                _tell(status, pid)
                running[pid] = descriptor, status
                waiting.register(descriptor, selectors.EVENT_READ, pid)


def _report(pid, descriptor, status):
    """Tells of the end of a child."""
    _, code = os.waitpid(pid, 0)
    os.close(descriptor)
    _tell(status, os.waitstatus_to_exitcode(code))
    status.close()


def _tell(status, number):
    with contextlib.suppress(BrokenPipeError):  # nobody asks any more
        status.sendall(number.to_bytes(_LENGTH, "big", signed=True))


def _become(request, output, errors, status):
    """Makes the process of a request of this one; returns its words."""
    os.dup2(output, 1)
    os.dup2(errors, 2)
    for descriptor in (output, errors, status):
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    time.tzset()
    return request["words"]


def _run(words):
    """Runs the words after `python` as Python does."""
    kind, *rest = words
    if kind == "-m":
        sys.argv = [rest[0], *rest[1:]]
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[0] = ""
        scope = sys.modules["__main__"].__dict__
        for name in [name for name in scope if not name.startswith("__")]:
            del scope[name]
        exec(compile(rest[0], "<string>", "exec"), scope)
    else:
        sys.argv = words
        sys.path[0] = str(pathlib.Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


def _main(descriptor):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in MODULES:
        importlib.import_module(name)
    from tensorflow.python.eager import context

    # A device has threads, which no child would have.
    if context.context()._initialized:
        raise RuntimeError("an import has started TensorFlow's devices")
    words = _serve(socket.socket(fileno=int(descriptor)))
    if words is not None:
        _run(words)


if __name__ == "__main__":
    _main(sys.argv[1])
