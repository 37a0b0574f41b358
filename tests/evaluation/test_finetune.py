"""Fine-tuning: what it trains, what it refuses, and that it goes on."""

import csv
import json
import math

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import workdirs
from moco_tf.evaluation import finetune, frozen, supervised
from moco_tf.monitoring import printed
from moco_tf.training import callbacks, checkpoints
from tests import shallow, small_run
from tests.evaluation import small_encoder

_network = shallow.fixture()
STRATEGY = tf.distribute.get_strategy()
FIELDS = {
    "train.batch_size": "8",
    "train.epochs": "2",
    "optimizer.learning_rate": "0.01",
    "data.threads": "2",
    "log.every_steps": "4",
}


class Killed(BaseException):
    """Ends a run as a kill does: nobody catches it."""


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    """A run with step 5, of random weights, and step 9, where all moved."""
    workdir = small_encoder.write(tmp_path_factory.mktemp("run"))
    encoder = frozen.build_encoder(frozen.load_config(workdir))
    for weight in encoder.weights:
        weight.assign(1.01 * weight + 0.001)
    path = workdir / "checkpoints" / "step-000000009"
    model = tf.train.Checkpoint(query_encoder=encoder)
    tf.train.Checkpoint(model=model).write(str(path / "state"))
    (path / "meta.json").write_text(json.dumps({"step": 9}))
    return workdir


def make_config(**fields):
    values = {name.replace("__", "."): str(v) for name, v in fields.items()}
    return configs.load("finetune", FIELDS | values, "finetune")


def run(workdir, output, checkpoint="latest", **fields):
    config = make_config(**fields)
    return finetune.run(config, workdir, checkpoint, output, STRATEGY)


def rows(output):
    with (output / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(name="finished", scope="module")
def _finished(workdir, tmp_path_factory):
    """An uninterrupted fine-tuning: folder and result."""
    output = tmp_path_factory.mktemp("finished")
    return output, run(workdir, output)


def test_a_run_that_diverges_says_what_to_lower_and_where(
    workdir, finished, tmp_path
):
    message = "Lower config.optimizer.learning_rate, in another --output"
    with pytest.raises(FloatingPointError, match=message):
        run(workdir, tmp_path, optimizer__learning_rate=1e30)
    # The same with a lower rate, in another folder, has come to its end; in
    # this one it would be two runs in one.
    assert finished[1]["top1"] == 1.0
    with pytest.raises(ValueError, match="another configuration"):
        run(workdir, tmp_path)


def test_a_run_separates_what_can_be_separated(finished):
    output, result = finished
    assert result["top1"] == 1.0
    assert (result["images"], result["unreadable_test_images"]) == (10, 1)
    assert (result["train_images"], result["held_out_images"]) == (40, 0)
    assert (result["epoch"], result["classes"]) == (2.0, 2)
    assert json.loads((output / "result.json").read_text()) == result
    names = {path.name for path in output.iterdir()}
    assert names >= {
        "config.json",
        "environment.json",
        "metrics.csv",
        "checkpoints",
        "confusion.csv",
        "confusion.png",
        "per_class.csv",
    }
    assert [int(row["step"]) for row in rows(output)] == [4, 5, 9, 10]


def test_a_folder_that_another_process_writes_to_is_refused(workdir, tmp_path):
    with workdirs.hold(tmp_path):
        with pytest.raises(ValueError, match="Only one process at a time"):
            run(workdir, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_finished_run_says_so_and_returns_its_result(
    finished, workdir, capsys
):
    output, result = finished
    before = (output / "metrics.csv").read_bytes()
    with printed.copied():
        assert run(workdir, output) == result
    said = capsys.readouterr().out
    assert "This fine-tuning is finished" in said
    assert "top-1 100.00 %" in said
    assert (output / "log.txt").read_text().endswith(said)
    assert (output / "metrics.csv").read_bytes() == before


def broken_and_resumed(workdir, output, monkeypatch, error, saved, **fields):
    """Ends a run in its 7th of 10 steps, then starts it again."""
    after_step = callbacks.RunCallback.after_step

    def stop(callback):
        if callback.step == 7:
            raise error
        after_step(callback)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.RunCallback, "after_step", stop)
        with pytest.raises(error):
            run(workdir, output, **fields)
    assert small_run.step_of(output) == saved
    return run(workdir, output, **fields)


def test_interrupted_is_uninterrupted(finished, workdir, tmp_path, monkeypatch):
    output, result = finished
    again = broken_and_resumed(
        workdir, tmp_path, monkeypatch, KeyboardInterrupt, 7
    )
    assert again == result
    small_run.assert_same_bits(
        small_run.state(output), small_run.state(tmp_path)
    )
    last = [rows(folder)[-1]["epoch_loss"] for folder in (output, tmp_path)]
    np.testing.assert_allclose(*np.array(last, float), rtol=1e-5)


def test_killed_is_uninterrupted_where_images_are_blended(
    workdir, tmp_path, monkeypatch
):
    fields = {
        "augment__mixup": 0.4,
        "augment__cutmix": 1.0,
        "train__label_smoothing": 0.1,
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(workdir, whole, **fields)
    broken_and_resumed(workdir, parts, monkeypatch, Killed, 5, **fields)
    small_run.assert_same_bits(small_run.state(whole), small_run.state(parts))


def start_of(workdir, checkpoint="latest", **fields):
    config = make_config(**fields)
    saved = frozen.load_config(workdir)
    return config, finetune.load_start(
        config, saved, workdir, checkpoint, STRATEGY
    )


def method_of(workdir, **fields):
    """Method and stream of a configuration."""
    config, start = start_of(workdir, **fields)
    labelled = supervised.open_labelled("", "", start.run)
    train, _ = finetune.choose(config, labelled)
    batches = finetune.make_stream(config, start.run, train)
    method = finetune.make_method(config, start, batches, 2, STRATEGY)
    return method, batches


def test_the_backbone_starts_from_the_encoder(workdir):
    start = start_of(workdir)[1]
    encoder = frozen.build_encoder(start.run)
    checkpoints.restore_query_encoder(encoder, checkpoints.latest(workdir))
    for actual, expected in zip(
        start.backbone.weights, encoder.backbone.weights, strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    assert start.title.endswith("step-000000009")


def test_random_weights_get_the_same_head_and_batches(workdir):
    one, one_batches = method_of(workdir, model__init="random")
    two, two_batches = method_of(workdir, model__init="encoder")
    assert np.any(
        one.backbone.weights[0].numpy() != two.backbone.weights[0].numpy()
    )
    for left, right in zip(one.head.weights, two.head.weights, strict=True):
        np.testing.assert_array_equal(left, right)
    for left, right in zip(
        one_batches.batches(1, 0, 2), two_batches.batches(1, 0, 2), strict=True
    ):
        np.testing.assert_array_equal(left["query"], right["query"])


def test_random_weights_depend_on_the_seed_alone(workdir):
    weights = [
        start_of(workdir, model__init="random", seed=seed)[1].backbone.weights
        for seed in (0, 0, 1)
    ]
    first, again, other = [w[0].numpy() for w in weights]
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_the_head_is_batch_norm_and_a_small_linear_layer(workdir):
    method, _ = method_of(workdir)
    layers = method.head.layers[1:]
    assert [layer.name for layer in layers] == ["bn", "fc"]
    assert layers[0].synchronized
    assert abs(np.std(layers[1].kernel) - 0.01) < 0.004
    np.testing.assert_array_equal(layers[1].bias, [0.0, 0.0])
    plain, _ = method_of(workdir, model__head_bn=False, model__sync_bn=False)
    assert [layer.name for layer in plain.head.layers[1:]] == ["fc"]
    assert not plain.backbone.get_layer("bn1").synchronized


def one_step(method, batches):
    """Trains on one batch; returns loss, logits before it and its labels."""
    batch = next(iter(batches.batches(1, 0, 1)))
    images = (
        tf.cast(batch["query"], tf.float32) / 255 - method.recipe.mean
    ) / method.recipe.std
    # Outside of the step, so that no moving statistic changes.
    weights = [v.numpy() for v in method.weights]
    logits = method.head(method.backbone(images, training=True), training=True)
    method.set_weights(weights)
    metrics = method.train_step(batch)
    labels = batches.source.labels[batch["index"].numpy()]
    return float(metrics["loss"]), logits.numpy().astype(np.float64), labels


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_the_smoothed_cross_entropy(workdir, smoothing):
    method, batches = method_of(workdir, train__label_smoothing=smoothing)
    loss, logits, labels = one_step(method, batches)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    # Two classes: the target is 1 - s + s / 2, the other's s / 2.
    own = log[np.arange(8), labels]
    other = log[np.arange(8), 1 - labels]
    share = smoothing / 2
    expected = -np.mean((1 - share) * own + share * other)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_label_smoothing_by_hand():
    logits = tf.math.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    loss = supervised.cross_entropy(tf.constant([0, 2]), logits, 0.3)
    # Targets 0.8, 0.1, 0.1 and 0.1, 0.1, 0.8.
    first = -0.8 * math.log(0.7) - 0.1 * math.log(0.2) - 0.1 * math.log(0.1)
    second = -0.2 * math.log(0.25) - 0.8 * math.log(0.5)
    np.testing.assert_allclose(loss, (first + second) / 2, rtol=1e-6)


def test_bfloat16_trains_float32_weights(workdir):
    method, batches = method_of(workdir, train__precision="mixed_bfloat16")
    assert method.backbone.get_layer("conv1").compute_dtype == "bfloat16"
    before = method.backbone.weights[0].numpy()
    one_step(method, batches)
    assert {weight.dtype for weight in method.weights} <= {
        tf.float32,
        tf.int64,
    }
    assert np.any(method.backbone.weights[0].numpy() != before)


def test_a_float16_run_is_tuned_with_a_scaled_loss(workdir, monkeypatch):
    """A gradient that is too small for float16 moves the weights too."""
    load = frozen.load_config

    def of_float16(*arguments):
        run = load(*arguments).copy_and_resolve_references()
        run.train.precision = "mixed_float16"
        return run

    monkeypatch.setattr(frozen, "load_config", of_float16)
    cross_entropy = supervised.cross_entropy
    monkeypatch.setattr(
        supervised, "cross_entropy", lambda *x: 1e-6 * cross_entropy(*x)
    )
    method, batches = method_of(
        workdir, optimizer__learning_rate=1e3, optimizer__weight_decay=0
    )
    kernel = method.backbone.get_layer("conv1").kernel
    assert method.backbone.get_layer("conv1").compute_dtype == "float16"
    before = kernel.numpy()
    one_step(method, batches)
    assert np.abs(kernel.numpy() - before).max() > 1e-6


def test_all_weights_move_and_the_head_moves_faster(workdir):
    moved = []
    for factor in (1.0, 10.0):
        method, batches = method_of(
            workdir, optimizer__head_factor=factor, optimizer__weight_decay=0
        )
        before = [v.numpy() for v in method.trained_variables()]
        one_step(method, batches)
        moved.append(
            [
                v.numpy() - old
                for v, old in zip(
                    method.trained_variables(), before, strict=True
                )
            ]
        )
    assert all(np.any(change) for change in moved[0][:-4])
    for slow, fast in zip(moved[0][:-4], moved[1][:-4], strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-3, atol=1e-7)
    for slow, fast in zip(moved[0][-4:], moved[1][-4:], strict=True):
        np.testing.assert_allclose(fast, 10 * slow, rtol=1e-3, atol=1e-6)


def test_held_out_images_are_not_trained_on(workdir):
    config = make_config(data__labels=0.5, data__holdout=0.2)
    labelled = supervised.open_labelled("", "", frozen.load_config(workdir))
    train, held_out = finetune.choose(config, labelled)
    assert (len(train), len(held_out)) == (16, 4)
    assert np.bincount(held_out.labels).tolist() == [2, 2]
    assert not set(train.indices) & set(held_out.indices)
    batches = finetune.make_stream(config, frozen.load_config(workdir), train)
    assert batches.source is train


def test_early_stopping_keeps_the_best_checkpoint(
    workdir, tmp_path, monkeypatch
):
    figures = iter([0.25, 0.75, 0.5, 0.75, 1.0])
    train = supervised.train

    def with_fixed_figures(
        method, batches, config, output, strategy, evaluate, patience, begin
    ):
        assert 0 <= evaluate() <= 1
        return train(
            method,
            batches,
            config,
            output,
            strategy,
            lambda: next(figures),
            patience,
            begin=begin,
        )

    monkeypatch.setattr(supervised, "train", with_fixed_figures)
    result = run(
        workdir,
        tmp_path,
        train__epochs=5,
        train__early_stopping=2,
        data__holdout=0.2,
    )
    # The second epoch's is the best; two no better ones end the training.
    assert result["epoch"] == 2.0
    assert result["held_out_images"] == 8
    evaluated = [row["evaluated_top1"] for row in rows(tmp_path)]
    assert [float(x) for x in evaluated if x] == [0.25, 0.75, 0.5, 0.75]


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"data__labels": 0.1},
            r"Received 8, 4 images \(data.labels=0.1 of 40, less 0 held",
        ),
        (
            {"train__early_stopping": 3},
            "train.early_stopping=3 and data.holdout=0, 0 images",
        ),
        ({"train__batch_size": 1}, "train.batch_size=1 on 1"),
        ({"schedule__warmup_epochs": 2}, "warmup_epochs=2, epochs=2"),
        (
            {"data__train": "folder:{root}/few"},
            "2 classes and 2; missing in .*: light",
        ),
        ({"data__test": "folder:{root}/flat"}, "The test set has none"),
        ({"model__init": "encoder", "checkpoint": 7}, "'7'; steps .*: 5, 9"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    workdir, tmp_path, fields, message
):
    images = workdir.parent / "train"
    (tmp_path / "few").mkdir()
    for name in ("dark", "other"):
        (tmp_path / "few" / name).symlink_to(images / "dark")
    (tmp_path / "flat").symlink_to(images / "dark")
    values = {k: str(v).format(root=tmp_path) for k, v in fields.items()}
    output = tmp_path / "output"
    with pytest.raises(ValueError, match=message):
        run(workdir, output, **values)
    assert not output.exists()


def test_replicas_that_do_not_divide_the_batch_are_refused(workdir):
    labelled = supervised.open_labelled("", "", frozen.load_config(workdir))
    parts = finetune.choose(make_config(), labelled)
    with pytest.raises(ValueError, match="Received 8, 40 .* and 3 replicas"):
        finetune.check(make_config(), labelled, *parts, replicas=3)
    with pytest.raises(ValueError, match="two images or more of a replica"):
        finetune.check(
            make_config(augment__mixup=0.2), labelled, *parts, replicas=8
        )
    config = make_config(model__sync_bn=False)
    with pytest.raises(ValueError, match="two images or more of a replica"):
        finetune.check(config, labelled, *parts, replicas=8)


def test_a_checkpoint_of_another_architecture_is_refused(workdir, tmp_path):
    saved = frozen.load_config(workdir).copy_and_resolve_references()
    saved.model.width = 0.25
    workdirs.save(saved, tmp_path / "wide")
    output = tmp_path / "output"
    path = checkpoints.latest(workdir)
    with pytest.raises(ValueError, match="does not hold such an encoder") as e:
        run(tmp_path / "wide", output, checkpoint=str(path))
    assert "(3, 3, 3, 8)" in str(e.value)
    assert "(3, 3, 3, 16)" in str(e.value)
    assert not output.exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data__crop": 0.2}, r"data.crop: 0.08 -> 0.2"),
        ({"checkpoint": "5"}, "was started with another encoder"),
        ({"model__init": "random"}, "model.init: 'encoder' -> 'random'"),
    ],
)
def test_going_on_otherwise_is_refused_with_the_difference(
    finished, workdir, change, message
):
    with pytest.raises(ValueError, match=message):
        run(workdir, finished[0], **change)
