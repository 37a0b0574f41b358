"""Whole runs: what they leave behind, and what may interrupt them."""

import contextlib
import csv
import glob
import io
import json
import os
import resource
import shutil
import signal
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import plugin_event_accumulator

from moco_tf import api, plan, pretrain, workdirs
from moco_tf.cli import main as cli
from moco_tf.cluster import membership
from moco_tf.methods import online_probe
from moco_tf.monitoring import listener, metrics_csv, printed, warning_log
from moco_tf.training import callbacks, checkpoints
from tests import shallow, small_disk, small_run

LAST = 2 * small_run.STEPS_PER_EPOCH
_network = shallow.fixture(shallow.ONE_BLOCK)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return small_run.write_images(tmp_path_factory.mktemp("images"))


# Without keys of a query's image, of which a run would warn at this size.
FIELDS = {"moco__mask_same_image": True}
BESIDE = {"evaluated": True, "knn__baseline": True, "probe__online": True}


def _pretrain(images, workdir, extend=False, **fields):
    return pretrain.pretrain(
        small_run.make_config(images, **FIELDS | fields),
        workdir,
        tf.distribute.get_strategy(),
        extend,
    )


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """An uninterrupted run, with all that is measured and drawn beside it."""
    workdir = tmp_path_factory.mktemp("finished")
    _pretrain(images, workdir, log__tensorboard=True, **BESIDE)
    assert _open_files(workdir) == []
    return workdir


@pytest.fixture(scope="module")
def stopped(images, tmp_path_factory):
    """A run that stopped after its third step, to be copied."""
    workdir = tmp_path_factory.mktemp("stopped")
    _pretrain(images, workdir, train__max_steps=3)
    return workdir


@pytest.fixture(scope="module")
def resumed(images, tmp_path_factory):
    """The same in two sessions, an epoch each; the lines of each session."""
    workdir = tmp_path_factory.mktemp("resumed")
    sessions = []
    for stop in (small_run.STEPS_PER_EPOCH, 0):  # the second one goes on
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            _pretrain(images, workdir, train__max_steps=stop, **BESIDE)
        sessions.append(shown.getvalue().splitlines())
        assert small_run.step_of(workdir) == (stop or LAST)
    return workdir, sessions


def _open_files(folder):
    """Files below a folder that this process has open."""
    files = [os.path.realpath(path) for path in glob.glob("/proc/self/fd/*")]
    return [path for path in files if path.startswith(f"{folder}/")]


def _rows(workdir):
    with (workdir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def _assert_same_encoders(finished, workdir):
    """The same bits but for the online probe, which `finished` has beside."""
    small_run.assert_same_bits(
        small_run.without_probe(small_run.state(finished)),
        small_run.state(workdir),
    )


def test_a_run_leaves_its_metrics_checkpoints_and_records(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.json",
        "environment.json",
        "metrics.csv",
        "checkpoints",
        "tensorboard",
    }
    rows = _rows(finished)
    assert [int(row["step"]) for row in rows] == [4, 6, 10, 12]
    assert [int(row["steps"]) for row in rows] == [4, 2, 4, 2]
    losses = [float(row["loss"]) for row in rows]
    np.testing.assert_allclose(
        float(rows[1]["epoch_loss"]),
        (4 * losses[0] + 2 * losses[1]) / 6,
        rtol=1e-12,
    )
    assert all(0 < float(row["loss"]) < 10 for row in rows)
    for row in (rows[1], rows[3]):
        assert 0.5 < float(row["knn_backbone"]) <= 1.0
        assert 0.5 <= float(row["probe_top1"]) <= 1.0
    losses = [float(row["probe_loss"]) for row in rows]
    assert losses[0] > losses[-1] > 0
    kept = [step for step, _ in checkpoints.complete(finished)]
    assert kept == [6, 12]
    assert checkpoints.best(finished) is not None


def test_the_baselines_stand_beside_the_trained_encoder(resumed):
    workdir, sessions = resumed
    words = "raw pixels 100.00 %  untrained encoder (projection) "
    rows = [row for row in _rows(workdir) if row["knn_projection"]]
    for lines, row in zip(sessions, rows, strict=True):
        assert any(x.startswith(f"kNN before training: {words}") for x in lines)
        trained, chance = float(row["knn_projection"]), row["knn_chance"]
        assert lines[-2].startswith(f"kNN: {words}")
        assert lines[-2].endswith(
            f"chance {100 * float(chance):.2f} %  trained encoder "
            f"{100 * trained:.2f} %"
        )
        assert lines[-1].startswith("Verdict: ")
    untrained = {row["start_projection"] for row in _rows(workdir)}
    assert len(untrained - {""}) == 1


def test_a_finished_run_says_so_and_changes_nothing(images, finished, capsys):
    before = small_run.state(finished)
    _pretrain(images, finished, probe__online=True)
    assert "finished" in capsys.readouterr().out
    small_run.assert_same_bits(before, small_run.state(finished))


@pytest.fixture(name="others")
def _others(monkeypatch):
    """A module `others` of two listeners, and the list of what one heard."""
    heard = []

    class Hearing(listener.Listener):
        def on_report(self, method, row):
            heard.append((row["step"], row["loss"]))
            row.clear()

        def close(self):
            heard.append("closed")

    class Failing(listener.Listener):
        def on_step(self, method, step):
            raise OSError("no server")

    module = types.ModuleType("others")
    module.hear = lambda session: heard.append(session) or Hearing()
    module.fail = lambda session: Failing()
    monkeypatch.setitem(sys.modules, "others", module)
    return heard


def test_listeners_of_others_hear_of_a_resume_and_change_no_bit(
    images, stopped, others, tmp_path, capsys
):
    named = {"log__listeners": ("others:hear", "others:fail")}
    for stop in (3, 4):
        _pretrain(images, tmp_path, train__max_steps=stop, **named)
        if stop == 3:
            small_run.assert_same_bits(
                small_run.state(stopped), small_run.state(tmp_path)
            )
    losses = [float(row["loss"]) for row in _rows(tmp_path)]
    first, report, closed, second, later, _ = others
    assert (first.step, first.last_step) == (0, 3)
    assert (second.step, second.last_step) == (3, 4)
    assert first.workdir == tmp_path
    assert first.steps_per_epoch == small_run.STEPS_PER_EPOCH
    assert first.fields["log.listeners"] == named["log__listeners"]
    assert [report, later] == [(3, losses[0]), (4, losses[1])]
    assert closed == "closed"
    warnings = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("Warning: listener: others:fail")
    ]
    # Of the first session also how often.
    assert len(warnings) == 3
    assert "in on_step: OSError: no server. The run goes on" in warnings[0]
    assert "failed 3 times" in warnings[1]


def test_a_listener_that_is_not_there_is_refused_before_anything_is_written(
    images, stopped, tmp_path
):
    workdir = tmp_path / "stopped"
    shutil.copytree(stopped, workdir)
    (workdir / "lock").unlink()
    before = small_run.digest(workdir)
    for folder in (workdir, tmp_path / "new"):
        with pytest.raises(ValueError, match="No module named 'nowhere'"):
            _pretrain(images, folder, log__listeners=("nowhere:make",))
    assert small_run.digest(workdir) == before
    assert not (tmp_path / "new").exists()


def test_reading_a_run_imports_no_listener_that_it_names(
    images, stopped, tmp_path, monkeypatch
):
    workdir, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(stopped, workdir)
    path = workdir / "config.json"
    saved = json.loads(path.read_text())
    saved["config"]["log"]["listeners"] = ["listener_of_another:make"]
    path.write_text(json.dumps(saved))
    code = f"open({str(mark)!r}, 'w')\n"
    (tmp_path / "listener_of_another.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    run, source = f"--workdir={workdir}", f"--source=folder:{images}"
    for words in (
        ["report", run, "--images=0"],
        ["embed", run, source, f"--path={tmp_path / 'features.npz'}"],
        ["knn", run, f"--bank=folder:{images}", f"--query=folder:{images}"]
        + ["--k=5"],
    ):
        assert cli.run(words) == 0
    api.Run(workdir)
    assert not mark.exists()
    with pytest.raises(ValueError, match="has no attribute 'make'"):
        _pretrain(images, workdir, log__listeners=("listener_of_another:make",))
    assert mark.exists()  # training is what runs it


def test_stopped_after_an_epoch_and_started_again_gives_the_same_bits(
    finished, resumed
):
    workdir, _ = resumed
    small_run.assert_same_bits(
        small_run.state(finished), small_run.state(workdir)
    )
    keep = ["step", "loss", "epoch_loss", "instance_top1"]
    keep += ["knn_projection", *online_probe.FIGURES, "probe_top1"]
    # All that a verdict is computed from.
    keep += [*metrics_csv.COUNTS, *metrics_csv.BASELINES, "stability_error"]
    last = _rows(workdir)[-1], _rows(finished)[-1]
    for name in keep:
        assert last[0][name] == last[1][name], name


def test_killed_at_a_random_step_and_started_again_gives_the_same_bits(
    images, finished, tmp_path
):
    target = int(np.random.default_rng(0).integers(1, LAST - 6))
    every = {"checkpoint__every_steps": 1}
    status = small_run.run_until(
        images,
        tmp_path,
        lambda: small_run.step_of(tmp_path) >= target,
        **FIELDS | every,
    )
    assert status == -signal.SIGKILL, f"not killed at {target}"
    _pretrain(images, tmp_path, **every)
    _assert_same_encoders(finished, tmp_path)


@pytest.fixture
def own_signals():
    """Gives the signals that a command takes back to pytest."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    # What a shell starts in the background begins deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


def test_ctrl_c_saves_and_the_run_goes_on(
    images, finished, tmp_path, monkeypatch, own_signals, capsys
):
    on_end = callbacks.RunCallback.on_train_batch_end

    def interrupted(self, *arguments):
        # The method has made a step that the callback has not counted.
        if self.model.step == 8:
            signal.raise_signal(signal.SIGINT)
        on_end(self, *arguments)

    name = "on_train_batch_end"
    monkeypatch.setattr(callbacks.RunCallback, name, interrupted)
    words = small_run.command(images, tmp_path, **FIELDS)
    assert cli.run(words[words.index("pretrain") :]) == 130
    assert "The same command resumes it." in capsys.readouterr().err
    monkeypatch.undo()
    assert small_run.step_of(tmp_path) == 8  # in the middle of an epoch
    _pretrain(images, tmp_path)
    _assert_same_encoders(finished, tmp_path)
    last = _rows(tmp_path)[-1], _rows(finished)[-1]
    for name in ("step", "loss", "epoch_loss", "instance_top1"):
        assert last[0][name] == last[1][name], name


def test_a_changed_configuration_is_refused_on_resume(images, finished):
    with pytest.raises(ValueError, match="(?s)moco.momentum.*0.99.*0.5"):
        _pretrain(images, finished, moco__momentum=0.5)


def test_a_probe_neither_begins_nor_ends_in_the_middle(
    images, finished, stopped
):
    for workdir, online in ((finished, False), (stopped, True)):
        with pytest.raises(ValueError, match="(?s)probe.online.*hold the pro"):
            _pretrain(images, workdir, probe__online=online)


def test_a_probe_of_images_without_labels_is_refused(tmp_path):
    small_run.write_images(tmp_path / "images", 20)
    flat = f"folder:{tmp_path / 'images' / 'dark'}"
    fields = {"data__source": flat, "probe__online": True}
    with pytest.raises(ValueError, match="config.probe.online=false"):
        _pretrain("", tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_process_is_refused_before_anything_is_written(
    images, finished
):
    def contents():
        return {
            path: path.read_bytes()
            for path in finished.rglob("*")
            if path.is_file()
        }

    with workdirs.hold(finished):
        before = contents()
        with pytest.raises(ValueError, match="Only one process at a time"):
            _pretrain(images, finished)
        assert contents() == before


def _worker(index):
    """What a Guard of one of two workers is to a start that fails.

    Its `paths` are the logs that the watchdog is given.
    """
    paths = []
    worker = membership.Cluster(("a:1", "b:2"), index, "")
    return types.SimpleNamespace(
        cluster=worker,
        is_chief=worker.is_chief,
        log_to=paths.append,
        paths=paths,
    )


def _too_large(config, strategy):
    raise ValueError("no room for a batch of 8")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("word", "fields", "require"),
    [
        ("missing", {}, None),
        ("no room", {}, _too_large),
        ("divide", {"model__bn_groups": 3}, None),
    ],
)
def test_a_start_that_fails_is_in_the_log_of_a_run_that_is_there(
    tmp_path, index, word, fields, require
):
    file = ("log.txt", "log.worker-1.txt")[index]
    config = small_run.make_config("/gone")
    workdirs.save(config, tmp_path / "run")
    config = small_run.make_config("/gone", **fields)
    for name in ("run", "new"):
        guard = _worker(index)
        with pytest.raises(ValueError, match=word), printed.copied():
            pretrain.pretrain(
                config,
                tmp_path / name,
                tf.distribute.get_strategy(),
                guard=guard,
                require=require,
            )
        there = [str(tmp_path / "run" / file)] if name == "run" else []
        assert guard.paths == there
    assert word in (tmp_path / "run" / file).read_text()
    logs = {path.name for path in (tmp_path / "run").glob("log*")}
    assert logs == {file} and not (tmp_path / "new").exists()


def test_more_epochs_need_extend_and_then_go_on(
    images, finished, tmp_path, capsys
):
    workdir = shutil.copytree(finished, tmp_path / "run")
    fields = {"train__epochs": 3, "probe__online": True}
    with pytest.raises(ValueError, match="--extend"):
        _pretrain(images, workdir, **fields)
    _pretrain(images, workdir, extend=True, **fields)
    assert small_run.step_of(workdir) == LAST + small_run.STEPS_PER_EPOCH
    assert "Schedule" in capsys.readouterr().out


def test_an_unreadable_image_is_counted_and_named(tmp_path):
    images = small_run.write_images(tmp_path / "images")
    bad = images / "dark" / "001.png"
    bad.write_bytes(bad.read_bytes()[:200])
    _pretrain(images, tmp_path / "run")
    rows = _rows(tmp_path / "run")
    assert 1 <= sum(int(row["unreadable"]) for row in rows) <= 2
    with (tmp_path / "run" / "unreadable.csv").open() as file:
        named = list(csv.DictReader(file))
    assert [row["name"] for row in named] == ["dark/001.png"]
    assert named[0]["reason"]


def test_a_loss_that_is_not_finite_stops_before_the_next_checkpoint(
    images, stopped, tmp_path
):
    workdir = shutil.copytree(stopped, tmp_path / "run")
    method = None
    config = small_run.make_config(images, **FIELDS)
    build = plan.Plan.make_method

    def poisoned(*arguments):
        nonlocal method
        method = build(*arguments)
        original = method.contrast
        method.contrast = lambda *rows: tuple(
            x * tf.where(method.step >= 4, np.nan, 1.0) for x in original(*rows)
        )
        return method

    plan.Plan.make_method = poisoned
    try:
        with pytest.raises(FloatingPointError, match="step 5 is nan"):
            pretrain.pretrain(config, workdir, tf.distribute.get_strategy())
    finally:
        plan.Plan.make_method = build
    small_run.assert_same_bits(
        small_run.state(stopped), small_run.state(workdir)
    )


def test_a_run_that_diverges_says_what_to_lower_and_where(
    images, stopped, tmp_path
):
    message = "Lower config.optimizer.learning_rate, in another --workdir"
    with pytest.raises(FloatingPointError, match=message) as caught:
        _pretrain(images, tmp_path / "run", optimizer__learning_rate=1e37)
    said = str(caught.value)
    assert "The loss of step" in said and "The step was run again" in said
    assert "the output of layer" in said or "the weights" in said
    # The same with a lower rate, elsewhere, is the run of the fixture; here it
    # would be two runs in one.
    assert small_run.step_of(stopped) == 3
    with pytest.raises(ValueError, match="another configuration"):
        _pretrain(images, tmp_path / "run")


def test_a_full_disk_keeps_the_checkpoints_from_before(
    images, stopped, tmp_path
):
    workdir = shutil.copytree(stopped, tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(
            OSError, match=r"step 6 [^{]*: [^{]*File too large\. Ea"
        ):
            _pretrain(images, workdir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert small_run.step_of(workdir) == 3
    small_run.assert_same_bits(
        small_run.state(stopped), small_run.state(workdir)
    )
    _pretrain(images, workdir)
    assert small_run.step_of(workdir) == LAST


def test_a_disk_that_is_full_after_a_checkpoint_costs_nothing(
    images, finished, tmp_path, monkeypatch
):
    ballast = []
    save = callbacks.RunCallback.save

    def fill(self):
        save(self)
        ballast.append(small_disk.fill(tmp_path))

    with small_disk.mounted(tmp_path, "size=20m"):
        workdir = tmp_path / "run"
        monkeypatch.setattr(callbacks.RunCallback, "save", fill)
        with pytest.raises(
            OSError, match="no room.*checkpoints of .* are intact"
        ):
            _pretrain(images, workdir, evaluated=True)
        assert small_run.step_of(workdir) == 6
        # The figures of the epoch's end found no room beside it.
        assert _rows(workdir)[-1]["epoch_loss"] == ""
        monkeypatch.undo()
        ballast[0].unlink()
        _pretrain(images, workdir, evaluated=True)
        _assert_same_encoders(finished, workdir)
        for name in ("epoch_loss", "knn_backbone"):
            found = [row[name] for row in _rows(workdir)]
            assert found == [row[name] for row in _rows(finished)]


def test_a_damaged_checkpoint_is_named_with_the_remedy(
    images, stopped, tmp_path
):
    workdir = shutil.copytree(stopped, tmp_path / "run")
    path = checkpoints.latest(workdir)
    (path / "state.index").write_bytes(b"broken")
    with pytest.raises(ValueError, match="step-000000003/state.index is dam"):
        _pretrain(images, workdir)


@pytest.mark.parametrize("damage", ["", '{"step": ', "\0\0", "[]"])
def test_a_damaged_note_of_a_checkpoint_is_named_with_the_way_back(
    images, stopped, finished, tmp_path, damage
):
    workdir = shutil.copytree(stopped, tmp_path / "run")
    path = checkpoints.latest(workdir) / "meta.json"
    path.write_text(damage)
    with pytest.raises(ValueError, match="step-000000003/meta.json ") as error:
        _pretrain(images, workdir)
    assert 'write {"step": 3} into the file' in str(error.value)
    if not damage:  # one run is enough to see that it goes on
        path.write_text('{"step": 3}')
        _pretrain(images, workdir)
        _assert_same_encoders(finished, workdir)


def test_every_option_trains_and_resumes_exactly(images, tmp_path):
    fields = {
        "moco__symmetric": True,
        "moco__shuffle": "gather",
        "optimizer__name": "lamb",
        "train__precision": "mixed_bfloat16",
        "model__head": "mlp",
        "schedule__name": "step",
        "schedule__milestones": (1,),
        "train__max_steps": 5,
        "checkpoint__every_steps": 3,
    }
    _pretrain(images, tmp_path / "whole", **fields)
    # As if the run had been killed after the checkpoint of step 3.
    parts = shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(checkpoints.latest(parts))
    assert small_run.step_of(parts) == 3
    _pretrain(images, parts, **fields)
    assert small_run.step_of(parts) == 5
    small_run.assert_same_bits(
        small_run.state(tmp_path / "whole"), small_run.state(parts)
    )


def _warnings(workdir):
    return [row["name"] for row in warning_log.read(workdir / "warnings.csv")]


@pytest.mark.parametrize(
    ("momentum", "expected"),
    [
        (1.0, ["large-queue", "key-encoder-still"]),
        (0.0, ["large-queue", "key-encoder-follows"]),
    ],
)
def test_a_run_warns_of_a_key_encoder_that_is_none(
    momentum, expected, images, tmp_path, capsys
):
    # Four epochs: the rate of the last is 0, and nothing moves in it.
    fields = {"train__epochs": 4, "moco__momentum": momentum}
    fields["moco__mask_same_image"] = False
    _pretrain(images, tmp_path / "run", **fields)
    assert _warnings(tmp_path / "run") == expected
    said = capsys.readouterr().out
    for name in expected:
        assert said.count(f"Warning: {name}: ") == 1
    # 37 keys of 50 images.
    assert "74 % of the 50 images" in said


def test_a_run_as_published_warns_of_nothing(resumed):
    workdir, sessions = resumed
    assert _warnings(workdir) == []
    for lines in sessions:
        # Of the test's images alone: bank and query set are the same.
        (line,) = [line for line in lines if "Warning" in line]
        assert line.startswith("Warning: kNN: bank and query set")
    (row, *_) = _rows(workdir)
    assert float(row["queue_fill"]) == 32 / 37  # four steps of eight
    assert float(row["key_age"]) == 2.5


def test_the_board_is_complete(finished):
    reader = plugin_event_accumulator.EventAccumulator(
        str(finished / "tensorboard")
    )
    reader.Reload()
    tags = set(reader.Tags()["tensors"])
    assert tags >= {
        "9 pictures/image, query, key",
        "9 pictures/query, nearest",
        "4 keys/similarities of own keys",
        "4 keys/similarities of queued keys",
        "5 queue/fill",
        "4 keys/similarity of own key",
    }
    assert (finished / "tensorboard" / "projector_config.pbtxt").is_file()


def test_images_of_which_none_can_be_read_are_refused_at_once(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(50):
        (folder / f"{number}.png").write_bytes(pointer)
    with pytest.raises(ValueError, match="50 images, none.*git lfs pull"):
        _pretrain(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["NotFoundError", "ResourceExhaustedError"])
@pytest.mark.parametrize("gone", [True, False])
def test_images_that_go_away_meanwhile_end_the_run_in_words(
    images, tmp_path, monkeypatch, gone, kind
):
    """A folder on another machine may: TensorFlow's error is of its graph."""
    folder = shutil.copytree(images, tmp_path / "images")
    kind = getattr(tf.errors, kind)
    error = kind(None, None, "{{node ReadFile}} not there")
    gone_for_it = gone and kind == tf.errors.NotFoundError

    def fit(*args, **keywords):
        if gone:
            shutil.rmtree(folder)
        raise error

    monkeypatch.setattr(tf.keras.Model, "fit", fit)
    expected = ValueError if gone_for_it else kind
    words = "none readable.*No such file" if gone_for_it else "ReadFile"
    with pytest.raises(expected, match=words):
        _pretrain(folder, tmp_path / "run")
