"""Layouts of published weight files: names and shapes of their tensors.

Here a tensor goes by its name in torchvision's ResNet, with the projection head
as "fc" (MoCo v1) or "fc.0" and "fc.2" (v2): "layer1.0.bn1.running_mean". Files
have one of three layouts:

moco         of the published code, a dict: "state_dict" of the query encoder
             ("module.encoder_q." before each name), the key encoder
             ("module.encoder_k."), "module.queue" [C, K] and
             "module.queue_ptr" [1]; "epoch", "arch", "optimizer" of torch's SGD
torchvision  a state dict; its "fc" is a classifier, no projection head
detectron2   a pickle of MoCo's conversion: {"model": tensors by detectron2's
             names, "__author__": "MOCO", "matching_heuristics": True}
"""

import re
from typing import NamedTuple

import numpy as np

from moco_tf.models import encoder as encoders
from moco_tf.models import resnet
from moco_tf.weights import pickle_reader, torch_file

LAYOUTS = ("moco", "torchvision", "detectron2")
QUERY, KEY = "encoder_q.", "encoder_k."
_COUNTER = "num_batches_tracked"  # of a BatchNorm
# Torch's names of a layer's tensors, in its order, and Keras' attributes.
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_LINEAR = {"weight": "kernel", "bias": "bias"}
_CONVOLUTION = {"weight": "kernel"}  # here without a bias
_LAYER = re.compile(
    r"(layer\d\.\d+\.)?(conv|bn)\d|layer\d\.\d+\.downsample\.[01]"
)
_NORM_LAYER = re.compile(r"bn\d$|downsample\.1$")
_MAX_EPOCHS = 1_000_000


class WeightFile(NamedTuple):
    """The tensors of a file, by the names of torchvision's ResNet.

    Attributes:
      layout: of LAYOUTS.
      query: dict name -> array in torch's layout, of the encoder.
      key: likewise of the key encoder; {}: none.
      counts: {"query": dict name -> array, "key": ...} of BatchNorm counters.
      about: {"epoch": int}, or {} if the file does not say it.
      queue: array [C, K], keys in columns; None: none.
      pointer: array [1], the next column to write; None: none.
      left_out: names of tensors that are not used.
      optimizer: its state dict, unchecked; None: none.
      prefix: of the encoder's names in the file.
    """

    layout: str
    query: dict
    key: dict
    counts: dict
    about: dict
    queue: np.ndarray | None = None
    pointer: np.ndarray | None = None
    left_out: tuple = ()
    optimizer: object = None
    prefix: str = ""

    def spell(self, name):
        """How the file spells the name of a tensor of the encoder."""
        if self.layout == "detectron2":
            return to_detectron2(name)
        return self.prefix + name

    def spell_key(self, name):
        """How the file spells the name of a tensor of the key encoder."""
        start = self.prefix.removesuffix(QUERY)
        return start + KEY + name

    @property
    def can_resume(self):
        """Whether pre-training can go on: with key encoder, queue, pointer."""
        has_queue = self.queue is not None and self.pointer is not None
        return has_queue and bool(self.key)


def read(path):
    """Reads a file of weights, whose layout its names show.

    Args:
      path: of a published MoCo checkpoint, a state dict of torchvision's
        ResNet, or MoCo's pickle for detectron2.

    Returns:
      WeightFile.

    Raises:
      ValueError: if the file cannot be read or is of another layout.
    """
    saved = torch_file.read(path)
    if not isinstance(saved, dict):
        raise ValueError(
            f"{path} must hold a dict of tensors. Received a "
            f"{type(saved).__name__}."
        )
    about = {}
    if type(saved.get("epoch")) is int and 0 <= saved["epoch"] < _MAX_EPOCHS:
        about["epoch"] = saved["epoch"]
    if isinstance(saved.get("model"), dict) and "state_dict" not in saved:
        tensors = _checked_tensors(saved["model"], path)
        if any(name.startswith("res2.") for name in tensors):
            return _detectron2_file(tensors, about)
    inner = saved.get("state_dict", saved)
    tensors = _checked_tensors(inner if isinstance(inner, dict) else {}, path)
    prefix = "module."
    if not tensors or not all(name.startswith(prefix) for name in tensors):
        prefix = ""
    tensors = {name.removeprefix(prefix): v for name, v in tensors.items()}
    if any(name.startswith(QUERY) for name in tensors):
        return _moco_file(tensors, about, saved.get("optimizer"), prefix)
    if any(name.startswith("layer1.") for name in tensors):
        return _torchvision_file(tensors, about, prefix)
    raise ValueError(
        f"{path} must hold the names of a MoCo checkpoint "
        "(module.encoder_q.conv1.weight), of torchvision's ResNet "
        "(layer1.0.conv1.weight) or of detectron2 (res2.0.conv1.weight). "
        f"Received {_shown(list(tensors) or list(saved))}."
    )


def _moco_file(tensors, about, optimizer, prefix):
    query, key, other = {}, {}, {}
    for name, value in tensors.items():
        if name.startswith(QUERY):
            query[name.removeprefix(QUERY)] = value
        elif name.startswith(KEY):
            key[name.removeprefix(KEY)] = value
        else:
            other[name] = value
    query, query_counts = _without_counters(query)
    key, key_counts = _without_counters(key)
    queue, pointer = other.pop("queue", None), other.pop("queue_ptr", None)
    return WeightFile(
        "moco",
        query,
        key,
        {"query": query_counts, "key": key_counts},
        about,
        queue=queue,
        pointer=pointer,
        left_out=tuple(prefix + name for name in other),
        optimizer=optimizer,
        prefix=prefix + QUERY,
    )


def _torchvision_file(tensors, about, prefix):
    query, counts = _without_counters(tensors)
    # One linear layer classifies; only a head of two is MoCo's.
    classifier = ("fc.weight", "fc.bias")
    left_out = tuple(name for name in classifier if name in query)
    query = {name: v for name, v in query.items() if name not in classifier}
    return WeightFile(
        "torchvision",
        query,
        {},
        {"query": counts, "key": {}},
        about,
        left_out=left_out,
        prefix=prefix,
    )


def _detectron2_file(tensors, about):
    named = {from_detectron2(n): v for n, v in tensors.items()}
    query, counts = _without_counters(named)
    counts = {"query": counts, "key": {}}
    return WeightFile("detectron2", query, {}, counts, about)


def _without_counters(tensors):
    """The tensors without BatchNorm's counters, and the counters."""
    end = f".{_COUNTER}"
    counts = {
        name: value
        for name, value in tensors.items()
        if name.endswith(end) and value.size == 1 and value.dtype.kind == "i"
    }
    return {n: v for n, v in tensors.items() if n not in counts}, counts


def _checked_tensors(saved, path):
    """The arrays of a dict; all its values must be arrays, or none."""
    other = [
        name
        for name, value in saved.items()
        if type(name) is not str
        or not name.isprintable()
        or not isinstance(value, np.ndarray)
    ]
    tensors = {name: v for name, v in saved.items() if name not in other}
    if other and tensors:
        raise ValueError(
            f"{path} must hold tensors alone in its state dict. Received "
            f"other values at {_shown(other)}."
        )
    return tensors


def _shown(names):
    """The first names, for messages."""
    shown = ", ".join(pickle_reader.printable(str(n))[:60] for n in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


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
        name.removesuffix(mean) + _COUNTER
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
        counter = name.removesuffix("running_var") + _COUNTER
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
    blocks: dict[int, set[int]] = {}
    for name in tensors:
        if match := re.match(r"layer(\d)\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    counts = tuple(len(blocks.get(stage, ())) for stage in range(1, 5))
    bottleneck = any(".conv3." in name for name in tensors)
    depths = [
        depth
        for depth, form in resnet.DEPTHS.items()
        if form == (counts, bottleneck)
    ]
    if not depths or len(blocks) != 4:
        known = ", ".join(encoders.RESNETS)
        raise ValueError(
            f"Weights must be of a ResNet of torchvision: {known}. Received "
            f"tensors of {counts} blocks in its stages, "
            f"{'with' if bottleneck else 'without'} bottlenecks, and "
            f"{len(tensors)} names such as {', '.join(list(tensors)[:3])}."
        )
    # The widest stage shows the factor best: channels are multiples of 8.
    wide = tensors.get("layer4.0.conv1.weight")
    channels = 512 if wide is None or wide.ndim != 4 else wide.shape[0]
    stem = tensors.get("conv1.weight")
    small = stem is not None and stem.ndim == 4 and stem.shape[-1] == 3
    return {
        "model.backbone": f"resnet{depths[0]}",
        "model.width": channels / 512,
        "model.stem": "cifar" if small else "imagenet",
        **_head(tensors),
    }


def _head(tensors):
    parts = {name for name in tensors if name.startswith("fc.")}
    if not parts:
        return {}
    linear = parts <= {"fc.weight", "fc.bias"}
    last = "fc" if linear else "fc.2"
    fields = {"model.head": "fc" if linear else "mlp"}
    for name in (f"{last}.bias", f"{last}.weight"):
        if name in tensors and tensors[name].ndim:
            return fields | {"model.dim": int(tensors[name].shape[0])}
    return fields


def problems(tensors, expected, spell=str):
    """Lists all that is wrong with the tensors of a file.

    Args:
      tensors: dict name -> array. expected: dict name -> shape, a tuple.
      spell: function of a name -> how the file spells it.

    Returns:
      list of lines: missing, misshaped, unfit and extra tensors.
    """
    lines = []
    for name, shape in expected.items():
        value = tensors.get(name)
        if value is None:
            lines.append(f"{spell(name)}: missing, of shape {shape}")
        elif value.shape != shape:
            lines.append(
                f"{spell(name)}: shape {value.shape}, where {shape} is needed"
            )
        # bfloat16 is of kind V to NumPy.
        elif value.dtype.kind != "f" and value.dtype.name != "bfloat16":
            lines.append(f"{spell(name)}: type {value.dtype}, no float")
        elif not np.isfinite(np.asarray(value, np.float32)).all():
            lines.append(f"{spell(name)}: holds values that are not finite")
    lines += [
        f"{spell(name)}: shape {value.shape}, of no such encoder"
        for name, value in tensors.items()
        if name not in expected
    ]
    return lines
