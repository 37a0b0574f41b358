"""Whether doctor's checks of devices hold, and notice what is wrong."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.doctor import devices, reference, table
from moco_tf.methods import table as methods
from moco_tf.models import encoder
from tests.doctor import small_backbone
from tests.methods import every_method

REFERENCE = pathlib.Path(__file__).resolve().parents[1] / "reference"


@pytest.mark.parametrize("case", reference.CASES, ids=lambda c: c["file"])
def test_the_figures_are_those_of_the_reference_files(case):
    file = np.load(REFERENCE / case["file"])
    config = json.loads(str(file["config"]))
    assert list(case["losses"]) == file["losses"].tolist()
    assert np.array_equal(case["permutations"], file["permutations"])
    assert case["queue_pointer"] == file["queue_ptr"]
    learned = ["running" not in str(name) for name in file["names"]]
    moved = np.linalg.norm(file["query_delta_norms"][learned])
    np.testing.assert_allclose(case["moved"], moved)
    rates = config.get("lrs") or [config["lr"]] * config["steps"]
    assert list(case["rates"]) == rates
    same = {
        "arch": "arch",
        "dim": "dim",
        "queue_size": "K",
        "momentum": "m",
        "temperature": "T",
        "weight_decay": "wd",
        "image_size": "size",
        "batch": "batch",
        "groups": "world",
        "seed": "seed",
    }
    assert {name: case[name] for name in same} == {
        name: config[key] for name, key in same.items()
    }
    assert case["head"] == ("mlp" if config["mlp"] else "fc")


def test_this_device_computes_the_published_steps():
    deviations = reference.replay(reference.CASES[0])
    assert all(
        deviations[name] <= limit for name, limit in reference.LIMITS.items()
    )


def test_other_figures_fail_by_name(monkeypatch):
    deviations = {
        "losses": 6e-4,
        "weights moved": np.nan,
        "queue pointer": 0.0,
    }
    monkeypatch.setattr(reference, "replay", lambda case: deviations)
    row = reference.check_reference([{"file": "a.npz", "losses": [1.0]}])
    assert row.verdict == table.FAIL
    assert "losses of a.npz, weights moved of a.npz." in row.remedy
    deviations |= {"losses": 4e-4, "weights moved": 0.0}
    row = reference.check_reference([{"file": "a.npz", "losses": [1.0]}])
    assert row.verdict == table.OK


def test_two_replicas_gather_what_numpy_says():
    code = (
        "from moco_tf.training import distribution\n"
        "from moco_tf.doctor import devices\n"
        "from moco_tf.methods import shuffle\n"
        "strategy = distribution.make_strategy('cpu:2')\n"
        "print(devices.check_gather(strategy, 9))\n"
        "shuffle.unshuffle = lambda rows, order: rows\n"
        "print(devices.check_gather(strategy, 9))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    right, wrong = done.stdout.splitlines()
    assert "over 2 replicas: as they must be" in right
    assert "verdict='ok'" in right
    assert "verdict='fail'" in wrong


def test_a_resumed_run_has_the_same_bits(monkeypatch):
    monkeypatch.setattr(encoder, "build_backbone", small_backbone.build)
    strategy = tf.distribute.get_strategy()
    row = devices.check_resume(configs.load("quickstart"), strategy)
    assert row.verdict == table.OK
    assert row.finding.endswith("the same bits")


def test_a_pair_of_files_is_resumed_too(monkeypatch):
    monkeypatch.setattr(encoder, "build_backbone", every_method.tiny_backbone)
    config = configs.load(
        "cmc_imagenet", {"model.input": "pair", "data.source": "a"}
    )
    row = devices.check_resume(config, tf.distribute.get_strategy())
    assert row.finding.endswith("the same bits")


@pytest.mark.parametrize("name", methods.METHODS)
def test_the_small_run_of_any_method_keeps_the_rules(name):
    recipe = methods.METHODS[name].configs[0]
    config = configs.load(recipe, {"data.source": "a"})
    plan.check(devices.small_config(config, 2), 2)


def test_the_small_run_has_no_more_micro_batches_than_groups():
    fields = {"data.source": "a", "train.micro_batches": "4"}
    config = configs.load("moco_v2_imagenet", fields)
    plan.check(devices.small_config(config, 2), 2)


@pytest.mark.parametrize(
    "largest, on_gpu, verdict",
    [
        (0.0, False, table.OK),
        (1e-7, False, table.FAIL),
        (1e-5, True, table.OK),
        (1e-2, True, table.FAIL),
        (np.inf, True, table.FAIL),
    ],
)
def test_a_gpu_may_add_in_another_order(largest, on_gpu, verdict):
    assert devices.resume_row(largest, on_gpu).verdict == verdict


def test_difference_is_relative_to_the_largest_value(tmp_path):
    def write(name, *values):
        variables = {str(n): tf.Variable(v) for n, v in enumerate(values)}
        (tmp_path / name).mkdir()
        checkpoint = tf.train.Checkpoint(model=variables)
        checkpoint.write(str(tmp_path / name / "state"))
        return tmp_path / name

    first = write("first", [1.0, -4.0], [10.0])
    second = write("second", [1.5, -4.0], [10.5])
    lost = write("lost", [1.0, -4.0], [np.nan])
    assert devices.largest_difference(first, first) == 0
    assert (
        devices.largest_difference(first, second) == 0.125
    )  # 0.5 / 4, 0.5 / 10
    assert devices.largest_difference(first, lost) == np.inf
