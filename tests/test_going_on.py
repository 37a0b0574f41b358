"""Runs that were stopped, mended or moved, and go on; refused ones."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import pretrain, workdirs
from moco_tf.data import sources
from moco_tf.reporting import page, samples
from moco_tf.training import checkpoints
from tests import shallow, small_run

_network = shallow.fixture(shallow.ONE_BLOCK)
FIELDS = {"checkpoint__every_steps": 1}


def _pretrain(images, workdir, extend=False, **fields):
    return pretrain.pretrain(
        small_run.make_config(images, **FIELDS | fields),
        workdir,
        tf.distribute.get_strategy(),
        extend,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return small_run.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def stopped(images, tmp_path_factory):
    """A run that stopped after its third step, to be copied."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    _pretrain(images, workdir, train__max_steps=3)
    return workdir


@pytest.fixture(scope="module")
def finished(images, stopped, tmp_path_factory):
    """The same run at its end."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(stopped, workdir)
    _pretrain(images, workdir)
    return workdir


@pytest.fixture
def run(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def _weights(workdir):
    """All tensors but the step log, which counts the unreadable ones."""
    state = small_run.state(workdir)
    return {name: x for name, x in state.items() if "step_log" not in name}


def _rows(workdir):
    with (workdir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# --- Too many images cannot be read, and every remedy of the message


def _damage(images):
    """Empties every fourth image; returns the contents of before."""
    paths = sorted(images.rglob("*.png"))[::4]
    contents = {path: path.read_bytes() for path in paths}
    for path in paths:
        path.write_bytes(b"")
    return contents


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Images, a run that died of them, its message, what they were."""
    folder = tmp_path_factory.mktemp("damaged")
    images = small_run.write_images(folder / "images")
    contents = _damage(images)
    with pytest.raises(ValueError, match="could not be read") as error:
        _pretrain(images, folder / "run")
    assert "max_corrupt_fraction=0.01" in str(error.value)
    # At the first report, before its step was saved.
    assert small_run.step_of(folder / "run") == 3
    return folder, contents, str(error.value)


@pytest.fixture(scope="module")
def allowed(damaged, tmp_path_factory):
    """The same images in a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("allowed") / "run"
    images = damaged[0] / "images"
    _pretrain(images, workdir, data__max_corrupt_fraction=1.0)
    return workdir


@pytest.fixture
def copy(damaged, tmp_path):
    """A copy of the images and of the run that died, to be mended."""
    folder, contents, _ = damaged
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path, {
        tmp_path / path.relative_to(folder): data
        for path, data in contents.items()
    }


def test_allowing_more_lets_the_run_go_on(damaged, copy, allowed):
    (folder, _), (_, _, message) = copy, damaged
    number = message.partition("--config.data.max_corrupt_fraction=")[2]
    number = float(number.partition(")")[0])
    assert 0.2 < number < 0.8
    _pretrain(
        folder / "images", folder / "run", data__max_corrupt_fraction=number
    )
    small_run.assert_same_bits(
        small_run.state(allowed), small_run.state(folder / "run")
    )


def test_removed_images_are_replaced_without_being_counted(
    copy, allowed, capsys
):
    folder, contents = copy
    for path in contents:
        path.unlink()
    _pretrain(folder / "images", folder / "run")
    assert f"{len(contents)} removed" in capsys.readouterr().out
    # Those that stand in are the same, so all others kept their places.
    small_run.assert_same_bits(_weights(allowed), _weights(folder / "run"))
    rows = _rows(folder / "run")
    assert [int(row["unreadable"]) for row in rows[2:]] == [0, 0]
    # And once more: the first list stays.
    source = sources.open_source(f"folder:{folder / 'images'}")
    again = workdirs.restore_source(source, folder / "run")
    assert len(again.source) == 50 and len(source) == 50 - len(contents)


def test_mended_images_are_read_again(copy, stopped, tmp_path, capsys):
    folder, contents = copy
    complete = shutil.copytree(folder / "run", tmp_path / "complete")
    for path, data in contents.items():
        path.write_bytes(data)
    _pretrain(folder / "images", folder / "run")
    assert f"{len(contents)} changed" in capsys.readouterr().out
    rows = _rows(folder / "run")
    assert [int(row["unreadable"]) for row in rows[2:]] == [0, 0]
    # Nothing but the images decides: a run that began with the mended ones
    # goes on from the same state with the same bits.
    fresh = shutil.copytree(stopped, tmp_path / "fresh")
    shutil.rmtree(fresh / "checkpoints")
    shutil.copytree(complete / "checkpoints", fresh / "checkpoints")
    _pretrain(folder / "images", fresh)
    small_run.assert_same_bits(_weights(fresh), _weights(folder / "run"))


def test_images_that_broke_and_came_back_do_not_stop_a_run_again(tmp_path):
    # The steps from the last report to the checkpoint were of broken images.
    images = small_run.write_images(tmp_path / "images")
    contents = _damage(images)
    for path in sorted(images.rglob("*.png"))[1::4]:
        contents[path] = path.read_bytes()
        path.write_bytes(b"")
    fields = {"log__every_steps": 5, "train__max_steps": 4}
    with pytest.raises(ValueError, match="could not be read"):
        _pretrain(images, tmp_path / "run", **fields)
    assert small_run.step_of(tmp_path / "run") == 3
    for path, data in contents.items():
        path.write_bytes(data)
    fields["train__max_steps"] = 6
    _pretrain(images, tmp_path / "run", **fields)
    assert small_run.step_of(tmp_path / "run") == 6


# --- The same data in another place


def _renamed(images, tmp_path):
    return f"folder:{shutil.copytree(images, tmp_path / 'other disk')}"


def _linked(images, tmp_path):
    (tmp_path / "link").symlink_to(images)
    return f"folder:{tmp_path / 'link'}"


def _relative(images, tmp_path):
    os.chdir(images.parent)
    return f"folder:{images.name}"


def _listed(images, tmp_path):
    names = sorted(str(p.relative_to(images)) for p in images.rglob("*.png"))
    lines = [f"{images / name}\t{name.partition('/')[0]}\n" for name in names]
    (tmp_path / "list.txt").write_text("".join(lines))
    return f"list:{tmp_path / 'list.txt'}"


PLACES = {
    "copy": _renamed,
    "link": _linked,
    "slash": lambda images, tmp_path: f"folder:{images}/",
    "relative": _relative,
    "list": _listed,
}


@pytest.mark.parametrize("place", PLACES)
def test_the_same_data_in_another_place_are_the_run_s(
    images, run, tmp_path, monkeypatch, place
):
    monkeypatch.chdir(tmp_path)  # and back to where it was, after the test
    spec = PLACES[place](images, tmp_path)
    source = sources.open_source(spec)
    data = workdirs.restore_source(source, run)
    config = small_run.make_config(images, **FIELDS, data__source=spec)
    workdirs.check(config, run, data.fingerprint)
    assert data.describe() == ""
    first = sources.open_source(f"folder:{images}")
    assert len(data.source) == len(first)
    for index in (0, 17, 49):
        assert data.source.name(index).endswith(first.name(index))


def test_a_run_on_a_copy_ends_with_the_same_bits(
    images, run, finished, tmp_path
):
    spec = _renamed(images, tmp_path)
    _pretrain(images, run, data__source=spec)
    small_run.assert_same_bits(small_run.state(finished), small_run.state(run))
    # It is noted, for the commands that open the run's data.
    assert workdirs.load_saved(run).data.source == spec


def test_a_relative_spec_is_found_from_another_folder(
    images, tmp_path, monkeypatch
):
    project = tmp_path / "project"
    shutil.copytree(images, project / "images")
    monkeypatch.chdir(project)
    fields = {"data__source": "folder:images", "train__max_steps": 1}
    _pretrain(images, project / "run", **fields)
    monkeypatch.chdir("/")
    there = f"folder:{project / 'images'}"
    assert workdirs.load_saved(project / "run").data.source == there
    _pretrain(images, project / "run", **fields | {"train__max_steps": 2})
    assert small_run.step_of(project / "run") == 2
    # Data that moved along with the run.
    moved = project.rename(tmp_path / "moved")
    there = f"folder:{moved / 'images'}"
    assert workdirs.load_saved(moved / "run").data.source == there


def test_a_run_of_an_earlier_version_is_found_by_its_last_start(
    images, run, tmp_path
):
    path = run / "config.json"
    saved = json.loads(path.read_text())
    del saved["sources"], saved["workdir"]
    saved["config"]["data"]["source"] = "folder:images"
    path.write_text(json.dumps(saved))
    path = run / "environment.json"
    about = json.loads(path.read_text())
    about["starts"][-1]["directory"] = str(tmp_path / "project")
    path.write_text(json.dumps(about))
    there = f"folder:{tmp_path / 'project' / 'images'}"
    assert workdirs.load_saved(run).data.source == there


def test_a_finished_run_notes_the_new_place_of_its_images(
    images, finished, tmp_path, capsys
):
    run = shutil.copytree(finished, tmp_path / "run")
    gone = shutil.copytree(images, tmp_path / "gone")
    _pretrain(gone, run)
    there = gone.rename(tmp_path / "there")
    (reported,) = page.read_runs([str(run)])
    with pytest.raises(ValueError, match="missing.*`pretrain` command once"):
        samples.open_source(reported, reported.config.data.source)
    capsys.readouterr()
    before = small_run.state(run)
    _pretrain(there, run)
    assert "This run is finished" in capsys.readouterr().out
    small_run.assert_same_bits(before, small_run.state(run))
    (reported,) = page.read_runs([str(run)])
    source = samples.open_source(reported, reported.config.data.source)
    assert len(source) == 50


def test_a_finished_run_is_so_without_its_images(images, tmp_path, capsys):
    folder = shutil.copytree(images, tmp_path / "images")
    _pretrain(folder, tmp_path / "run", train__max_steps=1)
    for path in folder.rglob("*.png"):  # as large as they were
        path.write_bytes(bytes(path.stat().st_size))
    capsys.readouterr()
    _pretrain(folder, tmp_path / "run", train__max_steps=1)
    assert "This run is finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match="none readable"):
        _pretrain(folder, tmp_path / "run")


def test_a_damaged_listing_is_written_anew_with_the_first_images(
    images, run, tmp_path
):
    grown = sources.open_source(_one_more(images, tmp_path))
    _damage_listing(run)
    with pytest.raises(ValueError, match="or the images as they were"):
        workdirs.restore_source(grown, run)
    (run / "images.npz").unlink()
    with pytest.raises(ValueError, match="51 now. A run goes on"):
        workdirs.restore_source(grown, run)
    config = small_run.make_config(images)
    data = workdirs.restore_source(sources.open_source(f"folder:{images}"), run)
    listings = [("images", data.images)]
    workdirs.save(config, run, data.fingerprint, listings=listings)
    assert len(workdirs.restore_source(grown, run).source) == 50


# --- What only costs speed or memory


@pytest.mark.parametrize(
    "fields",
    [
        {"train__micro_batches": 2, "data__augment_on": "device"},
        {"model__recompute": True, "train__jit_compile": True},
    ],
    ids="-".join,
)
def test_what_costs_speed_or_memory_may_change(images, run, finished, fields):
    _pretrain(images, run, train__max_steps=5, **fields)
    assert small_run.step_of(run) == 5
    losses = [float(_rows(folder)[0]["loss"]) for folder in (finished, run)]
    # Of four steps, one after the change: rounding alone.
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)


def test_milestones_that_stay_behind_are_said_and_can_be_moved(
    images, tmp_path, capsys
):
    run, step = tmp_path / "run", {"schedule__name": "step"}
    first = step | {"schedule__milestones": (1,)}
    _pretrain(images, run, **first)
    capsys.readouterr()
    longer = {"train__epochs": 4, "train__max_steps": 13}
    _pretrain(images, run, True, **first | longer)
    printed = capsys.readouterr().out
    assert "3 of 4 epochs have 10 % of the rate" in printed
    assert "--config.schedule.milestones=2 " in printed
    # As the words say: the run has stopped, and the milestones move along.
    longer["train__max_steps"] = 19
    moved = step | {"schedule__milestones": (3,)}
    with pytest.raises(ValueError, match="schedule.milestones"):
        _pretrain(images, run, **moved | longer)
    _pretrain(images, run, True, **moved | longer)
    rates = {int(r["step"]): float(r["learning_rate"]) for r in _rows(run)}
    assert rates[13] == pytest.approx(0.1 * rates[4])
    assert rates[18] == pytest.approx(rates[4])
    assert rates[19] == pytest.approx(0.1 * rates[4])


# --- A refused start changes nothing


def _damage_checkpoint(run):
    (checkpoints.latest(run) / "state.index").write_bytes(b"broken")


def _damage_listing(run):
    (run / "images.npz").write_bytes(b"broken")


def _drop_configuration(run):
    (run / "config.json").unlink()


def _empty_configuration(run):
    (run / "config.json").write_text("")


def _other_json(run):
    (run / "config.json").write_text("[]")


def _change_command(run):
    path = run / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"command": "linear"})
    )


def _other_images(images, tmp_path):
    other = shutil.copytree(images, tmp_path / "images")
    for path in other.rglob("*.png"):
        path.rename(path.with_name(f"new-{path.name}"))
    return f"folder:{other}"


def _resized_images(images, tmp_path):
    other = shutil.copytree(images, tmp_path / "images")
    for path in other.rglob("*.png"):
        path.write_bytes(path.read_bytes() + bytes(3))
    return f"folder:{other}"


def _grown_images(images, tmp_path):
    other = shutil.copytree(images, tmp_path / "images")
    for number in range(51):
        (other / "dark" / f"new-{number}.png").write_bytes(b"x")
    return f"folder:{other}"


def _one_more(images, tmp_path):
    other = shutil.copytree(images, tmp_path / "images")
    (other / "dark" / "new.png").write_bytes(b"x")
    return f"folder:{other}"


# id -> fields, what is done to the run, where its images are, the message
REFUSALS = {
    "seed": ({"seed": 3}, None, None, "seed: 0 -> 3"),
    "batch": ({"train__batch_size": 16}, None, None, "the order of the sam"),
    "precision": (
        {"train__precision": "mixed_bfloat16"},
        None,
        None,
        "more than speed",
    ),
    "epochs": ({"train__epochs": 4}, None, None, "add --extend"),
    "fewer": ({"train__epochs": 1}, None, None, "max_steps"),
    "value": ({"moco__momentum": 7.0}, None, None, "must be"),
    "groups": ({"model__bn_groups": 3}, None, None, "must divide"),
    "devices": ({"train__batch_size": 9}, None, None, "must divide"),
    "knn": ({"knn__bank": "folder:/x"}, None, None, "both"),
    "bank": (
        {"knn__bank": "folder:/gone", "knn__query": "folder:/gone"},
        None,
        None,
        "missing",
    ),
    "missing": ({}, None, lambda *_: "folder:/gone", "missing"),
    "kind": ({}, None, lambda *_: "flder:/x", "Did you mean"),
    "other": ({}, None, _other_images, "50 now; 50 added.*50 removed"),
    "resized": ({}, None, _resized_images, "50 changed"),
    "grown": ({}, None, _grown_images, "51 added"),
    "shapes": (
        {},
        None,
        lambda *_: "shapes:test",
        "50 images then and 2000 now",
    ),
    "checkpoint": ({}, _damage_checkpoint, None, "step-000000003"),
    "listing": ({}, _damage_listing, _one_more, "images.npz cannot be read"),
    "command": ({}, _change_command, None, "must be of the command pretrain"),
    "empty config": ({}, _empty_configuration, None, "config.json is empty"),
    "other json": ({}, _other_json, None, "config.json holds a list where"),
    "no config": ({}, _drop_configuration, None, "must hold their config.json"),
}


CASES = [(kind, False) for kind in REFUSALS]
# The longer schedule is not noted either.
CASES += [(kind, True) for kind in REFUSALS if kind not in ("epochs", "fewer")]


@pytest.mark.parametrize(("kind", "extend"), CASES)
def test_a_refused_start_changes_nothing(images, run, tmp_path, kind, extend):
    fields, harm, place, message = REFUSALS[kind]
    if extend:
        fields = {"train__epochs": 4} | fields
    (run / "lock").unlink()  # as in a copy by other means
    if harm:
        harm(run)
    if place:
        fields = fields | {"data__source": place(images, tmp_path)}
    before = small_run.digest(run)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        _pretrain(images, run, extend, **fields)
    assert small_run.digest(run) == before


def test_a_run_that_another_process_holds_is_not_changed(images, run):
    with workdirs.hold(run):
        before = small_run.digest(run)
        with pytest.raises(ValueError, match="Only one process at a time"):
            _pretrain(images, run, True, train__epochs=4)
        assert small_run.digest(run) == before


def test_a_new_folder_of_a_refused_start_is_not_made(images, tmp_path):
    with pytest.raises(ValueError, match="missing"):
        _pretrain(images, tmp_path / "new" / "run", data__source="folder:/x")
    with pytest.raises(KeyError):
        with workdirs.hold(tmp_path / "new" / "run"):
            raise KeyError
    assert not (tmp_path / "new").exists()
