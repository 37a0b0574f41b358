"""Python's keywords for the flags of the command line, and back.

A configuration from keywords, by the rules of the command line; of an error
that names flags, the keywords that are meant.
"""

import ast
import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from moco_tf import config as configs
from moco_tf import config_schema, paths, records, workdirs
from moco_tf.methods import table

# Where the name of a field alone is looked up first: what is trained.
_TRAINED = ("data", "model", "optimizer", "schedule", "train")
# --name or --config.section.field, and a value; a sentence may go on behind it.
_FLAG = re.compile(r"(?<![\w-])--([a-z]\w*(?:\.\w+)*)(?:=('[^']*'|\S*))?")
_END_OF_SENTENCE = ".,;:)'\""
# Flags that have another name in Python, where the function has that.
_OTHER_NAMES = {"config": "preset", "workdir": "run"}
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


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def explained(
    function: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
    """A function whose errors say which keywords stand for the flags they name.

    They are the errors of commands, as they are; a note follows them, which
    Python and notebooks print below.
    """

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            there = "".join(getattr(error, "__notes__", ()))
            for note in notes(str(error), inspect.signature(function)):
                if note not in there:
                    error.add_note(note)
            raise

    return call


def notes(message, signature):
    """What a message's flags are in Python, list of str, each flag once.

    Args:
      message: str.
      signature: inspect.Signature, whose keywords there are. A flag for which
        there is none is left out.
    """
    noted = []
    for name, value in _FLAG.findall(message):
        value = value.rstrip(_END_OF_SENTENCE).lstrip("'")
        keyword = _keyword_of(name, value, signature.parameters)
        flag = f"--{name}={value}" if value else f"--{name}"
        note = f"In Python {flag} is {keyword}."
        if keyword and note not in noted:
            noted.append(note)
    return noted


def _keyword_of(name, value, parameters):
    """The keyword of a flag as it is written; "" where there is none."""
    section, _, field = name.removeprefix("config.").partition(".")
    if name.startswith("config."):
        if "fields" not in parameters:
            return ""
        if not field:  # method, seed
            return f"{section}={_literal(value)}" if value else section
        if _is_clear(f"{section}.{field}"):
            return f"{field}={_literal(value)}"
        return f"{section}={{{field!r}: {_literal(value)}}}"
    if name == "checkpoint" and name not in parameters:
        return f"moco_tf.Run(workdir, checkpoint={_literal(value)})"
    if name not in parameters:
        name = _OTHER_NAMES.get(name, "")
    if name not in parameters:
        return ""
    if not value:
        is_switch = isinstance(parameters[name].default, bool)
        return f"{name}=True" if is_switch else name
    return f"{name}={_literal(value)}"


def _is_clear(name):
    """Whether a field's name alone stands for it; of others, in all methods."""
    section = name.partition(".")[0]
    methods = [section] if section in table.METHODS else table.METHODS
    return all(
        _stands_for(name, {**table.fields(method), "method": method})
        for method in methods
    )


def _stands_for(name, known):
    try:
        return _full_name(known, name.rpartition(".")[2]) == name
    except ValueError:  # it could be several
        return False


def _literal(value):
    """The value of a flag in Python: a number or truth as such, else text.

    A word in capitals stands for a value, and stays as it is; so does nothing.
    """
    if not value or value.isupper():
        return value or "..."
    try:
        literal = ast.literal_eval(value.title() if value.islower() else value)
    except (SyntaxError, ValueError):
        return repr(value)
    return repr(literal)
