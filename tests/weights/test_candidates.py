"""Encoders are found in the files that people have, exactly as written."""

import argparse
import collections
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moco_tf import config as configs
from moco_tf.evaluation import frozen
from moco_tf.weights import candidates, conversion, layouts, weight_files
from tests import properties
from tests.weights import small_weights, torch_files

HEAD = ("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias")
EXTRA = {
    "head.weight": np.ones((4, 3), np.float32),
    "prototypes.weight": np.ones((5, 3), np.float32),
    "mean": np.zeros(3, np.float32),
}


@pytest.fixture(name="tensors", scope="module")
def _tensors():
    """A backbone's tensors by torchvision's names, in its order."""
    return _backbone(small_weights.tensors())


@pytest.fixture(name="average", scope="module")
def _average(tensors):
    return {
        name: (value + 1).astype(value.dtype) for name, value in tensors.items()
    }


@pytest.fixture(name="encoder", scope="module")
def _encoder():
    fields = {"model.backbone": "resnet18", "model.width": "0.0625"}
    return frozen.build_encoder(
        configs.load("moco_v2_imagenet", fields | small_weights.FIELDS)
    )


def _backbone(tensors):
    return {n: v for n, v in tensors.items() if not n.startswith("fc.")}


def _behind(prefix):
    return lambda tensors: {prefix + n: v for n, v in tensors.items()}


def _at(*keys, prefix="", beside=None):
    def nest(tensors):
        saved = _behind(prefix)(tensors)
        for key in reversed(keys):
            saved = {key: saved}
        return saved | (beside or {})

    return nest


def _sequential(prefix, stem, first, *, nested=False, linear=None):
    """Children by their number: the stem's, then the stages from `first` on."""

    def rename(tensors):
        saved = {}
        for name, value in tensors.items():
            layer, _, leaf = name.partition(".")
            if layer.startswith("layer"):
                number = first + int(layer.removeprefix("layer")) - 1
                saved[f"{prefix}{number}.{leaf}"] = value
            else:
                number = stem[layer]
                number = f"0.{number}" if nested else number
                saved[f"{prefix}{number}.{leaf}"] = value
        if linear:
            saved[f"{prefix}{linear}.weight"] = np.ones((10, 4), np.float32)
            saved[f"{prefix}{linear}.bias"] = np.ones(10, np.float32)
        return saved

    return rename


FACE = {
    "conv1.weight": "embedder.embedder.convolution.weight",
    "bn1.bias": "embedder.embedder.normalization.bias",
    "layer1.0.conv1.weight": (
        "encoder.stages.0.layers.0.layer.0.convolution.weight"
    ),
    "layer4.1.bn2.running_var": (
        "encoder.stages.3.layers.1.layer.1.normalization.running_var"
    ),
    "layer2.0.downsample.0.weight": (
        "encoder.stages.1.layers.0.shortcut.convolution.weight"
    ),
    "layer2.0.downsample.1.num_batches_tracked": (
        "encoder.stages.1.layers.0.shortcut.normalization.num_batches_tracked"
    ),
}


def _face_name(name):
    *layer, leaf = name.split(".")
    kind = "convolution" if "conv" in name or "sample.0" in name else ""
    kind = kind or "normalization"
    if len(layer) == 1:
        return f"embedder.embedder.{kind}.{leaf}"
    stage, block = int(layer[0][-1]) - 1, layer[1]
    part = "shortcut" if layer[2] == "downsample" else None
    part = part or f"layer.{int(layer[2][-1]) - 1}"
    return f"encoder.stages.{stage}.layers.{block}.{part}.{kind}.{leaf}"


def _face(prefix):
    return lambda tensors: {
        prefix + _face_name(n): v for n, v in tensors.items()
    }


def _detectron2(prefix):
    return lambda tensors: {
        prefix + layouts.to_detectron2(n): v for n, v in tensors.items()
    }


def _by_layer(tensors):
    saved = {}
    for name, value in tensors.items():
        place = saved
        *keys, leaf = name.split(".")
        for key in keys:
            place = place.setdefault(key, {})
        place[leaf] = value
    return {"params": saved, "step": 3}


def _replaced(old, new, prefix=""):
    return lambda tensors: {
        prefix + n.replace(old, new): v for n, v in tensors.items()
    }


def _in_wrappers(tensors):
    """A compiled module whose stages are wrapped one by one."""
    return {
        "_orig_mod."
        + n.replace("layer3.", "layer3._checkpoint_wrapped_module.").replace(
            "layer4.0.", "layer4._fsdp_wrapped_module.0.module."
        ): v
        for n, v in tensors.items()
    }


PREFIXES = """_orig_mod. module. module.module. module._orig_mod.
    _orig_mod.module. module._orig_mod.module. _orig_mod._orig_mod.
    backbone. backbone.0. encoder. encoder.0. base_encoder. module.encoder.
    module.base_encoder. student. student.backbone. module.backbone.
    online_encoder.net. online_network. online_net.0. encoder_q. encoder_q.0.
    model. model.backbone. net. resnet. feature_extractor. trunk.base_model.
    backbone.body. image_encoder.model. momentum_encoder. teacher.
    sparse_encoder.sp_cnn. model.module._orig_mod.visual.trunk.""".split()
CASES = {
    **{prefix: _behind(prefix) for prefix in PREFIXES},
    **{
        key: _at(key, beside={"epoch": 3, "best_acc1": 0.5})
        for key in """model_state_dict model net state_dict network weights
            encoder params state student online query model_ema""".split()
    },
    "VISSL": _at(
        "classy_state_dict",
        "base_model",
        "model",
        "trunk",
        prefix="_feature_blocks.",
        beside={"phase_idx": 3, "type": "checkpoint"},
    ),
    "nested": _at("a", "b.c", "d", "module", prefix="backbone."),
    "numbers": _at("models", 0, prefix="module."),
    "lightning": _at(
        "state_dict",
        prefix="model.",
        beside={
            "pytorch-lightning_version": "2.5",
            "hyper_parameters": argparse.Namespace(lr=0.1),
            "callbacks": {"ModelCheckpoint": {"best_model_score": 0.4}},
            "optimizer_states": [{"state": {0: {"step": 1}}}],
        },
    ),
    "mmselfsup": _at(
        "state_dict", prefix="backbone.", beside={"meta": {"env_info": "a"}}
    ),
    "layer by layer": _by_layer,
    "wrapped inside": _in_wrappers,
    "fc beside": lambda t: t | {"fc.weight": np.ones((9, 4), np.float32)},
    "lightly": _sequential("backbone.", {"conv1": 0, "bn1": 1}, 2),
    "children": _sequential("backbone.", {"conv1": 0, "bn1": 1}, 4),
    "colab": _sequential(
        "encoder_q.net.", {"conv1": 0, "bn1": 1}, 3, linear="9"
    ),
    "Sequential in Sequential": _sequential(
        "encoder_q.0.", {"conv1": 0, "bn1": 1}, 4
    ),
    "fastai": _sequential("0.", {"conv1": 0, "bn1": 1}, 4),
    "stem in Sequential": _sequential(
        "", {"conv1": 0, "bn1": 1}, 1, nested=True
    ),
    "SimCLR": _sequential("f.", {"conv1": 0, "bn1": 1}, 3, linear="8"),
    "Hugging Face": _face(""),
    "Hugging Face, classifier": _face("resnet."),
    "Hugging Face, backbone": _face("model.backbone.conv_encoder.model."),
    "detectron2": _detectron2(""),
    "detectron2, model": _detectron2("backbone.bottom_up."),
    "shortcut": _replaced("downsample", "shortcut", "encoder."),
    "layer0": lambda t: {
        ("layer0." + n if n[:5] in ("conv1", "bn1.w", "bn1.b", "bn1.r", "bn1.n")
         else n): v for n, v in t.items()
    },
    "stem": lambda t: {
        (n if n.startswith("layer") else
         "stem." + n.replace("conv1", "0").replace("bn1", "1")): v
        for n, v in t.items()
    },
}  # fmt: skip


def _assert_read(encoder, file, tensors):
    """The encoder has the tensors of a file, and they are those written."""
    query = {name: file.query[name] for name in file.query}
    counters = file.counts["query"]
    small_weights.assert_same_tensors(
        {name: (query | counters)[name] for name in tensors}, tensors
    )
    assert set(query) | set(counters) == set(tensors)
    for model in (encoder.backbone, encoder.head):
        for variable in model.weights:
            variable.assign(variable * 0 - 7)
    conversion.assign(encoder, query)
    imported = conversion.collect(encoder)
    for name, value in tensors.items():
        if name not in counters:
            np.testing.assert_array_equal(imported[name], value, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_an_encoder_is_found_as_it_was_written(
    case, encoder, tensors, tmp_path
):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(CASES[case](tensors)))
    file = weight_files.read(path)
    _assert_read(encoder, file, tensors)
    fields = layouts.architecture(file.query)
    assert fields["model.backbone"] == "resnet18"
    assert fields["model.width"] == 0.0625


PARTS = """_orig_mod module backbone 0 encoder model net base_encoder trunk
    student f features visual _fsdp_wrapped_module state_dict encoder_q 12
    layer1 conv1 resnet stages""".split()
SPELLINGS = {
    "torchvision": lambda prefix: _behind(prefix),
    "detectron2": _detectron2,
    "hugging face": _face,
    "sequential": lambda p: _sequential(p, {"conv1": 0, "bn1": 1}, 4),
}


@properties.few
@given(
    keys=st.lists(st.sampled_from(PARTS), max_size=4),
    parts=st.lists(st.sampled_from(PARTS), max_size=6),
    style=st.sampled_from(sorted(SPELLINGS)),
)
def test_an_encoder_is_found_behind_any_keys_and_any_prefix(
    keys, parts, style, tensors
):
    prefix = "".join(f"{part}." for part in parts)
    saved = SPELLINGS[style](prefix)(tensors)
    for key in reversed(keys):
        saved = {key: saved, "epoch": 3}
    encoders = candidates.find(candidates.values_of(saved))
    chosen = candidates.choose(encoders)
    assert (chosen.style, chosen.missing) == (style, 0)
    assert chosen.root == "".join(f"{key}." for key in keys) + prefix
    assert {
        name: id(value) for name, value in chosen.spelled.tensors.items()
    } == {name: id(value) for name, value in tensors.items()}


@pytest.mark.parametrize("layout", ["zip", "legacy", "tar"])
@pytest.mark.parametrize("case", ["VISSL", "module._orig_mod.", "fastai"])
def test_the_layouts_of_torch_do_not_matter(
    case, layout, encoder, tensors, tmp_path
):
    saved = CASES[case](tensors)
    path = torch_files.write(tmp_path / "w.pth", layout, **saved)
    _assert_read(encoder, weight_files.read(path), tensors)


def test_the_names_of_hugging_face_are_those_of_its_files(tensors):
    for name, theirs in FACE.items():
        assert _face_name(name) == theirs
        assert name in tensors


@pytest.mark.parametrize(
    ("trained", "other"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("net", "ema_model"),
        ("student", "teacher"),
        ("online", "target"),
        ("online_network", "target_network"),
        ("query_encoder", "key_encoder"),
        ("backbone", "momentum_backbone"),
        ("backbone", "backbone_momentum"),
        ("model", "modelEMA"),
        ("base_encoder", "momentum_encoder"),
        ("net", "shadow"),
    ],
)
@pytest.mark.parametrize("form", ["entry", "prefix"])
def test_the_trained_encoder_comes_before_its_average(
    form, trained, other, tensors, average, tmp_path
):
    path = tmp_path / "w.pkl"
    both = {other: average, trained: tensors}
    if form == "prefix":
        both = {
            f"{key}.{n}": v for key, t in both.items() for n, v in t.items()
        }
    path.write_bytes(pickle.dumps(both))
    file = weight_files.read(path)
    np.testing.assert_array_equal(
        file.query["conv1.weight"], tensors["conv1.weight"]
    )
    assert [c.root for c in file.others] == [f"{other}."]
    # The flags that the program prints choose the other one.
    flags = file.others[0].flags.split()
    chosen = {
        f.partition("=")[0].lstrip("-"): f.partition("=")[2] for f in flags
    }
    again = weight_files.read(path, **chosen)
    np.testing.assert_array_equal(
        again.query["conv1.weight"], average["conv1.weight"]
    )
    assert any(trained in name for name in again.left_out)


def test_two_encoders_of_equal_rank_are_listed(tensors, average, tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"a": tensors, "b": average}))
    with pytest.raises(ValueError, match="2 encoders that differ") as caught:
        weight_files.read(path)
    assert "--entry=a --prefix=.\n  --entry=b --prefix=." in str(caught.value)
    file = weight_files.read(path, entry="b", prefix=".")
    np.testing.assert_array_equal(file.query["bn1.bias"], average["bn1.bias"])


def test_an_encoder_that_stands_twice_is_one(tensors, tmp_path):
    path = tmp_path / "w.pkl"
    twice = _behind("backbone.")(tensors) | _behind("encoder_q.0.")(tensors)
    path.write_bytes(pickle.dumps({"state_dict": twice}))
    assert weight_files.read(path).chosen.prefix == "backbone."


def test_a_place_without_an_encoder_lists_those_there_are(tensors, tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"model": _behind("net.")(tensors)}))
    for wanted in ({"entry": "mod"}, {"prefix": "ne"}, {"entry": "."}):
        with pytest.raises(ValueError, match="--entry=model --prefix=net."):
            weight_files.read(path, **wanted)


def test_what_stands_beside_an_encoder_is_listed(tensors, tmp_path):
    path = tmp_path / "w.pkl"
    saved = {
        "model": _behind("module.")(tensors | EXTRA),
        "optimizer": {"state": {n: {"m": np.ones(2)} for n in range(3)}},
        "args": argparse.Namespace(lr=0.1),
    }
    path.write_bytes(pickle.dumps(saved))
    assert weight_files.read(path).left_out == (
        *(f"module.{name}" for name in EXTRA),
        "optimizer (3 tensors)",
        "args (argparse.Namespace)",
    )


@pytest.mark.parametrize(
    "name",
    [
        "layer1.0.se.fc.weight",
        "conv1.bias",
        "layer2.0.conv1.weight_mask",
        "bn2.weight",
        "layer5.0.conv1.weight",
        "stem.0.weight",
    ],
)
def test_what_stands_inside_an_encoder_is_no_small_matter(
    name, encoder, tensors, tmp_path
):
    path = tmp_path / "w.pkl"
    odd = tensors | {name: np.ones(3, np.float32)}
    path.write_bytes(pickle.dumps(_behind("net.")(odd)))
    file = weight_files.read(path)
    expected = {
        n: s
        for n, s in conversion.shapes(encoder).items()
        if not n.startswith("fc.")
    }
    assert layouts.problems(file.query, expected, file.spell) == [
        f"net.{name}: shape (3,), of no such encoder"
    ]


@pytest.mark.parametrize(
    "style", ["", "Hugging Face", "children", "detectron2"]
)
def test_missing_tensors_are_named_as_the_file_would(style, tensors, tmp_path):
    lost = "layer3.1.bn2.running_var"
    path = tmp_path / "w.pkl"
    convert = CASES[style] if style else dict
    complete, part = (
        convert({n: v for n, v in tensors.items() if n != name})
        for name in ("", lost)
    )
    path.write_bytes(pickle.dumps(part))
    file = weight_files.read(path)
    assert file.chosen.missing == 1
    (spelled,) = set(complete) - set(part)
    assert file.spell(lost) == spelled


def test_objects_in_the_place_of_weights_are_named(tensors, encoder, tmp_path):
    path = tmp_path / "w.pkl"
    odd = tensors | {
        "conv1.weight": argparse.Namespace(),
        "bn1.bias": 3.5,
        "layer1.0.bn1.weight": np.array(["a"]),
    }
    path.write_bytes(pickle.dumps(odd))
    file = weight_files.read(path)
    expected = {
        n: s
        for n, s in conversion.shapes(encoder).items()
        if not n.startswith("fc.")
    }
    assert layouts.problems(file.query, expected, file.spell) == [
        "conv1.weight: argparse.Namespace, where a tensor is needed",
        "bn1.bias: a float, where a tensor is needed",
        "layer1.0.bn1.weight: an array of numpy.dtype U1, where a tensor is "
        "needed",
    ]


def test_a_model_that_was_saved_as_an_object_is_named(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"model": argparse.Namespace(), "epoch": 3}))
    with pytest.raises(ValueError, match=r"model \(argparse.Namespace\)"):
        weight_files.read(path)


def test_heads_of_other_methods_are_left_out(tensors, tmp_path):
    path = tmp_path / "w.pkl"
    head = {f"fc.{n}.weight": np.ones((4, 4), np.float32) for n in (0, 1, 3)}
    path.write_bytes(pickle.dumps(tensors | head))
    file = weight_files.read(path)
    assert not any(name.startswith("fc.") for name in file.query)
    assert set(file.left_out) == set(head)


@pytest.mark.parametrize("count", [7, 7.5, np.array(7.0), np.int64(7), None])
def test_counters_of_any_kind_do_no_harm(count, tensors, tmp_path):
    end = ".num_batches_tracked"
    odd = {n: count if n.endswith(end) else v for n, v in tensors.items()}
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(odd))
    file = weight_files.read(path)
    assert not any(name.endswith(end) for name in file.query)
    counts = {int(value) for value in file.counts["query"].values()}
    assert counts == ({7} if isinstance(count, int | np.int64) else set())
    assert file.left_out == ()


def test_a_head_of_two_layers_is_read(tmp_path):
    tensors = small_weights.tensors()
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(_behind("backbone.")(tensors)))
    assert set(HEAD) <= set(weight_files.read(path).query)


def _cycle(tensors):
    saved = {"model": tensors}
    saved["self"] = saved
    return saved


def _repeated(tensors):
    """A dict of two of a dict of two ...: few bytes, a billion values."""
    layer = {"w": np.ones(2)}
    for _ in range(30):
        layer = {"a": layer, "b": layer}
    return {"model": tensors, "more": layer}


def test_a_dict_in_itself_is_walked_once(tensors, tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(_cycle(tensors)))
    assert weight_files.read(path).chosen.entry == "model"


def test_a_file_that_repeats_without_end_is_refused(tensors, tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(_repeated(tensors)))
    with pytest.raises(ValueError, match="repeats its values"):
        weight_files.read(path)


def test_a_file_that_is_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(
        torch_files.pickled(b"}" + (b"X\1\0\0\0a" + b"}") * 50 + b"s" * 50)
    )
    with pytest.raises(ValueError, match="nested more than 40 deep"):
        weight_files.read(path)


def test_names_that_are_made_to_be_slow_are_passed_over(tensors, tmp_path):
    path = tmp_path / "w.pkl"
    odd = {f"{'a.' * 20000}conv1.weight": 0, f"{'9' * 300}.0.conv1.weight": 0}
    path.write_bytes(pickle.dumps(tensors | odd))
    assert weight_files.read(path).chosen.missing == 0


def test_settings_of_every_kind_do_no_harm(tensors, tmp_path):
    saved = {
        "counter": collections.Counter(a=2),
        "default": collections.defaultdict(list, a=[1]),
    }
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(saved | {"state_dict": tensors}))
    assert weight_files.read(path).chosen.entry == "state_dict"
