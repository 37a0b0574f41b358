"""Runs that start from others: what they take, and that they go on alike."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import moco_tf
from moco_tf import plan, pretrain
from moco_tf.cli import main as cli
from moco_tf.doctor import recipe, table
from moco_tf.training import checkpoints
from moco_tf.weights import starting
from tests import forked, shallow, small_run
from tests.cluster import small_cluster

_network = shallow.fixture(shallow.ONE_BLOCK)
# Of one epoch the demo's schedule, which counts from 1, would have the rate 0.
FIELDS = {"moco__mask_same_image": True, "schedule__first_epoch": 0}
WARM = {
    "model__freeze": "stem",
    "moco__fill_queue": True,
    "optimizer__clip_norm": 0.5,
    "optimizer__learning_rate": 0.003,
    "checkpoint__every_steps": 3,
    "checkpoint__keep": 9,
    "train__epochs": 1,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return small_run.write_images(tmp_path_factory.mktemp("images"))


def _pretrain(images, workdir, **fields):
    config = small_run.make_config(images, **FIELDS | fields)
    return pretrain.pretrain(config, workdir, tf.distribute.get_strategy())


@pytest.fixture(scope="module")
def first(images, tmp_path_factory):
    """A run to start from."""
    workdir = tmp_path_factory.mktemp("first")
    _pretrain(images, workdir, train__epochs=1)
    return workdir


@pytest.fixture(scope="module")
def warm(images, first, tmp_path_factory):
    """A run from a run that is gone, with all options; its source's name."""
    folder = tmp_path_factory.mktemp("warm")
    gone = shutil.copytree(first, folder / "gone")
    _pretrain(images, folder / "run", model__init=str(gone), **WARM)
    shutil.rmtree(gone)
    return folder / "run", gone


def _encoder(state, side="query"):
    start = f"model/{side}_encoder/"
    return {
        name.removeprefix(start): value
        for name, value in state.items()
        if name.startswith(start)
    }


def _state(workdir, step):
    path = dict(checkpoints.complete(workdir))[step]
    reader = tf.train.load_checkpoint(str(path / "state"))
    names = reader.get_variable_to_shape_map()
    return {n: reader.get_tensor(n) for n in names if "OBJECT" not in n}


def test_a_run_begins_with_both_encoders_of_the_one_that_it_names(first, warm):
    workdir, gone = warm
    start = _state(workdir, 0)
    expected = _encoder(_state(first, 6))
    assert expected.keys() == _encoder(start).keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(_encoder(start)[name], value)
        np.testing.assert_array_equal(_encoder(start, "key")[name], value)
    config = json.loads((workdir / "config.json").read_text())["config"]
    assert config["model"]["init"] == str(gone)
    listed = json.loads((workdir / starting.FILE).read_text())
    assert listed["path"] == str(gone)
    assert listed["about"]["step"] == 6
    assert "queue/keys" in {row["name"] for row in listed["new"]}


@pytest.mark.parametrize("step", [0, 3])
def test_killed_and_started_again_without_its_file_it_has_the_same_bits(
    images, warm, tmp_path, step
):
    workdir, gone = warm
    parts = shutil.copytree(workdir, tmp_path / "parts")
    for later, path in checkpoints.complete(parts):
        if later > step:
            shutil.rmtree(path)
    _pretrain(images, parts, model__init=str(gone), **WARM)
    assert small_run.step_of(parts) == 6
    small_run.assert_same_bits(small_run.state(workdir), small_run.state(parts))


def test_a_frozen_stem_stays_and_the_rest_learns(warm):
    workdir, _ = warm
    before, after = _state(workdir, 0), _state(workdir, 6)
    moved = {
        side: {
            name
            for name, value in _encoder(after, side).items()
            if (value != _encoder(before, side)[name]).any()
        }
        for side in ("query", "key")
    }
    # conv1 and bn1 are the first layers with weights.
    stem = {
        name
        for name in _encoder(after)
        if name.startswith(("backbone/layer_with_weights-0/",
                            "backbone/layer_with_weights-1/"))
    }  # fmt: skip
    assert len(stem) == 5
    for side in ("query", "key"):
        assert moved[side] == set(_encoder(after)) - stem


def test_no_query_of_the_first_epoch_meets_a_filled_key_of_its_image(
    images, warm
):
    workdir, _ = warm
    samples = _state(workdir, 0)
    samples = samples["model/queue/samples/.ATTRIBUTES/VARIABLE_VALUE"]
    assert (samples >= 0).all() and len(set(samples)) == len(samples)
    config = small_run.make_config(images, **FIELDS)
    strategy = tf.distribute.get_strategy()
    stream = plan.make(config, strategy).batches
    batches = iter(stream.distribute(strategy, 0))
    pointer = 5 * 8 % len(samples)
    for _ in range(small_run.STEPS_PER_EPOCH):
        index = next(batches)["index"].numpy()
        assert not set(index) & set(samples)
        samples[(pointer + np.arange(8)) % len(samples)] = -1
        pointer += 8


def test_a_run_that_is_refused_leaves_nothing_behind(images, first, tmp_path):
    for fields, words in (
        ({"model__stem": "imagenet"}, "Pass --config.model.stem=cifar"),
        ({"model__freeze": "stage9"}, "stem, stage1"),
    ):
        with pytest.raises(ValueError, match=words):
            _pretrain(
                images, tmp_path / "run", model__init=str(first), **fields
            )
        assert not (tmp_path / "run").exists()


def test_doctor_says_what_a_run_would_take(images, first, warm, tmp_path):
    fields = {"model__init": f"{first}@6", "moco__momentum_warmup_epochs": 1}
    row = recipe.start_row(small_run.make_config(images, **FIELDS | fields))
    assert (row.check, row.verdict) == ("start", table.OK)
    assert f"{first}@6, a run of moco, step 6: " in row.finding
    assert "backbone, " in row.finding and "key_encoder = " in row.finding
    assert "momentum_warmup_epochs=0" in row.remedy
    config = small_run.make_config(images, model__init=str(warm[1]))
    row = recipe.start_row(config)
    assert (row.verdict, "where nothing is" in row.finding) == (
        table.FAIL,
        True,
    )
    assert recipe.start_row(config, warm[0]).finding.startswith(
        "the run goes on from step-000000006"
    )
    words = small_run.command(images, tmp_path / "run", model__stem="imagenet")
    words = words[words.index("pretrain") + 1 :]
    words.append(f"--config.model.init={first}")
    saved = tmp_path / "doctor.json"
    words = ["doctor", "--trial_steps=0", f"--json={saved}", *words]
    assert cli.run(words) == 1
    rows = json.loads(saved.read_text())["checks"]
    (row,) = [row for row in rows if row["check"] == "start"]
    assert "Pass --config.model.stem=cifar" in row["finding"]


def test_other_weights_are_refused_when_a_run_goes_on(images, first, warm):
    workdir, gone = warm
    words = "(?s)model.init: .*gone.*the first weights came from it"
    with pytest.raises(ValueError, match=words):
        _pretrain(images, workdir, model__init=str(first), **WARM)


def test_it_starts_from_the_command_line_and_from_python(
    images, first, warm, tmp_path, capsys
):
    fields = FIELDS | WARM
    words = small_run.command(images, tmp_path / "command", **fields)
    words = words[words.index("pretrain") :]
    words = [w for w in words if not w.startswith("--config.model.init=")]
    words += [
        f"--config.model.init={first}@6",
        "--config.schedule.first_epoch=0",
        "--config.optimizer.clip_norm=0.5",
        "--config.optimizer.learning_rate=0.003",
    ]
    assert cli.run(words) == 0
    assert f"starts from {first}@6: a run of moco, step 6" in (
        capsys.readouterr().out
    )
    config = small_run.make_config(images, **fields)
    sections = {
        section: config[section].to_dict()
        for section in ("data", "model", "moco", "schedule", "train", "log")
    }
    sections["model"]["init"] = first
    moco_tf.train(
        workdir=tmp_path / "python",
        preset="moco_cifar10",
        devices="cpu",
        optimizer={"clip_norm": 0.5, "learning_rate": 0.003},
        checkpoint=config.checkpoint.to_dict(),
        knn={"bank": "", "query": ""},
        **sections,
    )
    expected = small_run.state(warm[0])
    for name in ("command", "python"):
        small_run.assert_same_bits(small_run.state(tmp_path / name), expected)


def test_an_epoch_of_another_precision_goes_on_from_a_run(
    images, first, tmp_path
):
    _pretrain(
        images,
        tmp_path / "run",
        model__init=f"{first}@6",
        train__precision="mixed_float16",
        optimizer__clip_norm=0.5,
        train__max_steps=2,
    )
    assert small_run.step_of(tmp_path / "run") == 2


def test_two_replicas_start_as_one_does_and_go_on_alike(
    images, first, warm, tmp_path
):
    def train(workdir):
        fields = FIELDS | {k: v for k, v in WARM.items() if k[:5] != "optim"}
        words = small_run.command(
            images, workdir, "--devices=cpu:2", "--deterministic", **fields
        )
        words += [
            f"--config.model.init={tmp_path / 'gone'}",
            "--config.schedule.first_epoch=0",
            "--config.optimizer.clip_norm=0.5",
            "--config.optimizer.learning_rate=0.003",
        ]
        done = forked.run(words)
        assert done.returncode == 0, done.stderr

    shutil.copytree(first, tmp_path / "gone")
    train(tmp_path / "run")
    one, two = _state(warm[0], 0), _state(tmp_path / "run", 0)
    for side in ("query", "key"):
        for name, value in _encoder(one, side).items():
            np.testing.assert_array_equal(_encoder(two, side)[name], value)
    for name in [name for name in one if "model/queue/" in name]:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5)
    one, two = _state(warm[0], 3), _state(tmp_path / "run", 3)
    for name, value in _encoder(one).items():
        if "moving" not in name:  # those of the first replica
            np.testing.assert_allclose(_encoder(two)[name], value, atol=1e-4)
    parts = shutil.copytree(tmp_path / "run", tmp_path / "parts")
    for step, path in checkpoints.complete(parts):
        if step > 3:
            shutil.rmtree(path)
    shutil.rmtree(tmp_path / "gone")
    train(parts)
    small_run.assert_same_bits(
        small_run.state(parts), small_run.state(tmp_path / "run")
    )


def test_two_workers_start_as_one_does_and_go_on_alike(
    images, first, warm, tmp_path
):
    workdir = tmp_path / "run"
    gone = shutil.copytree(first, tmp_path / "gone")
    options = [
        f"--config.model.init={gone}",
        "--config.schedule.first_epoch=0",
        "--config.optimizer.clip_norm=0.5",
        "--config.optimizer.learning_rate=0.003",
        "--deterministic",
    ]
    fields = FIELDS | {k: v for k, v in WARM.items() if k[:5] != "optim"}

    def train():
        statuses, texts = small_cluster.finish(
            small_cluster.start(images, workdir, *options, **fields)
        )
        assert statuses == [0, 0], texts

    train()
    one, two = _state(warm[0], 0), _state(workdir, 0)
    for side in ("query", "key"):
        for name, value in _encoder(one, side).items():
            np.testing.assert_array_equal(_encoder(two, side)[name], value)
    for name in [name for name in one if "model/queue/" in name]:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5)
    expected = small_run.state(workdir)
    for step, path in checkpoints.complete(workdir):
        if step > 0:
            shutil.rmtree(path)
    shutil.rmtree(gone)  # whoever goes on needs the weights no more
    train()
    small_run.assert_same_bits(small_run.state(workdir), expected)
