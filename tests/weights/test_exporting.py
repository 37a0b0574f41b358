"""A run's weights in the layouts of others, bit by bit."""

import pickle
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import plan, workdirs
from moco_tf.methods import online_probe
from moco_tf.training import checkpoints
from moco_tf.weights import exporting, importing, torch_file
from tests import shallow, ugly_names
from tests.evaluation import small_encoder
from tests.methods import every_method
from tests.weights import small_weights, torch_files

_network = shallow.fixture((1, 1, 1, 1))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A workdir from a published checkpoint, with its tensors."""
    folder = tmp_path_factory.mktemp("imported")
    state = small_weights.state_dict()
    momentum = small_weights.velocities(state)
    path = small_weights.write_moco(folder / "m.pth.tar", state, momentum)
    _import(path, folder / "run")
    return folder / "run", state, momentum


def _import(path, workdir):
    importing.import_weights(path, workdir, overrides=small_weights.FIELDS)


def _export(workdir, path, layout):
    exporting.export_weights(workdir, "latest", path, layout)
    return path


def test_a_published_checkpoint_comes_out_as_it_went_in(imported, tmp_path):
    workdir, state, momentum = imported
    loaded = torch_file.read(_export(workdir, tmp_path / "m.pth.tar", "moco"))
    assert list(loaded) == ["epoch", "arch", "state_dict", "optimizer"]
    assert (loaded["epoch"], loaded["arch"]) == (200, "resnet18")
    small_weights.assert_same_tensors(loaded["state_dict"], state)
    states = loaded["optimizer"]["state"]
    assert list(states) == list(range(len(momentum)))
    for number, value in enumerate(momentum):
        velocity = states[number]["momentum_buffer"]
        assert velocity.tobytes() == value.tobytes()
    (group,) = loaded["optimizer"]["param_groups"]
    assert group["params"] == list(range(2 * len(momentum)))
    assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)


@pytest.mark.parametrize(("counted", "depth"), [(True, 50), (False, 18)])
def test_a_torchvision_file_comes_out_as_it_went_in(counted, depth, tmp_path):
    tensors = small_weights.tensors(depth=depth, counted=counted)
    tensors = {n: v for n, v in tensors.items() if not n.startswith("fc")}
    _import(
        torch_files.write(tmp_path / "in.pth", "zip", **tensors),
        tmp_path / "run",
    )
    path = _export(tmp_path / "run", tmp_path / "out.pth", "torchvision")
    small_weights.assert_same_tensors(torch_file.read(path), tensors)


def test_counters_that_differ_come_back(tmp_path):
    tensors = small_weights.tensors()
    tensors = {n: v for n, v in tensors.items() if not n.startswith("fc")}
    tensors["layer1.0.bn1.num_batches_tracked"] = np.array(3)
    _import(
        torch_files.write(tmp_path / "in.pth", "zip", **tensors),
        tmp_path / "run",
    )
    path = _export(tmp_path / "run", tmp_path / "out.pth", "torchvision")
    small_weights.assert_same_tensors(torch_file.read(path), tensors)


def _converted(state):
    """What MoCo's conversion to detectron2 makes of a state dict."""
    model = {}
    for name, value in state.items():
        if not name.startswith("module.encoder_q."):
            continue
        name = name.replace("module.encoder_q.", "")
        if "layer" not in name:
            name = "stem." + name
        for t in (1, 2, 3, 4):
            name = name.replace(f"layer{t}", f"res{t + 1}")
        for t in (1, 2, 3):
            name = name.replace(f"bn{t}", f"conv{t}.norm")
        name = name.replace("downsample.0", "shortcut")
        model[name.replace("downsample.1", "shortcut.norm")] = value
    return {"model": model, "__author__": "MOCO", "matching_heuristics": True}


def test_detectron2_gets_the_file_of_the_published_conversion(
    imported, tmp_path
):
    workdir, state, _ = imported
    path = _export(workdir, tmp_path / "d.pkl", "detectron2")
    with open(path, "rb") as file:
        loaded = pickle.load(file)
    expected = _converted(state)
    small_weights.assert_same_tensors(
        loaded.pop("model"), expected.pop("model")
    )
    assert loaded == expected


@pytest.mark.parametrize("headless", [False, True])
def test_a_detectron2_file_comes_out_as_it_went_in(headless, tmp_path):
    tensors = {
        f"module.encoder_q.{name}": value
        for name, value in small_weights.tensors().items()
        if not (headless and name.startswith("fc"))
    }
    saved = _converted(tensors)
    (tmp_path / "in.pkl").write_bytes(pickle.dumps(saved))
    _import(tmp_path / "in.pkl", tmp_path / "run")
    path = _export(tmp_path / "run", tmp_path / "out.pkl", "detectron2")
    with open(path, "rb") as file:
        small_weights.assert_same_tensors(
            pickle.load(file)["model"], saved["model"]
        )


def test_the_same_run_gives_the_same_bytes(imported, tmp_path):
    for layout in ("moco", "torchvision", "detectron2"):
        one, two = (
            _export(imported[0], tmp_path / f"{layout}{n}", layout)
            for n in (1, 2)
        )
        assert one.read_bytes() == two.read_bytes()


def test_an_archive_is_as_torch_wants_it(imported, tmp_path):
    path = _export(imported[0], tmp_path / "w.pth", "torchvision")
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"
        assert archive.testzip() is None
    names = [member.filename for member in members]
    assert names[0] == "archive/data.pkl" and "archive/data/0" in names
    for member in members:
        assert member.compress_type == zipfile.ZIP_STORED
        assert member.date_time == (1980, 1, 1, 0, 0, 0)
        # The length of the extra field is at byte 28 of the local header.
        header = member.header_offset
        extra = int.from_bytes(data[header + 28 : header + 30], "little")
        assert (header + 30 + len(member.filename) + extra) % 64 == 0


def test_a_run_of_ours_counts_its_steps(tmp_path, capsys):
    workdir = small_encoder.write(tmp_path, steps=(5,))
    path = _export(workdir, tmp_path / "w.pth", "moco")
    state = torch_file.read(path)["state_dict"]
    assert all(name.startswith("module.encoder_q.") for name in state)
    # quickstart is symmetric: both views go through each encoder.
    config = configs.load("quickstart")
    batches = 10 if config.moco.symmetric else 5
    assert state["module.encoder_q.bn1.num_batches_tracked"] == batches
    text = capsys.readouterr().out
    assert "without key encoder and queue" in text
    assert "cifar stem" in text


@pytest.mark.parametrize("layout", ["moco", "torchvision", "detectron2"])
def test_other_backbones_are_refused_by_name(layout, tmp_path):
    config = configs.load(
        "moco_v2_imagenet", {"model.backbone": "keras_cv:resnet50v2"}
    )
    workdirs.save(config, tmp_path / "run")
    with pytest.raises(ValueError, match="the backbone 'keras_cv:resnet50v2'"):
        _export(tmp_path / "run", tmp_path / "w.pth", layout)


def test_detectron2_has_no_small_stem(tmp_path):
    workdirs.save(configs.load("moco_cifar10"), tmp_path / "run")
    with pytest.raises(ValueError, match="with the stem 'cifar'"):
        _export(tmp_path / "run", tmp_path / "w.pkl", "detectron2")


def test_an_unknown_layout_and_a_file_that_is_there_are_refused(
    imported, tmp_path
):
    with pytest.raises(ValueError, match="layout must be one of.*'onnx'"):
        _export(imported[0], tmp_path / "w.onnx", "onnx")
    (tmp_path / "w.pth").write_bytes(b"kept")
    with pytest.raises(ValueError, match="which is there"):
        _export(imported[0], tmp_path / "w.pth", "moco")
    assert (tmp_path / "w.pth").read_bytes() == b"kept"


def test_of_another_methods_run_the_backbone_alone_can_leave(tmp_path):
    config = every_method.make_config("simclr")
    method = plan.make_method(
        config, tf.distribute.get_strategy(), every_method.IMAGES
    )
    workdirs.save(config, tmp_path / "run")
    checkpoints.save(method, tmp_path / "run", 1, {})
    path = _export(tmp_path / "run", tmp_path / "b.pth", "torchvision")
    loaded = torch_file.read(path)
    assert "layer4.0.bn2.running_var" in loaded
    assert not [name for name in loaded if name.startswith(("fc", "linear"))]
    kernel = method.backbone.get_layer("conv1").kernel.numpy()
    np.testing.assert_array_equal(
        loaded["conv1.weight"], kernel.transpose(3, 2, 0, 1)
    )
    with pytest.raises(ValueError, match="holds the heads fc and mlp"):
        _export(tmp_path / "run", tmp_path / "m.pth", "moco")


def test_of_another_methods_queue_nothing_is_written(tmp_path):
    config = every_method.make_config("swav", model__head="mlp")
    method = plan.make_method(
        config, tf.distribute.get_strategy(), every_method.IMAGES
    )
    assert method.queue is not None
    workdirs.save(config, tmp_path / "run")
    checkpoints.save(method, tmp_path / "run", 1, {})
    path = _export(tmp_path / "run", tmp_path / "m.pth", "moco")
    state = torch_file.read(path)["state_dict"]
    assert all(name.startswith("module.encoder_q.") for name in state)


def test_the_queue_of_a_run_with_a_probe_leaves_without_the_probe(tmp_path):
    config = every_method.make_config(
        "moco", model__head="mlp", probe__online=True
    )
    method = plan.make_method(
        config,
        tf.distribute.get_strategy(),
        every_method.IMAGES,
        online_probe.Labels(np.arange(every_method.IMAGES) % 3, 3),
    )
    workdirs.save(config, tmp_path / "run")
    checkpoints.save(method, tmp_path / "run", 1, {})
    path = _export(tmp_path / "run", tmp_path / "m.pth", "moco")
    state = torch_file.read(path)["state_dict"]
    np.testing.assert_array_equal(
        state["module.queue"], method.queue.keys.numpy().T
    )
    parts = {name.split(".")[1] for name in state}
    assert parts == {"encoder_q", "encoder_k", "queue", "queue_ptr"}


@pytest.mark.parametrize("method", ["cmc", "cpc"])
def test_an_encoder_of_parts_is_refused(method, tmp_path):
    workdirs.save(every_method.make_config(method), tmp_path / "run")
    with pytest.raises(ValueError, match="Use `export` for a SavedModel"):
        _export(tmp_path / "run", tmp_path / "b.pth", "torchvision")


def test_weights_come_from_and_go_to_files_of_any_name(tmp_path):
    root = ugly_names.make(tmp_path, ugly_names.WORST)
    state = small_weights.state_dict()
    _import(small_weights.write_moco(root / "m.pth.tar", state), root / "run")
    for layout in ("torchvision", "moco"):
        path = _export(root / "run", root / f"[{layout}].pth", layout)
        written = torch_file.read(path)
        name = "conv1.weight"
        if layout == "moco":
            written, name = written["state_dict"], f"module.encoder_q.{name}"
        np.testing.assert_array_equal(
            written[name], state["module.encoder_q.conv1.weight"]
        )
