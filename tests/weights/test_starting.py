"""A run that starts from weights: what is taken, left out, new and refused."""

import functools
import itertools
import json

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from moco_tf import plan, workdirs
from moco_tf.evaluation import frozen
from moco_tf.methods import table
from moco_tf.training import checkpoints
from moco_tf.weights import conversion, origin, starting
from tests import shallow
from tests.methods import every_method
from tests.weights import small_weights
from tests.weights.small_weights import torch_layout

_network = shallow.fixture((1, 1, 1, 1))
METHODS = sorted(table.METHODS)
RGB = [name for name in METHODS if name not in ("cmc", "cpc")]


def make_config(name, **fields):
    """A configuration of a method with an encoder as small_weights has it."""
    known = {
        "model__width": 0.0625,
        "model__stem": "imagenet",
        "data__image_size": 32,
        "model__dim": small_weights.DIM,
    }
    return every_method.make_config(name, **known | fields)


@functools.cache
def made(name):
    """The method of a configuration, once for all tests; each sets it anew."""
    strategy = tf.distribute.get_strategy()
    return plan.make_method(make_config(name), strategy, every_method.IMAGES)


def begin(text, name, **fields):
    """The method of a run that starts from a text, and its Start."""
    weights = origin.read(str(text), name)
    method = made(name)
    return method, starting.start(weights, method, make_config(name, **fields))


def images(channels=3):
    return tf.random.stateless_normal([2, 32, 32, channels], [0, 1])


def features(method):
    """Features of both layers of the query encoder, arrays."""
    channels = method.backbone.input_shape[-1]
    return [x.numpy() for x in method.query_encoder.features(images(channels))]


def randomize(method):
    """Sets all that is taken of a method to other values; returns them."""
    parts = ["query_encoder", *method.BEHIND_HEAD]
    for place, part in enumerate(parts):
        for name, variable in origin.named(getattr(method, part)).items():
            seed = [place, len(name)]
            shift = tf.random.stateless_uniform(variable.shape, seed)
            variable.assign(variable + 0.1 * shift)
    return {part: values(getattr(method, part)) for part in parts}


def values(part):
    return {name: v.numpy() for name, v in origin.named(part).items()}


@functools.cache
def expected_features(seed, head):
    """Features of small_weights.tensors, set by the names of the tests' map."""
    config = make_config("moco", model__head=head)
    encoder = frozen.build_encoder(config)
    tensors = small_weights.tensors(seed=seed, head=head)
    for name, variable in torch_layout.named_variables(encoder).items():
        value = tensors[name]
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, (0,))
        variable.assign(value.transpose(axes))
    return [x.numpy() for x in encoder.features(images())]


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory):
    """Files by layout, of the seed 3: MoCo's own, with both heads; 8: plain."""
    folder = tmp_path_factory.mktemp("files")
    files = {}
    for head in ("fc", "mlp"):
        state = small_weights.state_dict(head)
        path = folder / f"{head}.pth.tar"
        files[head] = small_weights.write_moco(path, state)
    tensors = small_weights.tensors(seed=8, counted=False)
    tensors = {n: v for n, v in tensors.items() if not n.startswith("fc.")}
    tensors["fc.weight"] = np.zeros([10, 32], np.float32)  # a classifier
    tensors["fc.bias"] = np.zeros([10], np.float32)
    files["torchvision"] = folder / "torchvision.safetensors"
    safetensors.numpy.save_file(tensors, files["torchvision"])
    return files


@pytest.mark.parametrize("name", RGB)
def test_a_method_starts_with_the_features_of_a_file(files, name):
    method, start = begin(files["torchvision"], name)
    expected = expected_features(8, "mlp")[0]
    np.testing.assert_allclose(features(method)[0], expected, atol=1e-5)
    assert {part for part, *_ in start.taken} == {"backbone"}
    for head in ("fc", "mlp"):
        method, start = begin(files[head], name)
        pairs = zip(features(method), expected_features(3, head), strict=True)
        fits = make_config(name).model.head == head
        for one, two in itertools.islice(pairs, 1 + fits):
            np.testing.assert_allclose(one, two, atol=1e-5)
        parts = {"backbone", "head"} if fits else {"backbone"}
        assert {part for part, *_ in start.taken} == parts
    if method.key_encoder is not None:
        for one, two in zip(
            method.key_encoder.weights,
            method.query_encoder.weights,
            strict=True,
        ):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["cmc", "cpc"])
def test_a_method_of_another_input_refuses_a_file(files, name):
    before = features(made(name))
    with pytest.raises(ValueError, match="must name weights of the enc") as e:
        begin(files["torchvision"], name)
    given = make_config(name).model.input
    assert "input rgb, batch norm; the configuration has" in str(e.value)
    assert f"The method {name} takes model.input={given}" in str(e.value)
    for one, two in zip(before, features(made(name)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory):
    """A function of a method's name -> a workdir of it, and its weights."""

    @functools.cache
    def run(name):
        method = made(name)
        was = randomize(method)
        workdir = tmp_path_factory.mktemp(name)
        workdirs.save(make_config(name), workdir)
        checkpoints.save(method, workdir, 1, {})
        return workdir, was

    return run


@pytest.mark.parametrize("name", METHODS)
def test_a_method_starts_with_all_that_its_own_run_has_learned(runs, name):
    workdir, was = runs(name)
    randomize(made(name))
    method, start = begin(workdir, name)
    behind = method.BEHIND_HEAD
    assert {part for part, *_ in start.taken} == {"backbone", "head", *behind}
    pairs = {part: part for part in was}
    pairs |= {other: equal for other, equal in start.equal.items()}
    for part, origin_of_it in pairs.items():
        for key, value in values(getattr(method, part)).items():
            np.testing.assert_array_equal(value, was[origin_of_it][key])
    # All of the method is in one list or another.
    counted = len(start.taken) + len(start.new)
    counted += sum(len(values(getattr(method, n))) for n in start.equal)
    optimizer = method.optimizer.variables
    optimizer = optimizer() if callable(optimizer) else optimizer
    known = [method.step, method.step_log.values, *optimizer]
    known = {variable.ref() for variable in known}
    assert counted == len({v.ref() for v in method.variables} - known)


@pytest.mark.parametrize("name", RGB)
def test_a_method_starts_from_the_run_of_another(runs, name):
    workdir, was = runs("moco" if name == "byol" else "byol")
    method, start = begin(workdir, name)
    now = values(method.backbone)
    for key, value in now.items():
        np.testing.assert_array_equal(value, was["query_encoder"][key])
    assert not {part for part, *_ in start.taken} & set(method.BEHIND_HEAD)


def test_the_list_has_what_was_taken_left_out_and_new(files, tmp_path):
    state = small_weights.state_dict()
    method, start = begin(files["mlp"], "simclr")
    start.save(tmp_path)
    listed = json.loads((tmp_path / starting.FILE).read_text())
    backbone = small_weights.tensors(counted=False)
    heads = {name for name in backbone if name.startswith("fc.")}
    spelled = {row["file"] for row in listed["taken"]}
    assert spelled == {
        f"module.encoder_q.{name}" for name in set(backbone) - heads
    }
    (row,) = [r for r in listed["taken"] if r["name"] == "conv1/kernel"]
    assert row["shape"] == [7, 7, 3, 8]  # ours; the file has it as 8, 3, 7, 7
    left_out = {row["name"]: row["shape"] for row in listed["left_out"]}
    assert left_out["queue"] == [small_weights.DIM, small_weights.QUEUE]
    key = {name for name in state if name.startswith("module.encoder_k")}
    counters = {name for name in key if name.endswith("tracked")}
    assert set(left_out) >= key - counters
    assert left_out["fc.0/kernel"] == [32, 32]
    assert {row["name"]: row["shape"] for row in listed["new"]} == {
        f"head/{name}": list(variable.shape)
        for name, variable in origin.named(method.query_encoder.head).items()
    }
    assert listed["path"] == str(files["mlp"]) and len(listed["digest"]) == 64
    words = start.describe()
    assert "60 tensors of the backbone" in words
    assert "head     new: it is of another form" in words
    assert "64 of the key encoder" in words
    assert starting.FILE in words


def test_frozen_parameters_have_no_momentum_in_torchs_optimizer():
    fields = {"model__freeze": "stem", "model__init": "weights.pth"}
    config = make_config("moco", **fields)
    strategy = tf.distribute.get_strategy()
    method = plan.make_method(config, strategy, every_method.IMAGES)
    saved = conversion.torch_optimizer(method, config)
    names = conversion.parameters(method.query_encoder)
    stem = [n for n in names if n.startswith(("conv1.", "bn1."))]
    assert names[:3] == stem  # torch lists them first
    assert sorted(saved["state"]) == list(range(3, len(names)))
    (group,) = saved["param_groups"]
    assert group["params"] == list(range(2 * len(names)))
