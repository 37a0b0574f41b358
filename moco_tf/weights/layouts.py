"""Layouts of published weight files: names and shapes of their tensors.

Here a tensor goes by its name in torchvision's ResNet, with the projection head
as "fc" (MoCo v1) or "fc.0" and "fc.2" (v2): "layer1.0.bn1.running_mean". Files
are written in one of three layouts; spellings has those that are read besides:

moco         of the published code, a dict: "state_dict" of the query encoder
             ("module.encoder_q." before each name), the key encoder
             ("module.encoder_k."), "module.queue" [C, K] and
             "module.queue_ptr" [1]; "epoch", "arch", "optimizer" of torch's SGD
torchvision  a state dict; its "fc" is a classifier, no projection head
detectron2   a pickle of MoCo's conversion: {"model": tensors by detectron2's
             names, "__author__": "MOCO", "matching_heuristics": True}
"""

import functools
import math
import re

import numpy as np

from moco_tf.models import encoder as encoders
from moco_tf.models import resnet
from moco_tf.weights import pickle_names, pickle_reader

LAYOUTS = ("moco", "torchvision", "detectron2")
QUERY, KEY = "encoder_q.", "encoder_k."
COUNTER = "num_batches_tracked"  # of a BatchNorm
# Torch's names of a layer's tensors, in its order, and Keras' attributes.
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_LINEAR = {"weight": "kernel", "bias": "bias"}
_CONVOLUTION = {"weight": "kernel"}  # here without a bias
_SMALL = tuple(pickle_names.SMALL_FLOATS)  # of kind V to NumPy, as records are
_LAYER = re.compile(
    r"(layer\d\.\d+\.)?(conv|bn)\d|layer\d\.\d+\.downsample\.[01]"
)
_NORM_LAYER = re.compile(r"bn\d$|downsample\.1$")


def named_variables(encoder):
    """The variables of an encoder by torch's names, in its order.

    Args:
      encoder: Encoder with one of our ResNets.

    Returns:
      dict name -> variable; `to_torch` turns a value into torch's layout. A
      head that the published checkpoints do not have is left out.
    """
    layers = {layer.name: layer for layer in encoder.backbone.layers}
    head = {layer.name: layer for layer in encoder.head.layers}
    variables = {}
    for name in sorted(filter(_LAYER.fullmatch, layers), key=_order):
        parts = _NORM if _NORM_LAYER.search(name) else _CONVOLUTION
        for part, attribute in parts.items():
            variables[f"{name}.{part}"] = getattr(layers[name], attribute)
    for name in ("fc", "fc.0", "fc.2"):
        for part, attribute in _LINEAR.items() if name in head else ():
            variables[f"{name}.{part}"] = getattr(head[name], attribute)
    return variables


def _order(name):
    """Sorts layers: the stem, then each block, its shortcut at the end."""
    *block, last = re.sub(r"downsample\.", "downsample", name).split(".")
    numbers = [int(part.removeprefix("layer")) for part in block] or [0, 0]
    return (*numbers, "downsample" in last, last[-1], last.startswith("bn"))


def counters(names):
    """Names of the BatchNorm counters that torch has beside these tensors."""
    mean = "running_mean"
    return [
        name.removesuffix(mean) + COUNTER
        for name in names
        if name.endswith(mean)
    ]


def with_counters(tensors, counts):
    """Tensors and counters in torch's order: each counter ends its BatchNorm.

    Args:
      tensors: dict name -> array. counts: dict name -> array, of `counters`.
    """
    merged = {}
    for name, value in tensors.items():
        merged[name] = value
        counter = name.removesuffix("running_var") + COUNTER
        if name.endswith("running_var") and counter in counts:
            merged[counter] = counts[counter]
    return merged


def to_torch(value):
    """HWIO to OIHW, and [in, out] to [out, in]."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T if value.ndim == 2 else value


def from_torch(value):
    """OIHW to HWIO, and [out, in] to [in, out]."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value


def keras_name(name):
    """A tensor's name as our networks have it: "bn1.weight" -> "bn1/gamma".

    A name of no layer of a ResNet or its head stays as it is.
    """
    layer, _, part = name.rpartition(".")
    variable = _variables_of(layer).get(part)
    return f"{layer}/{variable}" if variable else name


def torch_name(name):
    """The reverse of `keras_name`."""
    layer, _, variable = name.rpartition("/")
    for part, attribute in _variables_of(layer).items():
        if attribute == variable:
            return f"{layer}.{part}"
    return name


def is_of_resnet(name):
    """Whether a name, ours or torch's, is of a tensor of a ResNet's layer."""
    layer = re.split(r"[./](?=[^./]*$)", name)[0]
    return bool(_LAYER.fullmatch(layer))


def _variables_of(layer):
    """Torch's names of a layer's tensors, and Keras' of its variables."""
    if _LAYER.fullmatch(layer):
        return _NORM if _NORM_LAYER.search(layer) else _CONVOLUTION
    return _LINEAR if layer in ("fc", "fc.0", "fc.2") else {}


def to_detectron2(name):
    """A name as MoCo's conversion to detectron2 makes it."""
    if "layer" not in name:
        name = f"stem.{name}"
    name = re.sub(r"layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    name = name.replace("downsample.0", "shortcut")
    return name.replace("downsample.1", "shortcut.norm")


def from_detectron2(name):
    """The reverse of `to_detectron2`."""
    name = name.removeprefix("stem.")
    name = re.sub(r"^res(\d)", lambda m: f"layer{int(m[1]) - 1}", name)
    name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
    name = name.replace("shortcut.norm", "downsample.1")
    return name.replace("shortcut", "downsample.0")


def architecture(tensors):
    """Infers the fields of a configuration that describe an encoder.

    Args:
      tensors: dict name -> array, in torch's layout.

    Returns:
      dict of model.backbone, model.width, model.stem, and of model.head and
      model.dim if there is a projection head.

    Raises:
      ValueError: if they are of no ResNet of models.resnet.
    """
    counts, bottleneck = _form(tensors)
    depth = _depth(counts, bottleneck)
    if depth is None:
        known = ", ".join(encoders.RESNETS)
        raise ValueError(
            f"Weights must be of a ResNet of torchvision: {known}. Received "
            f"tensors of {counts} blocks in its stages, "
            f"{'with' if bottleneck else 'without'} bottlenecks, and "
            f"{len(tensors)} names such as {', '.join(list(tensors)[:3])}."
        )
    stem = np.shape(tensors.get("conv1.weight"))
    small = len(stem) == 4 and stem[-1] == 3
    return {
        "model.backbone": f"resnet{depth}",
        "model.width": _width(tensors),
        "model.stem": "cifar" if small else "imagenet",
        **_head(tensors),
    }


def _width(tensors):
    """The factor of the channels that builds all stages of a network.

    They are rounded to multiples of 8 (resnet.py), so that several do: the
    widest stage's own, if it is one of them, else that of fewest decimals.
    """
    low, high, widest = 0.0, math.inf, 1.0
    for stage, usual in enumerate((64, 128, 256, 512), start=1):
        shape = np.shape(tensors.get(f"layer{stage}.0.conv1.weight"))
        channels = shape[0] if len(shape) == 4 else usual
        if channels > 8:  # the least
            low = max(low, (channels - 4) / usual)
        high = min(high, (channels + 4) / usual)
        widest = channels / usual
    if low <= widest < high:
        return widest
    for digits in range(1, 7):
        width = math.ceil(low * 10**digits) / 10**digits
        if width < high:
            return width
    return widest  # of no network of this form


def _form(tensors):
    """(Blocks of the four stages, whether they are bottlenecks)."""
    blocks: dict[int, set[int]] = {}
    for name in tensors:
        if match := re.match(r"layer(\d)\.(\d{1,4})\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    counts = tuple(len(blocks.get(stage, ())) for stage in range(1, 5))
    if set(blocks) - {1, 2, 3, 4}:
        counts = (*counts, len(blocks))
    return counts, any(".conv3." in name for name in tensors)


def _depth(counts, bottleneck):
    """The depth of a form, or None."""
    for depth, form in resnet.DEPTHS.items():
        if form == (counts, bottleneck):
            return depth
    return None


def count_missing(tensors):
    """Counts the tensors that a backbone would have besides those given.

    Args:
      tensors: dict name -> anything.

    Returns:
      int; 0 for a backbone with all its names, at least 1 for one of blocks
      that no ResNet of models.resnet has.
    """
    counts, bottleneck = _form(tensors)
    known = _depth(counts, bottleneck) is not None
    forms = [(counts, bottleneck)] if known else resnet.DEPTHS.values()
    missing = [
        sum(name not in tensors for name in _backbone_names(*form))
        for form in forms
    ]
    return max(min(missing), 0 if known else 1)


@functools.cache
def _backbone_names(counts, bottleneck):
    """Names of the tensors of a backbone, without BatchNorm's counters."""
    layers = ["conv1", "bn1"]
    for stage, count in enumerate(counts, 1):
        for block in range(count):
            numbers = range(1, 4 if bottleneck else 3)
            parts = [f"{kind}{n}" for n in numbers for kind in ("conv", "bn")]
            if block == 0 and (bottleneck or stage > 1):
                parts += ["downsample.0", "downsample.1"]
            layers += [f"layer{stage}.{block}.{part}" for part in parts]
    return [
        f"{layer}.{part}"
        for layer in layers
        for part in (_NORM if _NORM_LAYER.search(layer) else _CONVOLUTION)
    ]


def _head(tensors):
    parts = {name for name in tensors if name.startswith("fc.")}
    if not parts:
        return {}
    linear = parts <= {"fc.weight", "fc.bias"}
    last = "fc" if linear else "fc.2"
    fields = {"model.head": "fc" if linear else "mlp"}
    for name in (f"{last}.bias", f"{last}.weight"):
        value = tensors.get(name)
        if isinstance(value, np.ndarray) and value.ndim:
            return fields | {"model.dim": int(value.shape[0])}
    return fields


def problems(tensors, expected, spell=str):
    """Lists all that is wrong with the tensors of a file.

    Args:
      tensors: dict name -> array, or what stands in the place of one.
      expected: dict name -> shape, a tuple.
      spell: function of a name -> how the file spells it.

    Returns:
      list of lines: missing, misshaped, unfit and extra tensors.
    """
    lines = []
    for name, shape in expected.items():
        value = tensors.get(name)
        if value is None:
            lines.append(f"{spell(name)}: missing, of shape {shape}")
        elif not isinstance(value, np.ndarray):
            kind = pickle_reader.kind_of(value)
            lines.append(f"{spell(name)}: {kind}, where a tensor is needed")
        elif value.shape != shape:
            lines.append(
                f"{spell(name)}: shape {value.shape}, where {shape} is needed"
            )
        elif value.dtype.kind != "f" and value.dtype.name not in _SMALL:
            lines.append(f"{spell(name)}: type {value.dtype}, no float")
        elif not np.isfinite(np.asarray(value, np.float32)).all():
            lines.append(f"{spell(name)}: holds values that are not finite")
    lines += [
        f"{spell(name)}: {_shape(value)}, of no such encoder"
        for name, value in tensors.items()
        if name not in expected
    ]
    return lines


def _shape(value):
    if isinstance(value, np.ndarray):
        return f"shape {value.shape}"
    return pickle_reader.kind_of(value)
