"""Whether doctor's checks of devices hold, and notice what is wrong."""

import json
import pathlib
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.doctor import devices, exchange, reference, table
from moco_tf.methods import table as methods
from moco_tf.models import encoder
from tests import replicas
from tests.doctor import exchanges, small_backbone
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


def test_three_replicas_exchange_what_numpy_says(tmp_path):
    """An odd number, in a process of its own, with each fault planted too."""
    results = replicas.run(exchanges, 3, tmp_path)
    assert "3 replicas, 3 times (--cross_device_ops=auto): as they must be" in (
        str(results.pop("right"))
    )
    for fault, finding in results.items():
        assert str(finding).endswith(f"wrong are {fault}"), fault
    assert len(results) == 3


def test_one_replica_exchanges_nothing():
    strategy = tf.distribute.get_strategy()
    row = exchange.check_gather(strategy, exchange.Load(2, 8, 3, 4, 10))
    assert row.finding == "one replica: nothing travels"


def test_the_load_is_that_of_the_run(monkeypatch):
    monkeypatch.setattr(encoder, "build_backbone", small_backbone.build)
    fields = {"data.source": "a", "model.head": "fc", "model.dim": "16"}
    config = configs.load("moco_v2_imagenet", fields)
    # A 3 x 3 convolution of 3 to 8 channels, and a head 8 -> 16.
    weights = 27 * 8 + 8 + 8 * 16 + 16
    assert exchange.load_of(config, 8) == (32, 224, 3, 16, weights)


@pytest.fixture(name="rows", scope="module")
def _rows():
    """The rows of small runs, by what they are of."""
    strategy = tf.distribute.get_strategy()
    pair = {"model.input": "pair", "data.source": "a"}
    with mock.patch.object(encoder, "build_backbone", small_backbone.build):
        deviations = {
            "plain": devices.check_small_run(
                configs.load("quickstart", {"train.precision": "float32"}),
                strategy,
            )
        }
    with mock.patch.object(
        encoder, "build_backbone", every_method.tiny_backbone
    ):
        deviations["pair"] = devices.check_small_run(
            configs.load("cmc_imagenet", pair), strategy
        )
    return deviations


@pytest.mark.parametrize("name", ["plain", "pair"])
def test_a_small_run_is_as_on_the_cpu_and_is_resumed(rows, name):
    numbers, resumed = rows[name]
    assert numbers.verdict == resumed.verdict == table.OK
    assert resumed.finding.endswith("the same bits")
    # The same device: nothing differs at all.
    assert "differ by 0.0e+00, the changes of the weights by 0.0e+00" in (
        numbers.finding
    )


def test_two_steps_that_differ_from_the_cpus_fail():
    start = [np.zeros(3, np.float32)]
    plain = devices.Figures([2.0, 1.0], [np.array([3.0, 0.0, 4.0])])

    def row(losses, *weights, precision="float32"):
        figures = devices.Figures(losses, [np.array(weights)])
        return devices.numbers_row(figures, plain, start, precision)

    assert row([2.0, 1.0005], 3.0, 0.1, 4.0).verdict == table.OK
    # A thousandth of a loss; 0.03 of a way of length 5.
    assert row([2.0, 1.002], 3.0, 0.0, 4.0).verdict == table.FAIL
    far = row([2.0, 1.0], 3.0, 0.2, 4.0)
    assert far.verdict == table.FAIL
    assert "weights by 4.0e-02 (float32); 0.001 and 0.03 are" in far.finding
    assert row([2.0, 1.0], 3.0, 0.2, 4.0, precision="tf32").verdict == table.OK
    assert row([np.nan, 1.0], 3.0, 0.0, 4.0).verdict == table.FAIL


@pytest.mark.parametrize("name", methods.METHODS)
def test_the_small_run_of_any_method_keeps_the_rules(name):
    recipe = methods.METHODS[name].configs[0]
    config = configs.load(recipe, {"data.source": "a"})
    plan.check(devices.small_config(config, 2), 2)


def test_the_small_run_has_no_more_rows_than_its_grid():
    fields = {"data.source": "a", "model.patch": "32", "cpc.rows": "8"}
    config = configs.load("cpc_imagenet", fields)
    plan.check(config, 1)
    plan.check(devices.small_config(config, 1), 1)


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
