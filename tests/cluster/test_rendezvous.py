"""Workers that start: all meet, some do not come, strangers call."""

import concurrent.futures
import socket
import threading
import time

import pytest

from moco_tf.cluster import membership, rendezvous, watchdog
from tests import waiting
from tests.cluster import ports


def _meet(workers, index, timeout, devices="cpu:1"):
    """None, or the error that was raised."""
    cluster = membership.Cluster(workers, index, "a test")
    try:
        rendezvous.meet(cluster, timeout, devices)
    except (rendezvous.PeerMissing, ValueError) as error:
        return error


def _meet_all(workers, indices, timeout=20.0, delays=(0, 0, 0)):
    with concurrent.futures.ThreadPoolExecutor() as pool:

        def start(index):
            time.sleep(delays[index])
            return _meet(workers, index, timeout)

        return list(pool.map(start, indices))


def test_workers_with_unlike_devices_are_refused_by_name():
    workers = ports.workers(3)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        calls = [
            pool.submit(_meet, workers, index, 20.0, devices)
            for index, devices in enumerate(["gpu:8", "cpu:1", "gpu:8"])
        ]
        errors = [call.result() for call in calls]
    for error in errors:
        assert isinstance(error, ValueError)
        assert f"gpu:8 at worker 0 ({workers[0]}), worker 2 (" in str(error)
        assert f"cpu:1 at worker 1 ({workers[1]})" in str(error)
    # The remedy: alike. Nothing of the refused start is left.
    assert _meet_all(workers, range(3)) == [None] * 3


def test_two_workers_on_the_same_gpu_are_refused_by_its_name():
    workers = ports.workers(3)

    def meet_with(*gpus):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            calls = [
                pool.submit(_meet, workers, index, 20.0, f"gpu:1 {gpu}")
                for index, gpu in enumerate(gpus)
            ]
            return [call.result() for call in calls]

    for error in meet_with("GPU-0a", "GPU-1b", "GPU-0a"):
        assert isinstance(error, ValueError)
        assert f"GPU-0a at worker 0 ({workers[0]}), worker 2 (" in str(error)
    # The remedy: each has one; or its name is not known.
    assert meet_with("GPU-0a", "GPU-1b", "GPU-2c") == [None] * 3
    assert meet_with("GPU-0a", "", "") == [None] * 3


def _port_is_free(worker):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", int(worker.rpartition(":")[2])))
        probe.listen()


def _has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return socket.has_dualstack_ipv6()


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_workers_meet_over_ipv6_too():
    workers = tuple(
        each.replace("127.0.0.1", host)
        for each, host in zip(ports.workers(2), ("[::1]",) * 2, strict=True)
    )
    assert _meet_all(workers, range(2)) == [None] * 2


@pytest.mark.parametrize("delays", [(0, 0, 0), (0.8, 0, 0), (0, 0.8, 0.3)])
def test_all_meet_in_any_order_of_coming(delays):
    workers = ports.workers(3)
    assert _meet_all(workers, range(3), delays=delays) == [None] * 3
    _port_is_free(workers[0])  # for TensorFlow


def test_all_workers_name_the_worker_that_did_not_come():
    workers = ports.workers(3)
    errors = _meet_all(workers, [0, 2], timeout=1.0)
    for error in errors:
        assert isinstance(error, rendezvous.PeerMissing)
        assert f"worker 1 ({workers[1]}) did not come" in str(error)


def test_a_missing_chief_is_named(monkeypatch):
    monkeypatch.setattr(rendezvous, "_REPLY_TIMEOUT", 0.0)
    workers = ports.workers(2)
    error = _meet(workers, 1, 1.0)
    assert f"worker 0 ({workers[0]}) did not come" in str(error)


def _connected(address):
    """A connection, or None while nobody listens."""
    try:
        return socket.create_connection(address)
    except OSError:
        return None


def test_a_worker_started_again_takes_its_place():
    workers = ports.workers(3)
    address = workers[0].split(":")
    identity = rendezvous._identity(membership.Cluster(workers, 1, ""))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(_meet, workers, 0, 20.0)
        for _ in range(2):  # one that says hello and dies, twice
            first = waiting.wait_for(lambda: _connected(address))
            hello = {"worker": 1, "cluster": identity, "devices": "cpu:1"}
            rendezvous._send(first, hello)
            time.sleep(0.2)
            first.close()
        last = pool.submit(_meet, workers, 2, 20.0)
        time.sleep(0.5)
        assert not chief.done()  # worker 1 was here and is not any more
        second = pool.submit(_meet, workers, 1, 20.0)
        assert [f.result() for f in (chief, second, last)] == [None] * 3


def test_two_processes_as_the_same_worker_are_named(monkeypatch):
    monkeypatch.setattr(rendezvous, "_PAUSE", 0.05)
    workers = ports.workers(3)
    numbers = iter(range(1, 99))
    mine = {}  # threads stand for processes

    def number():
        return mine.setdefault(threading.get_ident(), next(numbers))

    monkeypatch.setattr(rendezvous.os, "getpid", number)
    chief, first, second = _meet_all(workers, [0, 1, 1])
    for error in (chief, first, second):
        assert isinstance(error, ValueError)
        assert f"worker 1 ({workers[1]}): " in str(error)
        assert str(error).count(", process ") == 2
    # The remedy: an index of its own.
    assert _meet_all(workers, [0, 1, 2]) == [None] * 3


@pytest.mark.parametrize(
    "text", [b"", b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"[1]\n", b"\xff" * 9000]
)
def test_strangers_do_not_disturb(text, monkeypatch):
    monkeypatch.setattr(rendezvous, "_CONNECTION_TIMEOUT", 0.3)
    workers = ports.workers(2)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(_meet, workers, 0, 20.0)
        address = workers[0].split(":")
        stranger = waiting.wait_for(lambda: _connected(address))
        with stranger:
            stranger.sendall(text)
            second = pool.submit(_meet, workers, 1, 20.0)
            assert [chief.result(), second.result()] == [None, None]


def test_a_port_of_another_program_counts_as_not_there(monkeypatch):
    monkeypatch.setattr(rendezvous, "_REPLY_TIMEOUT", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        workers = (f"127.0.0.1:{port}", "127.0.0.1:1")
        error = _meet(workers, 1, 1.0)
    assert isinstance(error, rendezvous.PeerMissing)


def test_a_worker_of_another_list_is_refused():
    workers = ports.workers(3)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(_meet, workers, 0, 3.0)
        other = pool.submit(_meet, workers[:2], 1, 3.0)
        assert "same list of workers" in str(other.result())
        assert isinstance(chief.result(), rendezvous.PeerMissing)


def test_a_port_that_stays_taken_is_reported():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        error = _meet((f"127.0.0.1:{port}", "127.0.0.1:1"), 0, 0.5)
    assert isinstance(error, rendezvous.PeerMissing)
    assert "cannot be opened" in str(error)


def test_many_missing_workers_are_counted():
    workers = tuple(f"h{i}:1" for i in range(100))
    assert rendezvous._join(workers).endswith("h7:1 and 92 more")


CLUSTER = membership.Cluster(("a:1", "b:2"), 1, "a test")


@pytest.fixture(name="calls")
def _calls(monkeypatch):
    """Notes what happens instead of letting it happen."""
    calls = []

    class Watchdog:
        def __init__(self, name):
            calls.append(f"watch {name}")

        def limit(self, seconds, activity):
            calls.append((seconds, activity))

    monkeypatch.setattr(watchdog, "Watchdog", Watchdog)
    monkeypatch.setattr(
        watchdog.Guard, "take_signals", lambda _: calls.append("signals")
    )
    monkeypatch.setattr(
        rendezvous,
        "meet",
        lambda cluster, timeout, devices: calls.append(
            f"meet for {timeout} s, {devices}"
        ),
    )
    return calls


@pytest.fixture(name="make_strategy")
def _make_strategy(calls):
    def make():
        calls.append("strategy")
        return "a strategy"

    return make


def test_the_order_of_a_start_in_a_cluster(calls, make_strategy):
    with rendezvous.joined(CLUSTER, make_strategy, 5.0, 9.0, "gpu:8") as (
        strategy,
        guard,
    ):
        assert (strategy, guard.cluster) == ("a strategy", CLUSTER)
        guard.step_done(1)
    assert calls == [
        "watch worker 1 (b:2)",
        (65.0, "the arrival of all workers"),
        "meet for 5.0 s, gpu:8",
        (5.0, "joining the other workers"),
        "strategy",
        "signals",
        # The first step compiles, and on new GPUs the driver does.
        (36.0, "the start of training"),
        (9.0, "the step after step 1"),
        (60.0, "the end of the process"),
    ]


def test_a_process_on_its_own_meets_and_fears_nobody(calls, make_strategy):
    with rendezvous.joined(None, make_strategy, 5.0, 9.0) as (strategy, guard):
        assert (strategy, guard.is_chief) == ("a strategy", True)
    assert calls == ["strategy", "signals"]


def test_an_error_of_the_block_is_not_changed(calls, make_strategy):
    with pytest.raises(FloatingPointError, match="loss"):
        with rendezvous.joined(CLUSTER, make_strategy, 5.0, 9.0):
            raise FloatingPointError("loss")
    assert calls[-1] == (36.0, "the start of training")
