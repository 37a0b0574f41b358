"""What travels between replicas: no image with "address", bytes by hand."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "collectives.py"
# torchvision's ResNet-18 trunk with a 3 x 3 instead of a 7 x 7 stem, and a
# linear head 512 -> 128.
PARAMETERS = 11_176_512 - 64 * 3 * (49 - 9) + 512 * 128 + 128
BATCH = 8
SHAPE = ["gather", 8]
KEYS = ["gather", BATCH * (128 + 2) * 4]
IMAGES = ["gather", BATCH * 32 * 32 * 3]
GRADIENTS = ["reduce", PARAMETERS * 4]
# Five figures, the word to leave, two histograms of 40 bins.
SCALARS = ["reduce", (5 + 1 + 2 * 40) * 4]


@pytest.mark.parametrize(
    ("replicas", "shuffle", "expected"),
    [
        (2, "gather", [SHAPE, IMAGES, SHAPE, KEYS, GRADIENTS, SCALARS]),
        (2, "address", [SHAPE, KEYS, GRADIENTS, SCALARS]),
    ],
)
def test_a_step_exchanges_this_and_nothing_else(replicas, shuffle, expected):
    flags = [f"--count={replicas}", f"--shuffle={shuffle}"]
    flags += [f"--batch_per_replica={BATCH}", "--config=moco_cifar10"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *flags],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["counted"] == sorted(expected)
    assert result["formula"] == sorted(expected)
