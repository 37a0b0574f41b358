"""What a configuration may hold: every field, its type and its range.

Needs no TensorFlow and touches no data, so a mistake is told at once.
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


FIELDS = {
    "seed": Field(int, low=0, high=2**31 - 1),
    "data.source": Field(str),
    "data.views": Field(str, names=("v1", "v2", "cifar")),
    "data.image_size": Field(int, low=8),
    "data.max_corrupt_fraction": Field(float, low=0, high=1),
    "data.threads": Field(int, low=0),
    "model.backbone": Field(str),
    "model.width": Field(float, above=0),
    "model.stem": Field(str, names=("imagenet", "cifar")),
    "model.head": Field(str, names=("fc", "mlp")),
    "model.dim": Field(int, low=1),
    "model.bn_groups": Field(int, low=1),
    "moco.queue_size": Field(int, low=1),
    "moco.momentum": Field(float, low=0, high=1),
    "moco.temperature": Field(float, above=0),
    "moco.symmetric": Field(bool),
    "moco.shuffle": Field(str, names=("auto", "gather", "address")),
    "optimizer.name": Field(str, names=("sgd", "lamb", "sgdw")),
    "optimizer.learning_rate": Field(float, above=0),
    "optimizer.momentum": Field(float, low=0, below=1),
    "optimizer.weight_decay": Field(float, low=0),
    "schedule.name": Field(str, names=("cosine", "step")),
    "schedule.milestones": Field(tuple, low=1),
    "schedule.factor": Field(float, above=0, high=1),
    "schedule.warmup_epochs": Field(int, low=0),
    "schedule.unit": Field(str, names=("epoch", "step")),
    "schedule.first_epoch": Field(int, low=0, high=1),
    "train.batch_size": Field(int, low=1),
    "train.epochs": Field(int, low=1),
    "train.max_steps": Field(int, low=0),
    "train.precision": Field(str, names=("float32", "mixed_bfloat16")),
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
    "log.every_steps": Field(int, low=1, high=1024),
    "log.tensorboard": Field(bool),
}

_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "whole numbers with commas between, as in 120,160",
}


def parse(name, text):
    """Returns the value of a field from the text of a command line.

    Raises:
      ValueError: for an unknown field or text of another type.
    """
    kind = _field(name).kind
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[
                text.lower()
            ]
        if kind is tuple:
            parts = text.strip("()[] ").split(",")
            return tuple(int(part) for part in parts if part.strip())
        return kind(text)
    except (ValueError, KeyError):
        raise ValueError(
            f"config.{name} must be {_KINDS[kind]}. Received {text!r}."
        ) from None


def coerce(name, value):
    """Returns a field's value in its type: 1 -> 1.0, [120] -> (120,).

    Raises:
      ValueError: for an unknown field or a value of another type.
    """
    kind = _field(name).kind
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and type(value) in (list, tuple):
        if all(type(part) is int for part in value):
            return tuple(value)
    elif type(value) is kind:
        return value
    raise ValueError(
        f"config.{name} must be {_KINDS[kind]}. Received {value!r}."
    )


def _field(name):
    if name not in FIELDS:
        raise ValueError(
            f"There is no field config.{name}. "
            + naming.suggestion(name, FIELDS)
        )
    return FIELDS[name]


def check_field(name, value):
    """Refuses a value of the right type outside the field's range."""
    field = _field(name)
    if field.names is not None and value not in field.names:
        raise ValueError(
            f"config.{name} must be one of {', '.join(field.names)}. Received "
            f"{value!r}. {naming.suggestion(value, field.names)}"
        )
    values = value if field.kind is tuple else (value,)
    if field.kind in (bool, str) or all(_inside(v, field) for v in values):
        return
    bounds = {
        "at least": field.low,
        "above": field.above,
        "at most": field.high,
        "below": field.below,
    }
    rule = " and ".join(
        f"{word} {bound}" for word, bound in bounds.items() if bound is not None
    )
    raise ValueError(f"config.{name} must be {rule}. Received {value!r}.")


def _inside(value, field):
    """True if a number is finite and within the field's bounds."""
    return (
        math.isfinite(value)
        and (field.low is None or value >= field.low)
        and (field.high is None or value <= field.high)
        and (field.above is None or value > field.above)
        and (field.below is None or value < field.below)
    )


def check_relations(config, replicas):
    """Refuses fields that do not go together, on this number of replicas."""
    batch, groups = config.train.batch_size, config.model.bn_groups
    if not config.data.source:
        raise ValueError(
            "config.data.source must name the images to train on. Received "
            "''. Pass --config.data.source=folder:DIR (or list:FILE, "
            "tfds:NAME/SPLIT, shapes:train)."
        )
    _check_divides("replicas", replicas, "train.batch_size", batch)
    _check_divides("model.bn_groups", groups, "train.batch_size", batch)
    _check_divides("replicas", replicas, "model.bn_groups", groups)
    if batch // groups < 2:
        raise ValueError(
            "Each group of model.bn_groups must hold 2 samples or more: batch "
            f"statistics of one are useless. Received bn_groups={groups}, "
            f"batch_size={batch}. Lower config.model.bn_groups."
        )
    keys = batch * (2 if config.moco.symmetric else 1)
    if config.moco.queue_size < keys:
        raise ValueError(
            "moco.queue_size must be at least the number of keys of a step "
            "(the batch size, twice that when symmetric). Received "
            f"queue_size={config.moco.queue_size}, keys={keys}. Raise "
            "config.moco.queue_size or lower config.train.batch_size."
        )
    _check_schedule(config.schedule, config.train.epochs)
    if bool(config.knn.bank) != bool(config.knn.query):
        raise ValueError(
            "knn.bank and knn.query must both be given, or both be empty for "
            f"no kNN. Received bank={config.knn.bank!r}, "
            f"query={config.knn.query!r}."
        )


def _check_divides(divisor_name, divisor, name, value):
    if value % divisor:
        field = "--devices" if divisor_name == "replicas" else divisor_name
        raise ValueError(
            f"{divisor_name} must divide {name}. Received "
            f"{divisor_name}={divisor}, {name}={value}. Change {name} or "
            f"{field}."
        )


def _check_schedule(schedule, epochs):
    if schedule.warmup_epochs >= epochs:
        raise ValueError(
            "schedule.warmup_epochs must be below train.epochs. Received "
            f"warmup_epochs={schedule.warmup_epochs}, epochs={epochs}."
        )
    marks = schedule.milestones
    if schedule.name == "step" and (
        sorted(set(marks)) != list(marks) or any(m >= epochs for m in marks)
    ):
        raise ValueError(
            "schedule.milestones must rise and lie below train.epochs. "
            f"Received milestones={tuple(marks)}, epochs={epochs}. Pass, for "
            "example, --config.schedule.milestones="
            f"{epochs * 3 // 5},{epochs * 4 // 5}."
        )
