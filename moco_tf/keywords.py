"""A configuration from Python's keywords, by the rules of the command line."""

import os
from collections.abc import Mapping

import numpy as np

from moco_tf import config as configs
from moco_tf import config_schema, workdirs
from moco_tf.methods import table

_PRESET = "moco_v2_imagenet"  # changed by the doctor's rules where it must be
# Where the name of a field alone is looked up first: what is trained.
_TRAINED = ("data", "model", "optimizer", "schedule", "train")
_SOURCES = ("data.source", "data.train", "data.test", "knn.bank", "knn.query")


def spec(images):
    """A source as text; of a folder the kind may be left out."""
    text = os.fspath(images)
    is_folder = os.path.isdir(os.path.expanduser(text))
    return f"folder:{text}" if is_folder else text


def of_run(images, workdir, preset, fields):
    """The configuration of a pre-training: a preset's, or its own, or fitted.

    Args:
      images: folder or source; "" = as configured.
      workdir: pathlib.Path; a run that is there keeps its configuration, where
        no preset is named.
      preset: name or path, or "". fields: keyword -> value.

    Returns:
      ConfigDict.

    Raises:
      ValueError: as of configs.load.

    Side effects: prints what was changed for the number of images.
    """
    if os.fspath(images):
        fields = {"data.source": images, **fields}
    if preset:
        known = configs.flatten(configs.load(preset).to_dict())
        return configs.load(preset, _overrides(known, fields))
    if os.path.lexists(workdir / "config.json"):
        values = configs.flatten(workdirs.load_saved(workdir).to_dict())
        for name, text in _overrides(values, fields).items():
            method = table.fields(values["method"])
            values[name] = config_schema.parse(method, name, text)
        return configs.build(values)
    known = configs.flatten(configs.load(_PRESET).to_dict())
    overrides = _overrides(known, fields)
    return _fitted(configs.load(_PRESET, overrides), frozenset(overrides))


def _fitted(config, given):
    """A configuration with what the doctor's rules change for the images.

    Args:
      config: ConfigDict. given: names of fields that stay as they are.

    Side effects: prints the changes.
    """
    from moco_tf import plan
    from moco_tf.doctor import recipe

    count = len(plan.open_source(config, config.data.source))
    values = configs.flatten(config.to_dict())
    print(f"{_PRESET} for {count} images:")
    for _ in range(8):  # a change may ask for another
        config = configs.build(values)
        rows = recipe.training_rows(config, count)
        changes = {
            name: (value, row.finding)
            for row in rows
            for name, value in row.overrides.items()
            if name not in given
        }
        if not changes:
            break
        for name, (value, why) in changes.items():
            print(f"  {name} {value!r}, it was {values[name]!r}: {why}")
            values[name] = value
    return configs.build(values)


def _overrides(known, fields):
    """The overrides of a command line, from keywords.

    Args:
      known: dict "section.field" -> value, the configuration's.
      fields: keyword -> value, or dict of a section's.

    Returns:
      dict "section.field" -> text.

    Raises:
      ValueError: for a name that several sections have.
    """
    overrides = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            pairs = [(f"{name}.{key}", part) for key, part in value.items()]
        else:
            pairs = [(_full_name(known, name), value)]
        for field, part in pairs:
            part = spec(part) if field in _SOURCES else part
            overrides[field] = _text(part)
    return overrides


def _full_name(known, name):
    """The field that a name alone stands for; itself where none is known."""
    if "." in name or name in known:
        return name
    homes = [field for field in known if field.rpartition(".")[2] == name]
    trained = (*_TRAINED, known.get("method"))
    chosen = [field for field in homes if field.split(".")[0] in trained]
    chosen = chosen or homes
    if len(chosen) > 1:
        section = chosen[0].split(".")[0]
        raise ValueError(
            "A field must be named with its section where several have one of "
            f"its name: {', '.join(chosen)}. Received {name}. Pass, for "
            f"instance, {section}={{{name!r}: ...}}."
        )
    return chosen[0] if chosen else name


def _text(value):
    """A value as a command line has it."""
    if isinstance(value, tuple | list | np.ndarray):
        return ",".join(map(_text, value))
    return str(value)


def of_command(command, preset, fields):
    """The configuration of another command, ConfigDict.

    Args:
      command: "linear" or "finetune". preset: name or path.
      fields: keyword -> value.
    """
    known = configs.flatten(configs.load(preset, {}, command).to_dict())
    return configs.load(preset, _overrides(known, fields), command)
