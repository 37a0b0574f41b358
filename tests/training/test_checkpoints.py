"""Checkpoints: complete or absent, limited in number, refused if others'."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.training import checkpoints
from tests.training import fakes


@pytest.fixture(scope="module")
def method():
    return fakes.make_method()


def _save(method, workdir, step, keep=9):
    fakes.mark(method, step)
    return checkpoints.save(method, workdir, keep, {"epoch": step / 4})


def _names(workdir):
    return sorted(path.name for path in checkpoints.folder(workdir).iterdir())


def _assert_marked(method, step):
    """The method holds what `mark` gave it for a step."""
    expected = fakes.make_method()
    fakes.mark(expected, step)
    for found, value in zip(
        fakes.state(method), fakes.state(expected), strict=True
    ):
        np.testing.assert_array_equal(found, value, err_msg=found.name)


def test_a_new_run_has_no_checkpoint(tmp_path):
    assert checkpoints.complete(tmp_path) == []
    assert checkpoints.latest(tmp_path) is None
    assert checkpoints.best(tmp_path) is None


def test_all_state_comes_back_with_its_step(method, tmp_path):
    path = _save(method, tmp_path, 7)
    other = fakes.make_method()
    assert checkpoints.restore(other, path) == 7
    _assert_marked(other, 7)


def test_a_checkpoint_says_what_it_holds(method, tmp_path):
    path = _save(method, tmp_path, 97)
    assert path == tmp_path / "checkpoints" / "step-000000097"
    assert checkpoints.read_meta(path) == {"step": 97, "epoch": 24.25}
    assert json.loads((path / "meta.json").read_text())["format"] == 1
    assert (path / "meta.json").read_text().endswith("}\n")


def test_the_newest_by_step_is_the_latest(method, tmp_path):
    paths = [_save(method, tmp_path, step) for step in (2, 11, 9)]
    assert checkpoints.latest(tmp_path) == paths[1]
    assert [s for s, _ in checkpoints.complete(tmp_path)] == [2, 9, 11]


def test_what_a_killed_save_left_behind_is_no_checkpoint(method, tmp_path):
    path = _save(method, tmp_path, 1)
    folder = checkpoints.folder(tmp_path)
    hidden, torn = folder / ".step-000000002", folder / "step-000000003"
    for left in (hidden, torn):
        left.mkdir()
        (left / "state.index").write_bytes(b"half")
    (hidden / "meta.json").write_text('{"step": 2}')
    (folder / "step-4").mkdir()
    (folder / "step-4" / "meta.json").write_text('{"step": 4}')
    assert checkpoints.latest(tmp_path) == path
    # The next try at the same step takes the place of what is left.
    new = _save(method, tmp_path, 2)
    assert not hidden.exists()
    assert checkpoints.restore(fakes.make_method(), new) == 2


def test_only_the_last_ones_are_kept(method, tmp_path):
    for step in (1, 2, 3, 4):
        _save(method, tmp_path, step, keep=2)
    assert _names(tmp_path) == ["step-000000003", "step-000000004"]


def test_the_best_stays_when_its_original_is_dropped(method, tmp_path):
    checkpoints.keep_as_best(_save(method, tmp_path, 1, keep=1))
    for step in (2, 3):
        _save(method, tmp_path, step, keep=1)
    assert _names(tmp_path) == ["best", "step-000000003"]
    other = fakes.make_method()
    assert checkpoints.restore(other, checkpoints.best(tmp_path)) == 1
    _assert_marked(other, 1)


def test_a_better_one_takes_the_place_of_the_best(method, tmp_path):
    for step in (1, 2):
        checkpoints.keep_as_best(_save(method, tmp_path, step))
        assert checkpoints.read_meta(checkpoints.best(tmp_path))["step"] == step
    assert _names(tmp_path) == ["best", "step-000000001", "step-000000002"]


def test_a_step_that_is_saved_already_is_not_written_again(method, tmp_path):
    first = _save(method, tmp_path, 1)
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    fakes.mark(method, 5)
    method.step.assign(1)
    assert checkpoints.save(method, tmp_path, 9, {}) == first
    after = {path.name: path.read_bytes() for path in first.iterdir()}
    assert before == after


def test_the_best_is_copied_where_there_are_no_hard_links(
    method, tmp_path, monkeypatch
):
    def refuse(source, target):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = _save(method, tmp_path, 3)
    checkpoints.keep_as_best(path)
    best = checkpoints.best(tmp_path)
    assert checkpoints.restore(fakes.make_method(), best) == 3
    for file in best.iterdir():
        assert file.stat().st_ino != (path / file.name).stat().st_ino


def test_a_best_whose_making_was_killed_is_made_anew(method, tmp_path):
    path = _save(method, tmp_path, 3)
    for name in (".best", ".best-old"):
        left = checkpoints.folder(tmp_path) / name
        left.mkdir()
        (left / "meta.json").write_text("{}")
    checkpoints.keep_as_best(path)
    assert _names(tmp_path) == ["best", "step-000000003"]
    assert checkpoints.read_meta(checkpoints.best(tmp_path))["step"] == 3


def test_a_best_killed_between_its_two_renames_is_not_lost(
    method, tmp_path, monkeypatch
):
    checkpoints.keep_as_best(_save(method, tmp_path, 1))
    path, replace = _save(method, tmp_path, 2), os.replace

    def die_at_the_second(source, target):
        if target.name == "best":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.keep_as_best(path)
    monkeypatch.undo()
    best = checkpoints.best(tmp_path)
    assert checkpoints.restore(fakes.make_method(), best) == 1
    checkpoints.keep_as_best(path)
    assert _names(tmp_path) == ["best", "step-000000001", "step-000000002"]
    assert checkpoints.read_meta(checkpoints.best(tmp_path))["step"] == 2


@pytest.mark.parametrize(
    "change",
    [{"optimizer": "lamb"}, {"queue_size": 7}, {"head": "mlp"}],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_run_is_refused(method, tmp_path, change):
    path = _save(method, tmp_path, 1)
    other = fakes.make_method(**change)
    with pytest.raises(ValueError, match="(?s)step-000000001 does not hold"):
        checkpoints.restore(other, path)


@pytest.mark.parametrize("part", ["state.index", "state.data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_file_is_refused(method, tmp_path, part, damage):
    _save(method, tmp_path, 1)
    path = _save(method, tmp_path, 2)
    content = (path / part).read_bytes()
    half = len(content) // 2
    if damage == "cut":
        (path / part).write_bytes(content[:half])
    elif damage == "changed":
        changed = bytes(255 - byte for byte in content[half:])
        (path / part).write_bytes(content[:half] + changed)
    else:
        (path / part).unlink()
    other = fakes.make_method()
    message = f"{part} is .*Move .*which keeps it.*steps 1"
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(other, path)
    with pytest.raises(ValueError, match=message):
        checkpoints.restore_query_encoder(other.query_encoder, path)


def test_a_failed_write_leaves_nothing_and_says_so(
    method, tmp_path, monkeypatch
):
    _save(method, tmp_path, 1, keep=1)

    def refuse(value, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", refuse)
    with pytest.raises(
        OSError, match="(?s)step 2 could not be .*No space.*are intact"
    ):
        _save(method, tmp_path, 2, keep=1)
    assert _names(tmp_path) == ["step-000000001"]


def test_a_file_in_the_place_of_the_folder_is_told(method, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OSError, match="step 1 could not be written to"):
        _save(method, tmp_path, 1)


def test_an_encoder_takes_the_query_weights_alone(method, tmp_path):
    path = _save(method, tmp_path, 2)
    encoder = fakes.make_method().query_encoder
    checkpoints.restore_query_encoder(encoder, path)
    for found, value in zip(
        encoder.weights, method.query_encoder.weights, strict=True
    ):
        np.testing.assert_array_equal(found, value)


def test_an_encoder_of_another_architecture_is_refused(method, tmp_path):
    path = _save(method, tmp_path, 2)
    encoder = fakes.make_method(head="mlp").query_encoder
    with pytest.raises(ValueError, match="(?s)not hold such an encoder"):
        checkpoints.restore_query_encoder(encoder, path)


def test_a_checkpoint_can_be_read_without_the_program(method, tmp_path):
    path = _save(method, tmp_path, 2)
    reader = tf.train.load_checkpoint(str(path / "state"))
    name = "model/queue/keys/.ATTRIBUTES/VARIABLE_VALUE"
    np.testing.assert_array_equal(reader.get_tensor(name), method.queue.keys)
