"""What runs at once with a step: the copy of the next batch, sums of gradients.

Graphs and data sets are looked at; that it saves time needs a GPU.
"""

import json
import sys

import pytest

from tests import forked


@pytest.fixture(name="seen", scope="module")
def _seen():
    """What overlap_worker prints."""
    done = forked.run([sys.executable, "-m", "tests.training.overlap_worker"])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_one_gpu_has_its_batches_before_they_are_asked_for(seen):
    batches = seen["input"]
    assert batches["on_host"] == 5 * ["CPU:0"]
    assert batches["copied"] == 5 * ["CPU:1"]
    assert batches["same"]
    assert batches["kinds"] == ["_PrefetchDataset", 2]


# Dense 48 x 3 + 3, then the head 3 x 3 + 3, 3 x 2 + 2; five figures, the word
# to leave, two histograms of 40 bins.
GRADIENTS, FIGURES = [144, 3, 9, 3, 6, 2], 5 + 1 + 2 * 40


def test_between_hosts_a_sum_waits_for_no_earlier_layer(seen):
    # TensorFlow keeps the order of sums: each waits for those before it alone.
    sums = seen["packs"]
    assert [waits for _, waits in sums] == list(range(7))
    values = [count for count, _ in sums]
    assert sorted(values[:-1]) == sorted(GRADIENTS)
    assert values[0] == 2 and values[-2:] == [144, FIGURES]


def test_a_small_model_travels_in_one_pack(seen):
    assert seen["one_pack"] == [[sum(GRADIENTS), 0], [FIGURES, 1]]
