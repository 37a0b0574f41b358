import json
import re

import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import config_schema, plan, workdirs
from moco_tf.data import augmentation, views
from moco_tf.methods import dictionaries, table
from moco_tf.models import heads, inputs, resnet

NAMES = configs.names()


def cifar(**overrides):
    """The CIFAR configuration on a source, with overrides section__key."""
    texts = {k.replace("__", "."): str(v) for k, v in overrides.items()}
    texts.setdefault("data.source", "folder:images")
    return configs.load("moco_cifar10", texts)


def test_the_shipped_configurations_are_found_by_name():
    assert {"moco_cifar10", "moco_v1_imagenet", "quickstart"} < set(NAMES)
    assert not {"linear", "finetune"} & set(NAMES)


@pytest.mark.parametrize(
    ("name", "replicas"),
    [
        (name, replicas)
        for name in NAMES
        for replicas in (1, 2, 8)
        # The quickstart has two BatchNorm groups: it is for a small machine.
        if (name, replicas) != ("quickstart", 8)
    ],
)
def test_every_shipped_configuration_passes_check(name, replicas):
    plan.check(configs.load(name, {"data.source": "a"}), replicas)


def test_names_in_the_rules_are_those_of_the_parts():
    fields = config_schema.PRETRAIN | table.fields("memory_bank")
    for name, parts in (
        ("data.views", views.RECIPES),
        ("data.augment_on", augmentation.AUGMENT_ON),
        ("model.input", inputs.CHANNELS),
        ("model.stem", resnet.STEMS),
        ("model.head", heads.KINDS),
        ("train.precision", resnet.PRECISIONS),
        ("memory_bank.loss", dictionaries.LOSSES),
    ):
        assert set(fields[name].names) == set(parts), name


def test_a_method_is_chosen_by_its_configuration_not_by_an_override():
    with pytest.raises(ValueError, match="memory_bank_imagenet"):
        cifar(method="memory_bank")


def test_the_fields_of_another_method_are_refused():
    with pytest.raises(ValueError, match="no field config.moco.queue_size"):
        configs.load("memory_bank_imagenet", {"moco.queue_size": "3"})


def test_an_unknown_method_names_the_nearest(tmp_path):
    path = tmp_path / "own.py"
    whole = complete_file(values_of("moco_cifar10") | {"method": "mocco"})
    based = "from moco_tf import config as configs\n"
    based += "def get_config():\n    return configs.base('mocco')\n"
    for text in (whole, based):
        path.write_text(text)
        with pytest.raises(ValueError, match="Did you mean 'moco'"):
            configs.load(str(path))


@pytest.mark.parametrize(
    ("scaling", "rate"), [("none", 0.3), ("linear", 0.6), ("sqrt", 6.7882)]
)
def test_the_rate_is_scaled_with_the_batch(scaling, rate):
    config = cifar(
        optimizer__learning_rate="0.3",
        optimizer__scaling=scaling,
        train__batch_size="512",
    )
    assert configs.learning_rate(config) == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("field", ["model__bn_groups", "train__micro_batches"])
def test_synchronised_batch_norm_takes_the_whole_batch(field):
    values = {"model__bn_groups": 1, "train__micro_batches": 1} | {field: 2}
    with pytest.raises(ValueError, match="must be 1 where model.sync_bn"):
        plan.check(cifar(model__sync_bn="true", **values), 1)


def test_simclr_refuses_parts_of_a_batch():
    texts = {
        "data.source": "folder:images",
        "model.sync_bn": "false",
        "model.bn_groups": "2",
        "train.micro_batches": "2",
    }
    with pytest.raises(ValueError, match="simclr needs train.micro_batches=1"):
        plan.check(configs.load("simclr_cifar10", texts), 1)


def test_a_run_without_batch_norm_tells_of_none():
    config = configs.load("cpc_imagenet", {"data.source": "shapes:test"})
    strategy = tf.distribute.get_strategy()
    said = plan.make(config, strategy).describe("run", 0)
    assert "replica(s), LayerNorm of each image" in said
    assert "BatchNorm" not in said


def test_simclrs_recipes_start_at_chance_and_at_the_published_rate():
    # ln(2 * 4096 - 1); 0.3 * 4096 / 256; 1.0 * 512 / 256.
    large = configs.load("simclr_imagenet")
    assert plan.chance_loss(large) == pytest.approx(9.0108, abs=1e-4)
    assert configs.learning_rate(large) == pytest.approx(4.8)
    small = configs.load("simclr_cifar10")
    assert plan.chance_loss(small) == pytest.approx(6.9305, abs=1e-4)
    assert configs.learning_rate(small) == pytest.approx(2.0)


def test_overrides_take_the_type_of_their_field():
    config = cifar(
        train__epochs="3",
        optimizer__learning_rate="1",
        moco__symmetric="true",
        schedule__milestones="1,2",
    )
    assert config.train.epochs == 3
    assert type(config.optimizer.learning_rate) is float
    assert config.moco.symmetric is True
    assert config.schedule.milestones == (1, 2)


@pytest.mark.parametrize(
    "field, text, message",
    [
        ("train.epochs", "1.5", "must be a whole number. Received '1.5'"),
        ("moco.momentum", "high", "must be a number. Received 'high'"),
        ("moco.symmetric", "yes", "must be true or false. Received 'yes'"),
        ("schedule.milestones", "1;2", "whole numbers with commas"),
        ("train.epohcs", "1", "Did you mean 'train.epochs'?"),
        (
            "data.views",
            "v3",
            "swav, dino, cmc, cpc. Received 'v3'",
        ),
        ("train.precision", "mixed_bfloat", "Did you mean 'mixed_bfloat16'"),
        ("moco.momentum", "1.5", "at least 0 and at most 1. Received 1.5"),
        ("moco.momentum", "nan", "Received nan"),
        ("optimizer.learning_rate", "inf", "above 0. Received inf"),
        ("optimizer.momentum", "1", "at least 0 and below 1"),
        ("train.batch_size", "0", "at least 1. Received 0"),
        ("log.every_steps", "2000", "at most 1024. Received 2000"),
    ],
)
def test_a_wrong_override_is_refused(field, text, message):
    with pytest.raises(ValueError, match="config") as error:
        configs.load("moco_cifar10", {field: text})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "replicas, overrides, message",
    [
        (3, {}, "replicas must divide train.batch_size. Received replicas=3"),
        (16, {}, "replicas must divide model.bn_groups"),
        (1, {"model__bn_groups": 3}, "model.bn_groups must divide"),
        (1, {"model__bn_groups": 512}, "2 samples or more"),
        (
            4,
            {"train__micro_batches": 4},
            "train.micro_batches must divide model.bn_groups / replicas",
        ),
        (1, {"moco__queue_size": 511}, "queue_size=511, keys=512"),
        (
            1,
            {"moco__queue_size": 1023, "moco__symmetric": "true"},
            "queue_size=1023, keys=1024",
        ),
        (1, {"schedule__name": "step", "train__epochs": 160}, "epochs=160"),
        (1, {"schedule__warmup_epochs": 200}, "warmup_epochs=200, epochs=200"),
        (1, {"knn__bank": "shapes"}, "both be given"),
        (1, {"data__source": ""}, "--config.data.source=folder:DIR"),
        (1, {"model__backbone": "resnet51"}, "Did you mean 'resnet50'?"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(
    replicas, overrides, message
):
    with pytest.raises(ValueError, match="Received") as error:
        plan.check(cifar(**overrides), replicas)
    assert message in str(error.value)


def test_milestones_must_rise_below_the_last_epoch():
    for marks in ("120,200", "160,120", "120,120"):
        config = cifar(schedule__name="step", schedule__milestones=marks)
        with pytest.raises(ValueError, match="rise and lie below"):
            plan.check(config, 1)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 90])
@pytest.mark.parametrize(
    "fields",
    [
        {"name": "step", "milestones": (120, 160)},
        {"name": "cosine", "warmup_epochs": 90},
    ],
)
def test_a_schedule_takes_the_remedy_that_it_names(epochs, fields):
    config = cifar(train__epochs=epochs)
    config.schedule.update(fields)
    with pytest.raises(ValueError, match="Received") as error:
        plan.check(config, 1)
    remedy = re.search(r"--config\.(\S+)=(\S+)\.$", str(error.value))
    field = remedy[1].removeprefix("schedule.")
    text = {"train.epochs": str(epochs), remedy[1]: remedy[2]}
    config.schedule[field] = configs.load("moco_cifar10", text).schedule[field]
    plan.check(config, 1)


@pytest.mark.parametrize("size", [34, 50, 64, 100, 224])
def test_a_grid_takes_the_patch_that_its_refusal_names(size):
    texts = {"data.source": "a", "data.image_size": str(size)}
    texts |= {"model.patch": "6"}
    with pytest.raises(ValueError, match="multiple of its half") as error:
        plan.check(configs.load("cpc_imagenet", texts), 1)
    texts["model.patch"] = re.search(r"patch=(\d+)\.$", str(error.value))[1]
    plan.check(configs.load("cpc_imagenet", texts), 1)


def test_an_image_that_no_patch_fits_is_to_be_of_another_size():
    texts = {"data.source": "a", "data.image_size": "37"}
    with pytest.raises(ValueError, match="Change data.image_size"):
        plan.check(configs.load("cpc_imagenet", texts), 1)


def test_a_configuration_is_locked():
    with pytest.raises((KeyError, AttributeError), match="locked"):
        cifar().train.new_field = 1


def values_of(name):
    return configs.flatten(configs.load(name).to_dict())


def complete_file(values):
    """The text of a file that defines a whole configuration."""
    lines = ["import ml_collections", "", "", "def get_config():"]
    lines += ["    config = ml_collections.ConfigDict()"]
    for section in sorted({n.split(".")[0] for n in values if "." in n}):
        lines += [f"    config.{section} = ml_collections.ConfigDict()"]
    lines += [f"    config.{name} = {v!r}" for name, v in values.items()]
    return "\n".join([*lines, "    return config", ""])


@pytest.mark.parametrize("name", ["quickstart", "swav_small_batch"])
def test_a_copy_of_a_preset_is_loaded_by_path(tmp_path, name):
    path = tmp_path / "mine.py"
    path.write_text((configs.folders()[0] / f"{name}.py").read_text())
    assert configs.load(str(path)) == configs.load(name)


@pytest.mark.parametrize("name", ["quickstart", "cpc_imagenet"])
def test_a_file_may_define_a_whole_configuration(tmp_path, name):
    path = tmp_path / "mine.py"
    path.write_text(complete_file(values_of(name)))
    assert configs.load(str(path)) == configs.load(name)


def test_a_file_may_start_from_the_base(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from moco_tf import config as configs\n"
        "def get_config():\n"
        "    config = configs.base('byol')\n"
        "    config.byol.momentum = 0.98\n"
        "    return config\n"
    )
    expected = configs.flatten(configs.base("byol").to_dict())
    loaded = configs.flatten(configs.load(str(path)).to_dict())
    assert loaded == expected | {"byol.momentum": 0.98}


def test_a_slip_in_a_files_field_names_the_nearest(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from moco_tf import config as configs\n"
        "def get_config():\n"
        "    config = configs.base('moco')\n"
        "    config.model.haed = 'mlp'\n"
        "    return config\n"
    )
    with pytest.raises(ValueError, match="Did you mean 'model.head'"):
        configs.load(str(path))


def test_a_file_of_a_linear_classifier_may_start_from_its_base(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from moco_tf import config as configs\n"
        "def get_config():\n"
        "    config = configs.base('linear')\n"
        "    config.train.epochs = 90\n"
        "    return config\n"
    )
    loaded = configs.load(str(path), {}, "linear")
    assert (loaded.train.epochs, loaded.optimizer.learning_rate) == (90, 30.0)


def test_what_a_file_changes_is_not_in_the_next_base():
    configs.base("moco").model.head = "mlp"
    assert configs.base("moco").model.head == "fc"


def test_a_files_numbers_may_be_numpys(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "from moco_tf import config as configs\n"
        "def get_config():\n"
        "    config = configs.base('moco')\n"
        "    config.seed = np.int64(3)\n"
        "    config.optimizer.learning_rate = np.float32(0.25)\n"
        "    config.schedule.milestones = np.arange(1, 4) * 50\n"
        "    config.data.small_scale = [np.float64(0.05), np.float32(0.5)]\n"
        "    config.moco.symmetric = np.bool_(True)\n"
        "    return config\n"
    )
    values = configs.flatten(configs.load(str(path)).to_dict())
    expected = {
        "seed": 3,
        "optimizer.learning_rate": 0.25,
        "schedule.milestones": (50, 100, 150),
        "data.small_scale": (0.05, 0.5),
        "moco.symmetric": True,
    }
    assert {name: values[name] for name in expected} == expected
    plain = (int, float, bool, str)
    for value in values.values():
        assert all(
            type(part) in plain
            for part in (value if type(value) is tuple else [value])
        )
    whole = tmp_path / "whole.py"
    text = complete_file(values | {"optimizer.learning_rate": 0})
    text = text.replace("learning_rate = 0\n", "learning_rate = np.half(0.5)\n")
    whole.write_text(f"import numpy as np\n{text}")
    assert configs.load(str(whole)).optimizer.learning_rate == 0.5


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(:", "failed: SyntaxError"),
        ("x = 1", "failed: AttributeError"),
        ("def get_config():\n    return {}", "Received dict"),
        (
            "import ml_collections\n"
            "def get_config():\n"
            "    return ml_collections.ConfigDict({'seed': 0})",
            "lacks checkpoint.every_steps",
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ValueError, match="broken.py") as error:
        configs.load(str(path))
    assert message in str(error.value)


# What runs did before these fields were: no change of the base may alter it.
LATER = {
    "method": "moco",
    "data.strength": 1.0,
    "data.small_views": 0,
    "data.small_size": 96,
    "data.small_scale": (0.05, 0.14),
    "data.augment_on": "host",
    "model.init": "",
    "model.init_head": "auto",
    "model.input": "rgb",
    "model.patch": 0,
    "model.norm": "batch",
    "model.hidden": 0,
    "model.sync_bn": False,
    "model.recompute": False,
    "model.freeze": "",
    "optimizer.clip_norm": 0.0,
    "optimizer.scaling": "none",
    "train.micro_batches": 1,
    "train.jit_compile": False,
    "knn.sample": 512,
    "probe.online": False,
    "probe.learning_rate": 1.0,
    "log.listeners": (),
    "moco.mask_same_image": False,
    "moco.batch_negatives": False,
    "moco.momentum_warmup_epochs": 0,
    "moco.fill_queue": False,
}


def test_a_file_from_before_a_field_gets_what_runs_did_then(tmp_path):
    values = values_of("moco_cifar10")
    old = {name: v for name, v in values.items() if name not in LATER}
    path = tmp_path / "old.py"
    path.write_text(complete_file(old))
    loaded = configs.flatten(configs.load(str(path)).to_dict())
    assert loaded == old | LATER
    saved = configs.flatten(configs.build(old).to_dict())
    assert saved == old | LATER


@pytest.mark.parametrize("name", ["moco.temperature", "train.batch_size"])
def test_a_field_that_always_was_is_not_filled_from_the_base(tmp_path, name):
    values = values_of("moco_cifar10")
    del values[name]
    path = tmp_path / "incomplete.py"
    path.write_text(complete_file(values))
    with pytest.raises(ValueError, match=f"incomplete.py lacks {name}"):
        configs.load(str(path))


@pytest.mark.parametrize(
    ("overrides", "votes"),
    [
        ({}, ("shapes:train", "shapes:test")),
        ({"data.source": "shapes:test"}, ("shapes:train", "shapes:test")),
        ({"data.source": "folder:mine"}, ("", "")),
        (
            {"data.source": "list:a", "knn.bank": "list:b", "knn.query": "x:y"},
            ("list:b", "x:y"),
        ),
        (
            {"data.source": "list:a", "knn.bank": "shapes:train"},
            ("shapes:train", "shapes:test"),  # as it was said
        ),
    ],
)
def test_other_images_are_not_told_by_votes_on_the_embedded_ones(
    overrides, votes
):
    config = configs.load("quickstart", overrides)
    assert (config.knn.bank, config.knn.query) == votes
    values = configs.flatten(config.to_dict())
    own = values["data.source"].startswith(("folder", "list"))
    is_shown = own and "shapes" in "".join(votes)
    assert configs.votes_on_other_images(values) is is_shown


def test_a_missing_file_and_an_unknown_name_are_refused():
    with pytest.raises(ValueError, match="not there: nowhere/x.py"):
        configs.load("nowhere/x.py")
    with pytest.raises(ValueError, match="Did you mean 'moco_cifar10'"):
        configs.load("cifar10")
    with pytest.raises(ValueError, match="no configuration '_base'"):
        configs.load("_base")


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("memory_bank_imagenet", {"data.small_views": "2"}, "has no use for"),
        ("moco_v2_imagenet", {"model.input": "lab"}, "takes model.input=rgb"),
        ("cmc_imagenet", {"model.input": "rgb"}, "takes model.input=lab"),
        ("cpc_imagenet", {"model.norm": "batch"}, "needs model.norm=layer"),
        ("cpc_imagenet", {"model.patch": "48"}, "multiple of its half"),
        ("swav_imagenet", {"data.small_size": "224"}, "small_size must be"),
        ("swav_imagenet", {"data.small_scale": "0.5,0.1"}, "two rising shares"),
        (
            "swav_small_batch",
            {"swav.queue_size": "9"},
            "0 or at least the batch",
        ),
        (
            "swav_imagenet",
            {
                "train.micro_batches": "2",
                "model.sync_bn": "false",
                "model.bn_groups": "2",
            },
            "codes are shares of the whole batch",
        ),
        (
            "cpc_imagenet",
            {"train.micro_batches": "2"},
            r"Pass --config.train.micro_batches=1\.$",
        ),
        (
            "cmc_imagenet",
            {"train.micro_batches": "2"},
            "or --config.cmc.loss=info_nce",
        ),
    ],
)
def test_a_method_refuses_what_it_cannot_honour(recipe, overrides, message):
    overrides = {"data.source": "shapes:train"} | overrides
    with pytest.raises(ValueError, match=message):
        plan.check(configs.load(recipe, overrides), 1)


def test_a_file_of_another_ending_is_refused(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("")
    with pytest.raises(
        ValueError, match=r"ends in \.py, .*Received .*mine.txt"
    ):
        configs.load(str(path))


YAML = """
data: {source: shapes:train}
model:
  width: 0.5
train.epochs: 7
optimizer:
  weight_decay: 1e-5
schedule: {name: cosine, milestones: [3, 4]}
"""


def test_yaml_and_json_count_over_the_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(YAML)
    config = configs.load(path, {"train.batch_size": "64"})
    assert config.model.width == 0.5 and config.train.epochs == 7
    assert config.optimizer.weight_decay == 1e-5  # text, to YAML
    assert config.schedule.milestones == (3, 4)
    assert config.train.batch_size == 64
    assert config.moco == configs.load("moco_v1_imagenet").moco
    tree = {"method": "byol", "byol": {"momentum": 0.5}}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(tree))
    config = configs.load(path)
    assert config.method == "byol" and config.byol.momentum == 0.5


def test_the_config_json_of_a_run_is_a_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configs.load("simclr_cifar10", {"data.source": "folder:a"})
    workdirs.save(config, tmp_path / "run")
    monkeypatch.chdir("/")
    again = configs.load(tmp_path / "run" / "config.json")
    assert again.data.source == f"folder:{tmp_path / 'a'}"  # from anywhere
    with again.unlocked():
        again.data.source = "folder:a"
    assert again.to_dict() == config.to_dict()
    with pytest.raises(ValueError, match="of the command linear. Received"):
        configs.load(tmp_path / "run" / "config.json", {}, "linear")


@pytest.mark.parametrize(
    "text, message",
    [
        ("train: {epoks: 3}", "no field config.train.epoks. Did you mean"),
        ("train: {epochs: many}", "config.train.epochs must be a whole number"),
        ("train: {epochs: 0}", "config.train.epochs must be at least 1"),
        ("train: {epochs: null}", "config.train.epochs must be a whole number"),
        ("train: 3", "no field config.train"),
        ("on: 3", "no field config.True"),  # as YAML 1.1 reads it
        ("train: {on: 3, 7: {no: 1}}", r"no field config.train.True\. "),
        ("- 3", "must hold sections of fields.*Received list"),
        ("a: [", "mine.yaml must be YAML"),
        ("method: mocco", "config.method must name a method.*'moco'"),
        ("a: !!python/object/apply:os.getcwd []", "mine.yaml must be YAML"),
    ],
)
def test_a_slip_in_yaml_is_refused_by_its_field(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        configs.load(path)
