"""Workers meet before TensorFlow joins them, so that a missing one is named.

TensorFlow waits for its peers without end, and cannot be interrupted then.
Here worker 0 listens on its own port; the others come to it, say who they are
and wait for its word. A port that speaks otherwise (a process of the last
start that has not left yet) counts as not there.
"""

import contextlib
import hashlib
import json
import selectors
import socket
import time
from typing import Any

_LINE = 4096  # bytes; no word of a meeting is longer
_PAUSE = 0.5  # seconds between two tries
_PATIENCE = 5.0  # seconds for a stranger to say something
_VERDICT = 15.0  # seconds more for worker 0's word than it waits itself


class PeerMissing(Exception):
    """A worker did not come, or was lost; start again."""


def meet(cluster, timeout):
    """Returns when all workers of a cluster are there.

    Args:
      cluster: Cluster of two workers or more.
      timeout: seconds to wait for the others.

    Raises:
      PeerMissing: naming the workers that did not come in time.
      ValueError: at a worker that was started as part of another cluster.
    """
    if cluster.is_chief:
        _receive(cluster, time.monotonic() + timeout, timeout)
    else:
        _come(cluster, time.monotonic() + timeout + _VERDICT, timeout)


def _identity(cluster):
    """What workers of one cluster have in common."""
    return hashlib.sha256("\n".join(cluster.workers).encode()).hexdigest()


def _receive(cluster, deadline, timeout):
    """Worker 0: waits for the others, then sends them on."""
    here: dict[int, Any] = {}  # index -> connection
    with _listen(cluster, deadline) as listener:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while len(here) < len(cluster.workers) - 1:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                for key, _ in selector.select(min(left, 1.0)):
                    if key.fileobj is listener:
                        _greet(cluster, listener, selector, here)
                    else:  # a waiting worker says nothing, so it has left
                        _part(key, selector, here)
        missing = [
            cluster.name(index)
            for index in range(1, len(cluster.workers))
            if index not in here
        ]
        word = {"missing": _shown(missing)} if missing else {"go": True}
        for connection in here.values():
            _say(connection, word)
        _close_after_peers(here.values())
    if missing:
        raise PeerMissing(_missing(_shown(missing), timeout))


def _listen(cluster, deadline):
    """A listening socket at worker 0's port, as soon as that is free."""
    port = int(cluster.workers[0].rpartition(":")[2])
    while True:
        try:
            return socket.create_server(("", port), backlog=1024)
        except OSError as error:
            if time.monotonic() > deadline:
                raise PeerMissing(
                    f"The port of {cluster.name()} cannot be opened: "
                    f"{error.strerror}. Another process holds it; stop that "
                    "one or choose another port."
                ) from error
        time.sleep(_PAUSE)


def _greet(cluster, listener, selector, here):
    """Takes in one comer."""
    connection, _ = listener.accept()
    connection.settimeout(_PATIENCE)
    word = _hear(connection)
    index = word.get("worker")
    known = isinstance(index, int) and 0 < index < len(cluster.workers)
    if not known or word.get("cluster") != _identity(cluster):
        if word:
            _say(connection, {"stranger": _shown(cluster.workers)})
        connection.close()
        return
    if index in here:  # started again while its old connection lingers
        selector.unregister(here[index])
        here[index].close()
    here[index] = connection
    selector.register(connection, selectors.EVENT_READ, index)


def _part(key, selector, here):
    selector.unregister(key.fileobj)
    key.fileobj.close()
    del here[key.data]


def _close_after_peers(connections):
    """Lets the others close first: the port must be free for TensorFlow."""
    for connection in connections:
        _hear(connection)
        connection.close()


def _come(cluster, deadline, timeout):
    """A worker: goes to worker 0 until it hears from it."""
    host, _, port = cluster.workers[0].rpartition(":")
    hello = {"worker": cluster.index, "cluster": _identity(cluster)}
    while (left := deadline - time.monotonic()) > 0:
        word = {}
        # Not there yet: a pause, and the next try.
        with contextlib.suppress(OSError):
            address = (host, int(port))
            with socket.create_connection(address, min(left, _PATIENCE)) as c:
                c.settimeout(left)
                _say(c, hello)
                word = _hear(c)
        if "go" in word:
            return
        if "missing" in word:
            raise PeerMissing(_missing(word["missing"], timeout))
        if "stranger" in word:
            raise ValueError(
                "All workers must be started with the same list of workers. "
                f"Received {_shown(cluster.workers)} here and "
                f"{word['stranger']} at {cluster.workers[0]}."
            )
        time.sleep(_PAUSE)
    raise PeerMissing(_missing(cluster.name(0), timeout))


def _shown(names):
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _missing(names, timeout):
    return (
        f"{names} did not come within {timeout:g} s. Look at the "
        "log of that worker, and whether its port can be reached from here; "
        "then start this command again."
    )


def _say(connection, word):
    # One that has left will come again.
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(word).encode() + b"\n")


def _hear(connection):
    """A dict from one line; {} for an end, silence or another language."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _LINE:
            part = connection.recv(_LINE - len(line))
            if not part:
                break
            line += part
        word = json.loads(line)
    except (OSError, ValueError):
        return {}
    return word if isinstance(word, dict) else {}
