"""A configuration from Python's keywords, by the rules of the command line."""

import os
from collections.abc import Mapping

from moco_tf import config as configs
from moco_tf import config_schema, paths, records, workdirs
from moco_tf.methods import table

# Where the name of a field alone is looked up first: what is trained.
_TRAINED = ("data", "model", "optimizer", "schedule", "train")
_SOURCES = ("data.source", "data.train", "data.test", "knn.bank", "knn.query")


def spec(images):
    """A source as text; of a folder the kind may be left out."""
    text = os.fspath(images)
    is_folder = os.path.isdir(os.path.expanduser(text))
    return f"folder:{text}" if is_folder else text


def of_run(images, workdir, preset, fields, strategy=None):
    """The configuration of a pre-training: a preset's, its own, or chosen.

    Args:
      images: folder or source; "" = as configured.
      workdir: pathlib.Path; a run that is there keeps its configuration, where
        no preset is named.
      preset: name or path, "auto", or "": "auto". fields: keyword -> value.
      strategy: tf.distribute.Strategy of the run, which a choice looks at.

    Returns:
      ConfigDict, and the text of its preset file; "": it was not chosen here.

    Raises:
      ValueError: as of configs.load.

    Side effects: prints what is chosen or kept.
    """
    if os.fspath(images):
        fields = {"data.source": images, **fields}
    if preset and preset != configs.AUTO:
        known = configs.flatten(configs.load(preset).to_dict())
        return configs.load(preset, _overrides(known, fields)), ""
    if os.path.lexists(workdir / "config.json"):
        known = configs.flatten(workdirs.load_saved(workdir).to_dict())
        return of_saved(workdir, _overrides(known, fields)), ""
    source = spec(fields.get("data.source", ""))
    base = configs.auto_base({"data.source": source})
    known = configs.flatten(configs.load(base).to_dict())
    from moco_tf.doctor import auto

    return auto.start(_overrides(known, fields), strategy)


def of_saved(workdir, overrides):
    """The configuration of the run in a workdir, with overrides.

    Args:
      workdir: path; None and "": none.
      overrides: dict "section.field" -> text.

    Returns:
      ConfigDict; None where there is no run.

    Raises:
      ValueError: for a field that is not there, or a damaged config.json.

    Side effects: prints that it is kept.
    """
    if not workdir or not os.path.lexists(os.path.join(workdir, "config.json")):
        return None
    values = configs.flatten(workdirs.load_saved(workdir).to_dict())
    for name, text in overrides.items():
        method = table.fields(values["method"])
        values[name] = config_schema.parse(method, name, text)
    how = "it began with"
    if records.was_chosen(workdir):
        how = f"was chosen at its first start ({records.PRESET})"
    print(
        f"The run in {paths.shown(workdir)} keeps the configuration that {how}."
    )
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
    if hasattr(value, "tolist"):  # NumPy's, which may not be loaded
        value = value.tolist()
    if isinstance(value, tuple | list):
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
