import functools

import numpy as np
import pytest

from moco_tf.evaluation import cached_probe
from moco_tf.training import schedules


def dropping(*milestones):
    """The schedule whose rate is a tenth from each of some epochs on."""
    return functools.partial(schedules.Step, 1.0, milestones)


RECIPE = cached_probe.Recipe(
    rates=(0.5,),
    epochs=4,
    schedule=dropping(2),
    momentum=0.9,
    weight_decay=0.01,
    batch_size=6,
    seed=3,
)
ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
ALL = np.ones(6, bool)


def _oracle(rate, factors=(1, 1, 0.1, 0.1)):
    """MoCo's SGD on softmax regression, all images in each batch."""
    weights = cached_probe.initial_weights(4, 3, 3).numpy().astype(float)
    velocity = np.zeros_like(weights)
    rows = np.concatenate([ROWS, np.ones([6, 1])], axis=1)
    for factor in factors:
        logits = rows @ weights
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        gradient = rows.T @ (share - np.eye(3)[LABELS]) / 6
        velocity = 0.9 * velocity + gradient + 0.01 * weights
        weights -= rate * factor * velocity
    return weights


def test_each_rate_takes_the_steps_of_sgd():
    result = cached_probe.train_probe(
        [ROWS], LABELS, ALL, 3, RECIPE._replace(rates=(0.5, 2.0))
    )
    expected = [_oracle(0.5), _oracle(2.0)]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_rates_follow_any_schedule():
    cosine = functools.partial(schedules.Cosine, 1.0, 4, warmup_epochs=1)
    result = cached_probe.train_probe(
        [ROWS], LABELS, ALL, 3, RECIPE._replace(schedule=cosine)
    )
    expected = [_oracle(0.5, (1, 1, 0.75, 0.25))]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_weights_start_from_a_hundredth_and_biases_from_zero():
    start = cached_probe.initial_weights(2000, 10, 0).numpy()
    assert abs(start[:-1].std() - 0.01) < 2e-4
    assert not start[-1].any()


def test_a_rate_that_diverges_scores_nothing_and_disturbs_no_other():
    recipe = RECIPE._replace(rates=(0.5, 1e38), epochs=12)
    result = cached_probe.train_probe([ROWS], LABELS, ALL, 3, recipe)
    alone = cached_probe.train_probe(
        [ROWS], LABELS, ALL, 3, recipe._replace(rates=(0.5,))
    )
    np.testing.assert_allclose(result[0], alone[0], rtol=1e-5, atol=1e-7)
    assert not np.isfinite(result[1]).all()
    assert cached_probe.top1(ROWS, LABELS, ALL, result)[1] == 0


def test_images_that_are_not_kept_teach_nothing():
    kept = np.array([True, True, True, True, False, False])
    result = cached_probe.train_probe([ROWS], LABELS, kept, 3, RECIPE)
    other = ROWS.copy()
    other[4:] = 100
    again = cached_probe.train_probe([other], LABELS, kept, 3, RECIPE)
    np.testing.assert_array_equal(result, again)


def test_the_batch_is_no_larger_than_the_images():
    whole = cached_probe.train_probe([ROWS], LABELS, ALL, 3, RECIPE)
    larger = cached_probe.train_probe(
        [ROWS], LABELS, ALL, 3, RECIPE._replace(batch_size=100)
    )
    np.testing.assert_array_equal(whole, larger)


def test_one_block_from_disk_is_as_in_memory(monkeypatch, tmp_path):
    in_memory = cached_probe.train_probe([ROWS], LABELS, ALL, 3, RECIPE)
    np.save(tmp_path / "rows.npy", ROWS)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    monkeypatch.setattr(cached_probe, "IN_MEMORY", 0)
    np.testing.assert_array_equal(
        cached_probe.train_probe([mapped], LABELS, ALL, 3, RECIPE), in_memory
    )


def test_many_blocks_and_views_learn_what_is_there(monkeypatch):
    monkeypatch.setattr(cached_probe, "IN_MEMORY", 0)
    monkeypatch.setattr(cached_probe, "CHUNK", 16)
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 100)
    tables = [
        (np.eye(3)[labels] + 0.1 * random.normal(size=(100, 3))).astype("f4")
        for _ in range(2)
    ]
    kept = np.arange(100) < 80
    recipe = RECIPE._replace(epochs=20, batch_size=8, schedule=dropping())
    weights = cached_probe.train_probe(tables, labels, kept, 3, recipe)
    assert cached_probe.top1(tables[0], labels, ~kept, weights) == [1.0]


def test_a_block_holds_every_class_of_rows_that_come_class_by_class(
    monkeypatch,
):
    monkeypatch.setattr(cached_probe, "IN_MEMORY", 0)
    monkeypatch.setattr(cached_probe, "CHUNK", 16)
    labels = np.repeat(np.arange(3), 33)
    rows = labels[:, np.newaxis].astype(np.float32)
    blocks = [
        block.read()[1].numpy()
        for block in cached_probe._blocks([rows], labels, np.ones(99, bool))
    ]
    assert sorted(np.concatenate(blocks)) == labels.tolist()
    assert len(blocks) == 7
    for block in blocks:
        assert set(block) == {0, 1, 2}
        assert len(block) in (14, 15)


def test_top_1_is_the_share_of_the_chosen_alone():
    weights = np.zeros([1, 3, 2], np.float32)
    weights[0, 0, 0] = weights[0, 1, 1] = 1
    rows = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    labels = np.array([0, 1, 1, 0])
    chosen = np.array([True, True, True, False])
    result = cached_probe.top1(rows, labels, chosen, weights)
    assert result == pytest.approx([2 / 3])


def test_scores_of_blocks_are_those_of_the_whole(monkeypatch):
    weights = np.random.default_rng(2).normal(size=(2, 5, 3)).astype("f4")
    expected = np.einsum("nf,rfc->rnc", ROWS, weights[:, :-1])
    expected += weights[:, -1:]
    monkeypatch.setattr(cached_probe, "CHUNK", 4)
    np.testing.assert_allclose(
        cached_probe.scores(ROWS, weights), expected, rtol=1e-5, atol=1e-6
    )
