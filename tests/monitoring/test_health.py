"""Each warning fires where it should, once, and a good run hears none."""

import math
import types

import numpy as np
import pytest

from moco_tf import config as configs
from moco_tf.methods import table
from moco_tf.monitoring import health

CHANCE = math.log(4097)


def _config(**fields):
    values = {name.replace("__", "."): str(v) for name, v in fields.items()}
    return configs.load("moco_cifar10", {"data.source": "a", **values})


def _watch(config=None, images=50_000, chance=CHANCE, **arguments):
    config = config or _config()
    # The fields of a Run that the rules read: without TensorFlow.
    run = types.SimpleNamespace(
        method=config.method,
        images=images,
        batch_size=config.train.batch_size,
        dim=config.model.dim,
    )
    settings = types.SimpleNamespace(**config[config.method].to_dict())
    return health.Watch(run, settings, chance, **arguments)


def _row(step, **figures):
    return {
        "step": step,
        "loss": 6.0,
        "input_wait_share": 0.02,
        "key_rank": 60.0,
        **figures,
    }


def _names(notices):
    return [notice.name for notice in notices]


def test_a_loss_of_guessing_warns_once_the_queue_has_turned_over():
    # K 4096, batch 512: the fourth turnover ends at step 32, but the first
    # 200 steps say little.
    watch = _watch()
    assert watch.report(_row(195, loss=CHANCE)) == []
    (notice,) = watch.report(_row(200, loss=0.995 * CHANCE))
    assert notice.name == "chance-loss"
    assert "turned over 25 times" in notice.text
    assert "config.optimizer.learning_rate" in notice.text
    assert watch.report(_row(205, loss=CHANCE)) == []


def test_a_long_queue_has_its_turnovers_first():
    watch = _watch(_config(moco__queue_size=65536), images=1_281_167)
    # 128 steps a turnover.
    assert watch.report(_row(511, loss=12.0)) == []
    assert _names(watch.report(_row(512, loss=12.0))) == ["chance-loss"]


def test_a_loss_below_chance_is_no_warning():
    assert _watch().report(_row(5000, loss=0.98 * CHANCE)) == []


def test_keys_of_one_direction_are_a_collapse():
    watch = _watch()
    assert watch.report(_row(400, key_rank=2.0)) == []
    (notice,) = watch.report(_row(405, key_rank=1.4))
    assert notice.name == "collapse"
    assert "effective rank of 1.40" in notice.text


@pytest.mark.parametrize(
    ("momentum", "pace", "expected"),
    [
        (0.999, 0.001, []),
        (0.99, 0.01, []),
        (0.9999, 0.0001, []),
        (1.0, 0.0, ["key-encoder-still"]),
        (0.999, 0.0, ["key-encoder-still"]),  # lost in rounding, or a fault
        (0.0, 1.0, ["key-encoder-follows"]),
        (0.5, 0.5, ["key-encoder-follows"]),
    ],
)
def test_the_pace_of_the_key_encoder_is_watched(momentum, pace, expected):
    watch = _watch(_config(moco__momentum=momentum))
    assert watch.pace(pace) == watch.pace(pace) == []
    assert _names(watch.pace(pace)) == expected
    assert watch.pace(pace) == []


def test_one_odd_pace_is_an_accident():
    watch = _watch()
    for pace in (0.0, 0.0, 0.01, 0.0, 0.0, 0.01):
        assert watch.pace(pace) == []


def test_queries_that_find_their_key_without_better_features_are_a_leak():
    watch = _watch()
    assert watch.epoch({"instance_top1": 0.99, "knn_backbone": 0.36}) == []
    assert watch.epoch({"instance_top1": 0.99, "knn_backbone": 0.37}) == []
    (notice,) = watch.epoch({"instance_top1": 0.99, "knn_backbone": 0.36})
    assert notice.name == "batch-norm-leak"
    assert "config.model.bn_groups" in notice.text


@pytest.mark.parametrize(
    ("top1", "knn"),
    [(0.99, [0.36, 0.45, 0.45, 0.45]), (0.5, [0.36] * 4), (0.99, [None] * 4)],
)
def test_rising_features_hard_negatives_or_no_labels_are_no_leak(top1, knn):
    watch = _watch()
    for figure in knn:
        row = {"instance_top1": top1, "knn_backbone": figure}
        assert watch.epoch(row) == []


def test_a_resumed_run_remembers_its_first_epochs():
    rows = [{"knn_backbone": figure} for figure in (None, 0.36, None, 0.36)]
    watch = _watch(rows=rows)
    notices = watch.epoch({"instance_top1": 0.99, "knn_backbone": 0.36})
    assert _names(notices) == ["batch-norm-leak"]


@pytest.mark.parametrize(
    ("keys", "images", "mask", "expected"),
    [
        (4096, 40_960, False, []),
        (4096, 40_959, False, ["large-queue"]),
        (4096, 5_000, True, []),
    ],
)
def test_a_queue_above_a_tenth_of_the_images_warns(
    keys, images, mask, expected
):
    config = _config(moco__queue_size=keys, moco__mask_same_image=mask)
    watch = _watch(config, images)
    notices = watch.start()
    assert _names(notices) == expected
    if notices:
        assert "mask_same_image" in notices[0].text
    assert watch.start() == []


def test_waiting_for_images_warns_when_it_lasts():
    watch = _watch()
    shares = [0.6, 0.6, 0.1, 0.5, None, 0.5, 0.5]
    names = [
        _names(watch.report(_row(step, input_wait_share=share)))
        for step, share in enumerate(shares, start=1)
    ]
    assert names == [[]] * 6 + [["input-bound"]]


def test_images_that_cannot_be_read_are_said_once():
    watch = _watch()
    assert watch.report(_row(5, unreadable=0, steps=5)) == []
    (notice,) = watch.report(_row(10, unreadable=3, steps=5))
    assert notice.name == "unreadable"
    assert f"3 of the {5 * 512} samples up to step 10" in notice.text
    assert "unreadable.csv" in notice.text
    assert watch.report(_row(15, unreadable=1, steps=5)) == []


def test_a_warning_of_an_earlier_session_is_not_repeated():
    watch = _watch(images=1000, known=["large-queue"])
    assert watch.start() == []


def test_a_good_run_hears_nothing():
    """Figures of a CIFAR-10 run of two epochs (docs/results/cifar10.md)."""
    losses = [5.70, 7.94, 7.40, 6.67, 6.48, 6.45, 6.58, 6.70]
    losses += [6.77, 6.86, 6.94, 6.96, 6.97, 6.95, 6.98, 7.00]
    watch = _watch()
    heard = watch.start()
    for number, loss in enumerate(losses, start=1):
        heard += watch.report(_row(12 * number, loss=loss))
        heard += watch.pace(0.01)
    for knn in (0.3622, 0.3751):
        heard += watch.epoch({"instance_top1": 0.12, "knn_backbone": knn})
    assert heard == []


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "warnings.csv"
    log = health.WarningLog(path, 0)
    log.add(0, [health.Notice("large-queue", 'häufig, "so"\nweiter.')])
    log.add(30, [health.Notice("collapse", "b.")])
    log.add(40, [])
    assert [row["step"] for row in health.read(path)] == [0, 30]
    again = health.WarningLog(path, 20)
    assert again.names == ["large-queue"]
    assert health.read(path) == [
        {"step": 0, "name": "large-queue", "text": 'häufig, "so"\nweiter.'}
    ]


def test_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "warnings.csv"
    health.WarningLog(path, 0).add(5, [health.Notice("collapse", "b.")])
    with path.open("a") as file:
        file.write("7,inp")
    assert [row["name"] for row in health.read(path)] == ["collapse"]
    assert health.read(tmp_path / "none.csv") == []


def test_the_watch_reads_numpy_figures():
    row = _row(400, loss=np.float32(9.0), key_rank=np.float64(50))
    assert _names(_watch().report(row)) == ["chance-loss"]


@pytest.mark.parametrize("name", table.METHODS)
def test_a_good_run_of_any_method_hears_nothing(name):
    config = configs.load(table.METHODS[name].configs[0], {"data.source": "a"})
    # An epoch of the images fills any queue; BYOL has no loss of guessing.
    chance = None if name == "byol" else 8.0
    watch = _watch(config, 1_281_167, chance)
    figures = {"spread": 0.9, "key_rank": None} if name == "byol" else {}
    assert watch.start() == []
    assert watch.report(_row(5000, **figures)) == []
    measured = table.method_class(name).METRICS
    means = {key: 0.5 for key in ("instance_top1",) if key in measured}
    # The momentum of others is of a bank of features.
    momentum = name in ("moco", "byol", "dino") and config[name].momentum
    for _ in range(4):
        assert watch.epoch({"knn_backbone": 0.3, **means}) == []
        if momentum:
            assert watch.pace(1 - momentum) == []


def test_targets_that_follow_are_no_keys_of_a_queue():
    config = configs.load("byol_cifar10", {"data.source": "a"})
    watch = _watch(config, 50_000, None)
    (notice,) = [*watch.pace(0.5), *watch.pace(0.5), *watch.pace(0.5)]
    assert "targets are of different encoders" in notice.text
    assert "queue" not in notice.text


def test_a_queue_that_holds_no_negatives_may_be_large():
    config = configs.load("swav_small_batch", {"data.source": "a"})
    assert _watch(config, 4000, 8.0).start() == []


def test_targets_that_are_all_the_same_are_a_collapse():
    config = configs.load("byol_cifar10", {"data.source": "a"})
    watch = _watch(config, 50_000, None)
    row = _row(300, key_rank=None, loss=0.01)
    assert watch.report(row | {"spread": 0.06}) == []
    (notice,) = watch.report(row | {"spread": 0.04})
    assert notice.name == "collapse"
    assert "spread is 0.040" in notice.text
