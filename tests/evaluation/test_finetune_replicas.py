"""Fine-tuning on several replicas, with synchronised BatchNorm."""

import numpy as np
import pytest
import tensorflow as tf

from tests import replicas
from tests.evaluation import finetune_worker


@pytest.fixture(name="two", scope="module")
def _two(tmp_path_factory):
    """What two replicas computed."""
    folder = tmp_path_factory.mktemp("replicas")
    return replicas.run(finetune_worker, 2, folder)


def test_two_replicas_train_what_one_does(two):
    one = finetune_worker.train(tf.distribute.get_strategy())
    assert set(two) == {*one, "blended"}
    for name, expected in one.items():
        np.testing.assert_allclose(
            two[name], expected, rtol=1e-4, atol=2e-5, err_msg=name
        )


def test_replicas_blend_by_one_method_with_shares_of_their_own(two):
    # CutMix's pixels come whole.
    whole = np.isin(two["blended"], [0.0, 1.0]).all(axis=(2, 3, 4, 5))
    np.testing.assert_array_equal(whole[:, 0], whole[:, 1])
    assert set(whole[:, 0]) == {True, False}
    shares = two["blended"].mean(axis=(3, 4))
    assert np.abs(shares[:, 0] - shares[:, 1]).max(axis=(1, 2)).min() > 0.01
