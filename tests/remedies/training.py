"""Rows of training/: devices, optimisers, numbers that are not finite."""

import contextlib
import os
import pathlib
import re
import sys
import tempfile
import types
from unittest import mock

import tensorflow as tf

from moco_tf.training import (
    distribution,
    gpus,
    nonfinite,
    optimizers,
    schedules,
)
from tests import forked
from tests.remedies import following, messages

ROWS = following.Rows(
    *("training/distribution.py", "training/optimizers.py"),
    *("training/schedules.py", "training/nonfinite.py"),
    "training/gpus.py",
)


def devices(text):
    """Makes the strategy of --devices, in a process of its own devices."""
    return distribution.make_strategy(text)


@ROWS.followed("training/distribution.py:_choose_gpus", "or pass --devices=")
def gpus_that_are_missing():
    text = yield lambda: devices("gpu:2")
    yield lambda: devices(text.rpartition("--devices=")[2].rstrip("."))


@ROWS.followed("training/distribution.py:find_devices", "--devices=cpu and")
def replicas_of_a_worker():
    worker = types.SimpleNamespace(
        name=lambda: "worker 0", local=lambda: (0, 1)
    )
    yield lambda: distribution.find_devices("cpu:2", worker)
    yield lambda: distribution.find_devices("cpu", worker)


@ROWS.followed(
    "training/distribution.py:_check_exchange", "Pass --cross_device_ops=auto"
)
def exchange_of_one_process_in_a_cluster():
    worker = types.SimpleNamespace(name=lambda: "worker 0")

    def check(name):
        distribution._check_exchange("gpu", worker, name, "auto")

    text = yield lambda: check("one_device")
    yield lambda: check(text.rpartition("=")[2].rstrip("."))


@ROWS.followed("training/distribution.py:_check_exchange", "is for GPUs")
def nccl_on_the_cpu():
    def check(name):
        distribution._check_exchange("cpu", None, name, "auto")

    text = yield lambda: check("nccl")
    yield lambda: check(text.rpartition("=")[2].rstrip("."))


@contextlib.contextmanager
def machine(text=""):
    """The root of a machine with a driver that TensorFlow sees no GPU of.

    Args:
      text: what nvidia-smi does, in the shell; "": there is none.
    """
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        (root / "proc/driver/nvidia").mkdir(parents=True)
        (root / "proc/driver/nvidia/version").write_text("Module  535.104.05")
        (root / "dev").mkdir()
        (root / "dev/nvidia0").touch()
        if text:
            (root / "nvidia-smi").write_text(f"#!/bin/sh\n{text}\n")
            (root / "nvidia-smi").chmod(0o755)
        with (
            mock.patch.dict(os.environ, PATH=f"{name}:/usr/bin:/bin"),
            mock.patch.object(tf.config, "list_physical_devices", lambda _: []),
        ):
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            yield root


def fault(text=""):
    """What is said of the GPUs of such a machine."""
    with machine(text) as root:
        return gpus.examine(root).fault


@ROWS.followed("training/gpus.py:_unseen", "Install the driver anew")
def driver_that_does_not_answer():
    yield lambda: fault("echo Failed to initialize NVML; exit 18")
    yield lambda: fault("echo NVIDIA A100")


@ROWS.followed("training/gpus.py:_unseen", "launch/quickstart.sh --gpu")
def cuda_wheels_that_lack(monkeypatch):
    text = yield fault
    lock = messages.ROOT / text.partition(" -r ")[2].partition(";")[0]
    pairs = re.findall(r"^([\w-]+)==(\S+)", lock.read_text(), re.M)
    monkeypatch.setattr(gpus.metadata, "version", dict(pairs).__getitem__)
    yield fault  # tests/test_launch.py installs it by --gpu


@ROWS.followed("training/gpus.py:_unseen", "Unset LD_LIBRARY_PATH")
def driver_that_is_too_old(monkeypatch):
    monkeypatch.setattr(gpus, "lacking_wheels", lambda: [])
    yield fault
    yield lambda: kinds((8, 0))  # TensorFlow lists it then


def kinds(*capabilities, shown=None):
    """What is said of GPUs of some compute capabilities."""
    listed = [
        tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU")
        for number in range(len(capabilities))
    ]
    details = dict(zip(listed, capabilities, strict=True))
    with (
        mock.patch.object(
            tf.config,
            "list_physical_devices",
            lambda _: listed if shown is None else [listed[n] for n in shown],
        ),
        mock.patch.object(gpus, "_details", lambda gpu: ("a", details[gpu])),
    ):
        return gpus.examine().fault


@ROWS.followed("training/gpus.py:examine", "Set CUDA_VISIBLE_DEVICES=")
def gpus_of_which_some_are_too_new():
    text = yield lambda: kinds((10, 0), (8, 0))
    shown = text.partition("CUDA_VISIBLE_DEVICES=")[2].partition(",")[0]
    yield lambda: kinds((10, 0), (8, 0), shown=[int(shown)])


@ROWS.followed("training/gpus.py:examine", "Pass --devices=cpu")
def gpus_that_are_too_new():
    text = yield lambda: kinds((10, 0))
    chosen = text.rpartition("--devices=")[2].rstrip(".")
    yield lambda: distribution.find_devices(chosen)


@ROWS.followed("training/distribution.py:make_strategy", "start a new process")
def devices_of_a_process_that_works():
    tf.constant(1.0).numpy()
    yield lambda: devices("cpu:3")
    program = (
        "from moco_tf.training import distribution as d;"
        "assert d.make_strategy('cpu:3').num_replicas_in_sync == 3"
    )
    words = [sys.executable, "-c", program]
    yield lambda: forked.run(words).check_returncode()


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
    following.PART_OF_ANOTHER,
    ("training/distribution.py:find_devices", "{seen.fault}"),
)
ROWS.states(
    following.OF_A_CALLER,
    ("training/schedules.py:_Warmed.factor", "A schedule defines"),
)
ROWS.tested(
    "tests/cluster/test_faults.py::test_killed_and_frozen_workers_change_no_bit",
    ("training/distribution.py:lost_workers", "all must start again"),
)
