"""A process comes into its cluster, and goes."""

import pytest

from moco_tf.cluster import entry, membership, rendezvous, watchdog

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
        lambda cluster, timeout: calls.append(f"meet for {timeout} s"),
    )
    return calls


@pytest.fixture(name="make_strategy")
def _make_strategy(calls):
    def make():
        calls.append("strategy")
        return "a strategy"

    return make


def test_the_order_of_a_start_in_a_cluster(calls, make_strategy):
    with entry.joined(CLUSTER, make_strategy, 5.0, 9.0) as (strategy, guard):
        assert (strategy, guard.cluster) == ("a strategy", CLUSTER)
        guard.step_done(1)
    assert calls == [
        "watch worker 1 (b:2)",
        (65.0, "the arrival of all workers"),
        "meet for 5.0 s",
        (5.0, "joining the other workers"),
        "strategy",
        "signals",
        (9.0, "the start of training"),
        (9.0, "the step after step 1"),
        (60.0, "the end of the process"),
    ]


def test_a_process_on_its_own_meets_and_fears_nobody(calls, make_strategy):
    with entry.joined(None, make_strategy, 5.0, 9.0) as (strategy, guard):
        assert (strategy, guard.is_chief) == ("a strategy", True)
    assert calls == ["strategy", "signals"]


def test_an_error_of_the_block_is_not_changed(calls, make_strategy):
    with pytest.raises(FloatingPointError, match="loss"):
        with entry.joined(CLUSTER, make_strategy, 5.0, 9.0):
            raise FloatingPointError("loss")
    assert calls[-1] == (9.0, "the start of training")
