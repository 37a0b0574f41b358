"""The fields of a configuration: their types, and what they may hold.

Needs no TensorFlow and touches no data, so a mistake is refused at once.
"""

import math
from typing import NamedTuple

from moco_tf import naming


class Field(NamedTuple):
    """Type and range of a field; a bound or a list that is None is no rule."""

    kind: type
    low: float | None = None
    high: float | None = None
    above: float | None = None  # like low, but the bound itself is excluded
    below: float | None = None
    names: tuple[str, ...] | None = None
    item: type = int  # of the entries of a tuple
    later: bool = False  # files and runs from before it may lack it


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

# What every method has; its own section is in methods/table.py.
PRETRAIN = {
    **_COMMON,
    "method": Field(str, later=True),
    "data.source": Field(str),
    "data.views": Field(str, names=VIEWS),
    "data.strength": Field(float, low=0, later=True),
    "data.image_size": Field(int, low=8),
    "data.small_views": Field(int, low=0, later=True),
    "data.small_size": Field(int, low=8, later=True),
    "data.small_scale": Field(tuple, above=0, high=1, item=float, later=True),
    "data.augment_on": Field(
        str, names=("host", "device", "graph"), later=True
    ),
    "model.init": Field(str, later=True),
    "model.init_head": Field(str, names=("auto", "file", "new"), later=True),
    "model.backbone": Field(str),
    "model.input": Field(str, names=("rgb", "lab", "pair", "grid"), later=True),
    "model.patch": Field(int, low=0, later=True),
    "model.norm": Field(str, names=("batch", "layer"), later=True),
    "model.width": Field(float, above=0),
    "model.stem": Field(str, names=("imagenet", "cifar")),
    "model.head": Field(str, names=HEADS),
    "model.hidden": Field(int, low=0, later=True),
    "model.dim": Field(int, low=1),
    "model.bn_groups": Field(int, low=1),
    "model.sync_bn": Field(bool, later=True),
    "model.recompute": Field(bool, later=True),
    "model.freeze": Field(str, later=True),
    "optimizer.name": Field(str, names=("sgd", "lars", "lamb", "sgdw", "adam")),
    "optimizer.clip_norm": Field(float, low=0, later=True),
    "optimizer.scaling": Field(
        str, names=("none", "linear", "sqrt"), later=True
    ),
    "schedule.first_epoch": Field(int, low=0, high=1),
    "train.max_steps": Field(int, low=0),
    "train.micro_batches": Field(int, low=1, later=True),
    "train.precision": Field(
        str, names=("float32", "mixed_bfloat16", "mixed_float16")
    ),
    "train.jit_compile": Field(bool, later=True),
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
    "knn.sample": Field(int, low=0, later=True),
    "probe.online": Field(bool, later=True),
    "probe.learning_rate": Field(float, above=0, later=True),
    "log.tensorboard": Field(bool),
    "log.listeners": Field(tuple, item=str, later=True),
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

_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "numbers with commas between",
}


def _words(field):
    if field.item is str:
        return "names with commas between"
    whole = "whole " if field.kind is tuple and field.item is int else ""
    return whole + _KINDS[field.kind]


def rule(field):
    """What a field takes, in words: its type, and its values or bounds."""
    if field.names is not None:
        return f"one of {', '.join(field.names)}"
    return ", ".join(filter(None, (_words(field), _bounds(field))))


def _bounds(field):
    """The bounds of a field in words; "" without any."""
    bounds = {
        "at least": field.low,
        "above": field.above,
        "at most": field.high,
        "below": field.below,
    }
    return " and ".join(
        f"{word} {bound}" for word, bound in bounds.items() if bound is not None
    )


def parse(fields, name, text):
    """Returns the value of a field from the text of a command line.

    Args:
      fields: table of fields by name. name: of a field in it. text: str.

    Raises:
      ValueError: for an unknown field or text of another type.
    """
    field = _field(fields, name)
    kind = field.kind
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[
                text.lower()
            ]
        if kind is tuple:
            parts = text.strip("()[] ").split(",")
            parts = [part.strip(" \"'") for part in parts]
            return tuple(field.item(part) for part in parts if part)
        return kind(text)
    except (ValueError, KeyError):
        raise ValueError(
            f"config.{name} must be {_words(field)}. Received {text!r}."
        ) from None


def coerce(fields, name, value):
    """Returns a field's value in its type: 1 -> 1.0, [120] -> (120,).

    NumPy's numbers and arrays are the numbers that they hold.

    Raises:
      ValueError: for an unknown field or a value of another type.
    """
    field = _field(fields, name)
    kind, plain = field.kind, _plain(value)
    if kind is float and type(plain) is int:
        return float(plain)
    if kind is tuple and type(plain) in (list, tuple):
        taken = (str,) if field.item is str else (int, field.item)
        if all(type(part) in taken for part in plain):
            return tuple(field.item(part) for part in plain)
    elif type(plain) is kind:
        return plain
    raise ValueError(
        f"config.{name} must be {_words(field)}. Received {value!r}."
    )


def _plain(value):
    """A value with Python's numbers in the place of NumPy's, also in a list."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    # Of np.generic and np.ndarray; NumPy is not imported for a look at them.
    return value.tolist() if hasattr(value, "tolist") else value


def _field(fields, name):
    if name not in fields:
        raise ValueError(
            f"There is no field config.{name}. "
            + naming.field_suggestion(name, fields)
        )
    return fields[name]


def check_field(fields, name, value):
    """Refuses a value of the right type outside the field's range."""
    field = _field(fields, name)
    if field.names is not None and value not in field.names:
        raise ValueError(
            f"config.{name} must be one of {', '.join(field.names)}. Received "
            f"{value!r}. {naming.suggestion(value, field.names)}"
        )
    values = value if field.kind is tuple else (value,)
    is_text = field.kind in (bool, str) or field.item is str
    if is_text or all(_inside(v, field) for v in values):
        return
    raise ValueError(
        f"config.{name} must be {_bounds(field)}. Received {value!r}."
    )


def _inside(value, field):
    """True if a number is finite and within the field's bounds."""
    return (
        (type(value) is int or math.isfinite(value))
        and (field.low is None or value >= field.low)
        and (field.high is None or value <= field.high)
        and (field.above is None or value > field.above)
        and (field.below is None or value < field.below)
    )


def check_source(config):
    """Refuses a configuration that names no images."""
    if not config.data.source:
        raise ValueError(
            "config.data.source must name the images to train on. Received "
            "''. Pass --config.data.source=folder:DIR (or list:FILE, "
            "tfds:NAME/SPLIT, shapes:train)."
        )


def check_relations(config, replicas):
    """Refuses fields that do not go together, on this number of replicas."""
    batch, groups = config.train.batch_size, config.model.bn_groups
    check_source(config)
    _check_divisors(config, replicas)
    if batch // groups < 2:
        remedy = _larger_groups(config, replicas)
        raise ValueError(
            "Each group of model.bn_groups must hold 2 samples or more: batch "
            f"statistics of one are useless. Received bn_groups={groups}, "
            f"batch_size={batch}. {remedy}"
        )
    _check_small_views(config.data)
    _check_patches(config.model, config.data.image_size)
    check_schedule(config.schedule, config.train.epochs)
    if bool(config.knn.bank) != bool(config.knn.query):
        raise ValueError(
            "knn.bank and knn.query must both be given, or both be empty for "
            f"no kNN. Received bank={config.knn.bank!r}, "
            f"query={config.knn.query!r}. Pass "
            f"--config.knn.{'query' if config.knn.bank else 'bank'}=SOURCE, or "
            "--config.knn.bank= --config.knn.query="
        )


def _groups_fit(groups, config, replicas):
    """Whether BatchNorm takes so many groups of a configuration's batch."""
    batch, parts = config.train.batch_size, config.train.micro_batches
    return batch >= 2 * groups and not (
        batch % groups or groups % (replicas * parts)
    )


def _larger_groups(config, replicas):
    """The remedy for groups of one sample: fewer of them, or more samples."""
    groups = config.model.bn_groups
    for fewer in range(groups - 1, 0, -1):
        if _groups_fit(fewer, config, replicas):
            return f"Pass --config.model.bn_groups={fewer}."
    # Replicas divide the groups already, but not the one of model.sync_bn.
    batch = 2 * max(groups, replicas)
    return f"Pass --config.train.batch_size={batch}."


def _check_small_views(data):
    """Refuses small views of no scale, or larger than the others."""
    if not data.small_views:
        return
    scale = tuple(data.small_scale)
    if len(scale) != 2 or scale[0] >= scale[1]:
        raise ValueError(
            "data.small_scale must be two rising shares of an image's area. "
            f"Received {scale}. Pass --config.data.small_scale=0.05,0.14."
        )
    if data.small_size >= data.image_size:
        remedy = "--config.data.small_views=0"
        if data.image_size > 8:  # the least that small views may have
            size = max(8, data.image_size // 2)
            remedy = f"--config.data.small_size={size}, or {remedy}"
        raise ValueError(
            "data.small_size must be below data.image_size. Received "
            f"small_size={data.small_size}, image_size={data.image_size}. "
            f"Pass {remedy}."
        )


def _check_patches(model, size):
    """Refuses patches that make no grid."""
    patch = model.patch
    fit = [p for p in range(4, size, 2) if (size - p) % (p // 2) == 0]
    if model.input == "grid" and patch not in fit:
        remedy = "Change data.image_size: no patch fits it."
        if fit:
            near = min(fit, key=lambda p: abs(p - size / 4))
            remedy = f"Pass --config.model.patch={near}."
        raise ValueError(
            "model.patch must be an even number from 4 on, and data.image_size "
            "a multiple of its half that holds two or more. Received "
            f"patch={patch}, image_size={size}. {remedy}"
        )


def _check_synchronized(config, replicas):
    """Refuses what does not go with a BatchNorm that is synchronised."""
    if config.train.jit_compile and replicas > 1:
        raise ValueError(
            "train.jit_compile must be false where model.sync_bn is true on "
            "several replicas: XLA compiles no exchange between them. Received "
            f"jit_compile=True, replicas={replicas}. Pass "
            "--config.train.jit_compile=false."
        )
    groups, micro_batches = config.model.bn_groups, config.train.micro_batches
    if groups == micro_batches == 1:
        return
    remedy = "--config.model.bn_groups=1 --config.train.micro_batches=1"
    # Of groups, where they are wanted: those given, or the fewest.
    for number in (groups, replicas * micro_batches):
        if _groups_fit(number, config, replicas):
            remedy += (
                ", or --config.model.sync_bn=false "
                f"--config.model.bn_groups={number}"
            )
            break
    raise ValueError(
        "model.bn_groups and train.micro_batches must be 1 where model.sync_bn "
        "is true: statistics are of the global batch. Received "
        f"bn_groups={groups}, micro_batches={micro_batches}. Pass {remedy}."
    )


def _check_divisors(config, replicas):
    """Refuses replicas, groups and parts that do not divide the batch."""
    batch, groups = config.train.batch_size, config.model.bn_groups
    rows = [("replicas", replicas, "train.batch_size", batch)]
    if not config.model.sync_bn:
        parts = config.train.micro_batches
        share = groups // replicas
        rows += [
            ("model.bn_groups", groups, "train.batch_size", batch),
            ("replicas", replicas, "model.bn_groups", groups),
            ("train.micro_batches", parts, "model.bn_groups / replicas", share),
        ]
    for divisor, number, name, value in rows:
        if value % number:
            other = ""
            if divisor == "replicas":
                other = ", or change --devices or the number of workers"
            raise ValueError(
                f"{divisor} must divide {name}. Received {divisor}={number}, "
                f"{name}={value}. Pass {_divisible(config, replicas)}{other}."
            )
    if config.model.sync_bn:
        _check_synchronized(config, replicas)


def _divisible(config, replicas):
    """A remedy for batch, groups and parts that do not divide each other.

    The nearest groups for the batch, or the nearest batch for the groups; where
    neither alone will do, both.
    """
    batch, groups = config.train.batch_size, config.model.bn_groups
    parts = config.train.micro_batches
    if config.model.sync_bn:
        batch = max(2, max(1, round(batch / replicas)) * replicas)
        ones = ""
        if (groups, parts) != (1, 1):
            ones = " --config.model.bn_groups=1 --config.train.micro_batches=1"
        return f"--config.train.batch_size={batch}{ones}"
    remedies = []
    fit = [g for g in range(1, batch + 1) if _groups_fit(g, config, replicas)]
    if fit:
        near = min(fit, key=lambda g: abs(g - groups))
        remedies.append(f"--config.model.bn_groups={near}")
    unit = replicas * parts
    near = max(1, round(groups / unit)) * unit
    if near == groups or not fit:
        batch = max(2, round(batch / near)) * near
        both = f"--config.train.batch_size={batch}"
        if near != groups:
            both += f" --config.model.bn_groups={near}"
        remedies.append(both)
    return ", or ".join(remedies)


def check_schedule(schedule, epochs):
    """Refuses a warm-up or milestones that do not end within the epochs."""
    if schedule.warmup_epochs >= epochs:
        raise ValueError(
            "schedule.warmup_epochs must be below train.epochs. Received "
            f"warmup_epochs={schedule.warmup_epochs}, epochs={epochs}. Pass "
            f"--config.schedule.warmup_epochs={epochs // 2}."
        )
    marks = schedule.milestones
    if schedule.name == "step" and (
        sorted(set(marks)) != list(marks) or any(m >= epochs for m in marks)
    ):
        remedy = "name=cosine"  # two milestones need three epochs
        if epochs > 2:
            remedy = f"milestones={epochs * 3 // 5},{epochs * 4 // 5}"
        raise ValueError(
            "schedule.milestones must rise and lie below train.epochs. "
            f"Received milestones={tuple(marks)}, epochs={epochs}. Pass, for "
            f"example, --config.schedule.{remedy}."
        )
