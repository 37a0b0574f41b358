"""What a workdir records, and what may change when a run goes on."""

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import lane, workdirs
from moco_tf.monitoring import printed
from tests import small_disk


def cifar(**overrides):
    """The CIFAR configuration on a source, with overrides section__key."""
    texts = {k.replace("__", "."): str(v) for k, v in overrides.items()}
    texts.setdefault("data.source", "folder:/images")
    return configs.load("moco_cifar10", texts)


def start(
    config, workdir, fingerprint, extend=False, command="pretrain", encoder=""
):
    """What a command does before it trains: checks the run, then notes it."""
    workdirs.check(config, workdir, fingerprint, extend, command, encoder)
    workdirs.save(config, workdir, fingerprint, command, encoder)


def test_save_and_load_give_the_same_configuration(tmp_path):
    config = cifar(schedule__milestones="3,5")
    workdirs.save(config, tmp_path)
    saved = workdirs.load_saved(tmp_path)
    assert saved.to_dict() == config.to_dict()
    assert saved.schedule.milestones == (3, 5)


def test_environment_lists_every_start(tmp_path):
    workdirs.save(cifar(), tmp_path)
    workdirs.save(cifar(), tmp_path)
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert len(starts) == 2
    assert starts[0]["packages"]["tensorflow"] == tf.__version__
    assert starts[0]["packages"]["numpy"] == np.__version__
    assert starts[0]["lane"] == lane.NAME
    assert starts[0]["lamb_and_sgdw"] == lane.OPTIMIZERS
    assert starts[1]["devices"] and starts[1]["command"]


def test_a_start_on_another_tensorflow_says_what_differs(tmp_path, capsys):
    workdirs.save(cifar(), tmp_path)
    workdirs.save(cifar(), tmp_path)
    assert capsys.readouterr().out == ""
    path = tmp_path / "environment.json"
    environment = json.loads(path.read_text())
    environment["starts"][-1]["packages"]["tensorflow"] = "2.99.0"
    path.write_text(json.dumps(environment))
    workdirs.save(cifar(), tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("Warning: The last start was on TensorFlow 2.99.0")
    assert f"this one is on {tf.__version__}. The run goes on" in said
    assert "up to 1e-3 of itself in float32" in said


def test_the_environment_of_a_package_that_is_missing_is_none(monkeypatch):
    monkeypatch.setattr(lane, "PACKAGES", ("numpy", "no-such-package"))
    packages = workdirs.describe()["packages"]
    assert packages["numpy"] and packages["no-such-package"] is None


def test_a_damaged_saved_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(ValueError, match="config.json is cut off after 11 ch"):
        workdirs.load_saved(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="not the config.json of a run"):
        workdirs.load_saved(tmp_path)


def test_resume_may_change_logging_checkpoints_knn_and_threads(tmp_path):
    start(cifar(), tmp_path, "f")
    other = cifar(
        log__every_steps=7,
        checkpoint__keep=5,
        knn__k=20,
        data__threads=1,
        train__max_steps=9,
    )
    start(other, tmp_path, "f")
    assert workdirs.load_saved(tmp_path).knn.k == 20


def test_resume_with_another_field_is_refused_with_the_difference(tmp_path):
    start(cifar(), tmp_path, "f")
    other = cifar(seed=3, moco__momentum=0.9)
    with pytest.raises(ValueError, match="another configuration") as error:
        start(other, tmp_path, "f")
    assert "seed: 0 -> 3" in str(error.value)
    assert "moco.momentum: 0.99 -> 0.9" in str(error.value)
    assert workdirs.load_saved(tmp_path).seed == 0


def test_resume_with_another_method_is_refused_with_both_methods(tmp_path):
    start(cifar(), tmp_path, "f")
    other = configs.load("simclr_cifar10", {"data.source": "folder:/images"})
    with pytest.raises(ValueError, match="another configuration") as error:
        start(other, tmp_path, "f")
    assert "method: 'moco' -> 'simclr'" in str(error.value)
    assert "moco.momentum: 0.99 -> None" in str(error.value)
    assert "simclr.temperature: None -> " in str(error.value)


def test_more_epochs_need_extend_which_prints_both_schedules(tmp_path, capsys):
    start(cifar(), tmp_path, "f")
    longer = cifar(train__epochs=400)
    with pytest.raises(ValueError, match="add --extend"):
        start(longer, tmp_path, "f")
    start(longer, tmp_path, "f", extend=True)
    printed = capsys.readouterr().out
    assert "cosine, from 0.06, over 200 epochs" in printed
    assert "cosine, from 0.06, over 400 epochs" in printed
    assert workdirs.load_saved(tmp_path).train.epochs == 400


def test_extending_prints_the_rate_of_the_batch(tmp_path, capsys):
    options = {"optimizer__scaling": "linear", "train__batch_size": 512}
    start(cifar(**options), tmp_path, "f")
    longer = cifar(**options, train__epochs=400)
    start(longer, tmp_path, "f", extend=True)
    # 0.06 * 512 / 256
    assert capsys.readouterr().out.count("cosine, from 0.12, over") == 2


def test_fewer_epochs_are_refused_even_with_extend(tmp_path):
    start(cifar(), tmp_path, "f")
    with pytest.raises(ValueError, match="train.epochs: 200 -> 100"):
        start(cifar(train__epochs=100), tmp_path, "f", extend=True)


def test_resume_on_other_data_is_refused(tmp_path):
    start(cifar(), tmp_path, "f")
    with pytest.raises(ValueError, match="started on other data"):
        start(cifar(), tmp_path, "g")


def test_checkpoints_without_their_configuration_are_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="must hold their config.json"):
        start(cifar(), tmp_path, "f")


@pytest.mark.parametrize(
    "change",
    [{"seed": 3}, {"knn__every_epochs": 2}, {"train__max_steps": 5}],
)
def test_workers_of_another_configuration_have_another_identity(change):
    assert workdirs.identity(cifar(), "f") == workdirs.identity(cifar(), "f")
    assert workdirs.identity(cifar(), "f") != workdirs.identity(cifar(), "g")
    other = workdirs.identity(cifar(**change), "f")
    assert workdirs.identity(cifar(), "f") != other < 2**60


def test_workers_may_differ_in_threads():
    other = cifar(data__threads=9, log__tensorboard=False)
    assert workdirs.identity(other, "f") == workdirs.identity(cifar(), "f")


HOLDER = """
import sys, time
from moco_tf import workdirs
with workdirs.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the workdir until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_workdir_of_another_process_is_refused_and_left_alone(
    tmp_path, holder
):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"process {holder.pid} on .* holds"):
        with workdirs.hold(tmp_path):
            raise AssertionError("two processes hold it")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_killed_process_holds_no_workdir(tmp_path, holder):
    holder.kill()
    holder.wait()
    with workdirs.hold(tmp_path):
        noted = (tmp_path / "lock").read_text()
    assert noted.startswith(f"process {os.getpid()} on ")
    assert (tmp_path / "lock").read_text() == ""


def test_a_block_that_fails_lets_go_of_the_workdir(tmp_path):
    with pytest.raises(KeyError):
        with workdirs.hold(tmp_path):
            raise KeyError
    with workdirs.hold(tmp_path):
        assert (tmp_path / "lock").read_text()


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can be written to.*Not a directory"):
        with workdirs.hold(tmp_path / "file" / "run"):
            raise AssertionError("a folder below a file")


def test_a_workdir_on_a_read_only_disk_is_refused(tmp_path):
    with small_disk.mounted(tmp_path, "ro"):
        with pytest.raises(
            ValueError, match="can be written to.*Read-only file system"
        ):
            with workdirs.hold(tmp_path / "run"):
                raise AssertionError("nothing can be written here")


def test_a_disk_that_is_full_at_the_start_is_told_of_as_one(tmp_path):
    with small_disk.mounted(tmp_path, "size=100k"):
        ballast = small_disk.fill(tmp_path)
        with pytest.raises(OSError, match="There is no room to write to"):
            with workdirs.hold(tmp_path / "run"):
                start(cifar(), tmp_path / "run", "f")
        ballast.unlink()
        with workdirs.hold(tmp_path / "run"):
            start(cifar(), tmp_path / "run", "f")


def test_a_start_that_fails_takes_away_what_it_made(tmp_path):
    for kept in ("", "config.json"):
        folder = tmp_path / "a" / "b"
        if kept:
            folder.mkdir(parents=True)
            (folder / kept).write_text("{}")
        with pytest.raises(KeyError):
            with workdirs.hold(folder):
                raise KeyError
        names = {path.name for path in tmp_path.rglob("*")}
        assert names == ({"a", "b", kept} if kept else set())
    with workdirs.hold(folder):
        pass
    with pytest.raises(KeyError):
        with workdirs.hold(folder):
            raise KeyError
    assert (folder / "lock").exists()  # of the start before


def test_a_failed_start_is_in_the_log_of_a_run_that_is_there(tmp_path):
    start(cifar(), tmp_path / "run", "f")
    for name in ("run", "new"):
        with pytest.raises(KeyError), printed.copied():
            print("before")
            with workdirs.hold(tmp_path / name):
                raise KeyError("gone")
    assert not (tmp_path / "new").exists()
    title, *lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert title.startswith("== 20") and lines[0] == "before"
    assert lines[-1] == "KeyError: 'gone'"


def test_a_refused_start_writes_nothing_into_the_log_of_another(tmp_path):
    start(cifar(), tmp_path, "f")
    with workdirs.hold(tmp_path):
        with pytest.raises(ValueError, match="Only one"), printed.copied():
            with workdirs.hold(tmp_path):
                raise AssertionError("two hold it")
    assert not (tmp_path / "log.txt").exists()


def test_a_lock_that_was_just_taken_away_is_none(tmp_path, monkeypatch):
    def lose(file, folder):
        (folder / "lock").unlink()  # by a start that was refused meanwhile
        (folder / "lock").touch()
        return True

    monkeypatch.setattr(workdirs.filesystem, "lock", lose)
    with pytest.raises(ValueError, match="another process holds"):
        with workdirs.hold(tmp_path):
            raise AssertionError("it holds a file that is no more")


def test_a_refused_start_leaves_the_lock_of_the_quicker_one(
    tmp_path, monkeypatch
):
    run, lock = tmp_path / "run", workdirs.filesystem.lock
    quicker = contextlib.ExitStack()

    def be_late(file, folder):  # the other starts while this one does
        monkeypatch.undo()
        quicker.enter_context(workdirs.hold(run))
        return lock(file, folder)

    monkeypatch.setattr(workdirs.filesystem, "lock", be_late)
    with quicker:
        for _ in range(2):
            with pytest.raises(ValueError, match=f"process {os.getpid()} on"):
                with workdirs.hold(run):
                    raise AssertionError("two hold it")
            assert [path.name for path in run.iterdir()] == ["lock"]
