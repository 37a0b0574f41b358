"""The published implementation's steps, replayed on two replicas."""

import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent


# Of v2, a ResNet-50, one shuffle: the command of docs/correctness.md has both.
@pytest.mark.parametrize(
    ("case", "shuffles"),
    [
        ("moco_v1_resnet18_2replicas", ["gather", "address"]),
        ("moco_v2_resnet50_2replicas", ["address"]),
    ],
)
def test_two_replicas_compute_the_published_steps(case, shuffles):
    path = HERE / "reference" / f"{case}.npz"
    command = [sys.executable, HERE / "reference_check.py", path]
    result = subprocess.run(
        [*command, "--shuffles", *shuffles], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    verdicts = [line.split()[-1] for line in result.stdout.splitlines()]
    assert verdicts == ["ok"] * len(shuffles)
