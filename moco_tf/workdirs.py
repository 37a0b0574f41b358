"""What a workdir records of its run: configuration, data, starts."""

import hashlib
import json
import os
import pathlib

import moco_tf
from moco_tf import config as configs
from moco_tf import environment

# What may differ when a run is resumed; train.epochs may grow with --extend.
_FREE_SECTIONS = ("log", "checkpoint", "knn")
_FREE_FIELDS = ("data.threads", "train.max_steps")


def prepare(config, workdir, fingerprint, extend=False):
    """Makes the workdir, or checks that the run it holds may go on.

    Args:
      config: ConfigDict. workdir: path.
      fingerprint: of the source that is trained on (`Source.fingerprint`).
      extend: allows more epochs than before; prints both schedules.

    Raises:
      ValueError: if the run in the workdir was started otherwise.
    """
    workdir = pathlib.Path(workdir)
    if (workdir / "config.json").is_file():
        _check_resumable(config, workdir, fingerprint, extend)
    elif (workdir / "checkpoints").is_dir():
        raise ValueError(
            "A workdir with checkpoints must hold their config.json. Received "
            f"{str(workdir)!r} without one. Pass another --workdir."
        )
    save(config, workdir, fingerprint)


def save(config, workdir, fingerprint=""):
    """Writes config.json, and this start's entry of environment.json."""
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    saved = {
        "moco_tf": moco_tf.__version__,
        "data_fingerprint": fingerprint,
        "config": config.to_dict(),
    }
    _write_json(workdir / "config.json", saved)
    path = workdir / "environment.json"
    starts = _read_json(path)["starts"] if path.is_file() else []
    _write_json(path, {"starts": [*starts, environment.describe()]})


def load_saved(workdir):
    """Returns the ConfigDict that `save` wrote, locked.

    Raises:
      ValueError: if there is none or it is damaged.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        return configs.build(configs.flatten(_read_json(path)["config"]))
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} is not the config.json of a run: it has no configuration."
        ) from None


def difference(saved, new):
    """Lists what may not change on resume, as (field, saved, new)."""
    old, new = configs.flatten(saved.to_dict()), configs.flatten(new.to_dict())
    return [
        (name, old[name], new[name])
        for name in old
        if old[name] != new[name]
        and name not in _FREE_FIELDS
        and name.split(".")[0] not in _FREE_SECTIONS
    ]


def identity(config, fingerprint):
    """A number that workers of one run have in common.

    Args:
      config: ConfigDict; data.threads and what is only logged may differ.
      fingerprint: of the source that is trained on.

    Returns:
      int below 2**60.
    """
    values = configs.flatten(config.to_dict())
    values = {
        name: value
        for name, value in values.items()
        if name != "data.threads" and not name.startswith("log.")
    }
    text = json.dumps([values, fingerprint, moco_tf.__version__])
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


def _check_resumable(config, workdir, fingerprint, extend):
    saved = load_saved(workdir)
    changed = difference(saved, config)
    old, new = saved.train.epochs, config.train.epochs
    if extend and new > old:
        changed = [entry for entry in changed if entry[0] != "train.epochs"]
        print(f"Schedule until now: {_schedule(saved)}")
        print(f"Schedule from now:  {_schedule(config)}")
    if changed:
        lines = [f"  {name}: {was!r} -> {is_!r}" for name, was, is_ in changed]
        hint = "" if extend or new <= old else " (more epochs: add --extend)"
        raise ValueError(
            f"The run in {workdir} was started with another configuration:\n"
            + "\n".join(lines)
            + f"\nPass the first values, or another --workdir{hint}."
        )
    before = _read_json(workdir / "config.json").get("data_fingerprint", "")
    if before and before != fingerprint:
        raise ValueError(
            f"The run in {workdir} was started on other data: "
            f"{config.data.source!r} has changed since (files added, removed "
            "or replaced). Restore it, or pass another --workdir."
        )


def _schedule(config):
    shape, schedule = config.schedule.name, config.schedule
    if shape == "step":
        shape += f", x{schedule.factor:g} at {schedule.milestones}"
    return (
        f"{shape}, from {config.optimizer.learning_rate:g}, over "
        f"{config.train.epochs} epochs"
    )


def _read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _write_json(path, value):
    """Writes a file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(part, path)
