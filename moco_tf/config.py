"""Configurations: load, override, check, save, compare."""

import importlib.util
import json
import os
import pathlib

import ml_collections

import moco_tf
from moco_tf import config_rules, environment, naming

# What may differ when a run is resumed; train.epochs may grow with --extend.
_FREE_SECTIONS = ("log", "checkpoint", "knn")
_FREE_FIELDS = ("data.threads", "train.max_steps")


def folders():
    """Folders of the named configurations: in the wheel, in the checkout."""
    package = pathlib.Path(__file__).parent
    places = (package / "configs", package.parent / "configs")
    return [place for place in places if place.is_dir()]


def names():
    """Names that `load` knows, sorted."""
    return sorted({p.stem for f in folders() for p in f.glob("[!_]*.py")})


def load(name, overrides=None):
    """Loads a configuration by name or by path, locked.

    Args:
      name: "moco_cifar10", or the path of a file that ends in .py and defines
        get_config().
      overrides: dict "section.key" -> text of the command line.

    Returns:
      ConfigDict with every field of config_rules.FIELDS in its type.

    Raises:
      ValueError: for a missing or broken file, an unknown or missing field, a
        value of another type or out of its range.
    """
    values = _flatten(_read(_find(name)).to_dict())
    missing = sorted(set(config_rules.FIELDS) - set(values))
    if missing:
        raise ValueError(
            f"A configuration must hold every field. {name} lacks "
            f"{', '.join(missing)}."
        )
    for field, text in (overrides or {}).items():
        values[field] = config_rules.parse(field, text)
    return _build(values)


def check(config, replicas):
    """Refuses what can be refused without touching data.

    Args:
      config: ConfigDict.
      replicas: number of replicas in the strategy.

    Raises:
      ValueError: with the rule, the value received and the remedy.
    """
    for name, value in _flatten(config.to_dict()).items():
        config_rules.check_field(name, config_rules.coerce(name, value))
    from moco_tf.models import encoder  # here: `load` needs no TensorFlow

    backbones = encoder.backbone_names()
    if config.model.backbone not in backbones:
        raise ValueError(
            "config.model.backbone must name a known backbone. Received "
            f"{config.model.backbone!r}. "
            + naming.suggestion(config.model.backbone, backbones)
        )
    config_rules.check_relations(config, replicas)


def difference(saved, new):
    """Lists what may not change on resume, as (field, saved, new)."""
    old, new = _flatten(saved.to_dict()), _flatten(new.to_dict())
    return [
        (name, old[name], new[name])
        for name in old
        if old[name] != new[name]
        and name not in _FREE_FIELDS
        and name.split(".")[0] not in _FREE_SECTIONS
    ]


def prepare_workdir(config, workdir, fingerprint, extend=False):
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
        return _build(_flatten(_read_json(path)["config"]))
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} is not the config.json of a run: it has no configuration."
        ) from None


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


def _find(name):
    """The file of a configuration's name or path."""
    path = pathlib.Path(name)
    if path.suffix == ".py" or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ValueError(f"--config names a file that is not there: {path}.")
    for folder in folders():
        if (folder / f"{name}.py").is_file():
            return folder / f"{name}.py"
    raise ValueError(
        f"There is no configuration {name!r}. "
        + naming.suggestion(name, names())
    )


def _read(path):
    """Runs a configuration file: its get_config()."""
    spec = importlib.util.spec_from_file_location("moco_tf_config", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # the file is the user's: say where, and what
        raise ValueError(
            f"The configuration {path} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"get_config() of {path} must return a ConfigDict. Received "
            f"{type(config).__name__}."
        )
    return config


def _flatten(tree, prefix=""):
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _build(values):
    """A locked ConfigDict from "section.key" -> value, types checked."""
    config = ml_collections.ConfigDict()
    for name, value in values.items():
        value = config_rules.coerce(name, value)
        config_rules.check_field(name, value)
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ml_collections.ConfigDict()
        (config[section] if section else config)[key] = value
    return config.lock()


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
