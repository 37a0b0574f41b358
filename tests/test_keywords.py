"""Keywords become the fields that a command line would have set."""

import inspect
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import api, keywords, workdirs
from moco_tf import config as configs
from moco_tf.cli import main as cli
from moco_tf.doctor import devices, rules
from tests.doctor import photographs


def of_run(**fields):
    config, text = keywords.of_run(
        "shapes:train", pathlib.Path(), "quickstart", fields
    )
    assert text == ""
    return config


def test_a_field_is_named_alone_where_one_has_its_name():
    config = of_run(epochs=7, image_size=32, jit_compile=True, bank="")
    assert config.data.source == "shapes:train"
    assert (config.train.epochs, config.data.image_size) == (7, 32)
    assert config.train.jit_compile is True and config.knn.bank == ""


def test_what_is_trained_comes_before_what_looks_on():
    # knn.batch_size, knn.temperature and probe.learning_rate are others.
    config = of_run(batch_size=64, temperature=0.3, learning_rate=0.5)
    before = configs.load("quickstart")
    assert config.train.batch_size == 64 and config.moco.temperature == 0.3
    assert config.optimizer.learning_rate == 0.5
    assert config.knn == before.knn and config.probe == before.probe


def test_a_section_is_a_dict_and_a_full_name_is_text():
    config = of_run(knn={"k": 5, "every_epochs": 2}, **{"moco.momentum": 0.5})
    assert (config.knn.k, config.knn.every_epochs) == (5, 2)
    assert config.moco.momentum == 0.5


def test_values_are_those_of_python_and_numpy(tmp_path):
    config = of_run(
        milestones=[3, 4],
        epochs=np.int64(3),
        small_scale=np.array([0.1, 0.5]),
        bank=tmp_path,
        seed=3,
    )
    assert config.schedule.milestones == (3, 4) and config.train.epochs == 3
    assert config.data.small_scale == (0.1, 0.5) and config.seed == 3
    assert config.knn.bank == f"folder:{tmp_path}"  # a folder needs no kind


def test_a_name_that_several_sections_have_is_refused_with_a_way_that_works():
    with pytest.raises(ValueError) as refused:
        of_run(momentum=0.5)
    assert "moco.momentum, optimizer.momentum" in str(refused.value)
    way = str(refused.value).rpartition("instance, ")[2].rstrip(".")
    config = of_run(**eval(f"dict({way.replace('...', '0.25')})"))
    assert config.moco.momentum == 0.25


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"epoks": 3}, ["--config.epoks=3"]),
        ({"train": {"epoks": 3}}, ["--config.train.epoks=3"]),
        ({"epochs": "many"}, ["--config.train.epochs=many"]),
        ({"epochs": -1}, ["--config.train.epochs=-1"]),
        ({"method": "byol"}, ["--config.method=byol"]),
    ],
)
def test_what_the_command_refuses_is_refused_in_its_words(
    fields, words, tmp_path, capsys
):
    command = ["pretrain", "--config=quickstart", f"--workdir={tmp_path}"]
    assert cli.run([*command, *words]) == 2
    said = capsys.readouterr().err.splitlines()[0]
    with pytest.raises(ValueError) as refused:
        of_run(**fields)
    assert said == f"moco-tf: error: {refused.value}"


def test_without_a_preset_the_rules_choose_and_a_run_keeps_its_own(
    tmp_path, capsys, monkeypatch
):
    photographs.write(tmp_path / "images", 60)
    timed = []

    def trial(config, *_, **__):
        timed.append(config.train.batch_size)
        return devices.Trial(0.5, 0.0, 1.0, 5, None)

    monkeypatch.setattr(devices, "run_trial", trial)
    monkeypatch.setattr(rules.resources.Forecast, "__call__", lambda *_: 10**9)
    strategy = tf.distribute.get_strategy()
    workdir, fields = tmp_path / "run", {"moco": {"queue_size": 32}}

    def of_run():
        images = tmp_path / "images"
        return keywords.of_run(images, workdir, "", fields, strategy)

    config, text = of_run()
    assert config.moco.queue_size == 32  # the user's stays
    assert timed == [config.train.batch_size] == [16]
    said = capsys.readouterr().out
    assert said.startswith("--config=auto: 60 images, short side 72 px")
    assert (
        "  train.batch_size" in said and "too few: start from weights" in said
    )
    # As a preset file, and as the run that is there.
    workdirs.save(config, workdir, preset=text)
    again = configs.load(workdir / "preset.py")
    assert again.to_dict() == config.to_dict()
    kept, text = of_run()
    assert kept.to_dict() == config.to_dict() and text == ""
    assert "was chosen at its first start (preset.py)." in (
        capsys.readouterr().out
    )
    assert len(timed) == 1


@pytest.mark.parametrize(
    ("flag", "keyword"),
    [
        ("--config.train.epochs=3", "epochs=3"),
        ("--config.seed=7", "seed=7"),
        ("--config.optimizer.learning_rate=1e-3", "learning_rate=0.001"),
        ("--config.optimizer.momentum=0.5", "optimizer={'momentum': 0.5}"),
        ("--config.byol.momentum=0.5", "byol={'momentum': 0.5}"),
        ("--config.moco.queue_size=8", "queue_size=8"),
        ("--config.knn.batch_size=8", "knn={'batch_size': 8}"),
        ("--config.train.batch_size=8", "batch_size=8"),
        ("--config.log.tensorboard=false", "tensorboard=False"),
        ("--config.schedule.milestones=3,4", "milestones=(3, 4)"),
        ("--config.model.init=", "init=..."),
        ("--config.data.source=SOURCE", "source=SOURCE"),
        ("--config.knn.bank=folder:a/b", "bank='folder:a/b'"),
        ("--config=moco_cifar10", "preset='moco_cifar10'"),
        ("--workdir=runs/other", "workdir='runs/other'"),
        ("--devices=cpu", "devices='cpu'"),
        ("--devices", "devices"),
        ("--extend", "extend=True"),
    ],
)
@pytest.mark.parametrize(
    "sentence", ["Pass {}.", "({}, or not)", "{}; or {}: x"]
)
def test_a_flag_is_the_keyword_that_does_the_same(flag, keyword, sentence):
    text = sentence.replace("{}", flag)
    signature = inspect.signature(api.train)
    shown = flag.rstrip("=")
    assert keywords.notes(text, signature) == [
        f"In Python {shown} is {keyword}."
    ]


@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (api.knn, "--workdir=a", ["In Python --workdir=a is run='a'."]),
        (api.knn, "--config.train.epochs=3", []),
        (api.knn, "--communication=ring and a -- b", []),
        (
            api.Run.__init__,
            "--checkpoint=7",
            ["In Python --checkpoint=7 is checkpoint=7."],
        ),
        (
            api.embed,
            "--checkpoint=best.",
            [
                "In Python --checkpoint=best is "
                "moco_tf.Run(workdir, checkpoint='best')."
            ],
        ),
        (
            api.train,
            "no--config.train.epochs=3 --config.seed",
            ["In Python --config.seed is seed."],
        ),
    ],
)
def test_a_flag_without_a_keyword_has_no_note(function, text, expected):
    assert keywords.notes(text, inspect.signature(function)) == expected


def of_train(**fields):
    raise ValueError("Pass --config.train.epochs=3.")


def test_what_a_note_says_is_taken():
    with pytest.raises(ValueError, match="--config") as raised:
        keywords.explained(of_train)()
    (note,) = raised.value.__notes__
    keyword = note.removeprefix("In Python ").partition(" is ")[2][:-1]
    config = of_run(**eval(f"dict({keyword})"))
    assert config.train.epochs == 3


def test_an_error_passes_several_functions_with_one_note():
    outer = keywords.explained(keywords.explained(of_train))
    with pytest.raises(ValueError) as raised:
        outer()
    assert len(raised.value.__notes__) == 1
