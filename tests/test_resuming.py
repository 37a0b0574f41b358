"""What of a configuration may change when a run goes on."""

import numpy as np
import pytest

from moco_tf import config as configs
from moco_tf import resuming, state_files, workdirs


def load(name="moco_cifar10", command="pretrain", **overrides):
    """A configuration with overrides section__key."""
    texts = {k.replace("__", "."): str(v) for k, v in overrides.items()}
    if command == "pretrain":
        texts.setdefault("data.source", "folder:/images")
    return configs.load(name, texts, command)


def changed(saved, new, **options):
    return [name for name, *_ in resuming.difference(saved, new, **options)]


@pytest.mark.parametrize(
    "fields",
    [
        {"data__source": "folder:/elsewhere"},
        {"data__augment_on": "device"},
        {"data__max_corrupt_fraction": 0.5},
        {"data__threads": 3},
        {"model__recompute": "true"},
        {"train__jit_compile": "true"},
        {"train__max_steps": 7},
        {"train__micro_batches": 2},
        {"knn__bank": "folder:/a", "knn__query": "folder:/b", "knn__k": 3},
        {"log__every_steps": 3, "checkpoint__keep": 9},
        # Nothing reads these: the schedule is a cosine, there are no small
        # views and no grid.
        {"schedule__milestones": "3,5", "schedule__factor": 0.5},
        {"data__small_size": 32, "data__small_scale": "0.1,0.2"},
        {"model__patch": 8},
        {"model__init_head": "new"},
        # The same rate for a batch of 256, and the same step.
        {"optimizer__scaling": "linear", "optimizer__learning_rate": 0.06 / 2},
        {"moco__shuffle": "gather"},
        {"moco__shuffle": "address"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_costs_speed_or_means_the_same_is_free(fields):
    saved = load(train__batch_size=512)
    assert changed(saved, load(train__batch_size=512, **fields)) == []


def test_the_number_of_the_first_epoch_counts_where_epochs_have_a_rate():
    for unit, names in {"epoch": ["schedule.first_epoch"], "step": []}.items():
        fields = {"schedule__unit": unit}
        saved = load(schedule__first_epoch=0, **fields)
        assert changed(saved, load(schedule__first_epoch=1, **fields)) == names


def test_frozen_stages_are_the_same_in_any_order():
    saved = load(model__freeze="stem,stage1", model__init="a")
    same = load(model__freeze=" stage1, stem,", model__init="a")
    assert changed(saved, same) == []
    assert changed(saved, load(model__freeze="stem", model__init="a"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"seed": 3}, "random numbers"),
        ({"train__batch_size": 1024}, "the order of the samples"),
        ({"train__precision": "mixed_bfloat16"}, "more than speed"),
        ({"train__tf32": "true"}, "more than speed"),
        ({"model__dim": 64}, "of that network"),
        ({"model__init": "a.pth"}, "came from it"),
        ({"optimizer__clip_norm": 1.0}, "made by it"),
        ({"optimizer__learning_rate": 0.5}, "made by it"),
        ({"optimizer__scaling": "linear"}, "made by it"),
        ({"schedule__warmup_epochs": 3}, "followed it"),
        ({"schedule__name": "step"}, "followed it"),
        ({"data__image_size": 64}, "made by it"),
        ({"moco__momentum": 0.5}, "followed it"),
        ({"moco__shuffle": "none"}, "followed it"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_a_step_depends_on_is_refused_with_the_reason(fields, reason):
    new = load(**fields)
    if "optimizer__scaling" in fields:  # with a rate that differs
        new = load(train__batch_size=512, **fields)
    saved = load(train__batch_size=new.train.batch_size)
    if "train__batch_size" in fields:
        saved = load()
    entries = resuming.difference(saved, new)
    field = next(iter(fields)).replace("__", ".")
    assert field in [name for name, *_ in entries]
    lines = resuming.explain(entries).splitlines()
    line = next(line for line in lines if line.startswith(f"  {field}: "))
    assert reason in line
    assert "--workdir" in lines[-1]


def test_values_are_compared_by_what_they_mean(tmp_path):
    saved = load(schedule__name="step", schedule__milestones="3,5")
    workdirs.save(saved, tmp_path)
    new = saved.copy_and_resolve_references()
    with new.ignore_type(), new.unlocked():
        new.schedule.milestones = [3, np.int64(5)]
        new.model.width = 1
        new.optimizer.learning_rate = np.float64(0.06)
        new.train.epochs = np.int32(200)
    assert changed(workdirs.load_saved(tmp_path), new) == []
    assert workdirs.identity(new, "f") == workdirs.identity(saved, "f")


def test_a_field_of_a_later_version_has_its_value_from_the_base(tmp_path):
    workdirs.save(load(), tmp_path)
    path = tmp_path / "config.json"
    saved = state_files.read_json(path)
    del saved["config"]["model"]["recompute"]
    del saved["config"]["data"]["strength"]
    state_files.write_json(path, saved)
    assert changed(workdirs.load_saved(tmp_path), load()) == []


@pytest.mark.parametrize(
    ("name", "way", "fields", "expected"),
    [
        ("linear", "cached", {"data__train": "folder:/b"}, []),
        ("linear", "cached", {"data__max_corrupt_fraction": 0.4}, []),
        ("linear", "cached", {"optimizer__learning_rate": 3}, []),
        (
            "linear",
            "cached",
            {"schedule__milestones": "2,3"},
            ["schedule.milestones"],
        ),
        ("linear", "published", {"probe__rates": "1,2"}, []),
        (
            "linear",
            "published",
            {"optimizer__learning_rate": 3},
            ["optimizer.learning_rate"],
        ),
        ("finetune", "", {"data__test": "folder:/b"}, []),
        ("finetune", "", {"schedule__milestones": "2,3"}, []),
        ("finetune", "", {"data__labels": 0.5}, ["data.labels"]),
    ],
)
def test_the_tasks_have_the_same_rules(name, way, fields, expected):
    given = {"probe__way": way} if way else {}
    saved = load(name, name, **given)
    new = load(name, name, **given, **fields)
    assert changed(saved, new, command=name) == expected
    if expected:
        entries = resuming.difference(saved, new, command=name)
        assert "another folder as --output" in resuming.explain(entries, name)


def test_a_hint_names_only_flags_that_the_command_has():
    short = load("finetune", "finetune")
    long = load("finetune", "finetune", train__epochs=70)
    entries = resuming.difference(short, long, "finetune")
    assert "--extend" not in resuming.explain(entries, "finetune")
    entries = resuming.difference(load(), load(train__epochs=300))
    assert "More epochs: add --extend" in resuming.explain(entries)
    fewer = load(train__epochs=100)
    entries = resuming.difference(load(), fewer, extend=True)
    assert "config.train.max_steps=" in resuming.explain(entries)
    assert changed(load(), load(train__max_steps=9)) == []


STEP = {"schedule__name": "step", "schedule__milestones": "120,160"}


def test_milestones_that_stay_behind_are_said_with_those_that_move_along():
    saved, new = load(**STEP), load(**STEP, train__epochs=400)
    words = resuming.describe_extension(saved, new)
    assert "240 of 400 epochs have 1 % of the rate" in words
    assert "--config.schedule.milestones=240,320 (with --extend)" in words
    moved = load(
        train__epochs=400, **STEP | {"schedule__milestones": "240,320"}
    )
    # At once, or after the run has been extended without.
    for before in (saved, new):
        assert changed(before, moved, extend=True) == []
        assert changed(before, moved) != []
        words = resuming.describe_extension(before, moved)
        assert "at (240, 320)" in words and "Warning" not in words


def test_a_schedule_that_stays_is_not_described():
    assert resuming.describe_extension(load(), load()) == ""
    assert resuming.describe_extension(load(**STEP), load(**STEP)) == ""
    words = resuming.describe_extension(load(), load(train__epochs=400))
    assert "Warning" not in words and words.count("cosine") == 2


def test_workers_may_have_their_data_in_other_places():
    here = load(
        data__source="folder:/here", knn__bank="folder:/a", knn__query="list:b"
    )
    there = load(
        data__source="folder:/there", knn__bank="list:b", knn__query="list:c"
    )
    assert workdirs.identity(here, "f") == workdirs.identity(there, "f")
    assert workdirs.identity(here, "f") != workdirs.identity(here, "g")
    without = load(data__source="folder:/here")
    assert workdirs.identity(here, "f") != workdirs.identity(without, "f")


def test_views_of_another_form_are_named():
    def start(where):
        return resuming.form_of_views({"data.augment_on": where})

    assert resuming.other_bits(start("host"), start("host")) == []
    (words,) = resuming.other_bits(start("host"), start("graph"))
    assert "views by a compiled kernel, this one makes them by Tensor" in words
    # Earlier versions noted nothing, and had no kernel; tasks have no choice.
    (words,) = resuming.other_bits({}, start("host"))
    assert "by TensorFlow on the host, this one" in words
    assert resuming.other_bits({}, start("graph")) == []
    assert resuming.other_bits({}, resuming.form_of_views({})) == []


def test_kernels_that_differ_are_said():
    on, off = {"onednn": True}, {"onednn": False}
    assert resuming.other_bits(on, on) == resuming.other_bits({}, on) == []
    (words,) = resuming.other_bits(on, off)
    assert "with oneDNN, this one without it" in words
    assert "TF_ENABLE_ONEDNN_OPTS" in words
    (words,) = resuming.other_bits(off, on)
    assert "without oneDNN, this one with it" in words
