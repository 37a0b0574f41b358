"""The published implementation's steps, replayed on one replica."""

import json
import pathlib
import sys

import numpy as np
import pytest
import reference_check

from tests import forked

HERE = pathlib.Path(__file__).resolve().parent
V1 = HERE / "reference" / "moco_v1_resnet18_1replica.npz"


def test_one_replica_computes_the_published_steps():
    paths = sorted((HERE / "reference").glob("moco_*_1replica.npz"))
    # On one replica both shuffles are one; test_reference_replicas.py has two.
    command = [sys.executable, HERE / "reference_check.py", *paths]
    result = forked.run([*command, "--world=1", "--shuffles", "address"])
    assert result.returncode == 0, result.stdout + result.stderr
    verdicts = [line.split()[-1] for line in result.stdout.splitlines()]
    assert verdicts == ["ok"] * 2  # v1 and v2


def test_other_figures_fail_the_check_by_name(tmp_path, capsys):
    case = dict(np.load(V1))
    config = json.loads(str(case["config"]))
    config["wd"] = 0.0
    losses = case["losses"].copy()
    losses[4] *= 1.001
    other = {"config": json.dumps(config), "losses": losses}
    np.savez(tmp_path / "other.npz", **case | other)
    # One replica, with the default strategy: in this process.
    paths = [tmp_path / "other.npz"]
    assert reference_check.run_here(1, paths, ["gather"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("BEYOND: losses, query_delta_norms")


def test_a_deviation_that_is_no_number_fails_the_check():
    found = dict.fromkeys(reference_check.LIMITS, 0.0)
    assert reference_check.beyond(found) == []
    assert reference_check.beyond(found | {"queue": np.nan}) == ["queue"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [([1.0, 2.2], 0.1), ([0.5, 2.0], 0.5), ([1.0, np.nan], np.nan)],
)
def test_a_deviation_is_relative_to_the_expected_figure(found, expected):
    np.testing.assert_allclose(
        reference_check.relative(found, [1.0, 2.0]), expected
    )
