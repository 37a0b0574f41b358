"""What travels between replicas: no image with "address", bytes by hand."""

import json
import pathlib
import sys

import pytest

from tests import forked

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "collectives.py"
# The command of the script, in a network of one block: what a step exchanges
# does not depend on the depth.
CODE = f"""
import runpy
from tests import shallow
with shallow.network(shallow.ONE_BLOCK):
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
# The 3 x 3 stem, two convolutions of a block, their scales and offsets, and a
# linear head 64 -> 128.
PARAMETERS = 9 * 3 * 64 + 2 * 9 * 64 * 64 + 3 * 2 * 64 + 64 * 128 + 128
BATCH = 8
KEYS = ["gather", BATCH * (128 + 2) * 4]
IMAGES = ["gather", BATCH * 32 * 32 * 3]
GRADIENTS = ["reduce", PARAMETERS * 4]
# Five figures, the word to leave, two histograms of 40 bins.
SCALARS = ["reduce", (5 + 1 + 2 * 40) * 4]


@pytest.mark.parametrize(
    ("replicas", "shuffle", "expected"),
    [
        (2, "gather", [IMAGES, KEYS, GRADIENTS, SCALARS]),
        (2, "address", [KEYS, GRADIENTS, SCALARS]),
    ],
)
def test_a_step_exchanges_this_and_nothing_else(replicas, shuffle, expected):
    flags = [f"--count={replicas}", f"--shuffle={shuffle}"]
    flags += [f"--batch_per_replica={BATCH}", "--config=moco_cifar10"]
    done = forked.run([sys.executable, "-c", CODE, *flags], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["counted"] == sorted(expected)
    assert result["formula"] == sorted(expected)
