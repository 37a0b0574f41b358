"""Rows of monitoring/: the warnings of a run, and what reads its figures."""

import math
import re
import sys
import types

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.monitoring import (
    health,
    listener,
    loggers,
    metrics_csv,
    printed,
    representation_plot,
    tensorboard,
)
from tests.remedies import following

ROWS = following.Rows(
    *("monitoring/health.py", "monitoring/warning_log.py"),
    *("monitoring/representation_plot.py", "monitoring/tensorboard.py"),
    *("monitoring/printed.py", "monitoring/loggers.py"),
)


def config_of(preset, fields):
    """A configuration that a run could have."""
    texts = {name: str(value) for name, value in fields.items()}
    config = configs.load(preset, {"data.source": "shapes:train"} | texts)
    plan.check(config, 1)
    return config


def watch(preset="moco_cifar10", images=50_000, **fields):
    """The rules over the settings of a run; fields with __ for the dot."""
    fields = {name.replace("__", "."): v for name, v in fields.items()}
    config = config_of(preset, fields)
    run = types.SimpleNamespace(
        method=config.method,
        images=images,
        batch_size=config.train.batch_size,
        dim=config.model.dim,
    )
    settings = types.SimpleNamespace(**config[config.method].to_dict())
    return health.Watch(run, settings, plan.chance_loss(config))


def shown(notices):
    """The texts of warnings, and that each names another folder."""
    assert all("in another --workdir" in n.text for n in notices)
    return " ".join(notice.text for notice in notices)


def report(preset="moco_cifar10", fields=(), **figures):
    """The warnings of a row in the middle of a run."""
    row = {"step": 5000, "loss": 6.0, "input_wait_share": 0.02, **figures}
    return watch(preset, **dict(fields)).report(row)


@ROWS.followed("monitoring/health.py:Watch.start", "mask_same_image=true")
def large_queue():
    text = yield lambda: shown(watch(images=10_000).start())
    assert "config.moco.mask_same_image=true" in text
    masked = watch(images=10_000, moco__mask_same_image="true")
    yield lambda: shown(masked.start())
    short = watch(images=10_000, moco__queue_size=999)
    yield lambda: shown(short.start())


@ROWS.followed("monitoring/health.py:Watch._unreadable", "Mend or remove them")
def images_that_cannot_be_read():
    def text(count):
        rules = watch()
        row = {"step": 9, "loss": 6.0, "steps": 9, "unreadable": count}
        return " ".join(notice.text for notice in rules.report(row))

    yield lambda: text(1)
    yield lambda: text(0)


def leak(instance_top1, preset="moco_cifar10", **fields):
    """The warnings of an epoch in which kNN has not risen."""
    rules = watch(preset, **fields)
    for _ in range(5):
        row = {"knn_backbone": 0.4, "instance_top1": instance_top1}
        notices = rules.epoch(row)
        if notices:
            break
    return shown(notices)


@ROWS.followed("monitoring/health.py:Watch._leak", "shuffle=auto")
def statistics_that_tell():
    yield lambda: leak(0.99)
    # A run with groups, and keys in another order, finds less.
    fields = {"model__bn_groups": 4, "model__sync_bn": "false"}
    yield lambda: leak(0.5, moco__shuffle="auto", **fields)


@ROWS.followed("monitoring/health.py:Watch._leak", "Set config.model.sync_bn")
def statistics_that_tell_without_a_shuffle():
    yield lambda: leak(0.99, "memory_bank_imagenet")
    fields = {"model__sync_bn": "true", "model__bn_groups": 1}
    yield lambda: leak(0.5, "memory_bank_imagenet", **fields)
    yield lambda: leak(0.5, "memory_bank_imagenet", data__strength=1.5)


def epochs(knn, preset="moco_cifar10", fields=(), **columns):
    """The warnings of epochs with such kNN, and columns that stay."""
    rules = watch(preset, **dict(fields))
    notices = []
    for number, figure in enumerate(knn, start=1):
        row = {"epoch": number, "knn_backbone": figure, **columns}
        notices += rules.epoch(row | {"loss": 6 - 0.1 * number})
    return shown(notices)


LOW = (0.34, 0.35, 0.35, 0.35)
HIGH = (0.4, 0.5, 0.55, 0.6)
SLOWER = {"optimizer__learning_rate": 0.01}


@ROWS.followed("monitoring/health.py:Watch._stale", "Set config.")
def keys_that_show_their_age():
    old = {"key_age_auc": 0.9}
    text = yield lambda: epochs(LOW, **old)
    assert "Set config.moco.batch_negatives=true" in text
    # Runs with fresh keys have had 0.48 to 0.52, and higher kNN.
    for fields in (
        {"moco__batch_negatives": "true"},
        {"moco__momentum": 0.9999},
        SLOWER,
    ):
        yield lambda f=fields: epochs(HIGH, fields=f, key_age_auc=0.5)


@ROWS.followed("monitoring/health.py:Watch._stale", "Lower config.")
def keys_that_show_their_age_beside_fresh_ones():
    fields = {"moco__batch_negatives": "true"}
    yield lambda: epochs(LOW, fields=fields, key_age_auc=0.9)
    shorter = fields | {"moco__queue_size": 512}
    yield lambda: epochs(HIGH, fields=shorter, key_age_auc=0.5)


@ROWS.followed("monitoring/health.py:Watch._falls", "Pass --checkpoint=best")
def features_that_get_worse():
    from moco_tf.cli import flags, main

    text = yield lambda: epochs((0.3, 0.6, 0.6, 0.5, 0.4))
    assert "data.strength" in text and "data.views" in text
    words = ["knn", "--workdir=x", "--checkpoint=best"]
    assert flags.parse(words, main.COMMANDS)[1].checkpoint == "best"
    for fields in ({"data__strength": 1.5}, {"data__views": "v2"}):
        yield lambda f=fields: epochs(HIGH, fields=f)


@ROWS.followed("monitoring/health.py:Watch._falls", "Strengthen")
def features_that_get_worse_and_never_were_better():
    start = {"start_backbone": 0.62}
    text = yield lambda: epochs((0.3, 0.6, 0.6, 0.5, 0.4), **start)
    assert "--checkpoint=best" not in text  # which is the start
    for fields in ({"data__strength": 1.5}, {"data__views": "v2"}):
        yield lambda f=fields: epochs(HIGH, fields=f, **start)


@ROWS.followed("monitoring/health.py:Watch._gentler", "Set config.")
def features_below_the_start():
    known = {"start_backbone": 0.38}
    text = yield lambda: epochs(LOW, **known)
    assert "config.moco.batch_negatives=true" in text
    for fields in ({"moco__batch_negatives": "true"}, SLOWER):
        yield lambda f=fields: epochs(HIGH, fields=f, **known)


@ROWS.followed("monitoring/health.py:Watch._gentler", "Lower config.")
def features_below_the_start_without_a_queue():
    known = {"start_backbone": 0.38}
    text = yield lambda: epochs(LOW, "byol_cifar10", **known)
    assert "batch_negatives" not in text
    yield lambda: epochs(HIGH, "byol_cifar10", SLOWER, **known)


def divided(preset, clusters, fields=(), entropy=None):
    """The warnings of rows in which targets divide images into clusters."""
    rules = watch(preset, **dict(fields))
    row = {"step": 5000, "loss": 6.0, "clusters": clusters}
    row["teacher_entropy"] = entropy
    return shown([n for _ in range(3) for n in rules.report(row)])


@ROWS.followed("monitoring/health.py:Watch._vague", "config.swav.epsilon")
def codes_that_are_nearly_even():
    even = {"loss": math.log(3000), "clusters": 1.3}
    yield lambda: shown(report("swav_imagenet", **even))
    sharper = {"swav__epsilon": 0.02}
    yield lambda: shown(report("swav_imagenet", sharper, clusters=4.9))


@ROWS.followed("monitoring/health.py:Watch._prototypes", "config.swav.epsilon")
def codes_that_are_all_the_same():
    yield lambda: divided("swav_imagenet", 1.01)
    for fields in ({"swav__epsilon": 0.03}, {"swav__frozen_epochs": 2}, SLOWER):
        yield lambda f=fields: divided("swav_imagenet", 40.0, f)


@ROWS.followed(
    "monitoring/health.py:Watch._prototypes", "config.dino.teacher_temperature"
)
def teacher_that_spreads_over_all_outputs():
    yield lambda: divided("dino_imagenet", 1.01, entropy=11.0)
    sharper = {
        "dino__teacher_temperature": 0.03,
        "dino__first_teacher_temperature": 0.03,
    }
    yield lambda: divided("dino_imagenet", 40.0, sharper, 5.0)


@ROWS.followed(
    "monitoring/health.py:Watch._prototypes", "config.dino.center_momentum"
)
def teacher_of_one_output():
    yield lambda: divided("dino_imagenet", 1.01, entropy=0.01)
    fields = {"dino__center_momentum": 0.5}
    yield lambda: divided("dino_imagenet", 40.0, fields, 5.0)


def pace(momentum, share):
    """The warnings of a key encoder that goes a share of the way."""
    rules = watch(moco__momentum=momentum)
    notices = [notice for _ in range(4) for notice in rules.pace(share)]
    return shown(notices)


@ROWS.followed("monitoring/health.py:Watch.pace", "momentum below 1")
def key_encoder_that_stands_still():
    yield lambda: pace(1.0, 0.0)
    yield lambda: pace(0.999, 0.001)


@ROWS.followed("monitoring/health.py:Watch.pace", "momentum=0.99 to 0.9999")
def key_encoder_that_follows():
    text = yield lambda: pace(0.5, 0.5)
    for value in re.search(r"momentum=([\d.]+) to ([\d.]+)", text).groups():
        momentum = float(value)
        yield lambda chosen=momentum: pace(chosen, 1 - chosen)


@ROWS.followed("monitoring/health.py:Watch._contrast", "the loss {row['loss']}")
def loss_of_guessing():
    chance = math.log(4097)
    yield lambda: shown(report(loss=chance))
    for fields in (
        {"optimizer__learning_rate": 0.01},
        {"schedule__warmup_epochs": 5},
    ):
        yield lambda taken=fields: shown(report(fields=taken, loss=6.0))


@ROWS.followed("monitoring/health.py:Watch._contrast", "config.model.head=")
def keys_of_few_directions():
    def lasting(rank, **fields):
        rules = watch(**fields)
        row = {"step": 5000, "loss": 6.0, "key_rank": rank}
        return shown([n for _ in range(3) for n in rules.report(row)])

    yield lambda: lasting(5.5)
    # Runs with these had 17 and 19, with neither 5.5 and 3.0.
    yield lambda: lasting(17.1, model__head="simclr")
    yield lambda: lasting(19.0, moco__momentum=0.999)


@ROWS.followed("monitoring/health.py:Watch._slower", "or raise config.")
def collapse():
    text = yield lambda: shown(report("byol_cifar10", spread=0.01))
    assert "config.byol.momentum" in text
    assert "config.moco.momentum" in shown(report(key_rank=1.2))
    for name, figure in (
        ("optimizer__learning_rate", 0.01),
        ("byol__momentum", 0.999),
    ):
        fields = {name: figure}
        yield lambda f=fields: shown(report("byol_cifar10", f, spread=0.5))
    for name, figure in (
        ("optimizer__learning_rate", 0.01),
        ("moco__momentum", 0.9999),
    ):
        fields = {name: figure}
        yield lambda f=fields: shown(report(fields=f, key_rank=60.0))


@ROWS.followed("monitoring/health.py:Watch._slower", "Lower config.optimizer")
def collapse_without_a_key_encoder():
    def slower(preset):
        return watch(preset)._slower()

    text = yield lambda: slower("swav_imagenet")
    assert "momentum" not in text  # SwAV has none
    yield lambda: config_of("swav_imagenet", {"optimizer.learning_rate": 0.01})


@ROWS.followed("monitoring/health.py:Watch._input", "waiting for images")
def slow_input():
    from moco_tf.cli import main

    rules = watch()

    def wait(share):
        row = {"step": 5000, "loss": 6.0, "input_wait_share": share}
        notices = [n for _ in range(3) for n in rules.report(row)]
        return " ".join(notice.text for notice in notices)

    text = yield lambda: wait(0.5)
    for name in ("benchmark", "prepare"):
        assert f"`moco-tf {name}`" in text
        assert name in main.COMMANDS
    yield lambda: wait(0.1)


@ROWS.followed(
    "monitoring/tensorboard.py:Profile.__init__", "--profile_steps=10"
)
def steps_to_trace(tmp_path):
    from moco_tf.cli import flags, main

    def make(first, last):
        return tensorboard.Profile(tmp_path, first, last)

    text = yield lambda: make(5, 2)
    word = "--profile_steps=" + text.rpartition("=")[2].rstrip(".")
    given = ["pretrain", "--workdir=x", "--config=quickstart", word]
    _, options, _ = flags.parse(given, main.COMMANDS)
    yield lambda: make(*options.profile_steps)


def figures(path, measured):
    """Writes metrics.csv, of an epoch with or without kNN."""
    names = ("knn_backbone", "knn_projection", *representation_plot.FIGURES)
    row = dict.fromkeys(names, 0.5) if measured else {}
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    file = metrics_csv.MetricsFile(path)
    file.append({"step": 5, "epoch": 1, **row})
    file.close()


@ROWS.followed("monitoring/representation_plot.py:read", "Give the --workdir")
def plot_of_no_run(tmp_path):
    figures(tmp_path / "run" / "metrics.csv", True)
    yield lambda: representation_plot.read(tmp_path)
    yield lambda: representation_plot.read(tmp_path / "run")


@ROWS.followed("monitoring/representation_plot.py:read", "set knn.bank and")
def plot_without_knn(tmp_path):
    path = tmp_path / "metrics.csv"
    figures(path, False)
    yield lambda: representation_plot.read(tmp_path)
    # Both fields may change when a run goes on; an epoch then measures.
    fields = {"knn.bank": "shapes:train", "knn.query": "shapes:test"}
    yield lambda: config_of("moco_cifar10", fields)
    figures(path, True)
    yield lambda: representation_plot.read(tmp_path)


ROWS.states(
    following.OF_A_CALLER,
    ("monitoring/tensorboard.py:EventWriter.write", "A scalar is named"),
)


@ROWS.followed("monitoring/printed.py:_Log.open", "Move it away before")
def log_that_is_a_folder(tmp_path, capsys):
    def start():
        with printed.copied():
            printed.keep(tmp_path, "start")
        return capsys.readouterr().out

    (tmp_path / "log.txt").mkdir()
    yield start
    (tmp_path / "log.txt").rename(tmp_path / "away")
    yield start


@ROWS.followed("monitoring/printed.py:_Log.open", "Put --workdir on a shared")
def log_of_a_worker_that_does_not_see_the_folder(tmp_path, capsys, monkeypatch):
    def start(workdir):
        with printed.copied():
            printed.keep(workdir, "start", worker=1)
        return capsys.readouterr().out

    monkeypatch.setattr(printed, "_APPEARS", 0)
    yield lambda: start(tmp_path / "of this machine")
    (tmp_path / "shared").mkdir()
    yield lambda: start(tmp_path / "shared")


class _Made:
    """What the functions below are named in: a module `remedied`."""

    @staticmethod
    def make(session):
        return listener.Listener()

    number = 3


def listeners(*names, workdir=None):
    """The listeners of a new run, and what they print."""
    lines = []
    session = loggers.Session(workdir, {"train.epochs": 1}, 0, 4, 4)
    made = loggers.make(loggers.find(names), session, lines.append)
    return made, lines


@ROWS.followed("monitoring/loggers.py:_find", "listeners=my.module:make")
def listener_without_a_function(monkeypatch):
    module = types.ModuleType("my.module")
    module.make = _Made.make
    monkeypatch.setitem(sys.modules, "my", types.ModuleType("my"))
    monkeypatch.setitem(sys.modules, "my.module", module)
    text = yield lambda: listeners("module")
    name = re.search(r"listeners=(\S+)\.$", text)[1]
    yield lambda: listeners(name)


@ROWS.followed("monitoring/loggers.py:_find", "add its folder to PYTHONPATH")
def listener_that_is_not_found(tmp_path, monkeypatch):
    code = "from moco_tf.monitoring.listener import Listener\n"
    code += "def make(session):\n    return Listener()\n"
    (tmp_path / "of_mine.py").write_text(code)
    yield lambda: listeners("of_mine:make")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: listeners("of_mine:make")
    text = "--config.log.listeners="
    config = configs.load(
        "quickstart", {"log.listeners": text.partition("=")[2]}
    )
    yield lambda: listeners(*config.log.listeners)


@ROWS.followed("monitoring/loggers.py:_find", "Name a function of the module")
def listener_that_is_no_function(monkeypatch):
    monkeypatch.setitem(sys.modules, "remedied", _Made)
    yield lambda: listeners("remedied:number")
    yield lambda: listeners("remedied:make")


@ROWS.followed("monitoring/loggers.py:_make", "Mend that, or leave it out")
def listener_whose_function_fails(monkeypatch):
    module = types.ModuleType("remedied")
    monkeypatch.setitem(sys.modules, "remedied", module)
    module.make = lambda session: 1 / 0
    yield lambda: listeners("remedied:make")
    yield lambda: listeners()
    module.make = _Made.make
    yield lambda: listeners("remedied:make")


@ROWS.followed("monitoring/loggers.py:_make", "Derive its class from Listener")
def listener_of_another_class(monkeypatch):
    module = types.ModuleType("remedied")
    monkeypatch.setitem(sys.modules, "remedied", module)
    module.make = lambda session: object()
    yield lambda: listeners("remedied:make")
    module.make = lambda session: type("Mine", (listener.Listener,), {})()
    yield lambda: listeners("remedied:make")


@ROWS.followed("monitoring/loggers.py:_package", "--require-hashes -r")
def logger_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    yield lambda: listeners("wandb", workdir=tmp_path)
    run = types.SimpleNamespace(define_metric=lambda *_, **__: None)
    stand_in = types.ModuleType("wandb")
    stand_in.init = lambda **_: run
    stand_in.Settings = dict
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    yield lambda: listeners("wandb", workdir=tmp_path)


ROWS.tested(
    "tests/monitoring/test_loggers.py::test_mlflow_takes_the_users_server_and_"
    "says_if_it_knows_no_such_run",
    ("monitoring/loggers.py:mlflow", "Remove that file to begin another"),
)
ROWS.tested(
    "tests/monitoring/test_loggers.py::test_mlflow_refuses_a_folder_that_its_"
    "addresses_cut",
    ("monitoring/loggers.py:_file_uri", "Set MLFLOW_TRACKING_URI"),
)
