"""Which name was meant; the expected ones by hand."""

import re

import pytest

from moco_tf import config, config_schema, naming
from moco_tf.cli import main as cli
from moco_tf.methods import table

FIELDS = [*table.fields("moco")]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("LR", "optimizer.learning_rate"),
        ("train.learning_rate", "optimizer.learning_rate"),
        ("optimizer.lerning_rate", "optimizer.learning_rate"),
        ("train.lerning_rate", "optimizer.learning_rate"),
        ("train.bs", "train.batch_size"),
        ("batch_size", "train.batch_size"),
        ("train.batch-size", "train.batch_size"),
        ("knn.bs", "knn.batch_size"),
        ("wd", "optimizer.weight_decay"),
        ("epochs", "train.epochs"),
        ("schedule.epochs", "train.epochs"),
        ("workers", "data.threads"),
        ("data.num_workers", "data.threads"),
        ("amp", "train.precision"),
        ("train.fp16", "train.precision"),
        ("temp", "moco.temperature"),
        ("tau", "moco.temperature"),
        ("moco.T", "moco.temperature"),
        ("knn.temp", "knn.temperature"),
        ("m", "moco.momentum"),
        ("moco.m", "moco.momentum"),
        ("train.momentum", "optimizer.momentum"),
        ("K", "moco.queue_size"),
        ("moco.K", "moco.queue_size"),
        ("moco.k", "moco.queue_size"),
        ("knn.K", "knn.k"),
        ("k", "knn.k"),
        ("arch", "model.backbone"),
        ("model.arch", "model.backbone"),
        ("model.name", "model.backbone"),
        ("optimiser.name", "optimizer.name"),
        ("scheduler.name", "schedule.name"),
        ("dim", "model.dim"),
        ("mlp", "model.head"),
        ("data.path", "data.source"),
        ("data_dir", "data.source"),
        ("data.img_size", "data.image_size"),
        ("seeds", "seed"),
        ("train.tf", "train.tf32"),
        ("frobnicate", None),
    ],
)
def test_a_field_is_found_by_what_people_type(typed, meant):
    if meant is None:
        assert naming.nearest(typed, FIELDS) is None
    else:
        said = naming.field_suggestion(typed, FIELDS)
        assert said == f"Did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("typed", "flag"),
    [
        ("gpus", "devices"),
        ("train.gpus", "devices"),
        ("devices", "devices"),
        ("workdir", "workdir"),
        ("output_dir", "workdir"),
        ("resume", "workdir"),
        ("deterministic", "deterministic"),
    ],
)
def test_a_flag_that_is_typed_as_a_field_is_said_to_be_one(typed, flag):
    said = naming.field_suggestion(typed, FIELDS)
    assert said == f"It is no field, but a flag: --{flag}."
    assert cli.COMMANDS["pretrain"].has(flag)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("pretrain --lr=0.1", "--config.optimizer.learning_rate"),
        ("pretrain --wd=0.1", "--config.optimizer.weight_decay"),
        ("pretrain -a resnet50", "--config.model.backbone"),
        ("pretrain -j 8", "--config.data.threads"),
        ("pretrain -b 256", "--config.train.batch_size"),
        ("pretrain --bs=256", "--config.train.batch_size"),
        ("pretrain --epochs=2", "--config.train.epochs"),
        ("pretrain --gpus=2", "--devices"),
        ("pretrain --output-dir=x", "--workdir"),
        ("pretrain --config=quickstart -t 1", "--config.moco.temperature"),
        ("pretrain --config=moco_cifar10 --K=1", "--config.moco.queue_size"),
        ("pretrain --config=byol_cifar10 --m=1", "--config.byol.momentum"),
        ("pretrain --config=swav_imagenet -T 1", "--config.swav.temperature"),
        ("pretrain --amp=1", "--config.train.precision"),
        ("linear --lr=1", "--config.optimizer.learning_rate"),
        ("linear --workers=1", "--config.data.threads"),
        ("finetune --batch_size=1", "--config.train.batch_size"),
        ("knn --temp=1", "--temperature"),
        ("knn --K=1", "--k"),
        ("knn --gpus=1", "--devices"),
        ("export --license=x", "--licence"),
    ],
)  # fmt: skip
def test_a_flag_is_found_by_what_people_type(words, meant, capsys):
    assert cli.run(words.split()) == 2
    assert f"Did you mean {meant!r}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mocov2", "moco_v2_imagenet"),
        ("moco-v2", "moco_v2_imagenet"),
        ("moco_v1", "moco_v1_imagenet"),
        ("moco_v2_cifar10", "moco_cifar10"),
        ("MoCo-CIFAR10", "moco_cifar10"),
        ("cifar10", "moco_cifar10"),
        ("byol", "byol_cifar10"),
        ("quick", "quickstart"),
    ],
)
def test_a_preset_is_found_by_what_people_type(typed, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        config.load(typed)


@pytest.mark.parametrize(
    ("field", "typed", "meant"),
    [
        ("train.precision", "fp16", "mixed_float16"),
        ("train.precision", "bf16", "mixed_bfloat16"),
        ("train.precision", "amp", "mixed_bfloat16"),
        ("train.precision", "fp32", "float32"),
        ("schedule.name", "cos", "cosine"),
        ("optimizer.name", "SGD", "sgd"),
        ("optimizer.name", "adamw", "adam"),
        ("model.norm", "bn", "batch"),
    ],
)
def test_a_value_is_found_by_what_people_type(field, typed, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        config.load("moco_cifar10", {field: typed})


def test_every_alias_leads_to_something_there_is():
    fields = {f for m in table.METHODS for f in table.fields(m)}
    fields |= {f for t in config_schema.TABLES.values() for f in t}
    every = {f for t in config_schema.TABLES.values() for f in t.values()}
    known = fields | {f.rpartition(".")[2] for f in fields}
    known |= {f.name for c in cli.COMMANDS.values() for f in c.flags}
    known |= {name for field in every for name in field.names or ()}
    known |= {*config.names(), *table.METHODS}
    known |= {"resnet18", "resnet50", "folder", "list"}
    targets = {t for names in naming.ALIASES.values() for t in names}
    assert sorted(targets - known) == []
    assert not any(re.search("[A-Z-]", alias) for alias in naming.ALIASES)


def test_no_alias_hides_a_name_that_there_is():
    for field in FIELDS:
        assert naming.nearest(field, FIELDS) == field
    for name in config.names():
        assert naming.nearest(name, config.names()) == name
