"""Configurations: load, override, check."""

import functools
import importlib.util
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections
import yaml

from moco_tf import config_schema, naming, paths
from moco_tf.methods import table

AUTO = "auto"  # in the place of a name: doctor/rules.py chooses at the start
_ENDINGS = (".py", ".yaml", ".yml", ".json")
_PACKAGE = pathlib.Path(__file__).parent
_EMBEDDED = "shapes:"  # what the spec of an embedded set begins with
_VOTES = {"knn.bank", "knn.query"}
# A line of configs/_base.py: of a section, or of a field with its comment.
_BASE_LINE = re.compile(r"(?m)^ +(\w+)=dict\($|^ +(\w+)=.*?,  # (.*)$")


def folders():
    """Folders of the named configurations: in the wheel, in the checkout."""
    paths = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    return [path for path in paths if path.is_dir()]


def names(command: str = "pretrain") -> list[str]:
    """Names that `load` knows for a command, sorted."""
    known = {p.stem for f in folders() for p in f.glob("[!_]*.py")}
    tasks = set(config_schema.TABLES) - {"pretrain"}
    prefix = f"{command}_"
    if command in tasks:
        return sorted(n for n in known if f"{n}_".startswith(prefix))
    return sorted(n for n in known if n.partition("_")[0] not in tasks)


def base(name: str) -> ml_collections.ConfigDict:
    """The base of a configuration: every field at the value of configs/_base.

    A file starts from it and writes what differs.

    Args:
      name: a method of pre-training, as "moco", or "linear" or "finetune".

    Returns:
      ConfigDict, not locked and of any types: `load` checks them.

    Raises:
      ValueError: for another name.
    """
    return ml_collections.ConfigDict(_base_tree(name), type_safe=False)


def load(
    name: str | pathlib.Path,
    overrides: Mapping[str, str] | None = None,
    command: str = "pretrain",
) -> ml_collections.ConfigDict:
    """Loads a configuration by name or by path, locked.

    Args:
      name: "moco_cifar10", or the path of a file: of Python (.py), which
        defines get_config(); of YAML (.yaml, .yml) or JSON, whose fields count
        over those of the base; or the config.json of a run.
      overrides: dict "section.key" -> text of the command line.
      command: key of config_schema.TABLES, whose fields it must hold.

    Returns:
      ConfigDict with every field of the command's table in its type.

    Raises:
      ValueError: for a missing or broken file, an unknown or missing field, a
        value of another type or out of its range.

    A preset whose kNN votes on the embedded images loses it where overrides
    name other images to train on, and none to vote on.
    """
    overrides = overrides or {}
    values = _read(_find(name, command), command)
    if "method" in overrides and command == "pretrain":
        raise ValueError(
            "config.method has a section of its own fields and cannot be "
            f"overridden. Received {overrides['method']!r}. Pass a "
            f"configuration of that method: {_recipes(overrides['method'])}."
        )
    values = _fill(values, command)
    fields = _fields(values, command)
    lacking = missing(values, command)
    base = values.get("method", "moco") if command == "pretrain" else command
    if lacking:
        raise ValueError(
            f"A configuration must hold every field of {command}. {name} "
            f"lacks {', '.join(lacking)}. Add them, or begin the file with "
            f"config = moco_tf.config.base({base!r})."
        )
    for field, text in overrides.items():
        values[field] = config_schema.parse(fields, field, text)
    if "data.source" in overrides and not _VOTES & set(overrides):
        values |= _without_embedded_votes(values)
    return build(values, command)


def votes_on_other_images(values: Mapping[str, Any]) -> bool:
    """Whether kNN votes on the embedded images, and others are trained on.

    Args:
      values: "section.key" -> value, of a pre-training.
    """
    return not values["data.source"].startswith(_EMBEDDED) and any(
        values[name].startswith(_EMBEDDED) for name in _VOTES
    )


def _without_embedded_votes(values):
    """What turns off the kNN of a preset that was made for other images.

    It says nothing about the images that the preset is used for. The run says
    that it is off.
    """
    if not _VOTES <= set(values) or not votes_on_other_images(values):
        return {}
    return dict.fromkeys(_VOTES, "")


def show(
    config: ml_collections.ConfigDict,
    name: str | pathlib.Path,
    overrides: Mapping[str, str] | None = None,
    command: str = "pretrain",
) -> str:
    """The text of a configuration: each field, where it is from, what it is.

    Args:
      config: what `load` returned for the other arguments.
      name: of the preset or file. overrides, command: as of `load`.

    Returns:
      Lines "config.section.key = value  # origin", in the order of the base.
      A value that is the base's is said to be from there.
    """
    values = flatten(config.to_dict())
    defaults = flatten(_base_tree(values.get("method", command)))
    comments = _base_comments(command)
    preset = f"preset {name}" if name in names(command) else str(name)
    rows = []
    for field, default in defaults.items():
        origin = "base" if values[field] == default else preset
        if field in (overrides or {}):
            origin = "command line"
        comment = comments.get(field, "")
        rows.append((f"config.{field} = {values[field]!r}", origin, comment))
    left, middle = (max(len(row[i]) for row in rows) for i in (0, 1))
    lines = [f"{a:<{left}}  # {b:<{middle}}  {c}".rstrip() for a, b, c in rows]
    return "\n".join(lines)


class Described(NamedTuple):
    """A field of a configuration as the help shows it.

    Attributes:
      name: "section.key". default: value of the base.
      meaning: the base's comment on it. rule: what it takes, in words.
      field: config_schema.Field.
    """

    name: str
    default: Any
    meaning: str
    rule: str
    field: config_schema.Field


def describe(command: str = "pretrain", method: str = "moco") -> list:
    """The fields of a command, in the order of the base.

    Args:
      command: key of config_schema.TABLES.
      method: of a pre-training, whose section is among them.

    Returns:
      list of Described.
    """
    name = method if command == "pretrain" else command
    defaults = flatten(_base_tree(name))
    fields = _fields({"method": method}, command)
    comments = _base_comments(command)
    return [
        Described(
            key,
            default,
            comments.get(key, ""),
            config_schema.rule(fields[key]),
            fields[key],
        )
        for key, default in defaults.items()
    ]


def check_fields(config: ml_collections.ConfigDict) -> None:
    """Refuses a field of a pre-training of another type or out of its range.

    Raises:
      ValueError: with the rule, the value received and the remedy.
    """
    values = flatten(config.to_dict())
    fields = _fields(values, "pretrain")
    for name, value in values.items():
        value = config_schema.coerce(fields, name, value)
        config_schema.check_field(fields, name, value)


def learning_rate(config: ml_collections.ConfigDict) -> float:
    """The rate for the batch: scaled where the configuration says so.

    "linear": rate * batch / 256 (arXiv:1706.02677); "sqrt": rate * sqrt(batch)
    (SimCLR, arXiv:2002.05709, App. B.1).
    """
    batch, rate = config.train.batch_size, config.optimizer.learning_rate
    factors = {"none": 1.0, "linear": batch / 256, "sqrt": math.sqrt(batch)}
    return rate * factors[config.optimizer.get("scaling", "none")]


def _find(name, command):
    """The file of a configuration's name or path."""
    path = paths.expand(name)
    if path.suffix in _ENDINGS or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ValueError(f"--config names a file that is not there: {path}.")
    for folder in folders():
        if (folder / f"{name}.py").is_file() and not path.name.startswith("_"):
            return folder / f"{name}.py"
    raise ValueError(
        f"There is no configuration {name!r}. "
        + naming.suggestion(name, names(command))
    )


def _read(path, command):
    """The fields of a file, "section.key" -> value of any type."""
    if path.suffix not in _ENDINGS:
        raise ValueError(
            "A configuration must be a file whose name ends in "
            f"{', '.join(_ENDINGS)}. Received {str(path)!r}. Rename it."
        )
    if path.suffix != ".py":
        return _read_fields(path, command)
    try:
        config = _module(path).get_config()
    except Exception as error:  # the file is the user's: say where, and what
        raise ValueError(
            f"The configuration {path} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"get_config() of {path} must return a ConfigDict. Received "
            f"{type(config).__name__}."
        )
    return flatten(config.to_dict())


def _read_fields(path, command):
    """The fields of a file of YAML or JSON, over those of the base.

    The config.json of a run has all, and where its sources lay.
    """
    read = json.loads if path.suffix == ".json" else yaml.safe_load
    try:
        tree = read(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ValueError(f"{path} must be {kind}. {error}. Mend it.") from error
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path} must hold sections of fields, as train: {{epochs: 20}}. "
            f"Received {type(tree).__name__}. Write the fields by their names."
        )
    if isinstance(tree.get("config"), dict):  # of a run
        if tree.get("command", command) != command:
            raise ValueError(
                f"{path} must be of the command {command}. Received one of "
                f"{tree['command']}. Give that of another folder."
            )
        values = flatten(tree["config"])
        return values | tree.get("sources", {})
    values = flatten(tree)
    base = values.get("method", "moco") if command == "pretrain" else command
    defaults = flatten(_base_tree(base))
    fields = _fields(values, command)
    for name, value in values.items():
        if isinstance(value, str) and name in fields:  # as 1e-4 of YAML
            values[name] = config_schema.parse(fields, name, value)
    return defaults | values


def auto_base(given: Mapping[str, str]) -> str:
    """The preset whose fields may be given to --config=auto.

    Args:
      given: dict "section.key" -> text of the command line.
    """
    pairs = given.get("data.source", "").startswith("pairs:")
    return "cmc_imagenet" if pairs else "moco_v2_imagenet"


def _module(path):
    """The module that a file of Python defines."""
    spec = importlib.util.spec_from_file_location("moco_tf_config", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no file of Python.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _base_path():
    return next(folder / "_base.py" for folder in folders())


@functools.cache
def _base_module():
    """The tables of configs/_base.py."""
    return _module(_base_path())


def _base_tree(name):
    """The base's values of a method or of another command, nested."""
    tables = _base_module()
    if name in config_schema.TABLES and name != "pretrain":
        return getattr(tables, name.upper())
    table.fields(name)  # refuses an unknown method
    return tables.PRETRAIN | {"method": name, name: tables.METHODS[name]}


def _base_comments(command):
    """The base's comments on the fields of a command, by "section.key"."""
    text, comments = _base_path().read_text(), {}
    names = ["PRETRAIN", "METHODS"] if command == "pretrain" else [command]
    for name in names:
        block = text.partition(f"\n{name.upper()} = dict(\n")[2]
        block = block.partition("\n)\n")[0]
        section = ""
        for opened, key, comment in _BASE_LINE.findall(block):
            section = f"{opened}." if opened else section
            comments[section + key] = comment
    return comments


def flatten(tree, prefix=""):
    """{"a": {"b": 1}} -> {"a.b": 1}; keys need not be text, as on of YAML."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def missing(values, command="pretrain"):
    """The fields of a command that "section.key" -> value lacks, sorted."""
    return sorted(set(_fields(values, command)) - set(values))


def _fields(values, command):
    """The fields that "section.key" -> value may have."""
    if command == "pretrain":
        return table.fields(values.get("method", "moco"))
    return config_schema.TABLES[command]


def _recipes(method):
    """Names of the configurations of a method, in words."""
    if method in table.METHODS:
        return ", ".join(table.METHODS[method].configs)
    return naming.suggestion(method, table.METHODS)


def _fill(values, command):
    """Adds the base's values of later fields that an older file lacks."""
    fields = _fields(values, command)
    name = values.get("method", "moco") if command == "pretrain" else command
    defaults = flatten(_base_tree(name))
    added = {k: v for k, v in defaults.items() if fields[k].later}
    return added | values


def build(values, command="pretrain"):
    """A locked ConfigDict from "section.key" -> value, types checked."""
    values = _fill(values, command)
    fields = _fields(values, command)
    config = ml_collections.ConfigDict()
    for name, value in values.items():
        value = config_schema.coerce(fields, name, value)
        config_schema.check_field(fields, name, value)
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ml_collections.ConfigDict()
        (config[section] if section else config)[key] = value
    return config.lock()
