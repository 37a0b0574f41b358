"""Synchronised BatchNorm: R replicas compute what one does."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.models import batch_norm, cloning, encoder, resnet
from tests import replicas as run_replicas
from tests.models import synchronized_worker as worker

EPSILON = 1e-5
SYNCHRONIZED = functools.partial(batch_norm.BatchNorm, synchronized=True)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """What four replicas computed; methods/test_every_method.py has two."""
    return run_replicas.run(worker, 4, tmp_path_factory.mktemp("replicas"))


def oracle(name):
    """Batch normalisation of the whole batch and its gradients, in float64.

    arXiv:1502.03167, section 3; the moving statistics start at 0 and 1 and
    keep three quarters, the variance is unbiased.
    """
    x, dy = inputs = worker.inputs(name)
    if name == "bfloat16":
        x = tf.cast(tf.cast(x, tf.bfloat16), tf.float32).numpy()
    x, dy = x.astype(np.float64), inputs[1].astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    count, channels = x.size // x.shape[-1], x.shape[-1]
    bare = name == "bare"
    gamma = 1.0 if bare else np.linspace(0.5, 1.5, channels)
    beta = 0.0 if bare else np.linspace(-1.0, 1.0, channels)
    scale = 1 / np.sqrt(x.var(axes) + EPSILON)
    normal = (x - x.mean(axes)) * scale
    dgamma, dbeta = (dy * normal).sum(axes), dy.sum(axes)
    results = {
        "outputs": gamma * normal + beta,
        "dx": gamma * scale * (dy - (normal * dgamma + dbeta) / count),
        "mean": 0.25 * x.mean(axes),
        "variance": 0.75 + 0.25 * x.var(axes, ddof=1),
    }
    return results if bare else results | {"dgamma": dgamma, "dbeta": dbeta}


@pytest.mark.parametrize("name", worker.CASES)
def test_replicas_compute_the_statistics_of_the_global_batch(replicas, name):
    # "far": float32 holds values near 3000 to 1e-4 of their spread.
    tolerance = {"bfloat16": 0.03, "far": 2e-3}.get(name, 3e-5)
    for key, expected in oracle(name).items():
        result = replicas[f"{name}_{key}"]
        if key in ("outputs", "dx"):
            result = np.concatenate(result)
        elif key in ("dgamma", "dbeta"):  # the optimiser sums them
            result = result.sum(axis=0)
        else:
            np.testing.assert_array_equal(result[1:], result[:-1])
            result = result[0]
        np.testing.assert_allclose(
            result, expected, rtol=tolerance, atol=tolerance, err_msg=key
        )


@pytest.mark.parametrize("name", ["images", "features", "far"])
def test_one_replica_computes_the_same(replicas, name):
    one = worker.compute(tf.distribute.get_strategy(), name)
    # Of values near 3000 each way to sum rounds to another 1e-4.
    tolerance = 2e-3 if name == "far" else 2e-5
    for key in ("outputs", "dx"):
        np.testing.assert_allclose(
            np.concatenate(replicas[f"{name}_{key}"]),
            one[f"{name}_{key}"][0],
            rtol=tolerance,
            atol=tolerance,
        )
    for key in ("mean", "variance"):
        np.testing.assert_allclose(
            replicas[f"{name}_{key}"][0],
            one[f"{name}_{key}"][0],
            rtol=tolerance,
        )


def test_a_call_outside_a_replica_is_refused(replicas):
    assert "inside a replica alone" in str(replicas["refusal"])


def test_groups_and_synchronised_statistics_are_refused_together():
    with pytest.raises(ValueError, match="splits=2, synchronized=True"):
        batch_norm.BatchNorm(2, synchronized=True)


def test_the_option_is_part_of_the_config_and_of_a_clone():
    layer = batch_norm.BatchNorm(synchronized=True)
    copy = batch_norm.BatchNorm.from_config(layer.get_config())
    assert copy.synchronized
    model = resnet.resnet(18, 0.125, "cifar", norm=SYNCHRONIZED)
    assert cloning.clone(model).get_layer("bn1").synchronized


def batch_norms(model):
    kind = batch_norm.BatchNorm
    return [x for x in cloning.sublayers(model) if isinstance(x, kind)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "resnet18", "width": 0.125, "stem": "cifar"},
        {"name": "keras_cv:mobilenetv3_small", "image_size": 32},
    ],
)
def test_backbones_differ_in_the_option_alone(arguments):
    plain = encoder.build_backbone(**arguments)
    model = encoder.build_backbone(**arguments, norm=SYNCHRONIZED)
    assert {x.synchronized for x in batch_norms(model)} == {True}
    assert {x.synchronized for x in batch_norms(plain)} == {False}
    cloning.copy_weights(plain, model)  # the same variables in the same order
    images = np.ones([1, 32, 32, 3], np.float32)
    np.testing.assert_array_equal(model(images), plain(images))
