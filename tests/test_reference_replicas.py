"""The published implementation's steps, replayed on two replicas."""

import pathlib
import sys

import pytest

from tests import forked

HERE = pathlib.Path(__file__).resolve().parent


# Each shuffle once: the command of docs/correctness.md has both of both cases.
@pytest.mark.parametrize(
    ("case", "shuffle"),
    [
        ("moco_v1_resnet18_2replicas", "gather"),
        ("moco_v2_resnet50_2replicas", "address"),
    ],
)
def test_two_replicas_compute_the_published_steps(case, shuffle):
    path = HERE / "reference" / f"{case}.npz"
    command = [sys.executable, HERE / "reference_check.py", path, "--world=2"]
    result = forked.run([*command, "--shuffles", shuffle])
    assert result.returncode == 0, result.stdout + result.stderr
    verdicts = [line.split()[-1] for line in result.stdout.splitlines()]
    assert verdicts == ["ok"]
