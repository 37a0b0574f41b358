"""linear and finetune go on with mended or moved images, and refuse others."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import workdirs
from moco_tf.evaluation import finetune, frozen, knn, linear
from moco_tf.training import callbacks, checkpoints
from tests import shallow, small_run
from tests.evaluation import small_encoder

_network = shallow.fixture()
STRATEGY = tf.distribute.get_strategy()
FIELDS = {
    "train.batch_size": "8",
    "train.epochs": "3",
    "schedule.milestones": "1,2",
    "log.every_steps": "4",
}


def _run(command, project, **fields):
    values = {name.replace("__", "."): str(v) for name, v in fields.items()}
    if command == "linear":
        values = {"probe.way": "published"} | values
    config = configs.load(command, FIELDS | values, command)
    workdir, output = project / "workdir", project / command
    if command == "finetune":
        return finetune.run(config, workdir, "latest", output, STRATEGY)
    encoder = frozen.open_frozen(workdir)
    return linear.run(config, encoder, output, STRATEGY)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Command -> a project whose task was interrupted in its 7th step."""
    after_step = callbacks.RunCallback.after_step

    def stop(callback):
        if callback.step == 7:
            raise KeyboardInterrupt
        after_step(callback)

    projects = {}
    for command in ("linear", "finetune"):
        project = tmp_path_factory.mktemp(command)
        small_encoder.write(project)
        callbacks.RunCallback.after_step = stop
        try:
            with pytest.raises(KeyboardInterrupt):
                _run(command, project)
        finally:
            callbacks.RunCallback.after_step = after_step
        assert small_run.step_of(project / command) == 7
        projects[command] = project
    return projects


@pytest.fixture
def copied(stopped, tmp_path):
    """A function: command -> a copy of its project, which the data moved to."""

    def copy(command):
        return shutil.copytree(stopped[command], tmp_path / "moved")

    return copy


@pytest.mark.parametrize("command", ["linear", "finetune"])
def test_a_task_goes_on_with_mended_and_moved_images(copied, command, capsys):
    project = copied(command)
    train, test = (f"folder:{project / name}" for name in ("train", "test"))
    (project / "train" / "dark" / "3.png").unlink()
    image = (project / "test" / "dark" / "1.png").read_bytes()
    (project / "test" / "dark" / "9.png").write_bytes(image)
    # A new class would move all labels by one.
    (project / "train" / "amber").mkdir()
    shutil.copy(project / "train" / "dark" / "5.png", project / "train/amber")
    result = _run(command, project, data__train=train, data__test=test)
    assert result["train_images"] == 40
    assert (result["images"], result["unreadable_test_images"]) == (11, 0)
    assert result["top1"] == 1.0
    printed = capsys.readouterr().out
    assert "images of data.train have changed" in printed
    assert "1 added (amber/5.png); 1 removed (dark/3.png)" in printed
    assert "images of data.test have changed" in printed


def _relabel(project):
    names = [f"dark/{n}.png" for n in range(20)]
    names += [f"light/{n}.png" for n in range(20)]
    lines = [
        f"{project / 'train' / name}\t{('dark', 'light')[i % 2]}\n"
        for i, name in enumerate(names)
    ]
    (project / "list.txt").write_text("".join(lines))
    return {"data__train": f"list:{project / 'list.txt'}"}


def _swap(project):
    return {"data__train": f"folder:{project / 'test'}"}


def _damage_state(project):
    path = checkpoints.latest(project / "linear") / "state.index"
    path.write_bytes(b"broken")
    return {}


REFUSALS = {
    "field": (lambda _: {"seed": 3}, "seed: 0 -> 3"),
    "epochs": (
        lambda _: {"train__epochs": 5},
        "another folder as --output.$",
    ),
    "labels": (_relabel, "20 of another class"),
    "other": (_swap, "40 images then and 11 now"),
    "state": (_damage_state, "step-000000007"),
    "gone": (lambda _: {"data__test": "folder:/gone"}, "missing"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_task_changes_nothing(copied, kind):
    project = copied("linear")
    harm, message = REFUSALS[kind]
    (project / "linear" / "lock").unlink(missing_ok=True)
    fields = harm(project)
    before = small_run.digest(project)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        _run("linear", project, **fields)
    assert small_run.digest(project) == before


def test_data_of_a_run_that_are_gone_are_named_with_flags_that_help(
    stopped, tmp_path
):
    first = stopped["linear"]
    moved = shutil.copytree(first, tmp_path / "moved")
    kept = [first / name for name in ("train", "test")]
    away = [path.rename(path.with_name(f"{path.name}-away")) for path in kept]
    try:
        # Beside the run, the data are found; without them nothing is.
        assert knn.evaluate(
            frozen.open_frozen(moved / "workdir"), moved / "f", ks=(5,)
        )
        for name in ("train", "test"):
            (moved / name).rename(moved / f"{name}-away")
        encoder = frozen.open_frozen(moved / "workdir")
        with pytest.raises(ValueError, match="knn.bank was .*pass --bank="):
            knn.evaluate(encoder, tmp_path / "f")
        specs = [f"folder:{path}" for path in away]
        result = knn.evaluate(encoder, tmp_path / "f", *specs, ks=(5,))
        assert result
        with pytest.raises(ValueError, match="pass --config.data.train="):
            _run("finetune", moved)
    finally:
        for path, other in zip(kept, away, strict=True):
            other.rename(path)


def test_random_weights_stay_those_of_a_run_that_goes_on(stopped):
    project = stopped["finetune"]
    config = configs.load("finetune", {"model.init": "random"}, "finetune")
    run = frozen.load_config(project / "workdir")
    other = run.copy_and_resolve_references()
    with other.unlocked():
        other.model.recompute = True  # free on resume
    first, second = (
        finetune.load_start(config, of, project / "workdir", "latest", STRATEGY)
        for of in (run, other)
    )
    assert first.identity == second.identity


def test_a_relative_source_of_a_task_is_noted(stopped, tmp_path, monkeypatch):
    project = shutil.copytree(stopped["linear"], tmp_path / "project")
    shutil.rmtree(project / "linear")
    monkeypatch.chdir(project)
    fields = {"data__train": "folder:train", "data__test": "folder:test"}
    fields |= {"train__epochs": 1, "schedule__milestones": ""}
    top1 = _run("linear", project, **fields)["top1"]
    monkeypatch.chdir("/")
    saved = workdirs.load_saved(project / "linear", "linear")
    assert saved.data.train == f"folder:{project / 'train'}"
    assert _run("linear", project, **fields)["top1"] == top1
    assert os.getcwd() == "/" and np.isfinite(top1)
