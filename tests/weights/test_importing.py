"""Official weights become a run; what does not fit is listed at once."""

import argparse
import pickle
import re

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.evaluation import frozen
from moco_tf.training import checkpoints
from moco_tf.weights import importing
from tests import shallow, small_run
from tests.weights import small_weights, torch_files

_network = shallow.fixture((1, 1, 1, 1))


@pytest.fixture(scope="module")
def state():
    return small_weights.state_dict()


def _import(path, workdir, **fields):
    fields = {name.replace("__", "."): text for name, text in fields.items()}
    return importing.import_weights(
        path, workdir, overrides=small_weights.FIELDS | fields
    )


def _numbers(path):
    reader = tf.train.load_checkpoint(str(path / "state"))
    ends = "/.ATTRIBUTES/VARIABLE_VALUE"
    return lambda name: reader.get_tensor(f"model/{name}{ends}")


def test_a_published_checkpoint_becomes_a_run(state, tmp_path, capsys):
    momentum = small_weights.velocities(state)
    path = small_weights.write_moco(tmp_path / "m.pth.tar", state, momentum)
    saved = _import(path, tmp_path / "run")
    assert saved.name == "step-000000700"
    config = frozen.load_config(tmp_path / "run")
    assert config.model.backbone == "resnet18"
    assert (config.model.width, config.model.head) == (0.0625, "mlp")
    assert (config.moco.queue_size, config.model.dim) == (24, 8)
    assert config.moco.temperature == 0.2  # of v2
    meta = checkpoints.read_meta(saved)
    assert (meta["step"], meta["epoch"]) == (700, 200.0)
    value = _numbers(saved)
    np.testing.assert_array_equal(value("queue/keys"), state["module.queue"].T)
    assert value("queue/pointer") == 16
    assert value("step") == 700
    np.testing.assert_array_equal(value("queue/samples"), np.full(24, -1))
    text = capsys.readouterr().out
    assert "resnet18 x0.0625, imagenet stem, mlp head, 8 features" in text
    assert "note" not in text


def test_a_file_with_a_queue_is_refused_to_another_method(state, tmp_path):
    path = small_weights.write_moco(tmp_path / "m.pth.tar", state)
    with pytest.raises(ValueError, match="is a run of MoCo.*method simclr"):
        importing.import_weights(path, tmp_path / "run", "simclr_imagenet")
    assert not (tmp_path / "run").exists()


def test_v1_takes_the_configuration_of_v1(tmp_path):
    state = small_weights.state_dict(head="fc")
    path = small_weights.write_moco(tmp_path / "m.pth.tar", state, layout="tar")
    _import(path, tmp_path / "run")
    config = frozen.load_config(tmp_path / "run")
    assert (config.model.head, config.moco.temperature) == ("fc", 0.07)
    assert config.schedule.name == "step"


def test_an_imported_encoder_is_evaluated_like_any_other(state, tmp_path):
    path = small_weights.write_moco(tmp_path / "m.pth.tar", state)
    _import(path, tmp_path / "run")
    opened = frozen.open_frozen(str(tmp_path / "run"))
    named = small_weights.torch_layout.named_variables(opened.encoder)
    assert len(named) == 64
    for name, variable in named.items():
        value = small_weights.torch_layout.to_torch(variable.numpy())
        expected = state[f"module.encoder_q.{name}"]
        np.testing.assert_array_equal(value, expected, err_msg=name)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
    features = opened.encode(images.astype(np.uint8))
    assert features["projection"].shape == (2, 8)


def test_pretraining_goes_on_from_an_imported_queue(state, tmp_path):
    from moco_tf import pretrain

    images = small_run.write_images(tmp_path / "images")
    fields = {
        "data.source": f"folder:{images}",
        "data.threads": "2",
        "train.batch_size": "8",
        "train.epochs": "200",
        "train.max_steps": "702",
        "model.bn_groups": "2",
        "log.every_steps": "1",
        "log.tensorboard": "false",
    }
    path = small_weights.write_moco(tmp_path / "m.pth.tar", state)
    workdir = tmp_path / "run"
    importing.import_weights(
        path, workdir, overrides=small_weights.FIELDS | fields
    )
    config = frozen.load_config(workdir)
    pretrain.pretrain(config, workdir, tf.distribute.get_strategy())
    newest = checkpoints.latest(workdir)
    assert checkpoints.read_meta(newest)["step"] == 702
    value = _numbers(newest)
    # Two steps of 8 keys from position 16 on: 16..23 and 0..7 are new.
    assert value("queue/pointer") == 8
    written = np.flatnonzero(value("queue/steps") >= 0)
    np.testing.assert_array_equal(written, [*range(8), *range(16, 24)])
    np.testing.assert_array_equal(
        value("queue/keys")[8:16], state["module.queue"].T[8:16]
    )


def test_without_a_queue_pretraining_is_refused(state, tmp_path, capsys):
    from moco_tf import pretrain

    images = small_run.write_images(tmp_path / "images")
    queueless = {n: v for n, v in state.items() if n != "module.queue"}
    path = small_weights.write_moco(tmp_path / "m.pth.tar", queueless)
    workdir = tmp_path / "run"
    _import(
        path,
        workdir,
        data__source=f"folder:{images}",
        data__threads="1",
        train__batch_size="8",
        model__bn_groups="1",
    )
    text = capsys.readouterr().out
    assert "left out    module.queue_ptr, the key encoder" in text
    assert "`pretrain` cannot go on" in text
    config = frozen.load_config(workdir)
    with pytest.raises(ValueError, match="holds a query encoder alone"):
        pretrain.pretrain(config, workdir, tf.distribute.get_strategy())


def test_a_torchvision_file_gets_a_new_head_and_says_so(tmp_path, capsys):
    tensors = small_weights.tensors(counted=False)
    tensors = {n: v for n, v in tensors.items() if not n.startswith("fc")}
    tensors["fc.weight"] = np.zeros((1000, 32), np.float32)
    tensors["fc.bias"] = np.zeros(1000, np.float32)
    path = torch_files.write(tmp_path / "r.pth", "legacy", **tensors)
    saved = _import(path, tmp_path / "one")
    assert saved.name == "step-000000000"
    text = capsys.readouterr().out
    assert "left out    fc.weight, fc.bias" in text
    assert "new head: the file has none" in text
    _import(path, tmp_path / "two")
    one, two = (
        frozen.open_frozen(str(tmp_path / name)) for name in ("one", "two")
    )
    assert one.identity == two.identity  # the head comes from the seed
    np.testing.assert_array_equal(
        one.encoder.backbone.get_layer("layer4.0.bn2").moving_mean,
        tensors["layer4.0.bn2.running_mean"],
    )


def test_a_state_dict_with_module_before_each_name_is_read(tmp_path):
    tensors = small_weights.tensors()
    tensors = {f"module.{n}": v for n, v in tensors.items()}
    path = small_weights.write_moco(tmp_path / "r.pth.tar", tensors)
    _import(path, tmp_path / "run")
    assert frozen.load_config(tmp_path / "run").model.dim == 8


def test_half_precision_is_widened_without_loss(tmp_path, state):
    halved = {
        n: v.astype(np.float16) if v.dtype == np.float32 else v
        for n, v in state.items()
    }
    path = small_weights.write_moco(tmp_path / "m.pth.tar", halved)
    _import(path, tmp_path / "run")
    encoder = frozen.open_frozen(str(tmp_path / "run")).encoder
    np.testing.assert_array_equal(
        encoder.head.get_layer("fc.2").bias,
        halved["module.encoder_q.fc.2.bias"].astype(np.float32),
    )


@pytest.mark.parametrize("wrong", ["missing", "misshaped"])
def test_momentum_that_does_not_fit_is_reported(wrong, state, tmp_path, capsys):
    momentum = None
    if wrong == "misshaped":
        momentum = small_weights.velocities(state)
        momentum[3] = momentum[3][:-1]
    path = small_weights.write_moco(tmp_path / "m.pth.tar", state, momentum)
    saved = _import(path, tmp_path / "run")
    text = capsys.readouterr().out
    assert "no momentum for this optimiser: it starts from zero" in text
    velocity = _numbers(saved)("optimizer/_variables/1")
    np.testing.assert_array_equal(velocity, np.zeros_like(velocity))


def test_names_that_would_write_to_the_terminal_are_not_shown(tmp_path):
    path = torch_files.write(
        tmp_path / "x.pth", "zip", **{"a\x1b[2Jb": np.zeros(2), "c": np.ones(1)}
    )
    with pytest.raises(ValueError, match=r"Received a\?\[2Jb, c"):
        _import(path, tmp_path / "run")


def test_rounding_is_reported(tmp_path, capsys):
    state = {
        n: v.astype(np.float64) + (v.dtype == np.float32) * 1e-12
        if n.endswith("q.fc.2.weight")
        else v
        for n, v in small_weights.state_dict().items()
    }
    path = small_weights.write_moco(tmp_path / "m.pth.tar", state)
    _import(path, tmp_path / "run")
    text = capsys.readouterr().out
    assert "rounded from float64 to float32: 1 tensors" in text


def test_all_wrong_tensors_of_a_file_are_listed_at_once(state, tmp_path):
    wrong = dict(state)
    del wrong["module.encoder_q.layer2.0.bn1.bias"]
    wrong["module.encoder_q.bn1.weight"] = np.ones(5, np.float32)
    wrong["module.encoder_q.layer1.0.se.weight"] = np.ones(3, np.float32)
    wrong["module.encoder_k.fc.0.weight"] = np.ones((3, 2), np.float32)
    wrong["module.queue"] = np.ones((7, 24), np.float32)
    wrong["module.queue_ptr"] = np.array([24])
    path = small_weights.write_moco(tmp_path / "m.pth.tar", wrong)
    with pytest.raises(ValueError, match="6 are not") as caught:
        _import(path, tmp_path / "run")
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert lines == [
        "module.encoder_q.bn1.weight: shape (5,), where (8,) is needed",
        "module.encoder_q.layer2.0.bn1.bias: missing, of shape (8,)",
        "module.encoder_q.layer1.0.se.weight: shape (3,), of no such encoder",
        "module.encoder_k.fc.0.weight: shape (3, 2), where (32, 32) is needed",
        "module.queue: shape (7, 24), where (8, 24) is needed",
        "queue_ptr: [24], where one position of the queue is needed",
    ]
    assert not (tmp_path / "run").exists()


def test_a_message_has_an_end(tmp_path):
    tensors = small_weights.tensors(counted=False)
    odd = {f"layer1.0.odd{n}": np.zeros(1) for n in range(20_000)}
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(tensors | odd))
    with pytest.raises(ValueError, match="of no such encoder") as caught:
        _import(path, tmp_path / "run", model__backbone="resnet18")
    assert len(str(caught.value).splitlines()) == 1002
    assert str(caught.value).endswith("and 19000 more")


def test_detectron2_names_are_listed_in_their_spelling(tmp_path):
    model = {"res2.0.conv1.weight": np.zeros((8, 8, 3, 3), np.float32)}
    for stage in (2, 3, 4, 5):
        model[f"res{stage}.0.conv1.norm.bias"] = np.zeros(8)
    path = tmp_path / "d.pkl"
    path.write_bytes(pickle.dumps({"model": model, "__author__": "MOCO"}))
    with pytest.raises(ValueError, match="stem.conv1.weight: missing"):
        _import(path, tmp_path / "run", model__width="0.0625")


def test_a_workdir_with_a_run_is_left_alone(state, tmp_path):
    path = small_weights.write_moco(tmp_path / "m.pth.tar", state)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a run. Pass another --workdir"):
        _import(path, tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": 1}, "names of a MoCo checkpoint.*Received a"),
        ({"x.weight": np.zeros(2)}, "Received x.weight"),
        ({"state_dict": {"w": 1}}, "Received state_dict"),
    ],
)
def test_other_files_of_torch_are_refused(values, message, tmp_path):
    path = torch_files.write(tmp_path / "x.pth", "zip", **values)
    with pytest.raises(ValueError, match=message):
        _import(path, tmp_path / "run")


def test_a_list_is_no_file_of_weights(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="dict of tensors. Received a list"):
        _import(path, tmp_path / "run")


def test_the_encoder_that_is_taken_is_said_and_flags_take_another(
    tmp_path, capsys
):
    tensors = small_weights.tensors(counted=False)
    tensors = {n: v for n, v in tensors.items() if not n.startswith("fc")}
    saved = {
        "teacher": {f"backbone.{n}": v + 1 for n, v in tensors.items()},
        "student": {f"module.backbone.{n}": v for n, v in tensors.items()},
        "args": argparse.Namespace(lr=0.1),
    }
    path = tmp_path / "dino.pkl"
    path.write_bytes(pickle.dumps(saved))
    _import(path, tmp_path / "one")
    text = capsys.readouterr().out
    assert "found at    entry student, prefix module.backbone.\n" in text
    assert (
        f"left out    the encoder teacher.backbone ({len(tensors)} tensors), "
        "args (argparse.Namespace)\n"
    ) in text
    (flags,) = re.findall("for another: (.*)", text)
    options = dict(f.removeprefix("--").split("=") for f in flags.split())
    importing.import_weights(
        path, tmp_path / "two", overrides=small_weights.FIELDS, **options
    )
    one, two = (
        frozen.open_frozen(str(tmp_path / name)).encoder.backbone
        for name in ("one", "two")
    )
    for ours, theirs in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(ours + 1, theirs)
