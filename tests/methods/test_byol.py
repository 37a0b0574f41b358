"""BYOL's step against NumPy: loss, gradient, target and schedule."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import byol, losses, momentum
from moco_tf.models import batch_norm
from tests.methods import finite_differences, numpy_moco, small_methods

BATCH, STEPS, RATE = small_methods.BATCH, 10, 0.05


def _method(**arguments):
    tf.keras.utils.set_random_seed(0)
    method = byol.BYOL(
        small_methods.backbone(),
        STEPS,
        head="fc",
        dim=5,
        momentum=0.6,
        hidden=7,
        **arguments,
    )
    return small_methods.compiled(method, RATE, decay=0.0)


def _predict(weights, projections):
    """The predictor: linear, BatchNorm, ReLU, linear; unit vectors."""
    kernel, bias, gamma, beta, last, last_bias = weights
    hidden = projections @ kernel + bias
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    outputs = np.maximum(gamma * hidden + beta, 0) @ last + last_bias
    return outputs / np.linalg.norm(outputs, axis=1, keepdims=True)


def _loss(online, predictor, target, batch):
    """Eq. 2 in both directions."""
    total = 0.0
    for view, other in (("query", "key"), ("key", "query")):
        vectors, _, _, length = numpy_moco.encode(online, batch[view])
        prediction = _predict(predictor, vectors * length)
        wanted = numpy_moco.encode(target, batch[other])[0]
        total += np.mean(np.sum(np.square(prediction - wanted), axis=1))
    return total


def test_each_step_is_algorithm_1():
    method = _method()
    for step, batch in enumerate(small_methods.batches(3)):
        online, predictor, target = (
            finite_differences.weights(model)
            for model in (
                method.query_encoder,
                method.predictor,
                method.key_encoder,
            )
        )
        expected = _loss(online, predictor, target, batch)
        iterator = iter(tf.data.Dataset.from_tensors(batch))
        loss = float(method.make_train_function()(iterator)["loss"])
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        # tau: 1 - 0.4 (cos(pi k / 10) + 1) / 2, after the optimiser's step.
        tau = 1 - 0.4 * (np.cos(np.pi * step / STEPS) + 1) / 2
        for result, old, new in zip(
            finite_differences.weights(method.key_encoder),
            target,
            finite_differences.weights(method.query_encoder),
            strict=True,
        ):
            np.testing.assert_allclose(
                result, tau * old + (1 - tau) * new, atol=1e-5
            )


def test_the_first_step_goes_down_the_slope_of_the_loss():
    method = _method()
    batch = next(iter(small_methods.batches(1)))
    before = [
        finite_differences.weights(method.query_encoder),
        finite_differences.weights(method.predictor),
    ]
    target = finite_differences.weights(method.key_encoder)
    small_methods.train(method, [batch])
    after = [
        finite_differences.weights(method.query_encoder),
        finite_differences.weights(method.predictor),
    ]
    finite_differences.assert_downhill(
        lambda online, predictor: _loss(online, predictor, target, batch),
        before,
        after,
        RATE,
    )


def test_small_views_predict_both_targets():
    method = _method()
    batch = next(iter(small_methods.batches(1, small=2)))
    online, predictor, target = (
        finite_differences.weights(model)
        for model in (
            method.query_encoder,
            method.predictor,
            method.key_encoder,
        )
    )
    terms = [_loss(online, predictor, target, batch)]
    # BatchNorm takes all small views at once, an image's next to each other.
    small = batch["small"].reshape(-1, 8, 8, 3)
    vectors, _, _, length = numpy_moco.encode(online, small)
    predicted = _predict(predictor, vectors * length)
    for name in ("query", "key"):
        wanted = numpy_moco.encode(target, batch[name])[0].repeat(2, axis=0)
        distances = np.sum(np.square(predicted - wanted), axis=1)
        terms.append(2 * np.mean(distances))
    # Twice the mean over 2 + 2 V pairs.
    expected = (terms[0] + terms[1] + terms[2]) / 3
    loss = small_methods.train(method, [batch])["loss"][0]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_the_loss_by_hand():
    # cos 1, 0 and -1: 0, 2 and 4.
    predictions = tf.constant([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    targets = tf.constant([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert losses.normalized_mse(predictions, targets).numpy() == 2.0


def test_spread_tells_even_vectors_from_equal_ones():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal([4000, 16]).astype(np.float32)
    even = tf.math.l2_normalize(tf.constant(vectors), axis=1)
    np.testing.assert_allclose(losses.spread(even), 1.0, atol=0.02)
    assert losses.spread(tf.tile(even[:1], [10, 1])).numpy() < 1e-3


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.6), (5, 0.8), (10, 1.0), (12, 1.0)]
)
def test_the_momentum_rises_to_one(step, expected):
    step = tf.constant(step, tf.int64)
    result = momentum.rising_momentum(0.6, step, STEPS)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_micro_batches_with_groups_make_the_same_step():
    # Two groups of a batch, or two micro-batches of one group each.
    batch = next(iter(small_methods.batches(1)))
    at_once = _method(norm=functools.partial(batch_norm.BatchNorm, splits=2))
    parts = _method(micro_batches=2)
    for method in (at_once, parts):
        small_methods.train(method, [batch])
    for left, right in zip(
        finite_differences.weights(at_once.predictor),
        finite_differences.weights(parts.predictor),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_a_momentum_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="momentum must lie in 0..1"):
        byol.BYOL(small_methods.backbone(), 10, head="fc", momentum=1.5)
