"""The table of the pre-training methods, by name.

Needs no TensorFlow: a method's module is imported when its class is asked for.
"""

import importlib
from typing import NamedTuple

from moco_tf import config_schema, naming
from moco_tf.config_schema import Field


class Entry(NamedTuple):
    """A method.

    Attributes:
      title: str, its published name.
      papers: arXiv numbers.
      dictionary: what a query is compared with, in words.
      class_path: "module:class" of the keras.Model.
      fields: of its section of a configuration, by name; each is an argument
        of the class, but "shuffle", from which the plan makes shuffle_keys.
      configs: names in configs/ of its recipes.
    """

    title: str
    papers: tuple[str, ...]
    dictionary: str
    class_path: str
    fields: dict[str, Field]
    configs: tuple[str, ...]


_SHUFFLE = Field(str, names=("auto", "gather", "address", "none"))
# Of a method that draws its negatives from a memory bank.
_BANK = {
    "negatives": Field(int, low=1),
    "momentum": Field(float, low=0, high=1),
    "temperature": Field(float, above=0),
    "loss": Field(str, names=("info_nce", "nce")),
}

# To add a method, add an entry.
METHODS = {
    "moco": Entry(
        title="MoCo v1, v2",
        papers=("1911.05722", "2003.04297"),
        dictionary="a queue of the last K keys of a momentum encoder",
        class_path="moco_tf.methods.moco:MoCo",
        fields={
            "queue_size": Field(int, low=1),
            "momentum": Field(float, low=0, high=1),
            "temperature": Field(float, above=0),
            "symmetric": Field(bool),
            "mask_same_image": Field(bool, later=True),
            "batch_negatives": Field(bool, later=True),
            "momentum_warmup_epochs": Field(int, low=0, later=True),
            "fill_queue": Field(bool, later=True),
            "shuffle": _SHUFFLE,
        },
        configs=(
            "moco_v1_imagenet",
            "moco_v2_imagenet",
            "moco_cifar10",
            "quickstart",
        ),
    ),
    "memory_bank": Entry(
        title="Instance discrimination (memory bank)",
        papers=("1805.01978",),
        dictionary="K features drawn from a bank of all images",
        class_path="moco_tf.methods.memory_bank:MemoryBank",
        fields=_BANK,
        configs=("memory_bank_imagenet",),
    ),
    "end_to_end": Entry(
        title="End-to-end keys",
        papers=("1911.05722",),
        dictionary="the keys of the current global batch",
        class_path="moco_tf.methods.end_to_end:EndToEnd",
        fields={
            "temperature": Field(float, above=0),
            "shared_encoder": Field(bool),
            "shuffle": _SHUFFLE,
        },
        configs=("end_to_end_imagenet",),
    ),
    "simclr": Entry(
        title="SimCLR",
        papers=("2002.05709",),
        dictionary="both views of the current global batch",
        class_path="moco_tf.methods.simclr:SimCLR",
        fields={"temperature": Field(float, above=0)},
        configs=("simclr_imagenet", "simclr_cifar10"),
    ),
    "byol": Entry(
        title="BYOL",
        papers=("2006.07733",),
        dictionary="none: the target of a momentum encoder",
        class_path="moco_tf.methods.byol:BYOL",
        fields={"momentum": Field(float, low=0, high=1)},
        configs=("byol_imagenet", "byol_cifar10"),
    ),
    "swav": Entry(
        title="SwAV",
        papers=("2006.09882",),
        dictionary="K prototypes, by the codes of the other view",
        class_path="moco_tf.methods.swav:SwAV",
        fields={
            "prototypes": Field(int, low=2),
            "temperature": Field(float, above=0),
            "epsilon": Field(float, above=0),
            "iterations": Field(int, low=1),
            "queue_size": Field(int, low=0),
            "queue_from_epoch": Field(int, low=0),
            "frozen_epochs": Field(int, low=0),
        },
        configs=("swav_imagenet", "swav_small_batch"),
    ),
    "dino": Entry(
        title="DINO",
        papers=("2104.14294",),
        dictionary="none: the centred output of a momentum encoder",
        class_path="moco_tf.methods.dino:DINO",
        fields={
            "outputs": Field(int, low=2),
            "temperature": Field(float, above=0),
            "teacher_temperature": Field(float, above=0),
            "first_teacher_temperature": Field(float, above=0),
            "warmup_epochs": Field(int, low=0),
            "momentum": Field(float, low=0, high=1),
            "center_momentum": Field(float, low=0, high=1),
            "frozen_epochs": Field(int, low=0),
        },
        configs=("dino_imagenet",),
    ),
    "cmc": Entry(
        title="CMC",
        papers=("1906.05849",),
        dictionary="K features of the other sensor, drawn from its bank",
        class_path="moco_tf.methods.cmc:CMC",
        fields=_BANK,
        configs=("cmc_imagenet",),
    ),
    "cpc": Entry(
        title="CPC",
        papers=("1807.03748",),
        dictionary="K patches of the current global batch",
        class_path="moco_tf.methods.cpc:CPC",
        fields={
            "rows": Field(int, low=1),
            "blocks": Field(int, low=1),
            "negatives": Field(int, low=1),
            "patch_jitter": Field(float, low=0, high=1, later=True),
        },
        configs=("cpc_imagenet",),
    ),
}


def method_class(name):
    """The class of a method, a subclass of methods.two_views.TwoViews.

    Side effects: imports TensorFlow.
    """
    module, _, attribute = METHODS[name].class_path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def fields(name):
    """The fields of pre-training: config_schema.PRETRAIN and a method's own.

    Args:
      name: key of METHODS.

    Returns:
      dict of Field by "section.key".

    Raises:
      ValueError: for another name.
    """
    if name not in METHODS:
        raise ValueError(
            f"config.method must name a method. Received {name!r}. "
            + naming.suggestion(str(name), METHODS)
        )
    section = METHODS[name].fields
    return config_schema.PRETRAIN | {
        f"{name}.{k}": f for k, f in section.items()
    }


def markdown():
    """The table of methods for the README, a line each."""
    lines = [
        "| method | a query is compared with | paper | configurations |",
        "|---|---|---|---|",
    ]
    for name, entry in METHODS.items():
        papers = ", ".join(
            f"[{paper}](https://arxiv.org/abs/{paper})"
            for paper in entry.papers
        )
        configs = ", ".join(f"`{config}`" for config in entry.configs)
        lines.append(
            f"| {entry.title} (`{name}`) | {entry.dictionary} | {papers} | "
            f"{configs} |"
        )
    return "\n".join(lines)
