"""Names and layouts of an encoder's tensors in the files of others.

Here a tensor goes by its name in torchvision's ResNet, with the projection
head as "fc" (MoCo v1) or "fc.0" and "fc.2" (v2): "layer1.0.bn1.running_mean".
The published checkpoints put "module.encoder_q." before it; detectron2 has
names of its own.
"""

import re

import numpy as np

from moco_tf.models import encoder as encoders
from moco_tf.models import resnet

QUERY, KEY = "encoder_q.", "encoder_k."
COUNTER = "num_batches_tracked"
# Of a BatchNorm, in torch's order, and of any other layer.
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_LINEAR = {"weight": "kernel", "bias": "bias"}
_CONV = {"weight": "kernel"}


def named_variables(encoder):
    """The variables of an encoder by torch's names, in its order.

    Args:
      encoder: Encoder with one of our ResNets.

    Returns:
      dict name -> variable; `to_torch` turns a value into torch's layout. A
      head that the published checkpoints do not have is left out.
    """
    held = {layer.name: layer for layer in encoder.backbone.layers}
    head = {layer.name: layer for layer in encoder.head.layers}
    found = {}
    for name in sorted(filter(_is_layer, held), key=_place):
        # Convolutions here have no bias.
        parts = _NORM if _is_norm(name) else _CONV
        for part, variable in parts.items():
            found[f"{name}.{part}"] = getattr(held[name], variable)
    for name in ("fc", "fc.0", "fc.2"):
        for part, variable in _LINEAR.items() if name in head else ():
            found[f"{name}.{part}"] = getattr(head[name], variable)
    return found


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
    found = {}
    for name, value in tensors.items():
        found[name] = value
        counter = name.removesuffix("running_var") + COUNTER
        if name.endswith("running_var") and counter in counts:
            found[counter] = counts[counter]
    return found


def _is_layer(name):
    return bool(
        re.fullmatch(
            r"(layer\d\.\d+\.)?(conv|bn)\d|layer\d\.\d+\.downsample\.[01]", name
        )
    )


def _is_norm(name):
    return bool(re.search(r"(bn\d|downsample\.1)$", name))


def _place(name):
    """Sorts layers: the stem, then each block, its shortcut at the end."""
    *block, last = re.sub(r"downsample\.", "downsample", name).split(".")
    place = [int(part.removeprefix("layer")) for part in block] or [0, 0]
    return (*place, "downsample" in last, last[-1], last.startswith("bn"))


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
    """What a configuration says of an encoder, from its tensors.

    Args:
      tensors: dict name -> array, in torch's layout.

    Returns:
      dict of model.backbone, model.width, model.stem, and of model.head and
      model.dim if there is a projection head.

    Raises:
      ValueError: if they are of no ResNet that there is.
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
    found: dict[str, object] = {"model.backbone": f"resnet{depths[0]}"}
    # The widest stage tells the factor best: channels are multiples of 8.
    wide = tensors.get("layer4.0.conv1.weight")
    channels = 512 if wide is None or wide.ndim != 4 else wide.shape[0]
    found["model.width"] = channels / 512
    stem = tensors.get("conv1.weight")
    small = stem is not None and stem.ndim == 4 and stem.shape[-1] == 3
    found["model.stem"] = "cifar" if small else "imagenet"
    return found | _head(tensors)


def _head(tensors):
    parts = {name for name in tensors if name.startswith("fc.")}
    if not parts:
        return {}
    linear = parts <= {"fc.weight", "fc.bias"}
    last = "fc" if linear else "fc.2"
    found = {"model.head": "fc" if linear else "mlp"}
    for name in (f"{last}.bias", f"{last}.weight"):
        if name in tensors and tensors[name].ndim:
            return found | {"model.dim": int(tensors[name].shape[0])}
    return found


def problems(tensors, expected, spell=str):
    """Says what is wrong with tensors, all at once.

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
        elif not _is_float(value):
            lines.append(f"{spell(name)}: type {value.dtype}, no float")
        elif not np.isfinite(np.asarray(value, np.float32)).all():
            lines.append(f"{spell(name)}: holds values that are not finite")
    lines += [
        f"{spell(name)}: shape {value.shape}, of no such encoder"
        for name, value in tensors.items()
        if name not in expected
    ]
    return lines


def _is_float(value):
    # NumPy knows bfloat16 as a type of its own kind.
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"
