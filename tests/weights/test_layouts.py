"""Names in the layouts of others, against lists written by hand."""

import numpy as np
import pytest

from moco_tf.models import resnet
from moco_tf.weights import layouts
from tests.weights import small_weights

PAIRS = {
    "conv1.weight": "stem.conv1.weight",
    "bn1.running_mean": "stem.conv1.norm.running_mean",
    "layer1.0.conv1.weight": "res2.0.conv1.weight",
    "layer2.3.bn2.bias": "res3.3.conv2.norm.bias",
    "layer3.22.bn3.num_batches_tracked": (
        "res4.22.conv3.norm.num_batches_tracked"
    ),
    "layer4.0.downsample.0.weight": "res5.0.shortcut.weight",
    "layer4.0.downsample.1.running_var": "res5.0.shortcut.norm.running_var",
    "fc.2.bias": "stem.fc.2.bias",
}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.items())
def test_detectron2_names_go_both_ways(ours, theirs):
    assert layouts.to_detectron2(ours) == theirs
    assert layouts.from_detectron2(theirs) == ours


@pytest.mark.parametrize(
    ("depth", "head", "stem", "expected"),
    [
        (18, "fc", "imagenet", ("resnet18", 0.0625, "imagenet", "fc", 8)),
        (34, "mlp", "cifar", ("resnet34", 0.0625, "cifar", "mlp", 8)),
        (50, "mlp", "imagenet", ("resnet50", 0.0625, "imagenet", "mlp", 8)),
    ],
)
def test_shapes_tell_the_architecture(depth, head, stem, expected):
    tensors = small_weights.tensors(head=head, depth=depth, stem=stem)
    inferred = layouts.architecture(tensors)
    fields = ("backbone", "width", "stem", "head", "dim")
    assert tuple(inferred[f"model.{field}"] for field in fields) == expected


def test_any_width_is_told_as_one_that_builds_the_network():
    def channels(width):
        return [resnet._scaled(c, width) for c in (64, 128, 256, 512)]

    for number in range(1, 81):
        tensors = {
            f"layer{stage}.{block}.conv1.weight": np.zeros((count, 1, 3, 3))
            for stage, count in enumerate(channels(number / 40), start=1)
            for block in range(2)
        }
        width = layouts.architecture(tensors)["model.width"]
        assert channels(width) == channels(number / 40)
    assert width == 2.0


def test_tensors_without_a_head_say_nothing_of_one():
    tensors = small_weights.tensors()
    bare = {n: v for n, v in tensors.items() if not n.startswith("fc")}
    assert "model.head" not in layouts.architecture(bare)


def test_blocks_of_no_known_depth_are_refused():
    tensors = small_weights.tensors()
    odd = {n: v for n, v in tensors.items() if not n.startswith("layer3.1")}
    with pytest.raises(ValueError, match=r"\(2, 2, 1, 2\) blocks.*without"):
        layouts.architecture(odd)


def test_every_kind_of_wrong_tensor_is_listed():
    expected = {name: (2, 3) for name in ("a", "b", "c", "d", "right")}
    tensors = {
        "b": np.zeros((3, 2), np.float32),
        "c": np.zeros((2, 3), np.int64),
        "d": np.array([[0, 0, 0], [0, np.nan, 0]], np.float32),
        "right": np.zeros((2, 3), np.float16),
        "other": np.zeros(4),
    }
    lines = layouts.problems(tensors, expected, lambda name: f"m.{name}")
    assert lines == [
        "m.a: missing, of shape (2, 3)",
        "m.b: shape (3, 2), where (2, 3) is needed",
        "m.c: type int64, no float",
        "m.d: holds values that are not finite",
        "m.other: shape (4,), of no such encoder",
    ]


def test_layouts_of_tensors_are_turned():
    kernel = np.arange(24).reshape(2, 3, 2, 2)  # O, I, height, width
    turned = layouts.from_torch(kernel)
    assert turned.shape == (2, 2, 3, 2)
    assert turned[1, 0, 2, 1] == kernel[1, 2, 1, 0]
    np.testing.assert_array_equal(layouts.to_torch(turned), kernel)
