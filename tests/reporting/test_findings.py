import math

import pytest

from moco_tf.monitoring import health, warning_log
from moco_tf.reporting import charts, findings, page
from tests.reporting import small_report

CHANCE = math.log(4097)  # of the CIFAR-10 demo's queue


@pytest.fixture(name="run")
def _run(tmp_path):
    """A function: rows and fields of a workdir -> ReportedRun."""

    def make(*rows, **fields):
        workdir = small_report.write(tmp_path / "run", rows, **fields)
        return page.read_runs([str(workdir)])[0]

    return make


def _tone(run, words):
    """The tone of the one sentence that holds some words."""
    (tone,) = [tone for tone, text in findings.readings(run) if words in text]
    return tone


def test_speed_is_the_mean_over_time(run):
    # 5 steps of 512 in 10 s, 2 of them waited; then 5 in 30 s, 12 waited.
    measured = findings.speed(
        run(
            small_report.row(1, images_per_second=256.0, input_wait_share=0.2),
            small_report.row(
                2, images_per_second=512 * 5 / 30, input_wait_share=0.4
            ),
        )
    )
    assert measured["images_per_second"] == pytest.approx(2 * 5 * 512 / 40)
    assert measured["input_wait_share"] == pytest.approx(14 / 40)
    assert measured["hours"] == pytest.approx(40 / 3600)


def test_a_first_row_without_speed_counts_in_no_mean(run):
    first = small_report.row(1, images_per_second=None, input_wait_share=None)
    measured = findings.speed(run(first, small_report.row(2)))
    assert measured["images_per_second"] == pytest.approx(100)


def test_speed_is_not_known_before_it_is_measured(run):
    first = small_report.row(1, images_per_second=None, input_wait_share=None)
    begun = run(first)
    assert findings.speed(begun) == {}
    assert "images per second" not in findings.figures(begun)


@pytest.mark.parametrize(
    "share, tone, words",
    [
        (0.01, "good", "The bottleneck is the step itself"),
        (0.1, "plain", "The input keeps up, but hardly"),
        (0.5, "warn", "The bottleneck is the input"),
    ],
)
def test_the_bottleneck_is_named(run, share, tone, words):
    assert _tone(run(small_report.row(1, input_wait_share=share)), words) == (
        tone
    )


@pytest.mark.parametrize(
    "loss, tone, words",
    [
        (CHANCE - 1, "good", "features that tell nothing give 8.318"),
        (CHANCE + 0.1, "warn", "The loss is at chance"),
        (CHANCE + 1, "plain", "Above chance is usual early"),
        (math.nan, "warn", "the run has diverged"),
    ],
)
def test_the_loss_is_read_against_chance(run, loss, tone, words):
    assert _tone(run(small_report.row(1, epoch_loss=loss)), words) == tone


def test_knn_of_cifar10_is_read_against_the_published_curve(run):
    rows = [small_report.row(1, knn_projection=0.40)]
    finished = run(*rows, data__source="folder:/nowhere/cifar10")
    assert _tone(finished, "had 31.98 % at that epoch; this one is above") == (
        "good"
    )


def test_a_recipe_of_its_own_is_named_beside_the_published_curve(run):
    finished = run(
        small_report.row(1, knn_projection=0.2),
        data__source="folder:/nowhere/cifar10",
        train__epochs=7,
    )
    assert _tone(finished, "differs from it in train.epochs") == "plain"


def test_knn_below_the_published_band_is_a_warning(run):
    finished = run(
        small_report.row(1, knn_projection=0.2),
        data__source="folder:/nowhere/cifar10",
    )
    assert _tone(finished, "this one is below the band") == "warn"


def test_knn_of_other_data_is_compared_with_nothing(run):
    finished = run(small_report.row(1, knn_projection=0.2))
    texts = [text for _, text in findings.readings(finished)]
    assert "kNN (projection) classifies 20.00 % after epoch 1." in texts


def test_unreadable_images_are_counted(run):
    rows = [
        small_report.row(1, unreadable=2),
        small_report.row(2, unreadable=3),
    ]
    assert _tone(run(*rows), "5 samples could not be read") == "warn"


def test_a_run_without_figures_says_so(run):
    assert _tone(run(), "logged nothing yet") == "warn"
    assert findings.progress(run()) == "no figures yet"


@pytest.mark.parametrize(
    "fields, words",
    [
        ({}, "2 of 200 epochs, step 10 so far"),
        ({"train__epochs": 2}, "2 of 2 epochs, step 10: finished"),
        ({"train__max_steps": 10}, "stopped there by train.max_steps"),
    ],
)
def test_progress_says_whether_the_run_is_finished(run, fields, words):
    finished = run(small_report.row(1), small_report.row(2), **fields)
    assert words in findings.progress(finished)


def test_a_task_that_ended_early_is_finished(run):
    task = run(small_report.row(1), small_report.row(2))
    task = task._replace(result=page.Evaluation("o", "finetune", 0.6, 0.5, 0.7))
    words = "2 of 200 epochs, step 10: stopped early, finished"
    assert findings.progress(task) == words
    assert findings.summary(task)["finished"]


def test_knn_without_epochs_stands_beside_no_published_one(run):
    row = small_report.row(3, step=15, epoch_loss=None, knn_backbone=0.4)
    fields = {"data__source": "tfds:cifar10/train"}
    alone = run(row, knn__features="backbone", **fields)
    assert alone.steps_per_epoch is None
    (words,) = [
        text for _, text in findings.readings(alone) if "classifies" in text
    ]
    assert words == "kNN (backbone) classifies 40.00 % after step 15."
    assert findings.progress(alone) == "step 15, of 200 epochs"


@pytest.mark.parametrize(
    ("knn", "advice"),
    [
        ((0.30, 0.33, 0.36, 0.39), ""),
        ((0.42, 0.45, 0.48, 0.51), "more epochs would help"),
        ((0.39, 0.37, 0.34, 0.31), ""),
        ((0.60, 0.56, 0.52, 0.48), "--checkpoint=best"),
    ],
)
def test_no_advice_is_given_where_the_start_was_better(run, knn, advice):
    rows = [
        small_report.row(
            n, knn_backbone=figure, start_backbone=0.41, knn_queries=10000
        )
        for n, figure in enumerate(knn, start=1)
    ]
    _, words = findings.headline(run(*rows, knn__features="backbone"))
    assert ("rising" if knn[0] < knn[-1] else "falling") in words
    for some in ("more epochs would help", "--checkpoint=best"):
        assert (some in words) == (some == advice)


def test_the_best_knn_stands_beside_the_last(run):
    rows = [
        small_report.row(1, knn_backbone=0.6),
        small_report.row(2, knn_backbone=0.55),
    ]
    texts = findings.figures(run(*rows))
    assert texts["kNN top-1, backbone"] == "55.00 % (best 60.00 %, epoch 1)"
    assert texts["kNN top-1, projection"] == "25.00 %"


def test_configurations_are_compared_field_by_field(tmp_path):
    paths = [
        small_report.write(tmp_path / "a"),
        small_report.write(tmp_path / "b", moco__momentum=0.5),
    ]
    runs = page.read_runs([str(path) for path in paths])
    assert findings.differences(runs) == [("moco.momentum", [0.99, 0.5])]


def test_warnings_of_the_run_are_repeated(run):
    finished = run(small_report.row(1))
    log = warning_log.WarningLog(finished.workdir / "warnings.csv", 0)
    log.add(1200, [health.Notice("collapse", "the keys are <b>equal</b>.")])
    assert (
        _tone(finished, "At step 1,200: the keys are <b>equal</b>.") == "warn"
    )


def test_knn_stands_beside_what_it_is_compared_with(tmp_path):
    first = {"knn_pixels": 0.344, "knn_chance": 0.1}
    for name, untrained in (("one", 0.3765), ("two", 0.337)):
        row = small_report.row(1, start_backbone=untrained, **first)
        small_report.write(tmp_path / name, [row])
    runs = page.read_runs([str(tmp_path / name) for name in ("one", "two")])
    texts = findings.figures(runs[0])
    assert texts["kNN top-1, untrained encoder (backbone)"] == "37.65 %"
    assert texts["kNN top-1, chance"] == "10.00 %"
    words = "untrained encoder (backbone)"
    levels = [
        ("raw pixels, 34.40 %", 34.4),
        (f"{words} of one, 37.65 %", 37.65),
        (f"{words} of two, 33.70 %", 33.7),
        ("chance, 10.00 %", 10.0),
    ]
    shown = charts._knn(runs).levels
    assert [name for name, _ in shown] == [name for name, _ in levels]
    for (_, value), (_, expected) in zip(shown, levels, strict=True):
        assert value == pytest.approx(expected)
    alone = dict(charts._knn(runs[:1]).levels)
    assert f"{words}, 37.65 %" in alone


@pytest.mark.parametrize(
    ("figures", "reached"),
    [
        (
            {"knn_backbone": 0.84, "start_backbone": 0.337},
            "kNN classifies 84.00 %, 50.3 points above the untrained encoder",
        ),
        (
            {"knn_backbone": 0.30, "start_backbone": 0.337},
            "kNN classifies 30.00 %, 3.7 points below the untrained encoder",
        ),
        ({"knn_backbone": 0.84}, "kNN classifies 84.00 %"),
        (
            {"knn_backbone": None, "knn_projection": None},
            "2 of 2 epochs, step 10",
        ),
    ],
)
def test_the_last_line_says_what_was_reached(run, figures, reached):
    finished = run(
        small_report.row(1),
        small_report.row(2, **figures),
        train__epochs=2,
        knn__features="backbone",
    )
    if "knn_backbone" in figures and figures["knn_backbone"] is None:
        finished = finished._replace(rows=finished.rows[1:])  # no kNN at all
    line = findings.closing(finished, "moco-tf export --workdir=w", "w/r.html")
    assert line == (
        f"Finished: {reached}. To use the encoder: moco-tf export --workdir=w. "
        "Report: w/r.html"
    )


@pytest.mark.parametrize(
    ("gained", "lost", "points"), [(1006, 0, "+50.3"), (0, 74, "-3.7")]
)
def test_the_gain_is_said_once(run, gained, lost, points):
    finished = run(
        small_report.row(
            1,
            start_backbone=0.337,
            knn_backbone=0.337 + (gained - lost) / 2000,
            knn_queries=2000,
            gained_backbone=gained,
            lost_backbone=lost,
        ),
        knn__features="backbone",
    )
    _, headline = findings.headline(finished)
    for words in (headline, findings.closing(finished, "export", "r.html")):
        assert words.count(f"{points} points") == 1
        assert words.count(points[1:]) == 1
