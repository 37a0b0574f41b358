"""Presets: the published values, and nothing but what differs from the base."""

import ast
import re
import subprocess
import sys

import pytest

from moco_tf import config as configs
from moco_tf import config_schema
from moco_tf.cli import main as cli
from moco_tf.methods import table

FOLDER = configs.folders()[0]
COMMANDS = {
    name: command
    for command in config_schema.TABLES
    for name in configs.names(command)
}
# Hand-copied from the papers and the authors' commands.
PUBLISHED = {
    "moco_v1_imagenet": {
        "optimizer.learning_rate": 0.03,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 0.0001,
        "schedule.name": "step",
        "schedule.milestones": (120, 160),
        "schedule.factor": 0.1,
        "train.batch_size": 256,
        "train.epochs": 200,
        "model.backbone": "resnet50",
        "model.head": "fc",
        "model.dim": 128,
        "model.bn_groups": 8,
        "moco.queue_size": 65536,
        "moco.momentum": 0.999,
        "moco.temperature": 0.07,
        "moco.symmetric": False,
    },
    "moco_v2_imagenet": {
        "optimizer.learning_rate": 0.03,
        "schedule.name": "cosine",
        "train.batch_size": 256,
        "train.epochs": 200,
        "data.views": "v2",
        "model.head": "mlp",
        "moco.queue_size": 65536,
        "moco.momentum": 0.999,
        "moco.temperature": 0.2,
    },
    "moco_cifar10": {
        "optimizer.learning_rate": 0.06,
        "optimizer.weight_decay": 0.0005,
        "train.batch_size": 512,
        "train.epochs": 200,
        "model.dim": 128,
        "model.bn_groups": 8,
        "moco.queue_size": 4096,
        "moco.momentum": 0.99,
        "moco.temperature": 0.1,
        "knn.k": 200,
        "knn.temperature": 0.1,
    },
    "memory_bank_imagenet": {
        "memory_bank.negatives": 4096,
        "memory_bank.momentum": 0.5,
        "memory_bank.temperature": 0.07,
        "memory_bank.loss": "nce",
        "optimizer.learning_rate": 0.03,
        "train.epochs": 200,
    },
    "simclr_imagenet": {
        "simclr.temperature": 0.1,
        "optimizer.name": "lars",
        "optimizer.learning_rate": 0.3,
        "optimizer.scaling": "linear",
        "optimizer.weight_decay": 1e-6,
        "schedule.warmup_epochs": 10,
        "train.batch_size": 4096,
        "train.epochs": 100,
        "model.dim": 128,
        "model.sync_bn": True,
    },
    "byol_imagenet": {
        "byol.momentum": 0.996,
        "optimizer.name": "lars",
        "optimizer.learning_rate": 0.2,
        "optimizer.weight_decay": 1.5e-6,
        "schedule.warmup_epochs": 10,
        "train.batch_size": 4096,
        "train.epochs": 1000,
        "model.hidden": 4096,
        "model.dim": 256,
    },
    "swav_imagenet": {
        "swav.prototypes": 3000,
        "swav.temperature": 0.1,
        "swav.epsilon": 0.05,
        "swav.iterations": 3,
        "data.small_views": 6,
        "data.small_size": 96,
        "data.small_scale": (0.05, 0.14),
        "optimizer.learning_rate": 4.8,
        "train.batch_size": 4096,
        "train.epochs": 800,
    },
    "dino_imagenet": {
        "dino.outputs": 65536,
        "dino.temperature": 0.1,
        "dino.teacher_temperature": 0.04,
        "dino.momentum": 0.996,
        "dino.center_momentum": 0.9,
        "data.small_views": 8,
        "optimizer.learning_rate": 0.03,
        "train.epochs": 100,
    },
    "cmc_imagenet": {
        "cmc.negatives": 16384,
        "cmc.momentum": 0.5,
        "cmc.temperature": 0.07,
        "schedule.milestones": (120, 160, 200),
        "train.batch_size": 128,
        "train.epochs": 240,
    },
    "linear": {
        "optimizer.learning_rate": 30.0,
        "optimizer.weight_decay": 0.0,
        "schedule.milestones": (60, 80),
        "schedule.factor": 0.1,
        "train.batch_size": 256,
        "train.epochs": 100,
    },
}


def values_of(name):
    config = configs.load(name, {}, COMMANDS[name])
    return configs.flatten(config.to_dict())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_values(name):
    values = values_of(name)
    assert {f: values[f] for f in PUBLISHED[name]} == PUBLISHED[name]


def test_the_published_values_of_v1_and_v2_differ_in_four_places():
    v1, v2 = values_of("moco_v1_imagenet"), values_of("moco_v2_imagenet")
    assert v1.keys() == v2.keys()
    changed = {x: (v1[x], v2[x]) for x in v1 if v1[x] != v2[x]}
    assert changed == {
        "data.views": ("v1", "v2"),
        "model.head": ("fc", "mlp"),
        "moco.temperature": (0.07, 0.2),
        "schedule.name": ("step", "cosine"),
    }
    # The two files write these four and nothing else.
    for name in ("moco_v1_imagenet", "moco_v2_imagenet"):
        assert {field for field, _, _ in assignments(name)} == set(changed)


def assignments(name):
    """(field, value, may repeat the base) of the lines of a preset."""
    text = (FOLDER / f"{name}.py").read_text()
    body = text[text.index("def get_config():") :].splitlines()[2:]
    repeats = False
    for line in body:
        if line.startswith("    # "):
            repeats = "repeated here because" in line
        elif match := re.fullmatch(r"    config\.([\w.]+) = ([^#]+).*", line):
            yield match[1], ast.literal_eval(match[2].strip()), repeats
        else:
            assert re.fullmatch(
                r"    (config = |return )configs\.base\(\"\w+\"\)"
                r"|    return config",
                line,
            ), line


@pytest.mark.parametrize("name", COMMANDS)
def test_a_preset_writes_only_what_differs_from_the_base(name):
    values = values_of(name)
    base = configs.base(values.get("method", COMMANDS[name]))
    defaults = configs.flatten(base.to_dict())
    for field, value, repeats in assignments(name):
        assert values[field] == value
        assert (value == defaults[field]) == repeats, field
        defaults[field] = value
    assert values == defaults


@pytest.mark.parametrize("name", COMMANDS)
def test_a_preset_is_a_header_with_its_command_and_a_short_list(name):
    text = (FOLDER / f"{name}.py").read_text()
    command = f"--config={name} --workdir="
    if COMMANDS[name] != "pretrain":
        command = f"moco-tf {COMMANDS[name]} --workdir="
    assert command in ast.get_docstring(ast.parse(text))
    assert 10 <= len(text.splitlines()) <= 45
    imports = [line for line in text.splitlines() if "import " in line]
    assert imports == ["from moco_tf import config as configs"]


@pytest.mark.parametrize("name", [*table.METHODS, "linear", "finetune"])
def test_the_base_has_every_field_of_the_schema_and_no_other(name):
    if name in table.METHODS:
        fields = table.fields(name)
    else:
        fields = config_schema.TABLES[name]
    values = configs.flatten(configs.base(name).to_dict())
    assert sorted(values) == sorted(fields)
    for field, value in values.items():
        assert config_schema.coerce(fields, field, value) == value
        assert type(value) is fields[field].kind
        config_schema.check_field(fields, field, value)


def shown(capsys, *words):
    """Lines of --show_config: field -> (value, origin and comment)."""
    assert cli.run([*words, "--show_config"]) == 0
    rows = [
        re.fullmatch(r"config\.([\w.]+) = (.+?) +# (.+)", line)
        for line in capsys.readouterr().out.splitlines()
    ]
    return {row[1]: (ast.literal_eval(row[2]), row[3]) for row in rows}


@pytest.mark.parametrize("name", COMMANDS)
def test_show_config_prints_every_field_as_it_is_loaded(capsys, name):
    lines = shown(capsys, COMMANDS[name], f"--config={name}")
    assert {field: row[0] for field, row in lines.items()} == values_of(name)


def test_show_config_says_what_came_from_where(capsys):
    lines = shown(
        capsys,
        "pretrain",
        "--config=moco_v2_imagenet",
        "--config.train.epochs=800",
        "--config.seed=0",
    )
    preset = "preset moco_v2_imagenet  "
    temperature = f"{preset}of the logits"
    assert lines["moco.temperature"] == (0.2, temperature)
    assert lines["model.head"][1].startswith(f"{preset}fc, mlp, simclr")
    assert lines["train.epochs"][0] == 800
    assert lines["train.epochs"][1].startswith("command line  ")
    # As typed, though it is the base's.
    assert lines["seed"][0] == 0
    assert lines["seed"][1].startswith("command line  ")
    assert re.fullmatch(
        "base  +pixels of a view's side", lines["data.image_size"][1]
    )
    assert re.fullmatch("base  +keys", lines["moco.queue_size"][1])
    origins = [re.split("  +", row[1])[0] for row in lines.values()]
    assert origins.count(preset.strip()) == 4
    assert list(lines)[:3] == ["seed", "method", "data.source"]


def test_show_config_names_a_users_own_file(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text((FOLDER / "moco_v2_imagenet.py").read_text())
    lines = shown(capsys, "pretrain", f"--config={path}")
    assert lines["moco.temperature"] == (0.2, f"{path}  of the logits")


def test_show_config_refuses_what_a_run_would(capsys):
    words = ["pretrain", "--config=quickstart", "--show_config"]
    assert cli.run([*words, "--config.train.epochs=0"]) == 2
    assert "train.epochs must be at least 1" in capsys.readouterr().err
    assert cli.run(["pretrain", "--show_config"]) == 2
    assert "--config must be given" in capsys.readouterr().err
    assert cli.run(["pretrain", "--config=quickstart"]) == 2
    assert "--workdir must be given" in capsys.readouterr().err


def test_show_config_needs_no_tensorflow():
    code = (
        "import sys; from moco_tf.cli import main; "
        "main.run(['pretrain', '--config=quickstart', '--show_config']); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FOLDER.parent)
