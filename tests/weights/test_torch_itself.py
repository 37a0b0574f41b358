"""What torch itself reads of our files, and we of torch's.

Runs where torch is installed: `pip install -e '.[torch]'`.
"""

import collections

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf.evaluation import frozen
from moco_tf.weights import (
    conversion,
    exporting,
    importing,
    origin,
    starting,
    torch_file,
)
from tests.weights import small_weights, torch_files

torch = pytest.importorskip(
    "torch", reason="torch is not installed: pip install -e '.[torch]'"
)
functional = torch.nn.functional


def _resnet(state, images):
    """Features [n, F] of torchvision's ResNet-18, in inference mode.

    Args:
      state: dict name -> tensor. images: float [n, 3, H, W].
    """

    def norm(x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (state[f"{name}.{part}"] for part in parts)
        return functional.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    def conv(x, name, stride):
        weight = state[f"{name}.weight"]
        return functional.conv2d(
            x, weight, stride=stride, padding=weight.shape[-1] // 2
        )

    x = functional.relu(norm(conv(images, "conv1", 2), "bn1"))
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
        for block in range(2):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = functional.relu(
                norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1")
            )
            y = norm(conv(y, f"{name}.conv2", 1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in state:
                x = conv(x, f"{name}.downsample.0", stride)
                x = norm(x, f"{name}.downsample.1")
            x = functional.relu(x + y)
    return x.mean((2, 3))


def _head(state, features):
    hidden = functional.relu(
        functional.linear(features, state["fc.0.weight"], state["fc.0.bias"])
    )
    return functional.linear(hidden, state["fc.2.weight"], state["fc.2.bias"])


def _sgd(state):
    """SGD over the parameters of both encoders, without momentum yet."""
    ends = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [
        torch.nn.Parameter(value.clone())
        for name, value in state.items()
        if ".encoder_" in name and not name.endswith(ends)
    ]
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of an imported checkpoint that torch itself has saved."""
    folder = tmp_path_factory.mktemp("torch")
    state = {
        name: torch.from_numpy(value)
        for name, value in small_weights.state_dict().items()
    }
    optimizer = _sgd(state)
    momentum = small_weights.velocities(small_weights.state_dict())
    query = optimizer.param_groups[0]["params"][: len(momentum)]
    for parameter, value in zip(query, momentum, strict=True):
        optimizer.state[parameter]["momentum_buffer"] = torch.from_numpy(value)
    saved = {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(saved, folder / "m.pth.tar")
    importing.import_weights(
        folder / "m.pth.tar", folder / "run", overrides=small_weights.FIELDS
    )
    return folder / "run", state


@pytest.mark.parametrize("zipped", [True, False])
def test_we_read_what_torch_saves(zipped, tmp_path):
    layer = torch.nn.BatchNorm2d(3)
    value = collections.OrderedDict(
        half=torch.arange(3, dtype=torch.float16),
        brain=torch.tensor([1.0, -2.5], dtype=torch.bfloat16),
        part=torch.arange(12).reshape(3, 4).t()[1:3],
        flags=torch.tensor([True, False]),
        size=torch.Size([2, 3]),
        parameter=torch.nn.Parameter(torch.ones(2)),
        layer=layer.state_dict(),
        plain=[1, "a", None, 2.5, (True, -(2**40))],
    )
    path = tmp_path / "file.pth"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    loaded = torch_file.read(path)
    assert list(loaded) == list(value)
    for name in ("half", "part", "flags"):
        assert str(loaded[name].dtype) in str(value[name].dtype)
        np.testing.assert_array_equal(loaded[name], value[name].numpy())
    np.testing.assert_array_equal(
        loaded["brain"].astype(np.float32), [1.0, -2.5]
    )
    np.testing.assert_array_equal(loaded["parameter"], [1, 1])
    assert (loaded["size"], loaded["plain"]) == ((2, 3), value["plain"])
    assert list(loaded["layer"]) == list(layer.state_dict())


def _forms():
    """Tensors of every form that torch saves, by name."""
    base = torch.arange(12).reshape(3, 4)
    numbers = """float16 float32 float64 bfloat16 complex64 complex128 bool
        uint8 uint16 uint32 uint64 int8 int16 int32 int64 float8_e4m3fn
        float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz""".split()
    forms = {name: base.to(getattr(torch, name)) for name in numbers}
    row = torch.arange(24, dtype=torch.float32)
    with_state = torch.nn.Parameter(torch.full((2,), 2.0))
    with_state.extra = 3
    with_attribute = torch.full((2,), 4.0)
    with_attribute.name_of_ours = "a"
    return forms | {
        "turned": row.reshape(4, 6).t()[1:3],
        "part": row[3:9],
        "part of bytes": torch.arange(10).to(torch.uint16)[4:8],
        "single": torch.tensor(5.0),
        "empty": torch.zeros(0, 3),
        "repeated": torch.ones(1).expand(4),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "parameter with state": with_state,
        "attribute": with_attribute,
        "buffer": torch.nn.Buffer(torch.full((2,), 6.0)),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", _forms())
def test_every_form_of_a_tensor_is_read(name, zipped, tmp_path):
    value = _forms()[name]
    path = tmp_path / "file.pth"
    torch.save({"x": value}, path, _use_new_zipfile_serialization=zipped)
    loaded = torch_file.read(path)["x"]
    assert str(loaded.dtype) in str(value.dtype)
    assert loaded.shape == tuple(value.shape)
    if loaded.dtype.kind != "c":
        loaded, value = loaded.astype(np.float64), value.to(torch.float64)
    np.testing.assert_array_equal(loaded, value.detach().numpy())


@pytest.mark.parametrize("layout", ["zip", "legacy", "tar"])
def test_torch_reads_the_files_that_these_tests_make(layout, tmp_path):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3).T
    path = torch_files.write(tmp_path / "f.pth", layout, matrix=matrix, epoch=3)
    # torch refuses tar files in its own restricted reader.
    loaded = torch.load(path, weights_only=layout != "tar", map_location="cpu")
    np.testing.assert_array_equal(loaded["matrix"].numpy(), matrix)
    assert loaded["epoch"] == 3


def test_we_read_an_optimizer_that_torch_has_stepped(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9)
    (3 * weight).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict()}, tmp_path / "o.pth")
    loaded = torch_file.read(tmp_path / "o.pth")["optimizer"]
    np.testing.assert_array_equal(loaded["state"][0]["momentum_buffer"], [3, 3])


def test_torch_reads_what_we_write(tmp_path):
    value = {
        "tensors": collections.OrderedDict(
            matrix=np.arange(6, dtype=np.float32).reshape(2, 3).T,
            count=np.array(7),
            empty=np.zeros((0, 3), np.float16),
            flags=np.array([True, False]),
        ),
        "plain": [1, -(2**40), 0.5, None, True, "\u00e9", (1, 2)],
    }
    exporting.write_torch(tmp_path / "w.pth", value)
    for mapped in (False, True):
        loaded = torch.load(tmp_path / "w.pth", weights_only=True, mmap=mapped)
        assert loaded["plain"] == value["plain"]
        for name, array in value["tensors"].items():
            tensor = loaded["tensors"][name]
            assert tuple(tensor.shape) == array.shape
            assert str(array.dtype) in str(tensor.dtype)
            np.testing.assert_array_equal(tensor.numpy(), array)


def test_an_exported_checkpoint_gives_torch_the_same_features(run, tmp_path):
    workdir, state = run
    path = tmp_path / "out.pth.tar"
    exporting.export_weights(workdir, "latest", path, "moco")
    loaded = torch.load(path, weights_only=True)
    assert list(loaded["state_dict"]) == list(state)
    for name, value in state.items():
        assert torch.equal(loaded["state_dict"][name], value), name
    start = "module.encoder_q."
    query = {
        name.removeprefix(start): value
        for name, value in loaded["state_dict"].items()
        if name.startswith(start)
    }
    images = np.random.default_rng(0).standard_normal((4, 32, 32, 3))
    images = images.astype(np.float32)
    expected = _resnet(query, torch.from_numpy(images).permute(0, 3, 1, 2))
    encoder = frozen.open_frozen(str(workdir)).encoder
    features, projection = encoder.features(tf.constant(images))
    scale = float(expected.abs().max())
    np.testing.assert_allclose(
        features / scale, expected.numpy() / scale, atol=1e-5
    )
    expected = _head(query, expected)
    scale = float(expected.abs().max())
    np.testing.assert_allclose(
        projection / scale, expected.numpy() / scale, atol=1e-5
    )


def test_torchs_sgd_takes_up_the_exported_momentum(run, tmp_path):
    workdir, state = run
    path = tmp_path / "out.pth.tar"
    exporting.export_weights(workdir, "latest", path, "moco")
    loaded = torch.load(path, weights_only=True)
    optimizer = _sgd(state)
    optimizer.load_state_dict(loaded["optimizer"])
    momentum = small_weights.velocities(small_weights.state_dict())
    parameters = optimizer.param_groups[0]["params"]
    buffers = [optimizer.state[p].get("momentum_buffer") for p in parameters]
    half = len(momentum)
    for buffer, value in zip(buffers[:half], momentum, strict=True):
        assert torch.equal(buffer, torch.from_numpy(value))
    assert buffers[half:] == [None] * half


def test_the_exported_backbone_is_torchvisions(run, tmp_path):
    workdir, state = run
    path = tmp_path / "out.pth"
    exporting.export_weights(workdir, "latest", path, "torchvision")
    loaded = torch.load(path, weights_only=True)
    start = "module.encoder_q."
    expected = {
        name.removeprefix(start): value
        for name, value in state.items()
        if name.startswith(start) and ".fc." not in name
    }
    assert list(loaded) == list(expected)
    assert all(torch.equal(loaded[n], v) for n, v in expected.items())


@pytest.mark.parametrize("layout", ["official", "torchvision"])
def test_a_start_has_the_features_that_torch_computes(layout, tmp_path):
    """Before the first step, query and key encoder of MoCo."""
    tensors = small_weights.tensors()
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    saved = dict(state)
    if layout == "official":
        saved = {
            "state_dict": {
                name: torch.from_numpy(value)
                for name, value in small_weights.state_dict().items()
            }
        }
    path = tmp_path / "weights.pth"
    torch.save(saved, path)
    fields = {"model.backbone": "resnet18", "model.width": "0.0625"}
    fields |= {"model.dim": str(small_weights.DIM), "moco.queue_size": "256"}
    config = configs.load("moco_v2_imagenet", fields | small_weights.FIELDS)
    method = conversion.make_method(config)
    weights = origin.read(str(path), "moco")
    starting.start(weights, method, config)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3))
    images = images.astype(np.float32)
    expected = _resnet(state, torch.from_numpy(images.transpose(0, 3, 1, 2)))
    projected = _head(state, expected)
    scale = float(expected.abs().max())
    for encoder in (method.query_encoder, method.key_encoder):
        features, projections = encoder.features(tf.constant(images))
        np.testing.assert_allclose(
            features / scale, expected.numpy() / scale, atol=1e-5
        )
        if layout == "official":
            scale_of_head = float(projected.abs().max())
            np.testing.assert_allclose(
                projections / scale_of_head,
                projected.numpy() / scale_of_head,
                atol=1e-5,
            )
