"""Rows of training/: devices, optimisers, numbers that are not finite."""

import subprocess
import sys
import types
from importlib import metadata

import tensorflow as tf

from moco_tf.training import (
    distribution,
    nonfinite,
    optimizers,
    schedules,
)
from tests.remedies import following

ROWS = following.Rows(
    *("training/distribution.py", "training/optimizers.py"),
    *("training/schedules.py", "training/nonfinite.py"),
)


def devices(text):
    """Makes the strategy of --devices, in a process of its own devices."""
    return distribution.make_strategy(text)


@ROWS.followed("training/distribution.py:_choose_gpus", "pass --devices=")
def gpus_that_are_missing():
    text = yield lambda: devices("gpu:2")
    yield lambda: devices(text.rpartition("--devices=")[2].rstrip("."))


@ROWS.followed(
    "training/distribution.py:_choose_devices_of_worker", "--devices=cpu"
)
def replicas_of_a_worker():
    worker = types.SimpleNamespace(
        name=lambda: "worker 0", local=lambda: (0, 1)
    )

    def choose(text):
        kind, count = distribution.parse_devices(text)
        distribution._choose_devices_of_worker(kind, count, [], worker)

    yield lambda: choose("cpu:2")
    yield lambda: choose("cpu")


@ROWS.followed("training/distribution.py:make_strategy", "start a new process")
def devices_of_a_process_that_works():
    tf.constant(1.0).numpy()
    yield lambda: devices("cpu:3")
    program = (
        "from moco_tf.training import distribution as d;"
        "assert d.make_strategy('cpu:3').num_replicas_in_sync == 3"
    )
    yield lambda: subprocess.run([sys.executable, "-c", program], check=True)


@ROWS.followed("training/optimizers.py:_import_addons", "Install it (pip")
def addons_are_missing(monkeypatch):
    def make(name):
        return optimizers.make_optimizer(name, 0.1, 0.9, 1e-4)

    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    text = yield lambda: make("lamb")
    (remedy,) = following.advised(text)
    yield lambda: make(remedy["optimizer.name"])
    monkeypatch.undo()  # the package of that version is installed here
    yield lambda: make("lamb")
    installed = metadata.version("tensorflow-addons")
    assert f"tensorflow-addons=={installed}" in text


@ROWS.followed("training/optimizers.py:sgdw", "Use a schedule of")
def schedule_from_zero():
    warm_up = tf.keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.1)
    yield lambda: optimizers.sgdw(warm_up, 0.9, 1e-4)
    ours = schedules.Cosine(0.1, 10, 5, warmup_epochs=2)
    yield lambda: optimizers.sgdw(ours, 0.9, 1e-4)


@ROWS.followed("training/nonfinite.py:find", "config.checkpoint.every_steps")
def checkpoint_too_far_away(monkeypatch):
    def find(last):
        monkeypatch.setattr(nonfinite.checkpoints, "restore", lambda *_: last)
        stream = types.SimpleNamespace(distribute=_stop)
        try:
            return nonfinite.find(None, stream, None, "path", 5000)
        except _Runs:
            return "it is run again"

    yield lambda: find(2000)
    yield lambda: find(4000)


class _Runs(Exception):
    """The steps since the checkpoint would be run again now."""


def _stop(*_):
    raise _Runs


ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("training/distribution.py:parse_devices", "--devices must be"),
    ("training/distribution.py:_check_name", "must be one of"),
    ("training/optimizers.py:make_optimizer", "optimizer.name must be"),
    ("training/schedules.py:_Warmed.__init__", "unit must be"),
)
ROWS.states(
    following.OF_A_CALLER,
    ("training/schedules.py:_Warmed.factor", "A schedule defines"),
)
ROWS.tested(
    "tests/cluster/test_faults.py::test_killed_and_frozen_workers_change_no_bit",
    ("training/distribution.py:lost_workers", "all must start again"),
)
