"""The fields of each command's configurations: their types and ranges."""

from typing import NamedTuple


class Field(NamedTuple):
    """Type and range of a field; a bound or a list that is None is no rule."""

    kind: type
    low: float | None = None
    high: float | None = None
    above: float | None = None  # like low, but the bound itself is excluded
    below: float | None = None
    names: tuple[str, ...] | None = None
    item: type = int  # of the entries of a tuple
    absent: object = None  # the value where it is not given, a later field's


HEADS = ("fc", "mlp", "simclr", "byol", "swav", "dino", "dino_bn")
VIEWS = ("v1", "v2", "cifar", "simclr", "byol", "swav", "dino", "cmc", "cpc")

# What every training has.
_COMMON = {
    "seed": Field(int, low=0, high=2**31 - 1),
    "data.max_corrupt_fraction": Field(float, low=0, high=1),
    "data.threads": Field(int, low=0),
    "optimizer.learning_rate": Field(float, above=0),
    "optimizer.momentum": Field(float, low=0, below=1),
    "optimizer.weight_decay": Field(float, low=0),
    "schedule.name": Field(str, names=("cosine", "step")),
    "schedule.milestones": Field(tuple, low=1),
    "schedule.factor": Field(float, above=0, high=1),
    "schedule.warmup_epochs": Field(int, low=0),
    "schedule.unit": Field(str, names=("epoch", "step")),
    "train.batch_size": Field(int, low=1),
    "train.epochs": Field(int, low=1),
    "log.every_steps": Field(int, low=1, high=1024),
}

# What every method has; its own section is in method_table.py.
PRETRAIN = {
    **_COMMON,
    "method": Field(str, absent="moco"),
    "data.source": Field(str),
    "data.views": Field(str, names=VIEWS),
    "data.strength": Field(float, low=0, absent=1.0),
    "data.image_size": Field(int, low=8),
    "data.small_views": Field(int, low=0, absent=0),
    "data.small_size": Field(int, low=8, absent=96),
    "data.small_scale": Field(
        tuple, above=0, high=1, item=float, absent=(0.05, 0.14)
    ),
    "data.augment_on": Field(str, names=("host", "device"), absent="host"),
    "model.backbone": Field(str),
    "model.input": Field(
        str, names=("rgb", "lab", "pair", "grid"), absent="rgb"
    ),
    "model.patch": Field(int, low=0, absent=0),
    "model.norm": Field(str, names=("batch", "layer"), absent="batch"),
    "model.width": Field(float, above=0),
    "model.stem": Field(str, names=("imagenet", "cifar")),
    "model.head": Field(str, names=HEADS),
    "model.hidden": Field(int, low=0, absent=0),
    "model.dim": Field(int, low=1),
    "model.bn_groups": Field(int, low=1),
    "model.sync_bn": Field(bool, absent=False),
    "model.recompute": Field(bool, absent=False),
    "optimizer.name": Field(str, names=("sgd", "lars", "lamb", "sgdw", "adam")),
    "optimizer.scaling": Field(
        str, names=("none", "linear", "sqrt"), absent="none"
    ),
    "schedule.first_epoch": Field(int, low=0, high=1),
    "train.max_steps": Field(int, low=0),
    "train.micro_batches": Field(int, low=1, absent=1),
    "train.precision": Field(
        str, names=("float32", "mixed_bfloat16", "mixed_float16")
    ),
    "train.jit_compile": Field(bool, absent=False),
    "train.tf32": Field(bool),
    "checkpoint.every_steps": Field(int, low=0),
    "checkpoint.keep": Field(int, low=1),
    "knn.bank": Field(str),
    "knn.query": Field(str),
    "knn.every_epochs": Field(int, low=1),
    "knn.k": Field(int, low=1),
    "knn.temperature": Field(float, above=0),
    "knn.features": Field(str, names=("projection", "backbone")),
    "knn.batch_size": Field(int, low=1),
    "knn.baseline": Field(bool),
    "log.tensorboard": Field(bool),
}

_TASK = {
    **_COMMON,
    "data.train": Field(str),
    "data.test": Field(str),
    "data.crop": Field(float, above=0, high=1),
}

LINEAR = {
    **_TASK,
    "probe.way": Field(str, names=("cached", "published")),
    "probe.features": Field(str, names=("backbone", "projection")),
    "probe.rates": Field(tuple, above=0, item=float),
    "probe.holdout": Field(float, above=0, below=1),
    "probe.views": Field(int, low=0),
}

FINETUNE = {
    **_TASK,
    "data.labels": Field(float, above=0, high=1),
    "data.holdout": Field(float, low=0, below=1),
    "model.init": Field(str, names=("encoder", "random")),
    "model.sync_bn": Field(bool),
    "model.head_bn": Field(bool),
    "optimizer.head_factor": Field(float, above=0),
    "augment.rand_augment": Field(float, low=0, high=1),
    "augment.mixup": Field(float, low=0),
    "augment.cutmix": Field(float, low=0),
    "train.label_smoothing": Field(float, low=0, below=1),
    "train.early_stopping": Field(int, low=0),
    "train.precision": Field(str, names=("run", "float32", "mixed_bfloat16")),
}

# By command.
TABLES = {"pretrain": PRETRAIN, "linear": LINEAR, "finetune": FINETUNE}
