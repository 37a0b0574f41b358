"""The linear probe by L-BFGS, beside scikit-learn's and by its rules."""

import numpy as np
import pytest
from sklearn import linear_model

from moco_tf.evaluation import cached_probe, logistic

COUNT, CLASSES = 240, 3


def data(seed=0, size=6):
    """Features of three classes that overlap, of very different lengths."""
    random = np.random.default_rng(seed)
    labels = np.arange(COUNT) % CLASSES
    rows = random.normal(size=(COUNT, size)) + np.eye(CLASSES, size)[labels]
    return (rows * 10.0 ** np.arange(size) + 50).astype(np.float32), labels


def logits(rows, weights):
    return cached_probe.scores(rows, weights)[0]


def test_the_minimum_is_that_of_scikit_learn():
    rows, labels = data()
    everything = np.ones(COUNT, bool)
    problem = logistic._Problem(rows, labels, everything, CLASSES)
    solved = problem.solve(0.01, np.zeros([rows.shape[1] + 1, CLASSES]))
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    # scikit-learn: sum of the losses + |w|^2 / (2 C)
    other = linear_model.LogisticRegression(C=1 / (0.01 * COUNT), tol=1e-8)
    other.fit(standard, labels)
    expected = standard @ other.coef_.T + other.intercept_
    expected -= expected.mean(axis=1, keepdims=True)
    ours = logits(rows, problem.raw(solved))
    ours -= ours.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, expected, atol=0.02)


def test_neither_length_nor_place_of_features_changes_what_is_learned():
    rows, labels = data()
    kept = np.arange(COUNT) < 160
    one = logistic.fit(rows, labels, kept, CLASSES)
    other = logistic.fit(rows * 1000 - 7, labels, kept, CLASSES)
    assert one.penalty == other.penalty
    np.testing.assert_allclose(
        logits(rows, one.weights),
        logits(rows * 1000 - 7, other.weights),
        atol=0.05,
    )


def test_images_that_are_not_kept_change_nothing():
    rows, labels = data()
    kept = np.arange(COUNT) % 4 > 0
    one = logistic.fit(rows, labels, kept, CLASSES)
    rows[~kept] += 100
    other = logistic.fit(rows, (labels + ~kept) % CLASSES, kept, CLASSES)
    np.testing.assert_array_equal(one.weights, other.weights)


def test_blocks_from_the_disk_give_the_fit_of_memory(tmp_path, monkeypatch):
    rows, labels = data()
    everything = np.ones(COUNT, bool)
    in_memory = logistic.fit(rows, labels, everything, CLASSES)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    monkeypatch.setattr(cached_probe, "IN_MEMORY", 0)
    monkeypatch.setattr(logistic, "_BLOCK", 50)
    from_disk = logistic.fit(mapped, labels, everything, CLASSES)
    assert from_disk.penalty == in_memory.penalty
    np.testing.assert_allclose(
        logits(rows, from_disk.weights),
        logits(rows, in_memory.weights),
        atol=0.02,
    )


def test_a_feature_that_never_varies_has_no_weight():
    rows, labels = data()
    rows[:, 2] = 12345.678
    fitted = logistic.fit(rows, labels, np.ones(COUNT, bool), CLASSES)
    assert (fitted.weights[0, 2] == 0).all()
    assert np.isfinite(fitted.weights).all()


def test_noise_takes_a_strong_penalty_and_signal_a_weak_one():
    random = np.random.default_rng(3)
    labels = np.arange(COUNT) % CLASSES
    everything = np.ones(COUNT, bool)
    noise = random.normal(size=(COUNT, 60)).astype(np.float32)
    signal = noise + 9 * np.eye(CLASSES, 60, dtype=np.float32)[labels]
    penalties = [
        logistic.fit(rows, labels, everything, CLASSES).penalty
        for rows in (noise, signal)
    ]
    assert penalties[0] == max(logistic.PENALTIES) > penalties[1]


def test_classes_of_one_image_are_refused_with_the_number():
    rows, labels = data()
    kept = np.arange(COUNT) < CLASSES
    with pytest.raises(ValueError, match="Received 3 images of which none"):
        logistic.fit(rows, labels, kept, CLASSES)
