"""A verdict is given where it can be argued, and nowhere else."""

import numpy as np
import pytest

from moco_tf.evaluation import verdict

QUERIES = 1000


def _row(step, gained, lost, queries=QUERIES, before=0.5):
    return {
        "step": step,
        "knn_backbone": before + (gained - lost) / queries,
        "gained_backbone": gained,
        "lost_backbone": lost,
        "knn_queries": queries,
    }


def test_the_interval_is_that_of_a_bootstrap_over_queries():
    random = np.random.default_rng(1)
    gained, lost = 60, 20
    values = np.repeat([1, -1, 0], [gained, lost, QUERIES - gained - lost])
    drawn = random.choice(values, [4000, QUERIES]).mean(axis=1)
    expected = np.quantile(drawn, [0.025, 0.975])
    result = verdict.change(gained, lost, QUERIES)
    np.testing.assert_allclose(result[1:3], expected, atol=0.003)


@pytest.mark.parametrize("count", [1, 7, 10, 500])
def test_encoders_that_are_right_on_the_same_queries_do_not_differ(count):
    assert verdict.of_rows([_row(1, 0, 0, count)]).kind == verdict.NONE


def test_few_queries_that_differ_are_an_accident():
    # Of five queries that changed, an even chance puts all on one side in one
    # of 16 cases; of eight, in one of 128, but not for the best of ten.
    assert verdict.change(5, 0, 100).low == 0
    assert verdict.change(8, 0, 100).low > 0
    assert verdict.change(8, 0, 100, choices=10).low == 0


def test_the_interval_is_wider_for_the_best_of_more():
    lows = [verdict.change(60, 20, QUERIES, n).low for n in (1, 5, 50, 500)]
    assert lows == sorted(lows, reverse=True)
    # By the normal limit, at 0.01 % for the best of 500.
    assert lows[0] == pytest.approx(0.04 - 1.96 * 0.0089, abs=1e-3)
    assert lows[-1] == pytest.approx(0.04 - 3.89 * 0.0089, abs=2e-3)


@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        (
            [_row(12_000, 80, 38)],
            verdict.KEPT,
            "kept: step 12,000, +4.2 points kNN (95 % interval 2.1 to 6.3) "
            "over the start",
        ),
        (
            [_row(5, 60, 50), _row(9, 20, 90)],
            verdict.START,
            "the start was better: do not use this run (step 9, -7.0 points "
            "kNN, 95 % interval -9.0 to -5.0)",
        ),
        (
            [_row(5, 60, 50)],
            verdict.NONE,
            "no difference seen: step 5, +1.0 points kNN (95 % interval -1.0 "
            "to 3.1) over the start",
        ),
        (
            [_row(5, 150, 20), _row(9, 20, 90)],
            verdict.KEPT,
            "kept: step 5, +13.0 points kNN (95 % interval 10.3 to 15.8, wide "
            "for the best of 2) over the start; the last, step 9, has -7.0. "
            "Pass --checkpoint=best to use it",
        ),
    ],
)
def test_a_verdict_has_its_words_and_numbers(rows, kind, words):
    reached = verdict.of_rows(rows)
    assert (reached.kind, reached.words) == (kind, words)
    assert reached.low < reached.gain < reached.high


def test_the_last_checkpoint_comes_before_the_best_of_many():
    rows = [_row(n, 60, 50) for n in range(1, 60)] + [_row(60, 75, 45)]
    assert verdict.of_rows(rows).is_last
    # As the best of 60 that were looked at, the same figure may be luck.
    rows.append(_row(61, 60, 50))
    assert verdict.of_rows(rows).kind == verdict.NONE
    early = verdict.of_rows([_row(60, 150, 45), rows[-1]])
    assert (early.step, early.is_last) == (60, False)


def test_a_run_without_effect_is_rarely_called_kept_or_worse():
    """Checkpoints whose queries change by even chance, 40 of 300 queries.

    Half of the luck of a checkpoint is that of the one before.
    """
    random = np.random.default_rng(3)
    kinds = []
    for _ in range(60):
        flips = random.integers(0, 2, [30, 40])
        kept = random.integers(0, 2, [30, 40]).astype(bool)
        for number in range(1, len(flips)):
            same = kept[number]
            flips[number][same] = flips[number - 1][same]
        gained = flips.sum(axis=1)
        rows = [
            _row(n, int(g), int(40 - g), 300) for n, g in enumerate(gained, 1)
        ]
        kinds.append(verdict.of_rows(rows).kind)
    assert kinds.count(verdict.NONE) >= 54


def test_without_a_comparison_with_the_start_there_is_no_verdict():
    assert verdict.of_rows([]) is None
    assert verdict.of_rows([{"step": 4, "loss": 1.0}]) is None
    reached = verdict.of_rows([{"step": 4, "knn_backbone": 0.5}])
    assert reached.kind == verdict.OPEN
    # Of votes that changed on the way, the last counts.
    rows = [_row(4, 90, 1), {"step": 8, "knn_backbone": 0.9}]
    assert verdict.of_rows(rows).kind == verdict.OPEN


@pytest.mark.parametrize(
    ("stability", "rank", "kind", "words"),
    [
        (0.5, 20.0, verdict.OPEN, "no verdict without labels"),
        (0.2, 8.0, verdict.START, "better, as far as can be seen without"),
        (0.2, 20.0, verdict.OPEN, "no verdict without labels"),
        (0.41, 20.0, verdict.NONE, "no difference seen, without labels"),
    ],
)
def test_without_labels_only_a_loss_can_be_argued(stability, rank, kind, words):
    row = {
        "step": 7,
        "neighbour_stability": stability,
        "start_neighbour_stability": 0.4,
        "stability_error": 0.01,
        "effective_rank": rank,
        "start_effective_rank": 12.0,
    }
    reached = verdict.of_rows([row])
    assert reached.kind == kind
    assert words in reached.words
    del row["stability_error"]
    assert verdict.of_rows([row]).kind == verdict.OPEN


@pytest.mark.parametrize(
    ("knn", "expected"),
    [
        ([0.3, 0.4, 0.5], None),
        ([0.3, 0.4, 0.5, 0.6], 1),
        ([0.3, 0.6, 0.6, 0.601, 0.6, 0.6], 0),
        ([0.3, 0.6, 0.7, 0.6, 0.5, 0.4], -1),
    ],
)
def test_the_trend_is_that_of_the_end(knn, expected):
    rows = [{"knn_backbone": value} for value in knn]
    assert verdict.trend(rows, "backbone", 10_000) == expected
    if expected == 1:  # 20 queries differ by as much by chance
        close = [{"knn_backbone": x} for x in (0.5, 0.5, 0.52, 0.52)]
        assert verdict.trend(close, "backbone", 10_000) == 1
        assert verdict.trend(close, "backbone", 20) == 0
