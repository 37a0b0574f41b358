"""SimCLR's loss and step against NumPy and keras-cv."""

import numpy as np
import pytest
import tensorflow as tf
from keras_cv.losses import SimCLRLoss

from moco_tf.methods import losses, simclr, two_views
from tests.methods import finite_differences, numpy_moco, small_methods

BATCH, TEMPERATURE = small_methods.BATCH, 0.5


def _unit(rows, dim, seed=0):
    vectors = np.random.default_rng(seed).standard_normal([rows, dim])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _nt_xent(vectors, temperature):
    """Eq. 1 term by term; rows 2i and 2i + 1 are a pair.

    Returns the loss and its gradient by the vectors.
    """
    count = len(vectors)
    logits = vectors @ vectors.T / temperature
    total, by_logit = 0.0, np.zeros_like(logits)
    for row in range(count):
        pair = row ^ 1
        others = [column for column in range(count) if column != row]
        probabilities = np.exp(logits[row, others])
        probabilities /= probabilities.sum()
        by_logit[row, others] = probabilities
        by_logit[row, pair] -= 1
        total -= np.log(probabilities[others.index(pair)])
    by_logit /= count * temperature
    return total / count, (by_logit + by_logit.T) @ vectors


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_equation_1(temperature):
    vectors = _unit(10, 6)
    expected, by_vector = _nt_xent(vectors, temperature)
    views = tf.constant(vectors, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(views)
        loss, logits = losses.nt_xent(views, views, tf.range(10), temperature)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(loss, views), by_vector, rtol=1e-4, atol=1e-6
    )
    # A view's own and its positive's second column are out.
    assert np.sum(logits.numpy() > np.finfo(np.float32).min) == 10 * 9


def test_the_loss_is_half_of_keras_cvs_sum_over_both_views():
    first, second = _unit(6, 5), _unit(6, 5, seed=1)
    theirs = SimCLRLoss(0.3)(
        tf.constant(first, tf.float32), tf.constant(second, tf.float32)
    )
    views = two_views.side_by_side(
        tf.constant(first, tf.float32), tf.constant(second, tf.float32)
    )
    ours, _ = losses.nt_xent(views, views, tf.range(12), 0.3)
    np.testing.assert_allclose(ours, theirs / 2, rtol=1e-5)


def test_parts_of_the_views_have_the_mean_of_the_whole():
    views = tf.constant(_unit(12, 5), tf.float32)
    at_once, _ = losses.nt_xent(views, views, tf.range(12), 0.2)
    parts = [
        losses.nt_xent(views[a:b], views, tf.range(a, b), 0.2)[0]
        for a, b in ((0, 6), (6, 12))
    ]
    np.testing.assert_allclose(np.mean(parts), at_once, rtol=1e-6)


def test_three_steps_follow_algorithm_1():
    tf.keras.utils.set_random_seed(0)
    method = small_methods.compiled(
        simclr.SimCLR(
            small_methods.backbone(), head="fc", dim=5, temperature=TEMPERATURE
        )
    )
    weights = small_methods.values(method.trained_variables())
    weights = [weight.astype(np.float64) for weight in weights]
    velocities = [np.zeros_like(weight) for weight in weights]
    batches = list(small_methods.batches(3))
    expected = []
    for batch in batches:
        pairs = np.stack([batch["query"], batch["key"]], axis=1)
        activations = numpy_moco.encode(weights, pairs.reshape(2 * BATCH, -1))
        loss, by_vector = _nt_xent(activations[0], TEMPERATURE)
        expected.append(loss)
        gradients = numpy_moco.gradients(weights, activations, by_vector)
        small_methods.descend(weights, velocities, gradients)
    logged = small_methods.train(method, batches)
    np.testing.assert_allclose(logged["loss"], expected, rtol=1e-5)
    for result, weight in zip(method.trained_variables(), weights, strict=True):
        np.testing.assert_allclose(result, weight, atol=1e-5)


def test_a_part_of_the_batch_is_refused():
    with pytest.raises(ValueError, match="micro_batches=1"):
        simclr.SimCLR(small_methods.backbone(), micro_batches=2)


def test_small_views_tell_their_images_large_views_from_others():
    tf.keras.utils.set_random_seed(0)
    method = small_methods.compiled(
        simclr.SimCLR(
            small_methods.backbone(), head="fc", dim=5, temperature=TEMPERATURE
        )
    )
    weights = finite_differences.weights(method.query_encoder)
    batch = next(iter(small_methods.batches(1, small=3)))
    pairs = np.stack([batch["query"], batch["key"]], axis=1)
    large = numpy_moco.encode(weights, pairs.reshape(2 * BATCH, -1))[0]
    terms = [_nt_xent(large, TEMPERATURE)[0]] * 2 * BATCH
    for image in range(BATCH):
        others = np.delete(large, [2 * image, 2 * image + 1], axis=0)
        for view in batch["small"][image]:
            small = numpy_moco.encode(weights, view[np.newaxis])[0][0]
            for positive in large[2 * image : 2 * image + 2]:
                logits = np.array([positive @ small, *(others @ small)])
                probabilities = np.exp(logits / TEMPERATURE)
                terms.append(-np.log(probabilities[0] / probabilities.sum()))
    assert len(terms) == 2 * BATCH * (1 + 3)
    loss = small_methods.train(method, [batch])["loss"][0]
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)
