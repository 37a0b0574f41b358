"""Workers meet before TensorFlow joins them, so that a missing one is named.

TensorFlow waits for its peers without end, and cannot be interrupted then.
Here worker 0 listens on its own port, and every other worker connects to it.
A message is one line of JSON:

    {"worker": 1, "cluster": HASH}   to worker 0: who connects, of which list
    {"go": true}                     to all, once all are connected
    {"missing": "worker 2 (c:1)"}    to those that came, when the time is over
    {"stranger": "a:1, b:1"}         to a worker of another list of workers

A port that speaks otherwise (a process of the last start that has not left
yet) counts as not there.
"""

import contextlib
import hashlib
import json
import selectors
import socket
import time
from typing import Any

_MAX_LINE = 4096  # bytes of a message
_PAUSE = 0.5  # seconds between two tries
_CONNECTION_TIMEOUT = 5.0  # seconds for the other side's first message
_REPLY_TIMEOUT = 15.0  # seconds more than worker 0 itself waits for all


class PeerMissing(Exception):
    """A worker did not come, or was lost; start again."""


def meet(cluster, timeout):
    """Returns when all workers of a cluster are there.

    Args:
      cluster: Cluster of two workers or more.
      timeout: float, seconds to wait for the others.

    Raises:
      PeerMissing: naming the workers that did not come in time.
      ValueError: at a worker that was started as part of another cluster.
    """
    deadline = time.monotonic() + timeout
    if cluster.is_chief:
        _gather(cluster, deadline, timeout)
    else:
        _report_to_chief(cluster, deadline + _REPLY_TIMEOUT, timeout)


def _identity(cluster):
    """A hash of the list of workers, the same at all workers of a cluster."""
    return hashlib.sha256("\n".join(cluster.workers).encode()).hexdigest()


def _gather(cluster, deadline, timeout):
    """Worker 0: waits for the others, then sends them on."""
    connections: dict[int, Any] = {}  # index of a worker -> socket
    with _listen(cluster, deadline) as listener:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while len(connections) < len(cluster.workers) - 1:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                for key, _ in selector.select(min(left, 1.0)):
                    if key.fileobj is listener:
                        _accept(cluster, listener, selector, connections)
                    else:  # a waiting worker sends nothing, so it has left
                        selector.unregister(key.fileobj)
                        connections.pop(key.data).close()
        missing = [
            cluster.name(index)
            for index in range(1, len(cluster.workers))
            if index not in connections
        ]
        message = {"missing": _join(missing)} if missing else {"go": True}
        for connection in connections.values():
            _send(connection, message)
        # The others close first: the port must be free for TensorFlow.
        for connection in connections.values():
            _receive(connection)
            connection.close()
    if missing:
        raise PeerMissing(_explain_missing(_join(missing), timeout))


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


def _accept(cluster, listener, selector, connections):
    """Accepts a connection, and keeps it if it is a worker's of the cluster."""
    connection, _ = listener.accept()
    connection.settimeout(_CONNECTION_TIMEOUT)
    message = _receive(connection)
    index = message.get("worker")
    known = isinstance(index, int) and 0 < index < len(cluster.workers)
    if not known or message.get("cluster") != _identity(cluster):
        if message:
            _send(connection, {"stranger": _join(cluster.workers)})
        connection.close()
        return
    if index in connections:  # started again while the old one lingers
        selector.unregister(connections[index])
        connections[index].close()
    connections[index] = connection
    selector.register(connection, selectors.EVENT_READ, index)


def _report_to_chief(cluster, deadline, timeout):
    """Another worker: connects to worker 0 until that answers."""
    host, _, port = cluster.workers[0].rpartition(":")
    greeting = {"worker": cluster.index, "cluster": _identity(cluster)}
    while (left := deadline - time.monotonic()) > 0:
        answer = {}
        # Not there yet: a pause, and the next try.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(
                (host, int(port)), min(left, _CONNECTION_TIMEOUT)
            ) as connection,
        ):
            connection.settimeout(left)
            _send(connection, greeting)
            answer = _receive(connection)
        if "go" in answer:
            return
        if "missing" in answer:
            raise PeerMissing(_explain_missing(answer["missing"], timeout))
        if "stranger" in answer:
            raise ValueError(
                "All workers must be started with the same list of workers. "
                f"Received {_join(cluster.workers)} here and "
                f"{answer['stranger']} at {cluster.workers[0]}."
            )
        time.sleep(_PAUSE)
    raise PeerMissing(_explain_missing(cluster.name(0), timeout))


def _join(names):
    """The names with commas, those after the eighth as a number."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _explain_missing(names, timeout):
    """The message about workers, named in a text, that did not come."""
    return (
        f"{names} did not come within {timeout:g} s. Look at the "
        "log of that worker, and whether its port can be reached from here; "
        "then start this command again."
    )


def _send(connection, message):
    """Sends a dict; a worker that has left meanwhile will come again."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection):
    """A dict from one line; {} for an end, silence or another protocol."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _MAX_LINE:
            part = connection.recv(_MAX_LINE - len(line))
            if not part:
                break
            line += part
        message = json.loads(line)
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}
