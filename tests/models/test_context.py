"""The context of a place knows its row and those above, no more."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import heads


@pytest.mark.parametrize("blocks", [1, 3])
def test_no_context_knows_what_is_below(blocks):
    tf.keras.utils.set_random_seed(0)
    network = heads.context_network(7, 4, blocks)
    rng = np.random.default_rng(0)
    grid = rng.standard_normal([1, 7, 7, 4]).astype(np.float32)
    other = grid.copy()
    other[:, 3] += 1
    apart = np.abs(network(grid) - network(other)).max(axis=(0, 2, 3))
    assert (apart[:3] == 0).all()
    assert (apart[3 : 4 + blocks] > 0).all()
    assert (apart[4 + blocks :] == 0).all()


def test_a_place_knows_its_neighbours_in_the_row():
    tf.keras.utils.set_random_seed(0)
    network = heads.context_network(7, 4, 2)
    grid = np.random.default_rng(0).standard_normal([1, 7, 7, 4])
    other = grid.copy()
    other[:, 2, 3] += 1
    apart = np.abs(network(grid) - network(other)).max(axis=(0, 3))
    assert (apart[2, 1:6] > 0).all()
    assert (apart[2, [0, 6]] == 0).all()
