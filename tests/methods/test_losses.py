"""InfoNCE by hand arithmetic and by NumPy."""

import numpy as np
import tensorflow as tf

from moco_tf.methods import losses


def test_logits_are_cosines_over_temperature_with_the_positive_first():
    query = tf.constant([[1.0, 0.0]])
    queue = tf.constant([[0.0, 1.0], [-1.0, 0.0]])
    loss, logits = losses.info_nce(query, query, queue, temperature=0.5)
    np.testing.assert_allclose(logits, [[2.0, 0.0, -2.0]])
    # -ln(e^2 / (e^2 + e^0 + e^-2))
    np.testing.assert_allclose(
        loss, np.log(1 + np.exp(-2.0) + np.exp(-4.0)), rtol=1e-6
    )


def test_equal_features_give_the_loss_at_chance():
    ones = tf.ones([4, 1])
    loss, _ = losses.info_nce(ones, ones, tf.ones([15, 1]), temperature=0.07)
    np.testing.assert_allclose(loss, np.log(16), rtol=1e-6)


def test_loss_is_the_mean_cross_entropy_of_a_float64_oracle():
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 5, 8))
    queue = rng.standard_normal((11, 8))
    query, key, queue = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (query, key, queue)
    )
    logits = np.concatenate(
        [(query * key).sum(1, keepdims=True), query @ queue.T], axis=1
    )
    logits = np.exp(logits / 0.2)
    expected = -np.log(logits[:, 0] / logits.sum(1)).mean()
    loss, _ = losses.info_nce(
        *(tf.constant(x, tf.float32) for x in (query, key, queue)), 0.2
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_instance_top1_counts_strict_wins_of_the_positive():
    logits = tf.constant([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0]])
    np.testing.assert_allclose(losses.instance_top1(logits), 1 / 3)


def test_collapsed_features_score_no_instance_top1():
    assert losses.instance_top1(tf.ones([3, 9])).numpy() == 0.0


def test_a_masked_negative_is_left_out():
    query = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    queue = tf.constant([[0.0, 1.0], [-1.0, 0.0]])
    masked = tf.constant([[True, False], [False, True]])
    with tf.GradientTape() as tape:
        tape.watch(query)
        loss, logits = losses.info_nce(query, query, queue, 1.0, masked)
    # Left are -1 for the first query, 1 (as near as its own key) for the other.
    expected = [np.log(1 + np.exp(-2.0)), np.log(2.0)]
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-6)
    assert np.isfinite(tape.gradient(loss, query)).all()
    np.testing.assert_allclose(logits[1, :2], [1.0, 1.0])
    np.testing.assert_allclose(losses.instance_top1(logits), 0.5)


def test_similarities_are_cosines_whatever_the_temperature():
    cosines = np.array([[0.9, 0.5, -0.2, 0.1], [0.3, -1.0, 1.0, 0.02]])
    result = losses.similarities(tf.constant(cosines / 0.07, tf.float32), 0.07)
    np.testing.assert_allclose(result["positive"], 0.6, rtol=1e-5)
    np.testing.assert_allclose(result["hardest_negative"], 0.75, rtol=1e-5)


def test_histograms_are_shares_of_own_and_queued_keys():
    rng = np.random.default_rng(0)
    cosines = np.clip(0.5 * rng.standard_normal((7, 301)), -1, 1)
    logits = tf.constant(cosines / 0.2, tf.float32)
    result = losses.similarities(logits, 0.2)["histograms"]
    edges = np.linspace(-1, 1, losses.BINS + 1)
    for row, part in zip(result, (cosines[:, 0], cosines[:, 1:]), strict=True):
        counts = np.histogram(part, edges)[0]
        np.testing.assert_allclose(row, counts / counts.sum(), atol=2e-3)


def test_negatives_left_out_are_in_no_histogram():
    logits = tf.constant([[0.9, 0.1, 0.1], [0.9, 0.1, 0.1]])
    masked = tf.constant([[False, True, False], [False, False, True]])
    logits = tf.where(masked, logits.dtype.min, logits)
    positives, queued = losses.similarities(logits, 1.0)["histograms"].numpy()
    assert positives[38] == 1 and positives.sum() == 1  # 0.9 to 0.95
    assert queued[22] == 1 and queued.sum() == 1


def test_figures_of_nt_xent_leave_out_the_image_itself():
    angles = np.deg2rad([0, 61, 92, 178])  # views of two images, in turn
    views = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    views = tf.constant(views, tf.float32)
    _, logits = losses.nt_xent(views, views, tf.range(4), 0.5)
    result = losses.similarities(logits, 0.5)

    def mean_cosine(degrees):
        return np.cos(np.deg2rad(degrees)).mean()

    np.testing.assert_allclose(
        result["positive"], mean_cosine([61, 61, 86, 86]), atol=1e-6
    )
    # The nearest view of the other image, for each view in turn.
    np.testing.assert_allclose(
        result["hardest_negative"], mean_cosine([92, 31, 31, 117]), atol=1e-6
    )
    # 61 < 92 and 86 < 117 win; 61 and 86 are farther than 31.
    np.testing.assert_allclose(losses.instance_top1(logits), 0.5)
    # 92, 178, 31 and 117 degrees, each from both sides, and no pair.
    counts = np.histogram(
        np.cos(np.deg2rad([92, 178, 31, 117])),
        np.linspace(-1, 1, losses.BINS + 1),
    )[0]
    np.testing.assert_allclose(result["histograms"][1], counts / 4)
