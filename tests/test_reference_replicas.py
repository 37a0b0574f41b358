"""The published implementation's steps, replayed on two replicas."""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def test_two_replicas_compute_the_published_steps():
    paths = sorted((HERE / "reference").glob("moco_*_2replicas.npz"))
    result = subprocess.run(
        [sys.executable, HERE / "reference_check.py", *paths],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    verdicts = [line.split()[-1] for line in result.stdout.splitlines()]
    assert verdicts == ["ok"] * 4  # v1 and v2, both shuffles
