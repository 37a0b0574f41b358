"""The start of a worker: all meet before TensorFlow joins them.

TensorFlow waits for its peers without end, cannot be interrupted then, and
names none that is missing. Here worker 0 listens on its own port, and every
other worker connects to it. A message is one line of JSON:

    {"worker": 1, "cluster": HASH, "process": "host, process 7",
     "devices": "gpu:1 GPU-0a…"}     to worker 0: who connects, of which list
    {"go": true}                     to all, once all are connected
    {"missing": "worker 2 (c:1)"}    to those that came, when the time is over
    {"stranger": "a:1, b:1"}         to a worker of another list of workers
    {"twins": "worker 1 (b:1): …"}   to all, where two processes are one worker
    {"mixture": "gpu:8 at a:1, …"}   to all, where they have unlike devices
    {"shared": "GPU-0a… at …"}       to all, where two have the same GPU

A port that speaks otherwise (a process of the last start that has not left
yet) counts as not there.
"""

import contextlib
import hashlib
import json
import os
import selectors
import socket
import time
from typing import Any

from moco_tf import counting
from moco_tf.cluster import watchdog

_MAX_LINE = 4096  # bytes of a message
_PAUSE = 0.5  # seconds between two tries
_CONNECTION_TIMEOUT = 5.0  # seconds for the other side's first message
_GRACE = 60.0  # seconds for what takes a moment where nothing hangs
_REPLY_TIMEOUT = 15.0  # seconds more than worker 0 itself waits for all


class PeerMissing(Exception):
    """A worker did not come, or was lost; start again."""


@contextlib.contextmanager
def joined(cluster, make_strategy, start_timeout, stall_timeout, devices=""):
    """Joins the other workers; the block is what they do together.

    The order of a start, and why it is this one:

    1. The watchdog starts, since each of the next steps may wait inside
       TensorFlow or a system call, where no handler of Python runs.
    2. The workers meet: TensorFlow would wait for a missing one without end
       and not name it.
    3. `make_strategy` is called. In a cluster TensorFlow joins the workers
       there, and takes SIGTERM for itself.
    4. So only now SIGTERM and SIGUSR1 are taken, to ask the run to leave; in a
       cluster Ctrl-C too.
    5. The block runs. Its first step, which compiles, has four times the
       `stall_timeout`; later ones say to the Guard when they are done.
    6. The process ends. TensorFlow may wait for a peer there again, so this
       is limited too.

    A process on its own has no watchdog and waits for nobody: 3, 4, 5 remain.

    Args:
      cluster: Cluster, or None for a process on its own.
      make_strategy: function without arguments that returns the strategy, and
        does whatever must be done before signals are taken.
      start_timeout: float, seconds to wait for the other workers.
      stall_timeout: float, seconds a step may take in a cluster; 0: no limit.
      devices: str, this worker's, as "gpu:8", which all must have, and behind
        it the names of its GPUs, which no other may have.

    Yields:
      what `make_strategy` returned; Guard of this process.

    Raises:
      PeerMissing: for workers that did not come in time.
      ValueError: for workers that were started with another list of workers,
        or have other devices, or two that have the same GPU.

    Side effects: the watchdog and the signal handlers stay after the block, to
    the end of the process.
    """
    guard = watchdog.Guard(cluster, stall_timeout)
    if cluster:
        guard.limit(start_timeout + _GRACE, "the arrival of all workers")
        meet(cluster, start_timeout, devices)
        guard.limit(start_timeout, "joining the other workers")
    strategy = make_strategy()
    guard.take_signals()
    guard.first_step()
    yield strategy, guard
    guard.limit(_GRACE, "the end of the process")


def meet(cluster, timeout, devices=""):
    """Returns when all workers of a cluster are there.

    Args:
      cluster: Cluster of two workers or more.
      timeout: float, seconds to wait for the others.
      devices: str, this worker's, as of `joined`.

    Raises:
      PeerMissing: naming the workers that did not come in time.
      ValueError: at a worker that was started as part of another cluster, and
        at all where two processes are the same worker, have other devices, or
        the same GPU.
    """
    deadline = time.monotonic() + timeout
    if cluster.is_chief:
        _gather(cluster, deadline, timeout, devices)
    else:
        _report_to_chief(cluster, deadline + _REPLY_TIMEOUT, timeout, devices)


def _identity(cluster):
    """A hash of the list of workers, the same at all workers of a cluster."""
    return hashlib.sha256("\n".join(cluster.workers).encode()).hexdigest()


@counting.timed("waiting for the other workers")
def _gather(cluster, deadline, timeout, devices):
    """Worker 0: waits for the others, then sends them on."""
    arrivals = _Arrivals(cluster, devices)
    with _listen(cluster, deadline) as listener:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while arrivals.missing() and not arrivals.twins:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                for key, _ in selector.select(min(left, 1.0)):
                    if key.fileobj is listener:
                        arrivals.accept(listener, selector)
                    else:  # a waiting worker sends nothing, so it has left
                        selector.unregister(key.fileobj)
                        arrivals.connections.pop(key.data).close()
        missing = [cluster.name(index) for index in arrivals.missing()]
        message: dict[str, Any] = {"go": True}
        if arrivals.twins:
            message = {"twins": arrivals.twins}
        elif missing:
            message = {"missing": _join(missing)}
        elif mixture := arrivals.mixture():
            message = {"mixture": mixture}
        elif shared := arrivals.shared():
            message = {"shared": shared}
        for connection in arrivals.connections.values():
            _send(connection, message)
        # The others close first: the port must be free for TensorFlow.
        for connection in arrivals.connections.values():
            _receive(connection)
            connection.close()
    if arrivals.twins:
        raise ValueError(_explain_twins(arrivals.twins))
    if missing:
        raise PeerMissing(_explain_missing(_join(missing), timeout))
    if "mixture" in message:
        raise ValueError(_explain_mixture(message["mixture"]))
    if "shared" in message:
        raise ValueError(_explain_shared(message["shared"]))


class _Arrivals:
    """The workers that have come to worker 0.

    Attributes:
      connections: dict index of a worker -> socket.
      twins: str, "" or a worker in words that two living processes claim.
    """

    def __init__(self, cluster, devices):
        self.connections: dict[int, Any] = {}
        self._devices = {0: devices}
        self.twins = ""
        self._cluster = cluster
        self._processes: dict[int, str] = {}  # of the connections
        self._replaced: set[tuple[int, str]] = set()

    def missing(self):
        """Indices of the workers that are not there."""
        others = range(1, len(self._cluster.workers))
        return [index for index in others if index not in self.connections]

    def mixture(self):
        """The devices of the workers in words, where they differ; else ""."""
        workers: dict[str, list[str]] = {}
        for index, devices in sorted(self._devices.items()):
            kind = devices.partition(" ")[0]
            workers.setdefault(kind, []).append(self._cluster.name(index))
        if len(workers) == 1:
            return ""
        return "; ".join(
            f"{d} at {_join(names)}" for d, names in workers.items()
        )

    def shared(self):
        """The first GPU that two workers have, and who, in words; else ""."""
        workers: dict[str, list[str]] = {}
        for index, devices in sorted(self._devices.items()):
            for gpu in devices.split()[1:]:
                workers.setdefault(gpu, []).append(self._cluster.name(index))
        return next(
            (
                f"{gpu} at {_join(names)}"
                for gpu, names in workers.items()
                if len(names) > 1
            ),
            "",
        )

    def accept(self, listener, selector):
        """Accepts a connection; keeps it if a worker of the cluster has it."""
        connection, _ = listener.accept()
        connection.settimeout(_CONNECTION_TIMEOUT)
        message = _receive(connection)
        index, process = message.get("worker"), str(message.get("process", ""))
        workers = self._cluster.workers
        known = isinstance(index, int) and 0 < index < len(workers)
        if not known or message.get("cluster") != _identity(self._cluster):
            if message:
                _send(connection, {"stranger": _join(workers)})
            connection.close()
            return
        if index in self.connections:
            # Started again while the old one lingers. Only a living one whose
            # place was taken comes back: then there are two.
            last = self._processes[index]
            if (index, process) in self._replaced and process != last:
                name = self._cluster.name(index)
                self.twins = f"{name}: {process}; {last}"
                _send(connection, {"twins": self.twins})
                connection.close()
                return
            self._replaced.add((index, last))
            selector.unregister(self.connections[index])
            self.connections[index].close()
        self.connections[index] = connection
        self._processes[index] = process
        self._devices[index] = str(message.get("devices", ""))
        selector.register(connection, selectors.EVENT_READ, index)


def _server(port):
    """A listening socket for IPv6 and IPv4, where the machine has both."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be switched off
            return socket.create_server(
                ("", port),
                family=socket.AF_INET6,
                backlog=1024,
                dualstack_ipv6=True,
            )
    return socket.create_server(("", port), backlog=1024)


def _listen(cluster, deadline):
    """A listening socket at worker 0's port, as soon as that is free."""
    port = int(cluster.workers[0].rpartition(":")[2])
    while True:
        try:
            return _server(port)
        except OSError as error:
            if time.monotonic() > deadline:
                raise PeerMissing(
                    f"The port of {cluster.name()} cannot be opened: "
                    f"{error.strerror}. Another process holds it; stop that "
                    "one or choose another port."
                ) from error
        time.sleep(_PAUSE)


@counting.timed("waiting for worker 0")
def _report_to_chief(cluster, deadline, timeout, devices):
    """Another worker: connects to worker 0 until that answers."""
    host, _, port = cluster.workers[0].rpartition(":")
    greeting = {
        "worker": cluster.index,
        "cluster": _identity(cluster),
        "process": f"{socket.gethostname()}, process {os.getpid()}",
        "devices": devices,
    }
    while (left := deadline - time.monotonic()) > 0:
        answer = {}
        # Not there yet: a pause, and the next try.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(
                (host.strip("[]"), int(port)), min(left, _CONNECTION_TIMEOUT)
            ) as connection,
        ):
            connection.settimeout(left)
            _send(connection, greeting)
            answer = _receive(connection)
        if "go" in answer:
            return
        if "missing" in answer:
            raise PeerMissing(_explain_missing(answer["missing"], timeout))
        if "twins" in answer:
            raise ValueError(_explain_twins(answer["twins"]))
        if "mixture" in answer:
            raise ValueError(_explain_mixture(answer["mixture"]))
        if "shared" in answer:
            raise ValueError(_explain_shared(answer["shared"]))
        if "stranger" in answer:
            raise ValueError(
                "All workers must be started with the same list of workers. "
                f"Received {_join(cluster.workers)} here and "
                f"{answer['stranger']} at {cluster.workers[0]}. Give both the "
                "same one, in the same order."
            )
        time.sleep(_PAUSE)
    raise PeerMissing(_explain_missing(cluster.name(0), timeout))


def _join(names):
    """The names with commas, those after the eighth as a number."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _explain_twins(names):
    """The message about two processes that are the same worker."""
    return (
        "Every worker must have an index of its own. Received two processes "
        f"as {names}. Correct the index of one of them (TF_CONFIG or "
        "--worker_index), or end the one that was left behind; then start all "
        "again."
    )


def _explain_mixture(devices):
    """The message about workers whose devices differ."""
    return (
        "All workers must have the same devices: they could not exchange, or "
        f"would wait for each other. Received {devices}. Start all with the "
        "same --devices=cpu or gpu:N (moco-tf doctor says what a machine has)."
    )


def _explain_shared(gpu):
    """The message about a GPU, with its workers in a text, of several."""
    return (
        "Every worker must have GPUs of its own: NCCL refuses two processes on "
        f"one GPU. Received {gpu}. Pass --devices=gpu:N with fewer, start "
        "fewer workers on that host, or set CUDA_VISIBLE_DEVICES for each."
    )


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
