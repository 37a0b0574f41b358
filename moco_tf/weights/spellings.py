"""How libraries spell the names of a ResNet's tensors.

A tensor goes by its name in torchvision's ResNet (layouts). Others have it so:

torchvision   layer1.0.conv1.weight; the shortcut is "downsample" or "shortcut",
              the stem may be called "stem" or "layer0"
detectron2    res2.0.conv1.weight, and norm as a part: res2.0.conv1.norm.weight
hugging face  encoder.stages.0.layers.0.layer.0.convolution.weight
sequential    4.0.conv1.weight: the children of a torch.nn.Sequential by their
              number; the first convolution and norm are the stem, four children
              of blocks the stages, and a linear layer behind them is "fc"
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from moco_tf.weights import layouts

_LEAF = "(weight|bias|running_mean|running_var|num_batches_tracked)"
_PART = r"((conv|bn)\d|(downsample|shortcut)\.[01])"
# Of a tensor in a block, behind the prefix of its encoder.
BLOCKS = {
    "torchvision": re.compile(rf"layer[1-4]\.\d+\.{_PART}\.{_LEAF}"),
    "detectron2": re.compile(
        rf"res[2-5]\.\d+\.(conv\d|shortcut)(\.norm)?\.{_LEAF}"
    ),
    "hugging face": re.compile(
        r"encoder\.stages\.[0-3]\.layers\.\d+\.(shortcut|layer\.\d)\."
        rf"(convolution|normalization)\.{_LEAF}"
    ),
    "sequential": re.compile(rf"\d{{1,3}}\.\d+\.{_PART}\.{_LEAF}"),
}
# What computes the features: a name there that is not known is no small matter.
_BODIES = {
    "torchvision": re.compile(r"(layer\d+|conv\d+|bn\d+|stem)\."),
    "detectron2": re.compile(r"(res\d+|stem)\."),
    "hugging face": re.compile(r"(encoder|embedder)\."),
}
_STEM = re.compile(rf"(stem|layer0)\.((conv1|bn1|0|1)\.{_LEAF})")
_CHILD = re.compile(rf"(\d{{1,3}})(?:\.(\d{{1,3}}))?\.{_LEAF}")
_FACE = {"convolution": "conv", "normalization": "bn"}


class Spelled(NamedTuple):
    """The tensors of one encoder.

    Attributes:
      tensors: dict torchvision's name -> value. What has no place in a ResNet
        though it stands within the encoder goes by the name of the file.
      names: dict torchvision's name -> its name in the file.
      spell: function of torchvision's name -> how the file would spell it.
    """

    tensors: dict
    names: dict
    spell: Callable[[str], str]


def read(style, values):
    """Names the tensors that stand behind one prefix.

    Args:
      style: of BLOCKS.
      values: dict name behind the prefix -> value; what stands beside the
        encoder is left out.

    Returns:
      Spelled, its names without the prefix.
    """
    tensors: dict = {}
    names: dict = {}
    if style == "sequential":
        numbers = _children(values)
        find, spell = _sequential(numbers)
        body = re.compile(rf"({'|'.join(map(str, numbers['body']))})\.")
    else:
        find, spell = _STYLES[style]
        body = _BODIES[style]
    for name, value in values.items():
        known = find(name)
        if known is not None and known not in tensors:
            tensors[known], names[known] = value, name
        elif body.match(name):
            tensors[name], names[name] = value, name
    return Spelled(tensors, names, spell)


def _from_torchvision(name):
    if match := _STEM.fullmatch(name):
        name = re.sub(r"^0\.", "conv1.", re.sub(r"^1\.", "bn1.", match[2]))
    name = name.replace(".shortcut.", ".downsample.")
    known = re.fullmatch(rf"(conv1|bn1)\.{_LEAF}", name)
    known = known or BLOCKS["torchvision"].fullmatch(name)
    return name if known or re.match(r"fc\.", name) else None


def _from_detectron2(name):
    known = BLOCKS["detectron2"].fullmatch(name)
    known = known or re.fullmatch(rf"stem\.conv1(\.norm)?\.{_LEAF}", name)
    if known or re.match(r"stem\.fc\.", name):
        return layouts.from_detectron2(name)
    return None


def _from_face(name):
    stem = re.fullmatch(
        rf"embedder\.embedder\.(convolution|normalization)\.{_LEAF}", name
    )
    if stem:
        return f"{_FACE[stem[1]]}1.{stem[2]}"
    if not BLOCKS["hugging face"].fullmatch(name):
        return None
    _, _, stage, _, block, *part, kind, leaf = name.split(".")
    layer = f"{_FACE[kind]}{int(part[-1]) + 1}" if len(part) == 2 else ""
    if part == ["shortcut"]:
        layer = "downsample.0" if kind == "convolution" else "downsample.1"
    return f"layer{int(stage) + 1}.{block}.{layer}.{leaf}"


def _to_face(name):
    kinds = {"conv": "convolution", "bn": "normalization"}
    if stem := re.fullmatch(rf"(conv|bn)1\.{_LEAF}", name):
        return f"embedder.embedder.{kinds[stem[1]]}.{stem[2]}"
    match = re.fullmatch(
        rf"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))\.{_LEAF}",
        name,
    )
    if not match:
        return name
    stage, block, kind, number, shortcut, leaf = match.groups()
    if shortcut is None:
        part = f"layer.{int(number) - 1}.{kinds[kind]}"
    else:
        part = f"shortcut.{list(kinds.values())[int(shortcut)]}"
    return f"encoder.stages.{int(stage) - 1}.layers.{block}.{part}.{leaf}"


def _children(values):
    """Says which child of a Sequential is what.

    Returns:
      dict: "stages" -> list of numbers; "conv1", "bn1", "fc" -> "3" or "0.1",
      or missing; "body" -> list of the numbers up to the last stage.
    """
    stages = sorted(
        {
            int(name.partition(".")[0])
            for name in values
            if BLOCKS["sequential"].fullmatch(name)
        }
    )
    numbers: dict = {"stages": stages, "body": list(range(stages[-1] + 1))}
    layers: dict = {}
    for name, value in values.items():
        if match := _CHILD.fullmatch(name):
            place = tuple(int(n) for n in match.groups()[:2] if n)
            layers.setdefault(place, {})[match[3]] = value
    for place in sorted(layers):
        leaves = layers[place]
        axes = np.ndim(leaves.get("weight", ()))
        child = ".".join(map(str, place))
        if place[0] < stages[0]:
            kind = "conv1" if axes == 4 else "bn1"
        else:
            kind = "fc" if axes == 2 and place[0] > stages[-1] else ""
        if kind:
            numbers.setdefault(kind, child)
    return numbers


def _sequential(numbers):
    """Functions to read and to write the names of one Sequential."""
    stages = {n: place + 1 for place, n in enumerate(numbers["stages"])}
    layers = {numbers[k]: k for k in ("conv1", "bn1", "fc") if k in numbers}

    def find(name):
        child, _, leaf = name.rpartition(".")
        if child in layers:
            return f"{layers[child]}.{leaf}"
        if not BLOCKS["sequential"].fullmatch(name):
            return None
        stage, _, part = name.partition(".")
        part = part.replace("shortcut.", "downsample.")
        return f"layer{stages[int(stage)]}.{part}"

    def spell(name):
        for child, kind in layers.items():
            if name.startswith(f"{kind}."):
                return child + name.removeprefix(kind)
        for number, stage in stages.items():
            if name.startswith(f"layer{stage}."):
                return f"{number}.{name.partition('.')[2]}"
        return name

    return find, spell


_STYLES = {
    "torchvision": (_from_torchvision, str),
    "detectron2": (_from_detectron2, layouts.to_detectron2),
    "hugging face": (_from_face, _to_face),
}
