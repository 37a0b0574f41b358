"""From the words of a command line to a command, flags and overrides."""

import os
from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from moco_tf import naming


class UsageError(Exception):
    """A command line that cannot be understood; exit status 2."""


class Command(NamedTuple):
    """A command: what runs, what it is for, the flags it takes."""

    run: Callable
    purpose: str
    flags: tuple[str, ...]
    required: tuple[str, ...]
    defaults: dict = {}  # flag -> (default, purpose), where not the usual ones


_COMMON = ("verbose", "help")
# By the default's type: a tuple's flag may be given again, for a list.
_DEFINE = {bool: flags.DEFINE_bool, tuple: flags.DEFINE_multi_string}

# Flags with paths: of "--workdir=~/runs" a shell leaves "~" as it is.
_PATHS = frozenset(
    "config workdir checkpoint saved_model path csv grid plot head model "
    "output json".split()
)
# Default and purpose of every flag; a flag with a bool takes no value.
_FLAGS = {
    "config": (None, "name or .py file of a configuration"),
    "show_config": (False, "print every field and its origin, and end"),
    "workdir": (None, "folder of the run"),
    "devices": ("auto", "auto, cpu, cpu:N, gpu or gpu:N"),
    "workers": ("", "host:port of all workers in order, for a cluster"),
    "worker_index": ("", "which of them this one is, from 0"),
    "cluster": ("auto", "auto: workers, TF_CONFIG, Slurm, Kubernetes; none"),
    "start_timeout": ("300", "seconds to wait for the other workers"),
    "stall_timeout": ("1800", "seconds a step may take in a cluster"),
    "profile_steps": ("", "first,last step to trace for TensorBoard"),
    "cross_device_ops": ("auto", "auto, nccl, hierarchical or one_device"),
    "communication": ("auto", "between workers: auto, ring or nccl"),
    "deterministic": (False, "the same bits in every run; slower on a GPU"),
    "extend": (False, "allow more epochs than the run was started with"),
    "bank": ("", "labelled source that votes; none = the run's own"),
    "query": ("", "labelled source to classify; none = the run's own"),
    "k": ("200", "neighbours; several with commas"),
    "temperature": ("0.1", "of the vote; several with commas"),
    "features": ("both", "backbone, projection or both"),
    "checkpoint": ("latest", "latest, best, a step or a path"),
    "baselines": (False, "also measure raw pixels and the untrained encoder"),
    "saved_model": ("", "SavedModel or .keras to judge instead of a run"),
    "views": ("", "views a SavedModel was trained with, as simclr"),
    "image_size": ("0", "pixels of a SavedModel's images, where it takes any"),
    "source": (None, "any source of images, with labels or without"),
    "path": (None, "file to write: .npz or .parquet"),
    "csv": (None, "file to write: one row a neighbour"),
    "grid": ("", "picture to write: queries and their neighbours (.png)"),
    "names": ("", "queries by name, with commas; none = all"),
    "shown": ("10", "queries in the picture"),
    "plot": ("", "instead, draw the logged figures against kNN (.png)"),
    "name": ("encoder", "of the exported model, in paths and addresses"),
    "version": ("0", "of the export; 0 = the next one"),
    "head": ("", "linear.npz of `linear`: adds the signature classify"),
    "layout": ("moco", "moco, torchvision or detectron2"),
    "licence": ("", "of the weights, for the model card"),
    "model": (None, "folder of an export, or of its versions: the newest"),
    "to": (None, "onnx, tflite or openvino"),
    "images": ("", "source to compare features on; none = photographs"),
    "output": ("", "folder of the results; none = one below the run's"),
    "short_side": ("256", "pixels; longer short sides are resized to it"),
    "verify": (False, "compare the checksum of every image in the cache"),
    "json": ("", "file to write: the same figures for other programs"),
    "verbose": (False, "show TensorFlow's notices, and tracebacks of errors"),
    "help": (False, "show this text"),
}


def parse(argv, commands):
    """Splits a command line into command, flags and configuration overrides.

    Args:
      argv: list of str, without the program's name; argv[0] is the command.
      commands: dict name -> Command.

    Returns:
      name, FlagValues, dict "section.key" -> text.

    Raises:
      UsageError: for anything unknown or missing.
    """
    name, rest = argv[0], argv[1:]
    if name not in commands:
        raise UsageError(
            f"There is no command {name!r}. "
            + naming.suggestion(name, commands)
        )
    overrides, plain = {}, []
    words = iter(rest)
    for word in words:
        key, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and key.startswith("config."):
            value = value if equals else next(words, None)
            if value is None:
                raise UsageError(f"{word} needs a value: {word}=VALUE.")
            overrides[key.removeprefix("config.")] = value
        else:
            plain.append(word)
    values = _parse_flags(commands[name], [name, *plain])
    if overrides and "config" not in commands[name].flags:
        raise UsageError(
            f"{name} takes no configuration: it reads that of the run. "
            f"Received --config.{next(iter(overrides))}."
        )
    return name, values, overrides


def _flag(command, name):
    """Default and purpose of a command's flag."""
    return command.defaults.get(name) or _FLAGS[name]


def _parse_flags(command, argv):
    """Parses the flags of one command into FlagValues of its own."""
    allowed = (*command.flags, *_COMMON)
    values = flags.FlagValues()
    for name in allowed:
        default, purpose = _flag(command, name)
        define = _DEFINE.get(type(default), flags.DEFINE_string)
        define(name, default, purpose, flag_values=values)
    try:
        left = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        known = [f"--{name}" for name in allowed]
        raise UsageError(
            f"There is no flag --{error.flagname}. "
            + naming.suggestion(f"--{error.flagname}", known)
        ) from None
    except flags.Error as error:
        raise UsageError(str(error)) from None
    for name in _PATHS & set(allowed):
        values[name].value = _expanded(values[name].value)
    if left:
        raise UsageError(
            f"{left[0]!r} is neither a flag nor a value: flags are written "
            "--name=value."
        )
    required = command.required
    if "show_config" in values and values.show_config:
        required = tuple(name for name in required if name == "config")
    missing = [f"--{n}" for n in required if not values[n].value]
    if missing and not values.help:
        raise UsageError(f"{' and '.join(missing)} must be given.")
    return values


def _expanded(value):
    """A path, a list of paths or None, with "~" read as the home folder."""
    if isinstance(value, list):
        return [os.path.expanduser(path) for path in value]
    return value and os.path.expanduser(value)


def numbers(kind, name, text):
    """Returns the numbers of "1,20,200" as a list of `kind` (int or float)."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        word = "whole numbers" if kind is int else "numbers"
        raise UsageError(
            f"--{name} takes {word} with commas between. Received {text!r}."
        ) from None


def number(kind, name, text):
    """Returns the one number of "20", an int or a float by `kind`."""
    try:
        return kind(text)
    except ValueError:
        word = "whole number" if kind is int else "number"
        raise UsageError(
            f"--{name} takes one {word}. Received {text!r}."
        ) from None


def usage(commands):
    """Returns the list of commands."""
    lines = ["Usage: moco-tf COMMAND [flags]", "", "Commands:"]
    lines += [f"  {name:<16}{c.purpose}" for name, c in commands.items()]
    lines += ["", "moco-tf COMMAND --help lists the flags of a command."]
    return "\n".join(lines)


def command_usage(name, command, configurations):
    """Returns the help of a command.

    Args:
      name: str. command: Command.
      configurations: names of the configurations that `--config` knows.
    """
    rows = []
    for flag in (*command.flags, *_COMMON):
        default, purpose = _flag(command, flag)
        value = "" if isinstance(default, bool) else f"={flag.upper()}"
        rows.append((f"--{flag}{value}", purpose, default or ""))
    if "config" in command.flags:
        row = ("--config.SECTION.FIELD=VALUE", "override a field", "")
        rows.insert(1, row)
    width = max(len(row[0]) for row in rows) + 2
    lines = [f"moco-tf {name}: {command.purpose}", ""]
    for flag, purpose, default in rows:
        shown = f" [{default}]" if default else ""
        lines.append(f"  {flag:<{width}}{purpose}{shown}")
    if "config" in command.flags:
        lines += ["", f"Configurations: {', '.join(configurations)}"]
    return "\n".join(lines)
