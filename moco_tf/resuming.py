"""What of a configuration may change when a run goes on, and why the rest not.

Fields are compared by what they mean: 1 and 1.0, a list and a tuple, "auto" and
what it stands for are the same, and a field that nothing reads does not count.
Where the data lie is no part of a run: which images they are decides
(`workdirs.restore_source`).
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from moco_tf import config as configs
from moco_tf import lane

# Fields that name a source, by command.
SOURCES = {
    "pretrain": ("data.source", "knn.bank", "knn.query"),
    "linear": ("data.train", "data.test"),
    "finetune": ("data.train", "data.test"),
}
# They cost speed or memory, or say when to stop and what to write.
_FREE_SECTIONS = ("log", "checkpoint", "knn")
_FREE_FIELDS = (
    "data.augment_on",
    "data.max_corrupt_fraction",
    "data.threads",
    "model.recompute",
    "train.jit_compile",
    "train.max_steps",
    "train.micro_batches",
)
# What --extend allows; fewer epochs it does not.
_EXTENDED = ("train.epochs", "schedule.milestones")
# The first that a field's name begins with says why it may not change.
_REASONS = {
    "seed": "all random numbers follow from it",
    "method": "a checkpoint is of one method",
    "train.batch_size": "the order of the samples, the length of an epoch and "
    "the meaning of a step follow from it",
    "train.epochs": "the rate of each step follows from it",
    "train.precision": "the state and the rounding of every step follow from "
    "it: more than speed",
    "train.tf32": "it rounds products to 10 bits: more than speed",
    "train.": "the training so far followed it",
    "model.init": "the first weights came from it; the checkpoints hold them",
    "model.": "the weights in the checkpoint are of that network",
    "optimizer.": "the steps so far were made by it",
    "schedule.": "the rates so far followed it",
    "data.": "the samples so far were made by it",
    "probe.online": "the state and the log of the steps hold the probe, or not",
    "probe.": "it is what the result is measured by",
}
# By what views are made: values of data.augment_on in words.
_FORMS = {
    "host": "a compiled kernel",
    "graph": "TensorFlow on the host",
    "device": "the device",
}
# Of several ways to the same step (see methods/shuffle.py).
_SAME_SHUFFLES = ("auto", "gather", "address")


def meaning(
    config: ml_collections.ConfigDict, command: str = "pretrain"
) -> dict[str, Any]:
    """The fields of a configuration, "section.key" -> what it means.

    Values have the type of their field; fields that nothing reads, because of
    the others, are left out.

    Args:
      config: ConfigDict of the command, of any types.
      command: of config_schema.TABLES.
    """
    values = configs.flatten(config.to_dict())
    values = configs.flatten(configs.build(values, command).to_dict())
    unread = []
    if values.get("probe.way") == "cached":
        unread += ["optimizer.learning_rate"]
    if values["schedule.name"] == "cosine":
        unread += ["schedule.milestones", "schedule.factor"]
        if values["schedule.unit"] == "step":  # which counts from 0
            unread += ["schedule.first_epoch"]
    else:
        unread += ["schedule.first_epoch"]
    if values.get("data.small_views") == 0:
        unread += ["data.small_size", "data.small_scale"]
    if values.get("probe.online") is False:
        unread += ["probe.learning_rate"]
    if values.get("model.init") == "":
        unread += ["model.init_head"]
    if values.get("model.input", "grid") != "grid":
        unread += ["model.patch"]
    if values.get("probe.way") == "published":
        unread += ["probe.rates", "probe.holdout", "probe.views"]
    kept = {name: v for name, v in values.items() if name not in unread}
    if "model.freeze" in kept:
        stages = [name.strip() for name in kept["model.freeze"].split(",")]
        kept["model.freeze"] = ",".join(sorted(filter(None, stages)))
    for name, value in kept.items():
        if name.endswith(".shuffle") and value in _SAME_SHUFFLES:
            kept[name] = _SAME_SHUFFLES[0]
    return kept


def difference(
    saved: ml_collections.ConfigDict,
    new: ml_collections.ConfigDict,
    command: str = "pretrain",
    extend: bool = False,
) -> list[tuple[str, Any, Any]]:
    """Lists what may not change on resume, as (field, saved, new).

    None stands for a field that one has not, or does not read.

    Args:
      saved, new: ConfigDicts of the command. command: of SOURCES.
      extend: allows more epochs, and other milestones.
    """
    before, after = meaning(saved, command), meaning(new, command)
    free = [*_FREE_FIELDS, *SOURCES[command]]
    if extend and after["train.epochs"] >= before["train.epochs"]:
        free += _EXTENDED
    if _same_rate(saved, new, before, after):
        free += ["optimizer.learning_rate", "optimizer.scaling"]
    return [
        (name, before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
        and name not in free
        and name.split(".")[0] not in _FREE_SECTIONS
    ]


def _same_rate(saved, new, before, after):
    """Whether the rate of a batch is the same, however it is written."""
    batches = [v.get("train.batch_size") for v in (before, after)]
    rates = [configs.learning_rate(config) for config in (saved, new)]
    return batches[0] == batches[1] and rates[0] == rates[1]


def shared(config: ml_collections.ConfigDict) -> Mapping[str, Any]:
    """What the configurations of all workers of a run must have in common.

    Where the data lie, threads and what is only logged may differ.
    """
    values = {
        name: value
        for name, value in meaning(config).items()
        if name != "data.threads" and not name.startswith("log.")
    }
    for name in SOURCES["pretrain"]:
        values[name] = bool(values[name])
    return values


def explain(
    changed: list[tuple[str, Any, Any]], command: str = "pretrain"
) -> str:
    """The lines of a message about changed fields, and how to go on.

    Args:
      changed: of `difference`, not empty. command: of SOURCES.
    """
    lines = []
    for name, was, is_ in changed:
        known = (
            words for part, words in _REASONS.items() if _begins(name, part)
        )
        reason = next(known, "the steps so far followed it")
        lines.append(f"  {name}: {was!r} -> {is_!r} ({reason})")
    folder = "--workdir" if command == "pretrain" else "--output"
    hint = ""
    epochs = {name: pair for name, *pair in changed}.get("train.epochs")
    if epochs and command == "pretrain":
        hint = " More epochs: add --extend."
        if epochs[1] < epochs[0]:
            hint = " To stop earlier: --config.train.max_steps=STEPS."
    return (
        "\n".join(lines)
        + f"\nPass the first values, or another folder as {folder}.{hint}"
    )


def _begins(name, part):
    return name.startswith(part) if part.endswith(".") else name == part


def describe_extension(
    saved: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> str:
    """Both schedules of a run that gets more epochs or other milestones.

    With a warning where the milestones have stayed behind; "" where nothing
    changes.
    """
    if _schedule(saved) == _schedule(new):
        return ""
    lines = [
        f"Schedule until now: {_schedule(saved)}",
        f"Schedule from now:  {_schedule(new)}",
    ]
    schedule, epochs = new.schedule, new.train.epochs
    marks = tuple(schedule.milestones)
    same = marks == tuple(saved.schedule.milestones)
    if schedule.name == "step" and marks and same:
        moved = [m * epochs // saved.train.epochs for m in marks]
        share = 100 * schedule.factor ** len(marks)
        text = ",".join(map(str, moved))
        lines.append(
            f"Warning: the milestones are those of {saved.train.epochs} "
            f"epochs: {epochs - marks[-1]} of {epochs} epochs have {share:.3g} "
            "% of the rate. To move them along, stop the run and add "
            f"--config.schedule.milestones={text} (with --extend)."
        )
    return "\n".join(lines)


def _schedule(config):
    shape, schedule = config.schedule.name, config.schedule
    if shape == "step":
        shape += f", x{schedule.factor:g} at {tuple(schedule.milestones)}"
    return (
        f"{shape}, from {configs.learning_rate(config):g}, over "
        f"{config.train.epochs} epochs"
    )


def form_of_views(values: Mapping[str, Any]) -> dict[str, str]:
    """By what a start makes its views, for environment.json.

    Args:
      values: fields of its configuration by name; a task's say nothing.
    """
    where = values.get("data.augment_on")
    return {"views": _FORMS[where]} if where else {}


def other_bits(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Why a run does not go on with the same bits: sentences, or none.

    Args:
      before, now: of environment.json, the last start and this one.
    """
    rules = _other_lane, _other_kernels, _other_views
    return [words for rule in rules if (words := rule(before, now))]


def _other_lane(before, now):
    """What another TensorFlow than at the last start means, or ""."""
    then, this = (
        (start.get("packages") or {}).get("tensorflow")
        for start in (before, now)
    )
    if then == this or not then:
        return ""
    return (
        f"The last start was on TensorFlow {then}, this one is on {this}. The "
        "run goes on with the same batches and its whole state, but not with "
        f"the same bits: {lane.TOLERANCE}"
    )


def _other_kernels(before, now):
    """What it means that oneDNN is on, unlike at the last start, or ""."""
    then, this = before.get("onednn"), now.get("onednn")
    if then == this or None in (then, this):  # earlier versions noted nothing
        return ""
    words = ("without", "with")
    return (
        f"The last start computed {words[bool(then)]} oneDNN, this one "
        f"{words[bool(this)]} "
        "it. The run goes on with the same batches and its whole state, but "
        "not with the same bits, and where oneDNN is off steps can take twice "
        "as long. TF_ENABLE_ONEDNN_OPTS chooses (1 or 0); where it is not set, "
        "import moco_tf before tensorflow."
    )


def _other_views(before, now):
    """What it means that views are made otherwise than before, or ""."""
    then = before.get("views", _FORMS["graph"])  # as earlier versions did
    this = now.get("views", then)
    if then == this:
        return ""
    return (
        f"The last start made views by {then}, this one makes them by {this}. "
        "The run goes on with the same images, crops and colours, but not with "
        "the same bits: pixels are up to one level apart, a few where the "
        "device makes them. config.data.augment_on chooses."
    )
