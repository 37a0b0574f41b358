"""Typed flags of commands, and the way from a command line to their values.

A command is a `Command`. It defines its own flags where it stands:

    flags.integer("steps", 10, "measured in each of three rounds")

What several commands have is a constant here. Flags are parsed by absl-py into
a FlagValues of that command; absl's global FLAGS is read nowhere. Names that
another room knows and checks (devices, sources, layouts) are text here.

--flagfile=FILE stands for the flags in FILE, one a line: --name=value,
--name = value or --name value; what begins with # or // is a comment. Another
--flagfile may stand in it. Flags count in the order in which they are met, so
one behind the file counts more than the file. absl-py reads such files too, but
it knows nothing of --config.SECTION.FIELD.
"""

import math
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags

from moco_tf import naming

_ADDRESS = re.compile(r"(gs|s3a?|hdfs|abfss?|az|https?|file)://")


class UsageError(Exception):
    """A command line that cannot be understood; exit status 2."""


class Flag(NamedTuple):
    """A flag; the functions below make one of each type.

    Attributes:
      name: as it is typed, without the dashes.
      default: value where the flag is not typed; None, "" and (): none.
      purpose: its line in the help.
      read: function: the typed text -> value; raises ValueError with the rule
        that the text breaks. None: the flag is a bool and takes no text.
      repeats: True: the flag may be typed again; its value is a list.
      needs: of a flag that is answered instead of running the command, the
        required flags that the answer needs. None: the command runs.
      choices: texts that completion offers; of `choice` and `answer` no other
        is taken.
    """

    name: str
    default: Any
    purpose: str
    read: Callable[[str], Any] | None
    repeats: bool = False
    needs: tuple[str, ...] | None = None
    choices: tuple[str, ...] = ()

    @property
    def takes_path(self):
        """Whether its text is a path."""
        return self.read is _read_path


class Command(NamedTuple):
    """A command of the program.

    Attributes:
      run: function: FlagValues, configuration or None -> None.
      purpose: its line in the list of commands.
      flags: its own ones, in the order of its help.
      required: names of those that must have a value.
      takes_overrides: whether `run` takes the typed overrides in the place of a
        configuration.
      config: name of the configuration where none is typed; "": the command's.
      examples: command lines of its help, without the program's name.
      unread: sections of a configuration that it does not look at.
      word: name of the flag that a first word without dashes is the value of.
      words: name of a flag that repeats, of which words without dashes are
        values too.
    """

    run: Callable
    purpose: str
    flags: tuple[Flag, ...]
    required: tuple[str, ...]
    takes_overrides: bool = False
    config: str = ""
    examples: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    word: str = ""
    words: str = ""

    def has(self, name):
        """Whether a flag of this name is among its flags."""
        return any(flag.name == name for flag in self.flags)


def boolean(name, purpose, needs=None):
    """A flag that is on when typed: --NAME; --noNAME is off."""
    return Flag(name, False, purpose, None, needs=needs)


def answer(name, choices, purpose):
    """A flag that is answered; typed alone, or with one of some texts."""
    return Flag(name, False, purpose, None, needs=(), choices=choices)


def text(name, default, purpose, choices=()):
    """A flag with any text; completion offers the choices, if there are any."""
    return Flag(name, default, purpose, str, choices=choices)


def path(name, default, purpose):
    """A flag with a path; of "--workdir=~/runs" a shell leaves "~" as it is."""
    return Flag(name, default, purpose, _read_path)


def paths(name, purpose):
    """A flag with a path that may be typed again; its value is a list."""
    return Flag(name, (), purpose, _read_path, repeats=True)


def choice(name, choices, default, purpose):
    """A flag with one of some texts."""

    def read(text):
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}.")
        return text

    return Flag(name, default, purpose, read, choices=choices)


def integer(name, default, purpose):
    """A flag with a whole number."""
    return Flag(name, default, purpose, _read_integer)


def number(name, default, purpose):
    """A flag with a number."""
    return Flag(name, default, purpose, _read_number)


def seconds(name, default, purpose):
    """A flag with seconds, a float from 0 on that is not endless."""
    return Flag(name, default, purpose, _read_seconds)


def integers(name, default, purpose):
    """A flag with whole numbers, commas between; its value is a tuple.

    Without any in the default, the empty text means none too.
    """
    return _numbers(name, default, purpose, int, "whole numbers")


def floats(name, default, purpose):
    """As `integers`, with any numbers."""
    return _numbers(name, default, purpose, float, "numbers")


def _numbers(name, default, purpose, kind, plural):
    def read(text):
        if not text and not default:
            return ()
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"takes {plural} with commas between.") from None

    return Flag(name, default, purpose, read)


def _read_path(text):
    address = _ADDRESS.match(text)
    if address:  # which would become a folder of that name here
        raise ValueError(
            "must be a path of a file system that is mounted here, not an "
            f"address ({address[0]}). Mount or copy it."
        )
    return os.path.expanduser(text)


def _read_integer(text):
    try:
        return int(text)
    except ValueError:
        raise ValueError("takes one whole number.") from None


def _read_number(text):
    try:
        return float(text)
    except ValueError:
        raise ValueError("takes one number.") from None


def _read_seconds(text):
    value = _read_number(text)
    if not 0 <= value < math.inf:
        raise ValueError("takes seconds from 0 on.")
    return value


CONFIG = path(
    "config",
    None,
    "a configuration's name or file: .py, .yaml, .json; that of a run",
)
CONFIG_OR_AUTO = CONFIG._replace(
    purpose=f"{CONFIG.purpose}; auto, or none: chosen for images and devices"
)
SHOW_CONFIG = boolean(
    "show_config", "print every field and its origin, and end", needs=()
)
WORKDIR = path("workdir", None, "folder of the run")
CHECKPOINT = path(
    "checkpoint", "latest", "latest, best, a step or a path"
)._replace(choices=("latest", "best"))
OUTPUT = path("output", "", "folder of the results; none = one below the run's")
DEVICES = text(
    "devices",
    "auto",
    "auto, cpu, cpu:N, gpu or gpu:N",
    choices=("auto", "cpu", "gpu"),
)
CROSS_DEVICE_OPS = text(
    "cross_device_ops",
    "auto",
    "of one process: auto, nccl or one_device",
    choices=("auto", "nccl", "one_device"),
)
COMMUNICATION = text(
    "communication",
    "auto",
    "between workers: auto, ring or nccl",
    choices=("auto", "ring", "nccl"),
)
DETERMINISTIC = boolean(
    "deterministic", "the same bits in every run; slower on a GPU"
)
# membership reads the first two as it reads the environment.
WORKERS = text(
    "workers", "", "host:port of all workers in order, for a cluster"
)
WORKER_INDEX = text("worker_index", "", "which of them this one is, from 0")
CLUSTER = choice(
    "cluster",
    ("auto", "none"),
    "auto",
    "auto: workers, TF_CONFIG, Slurm, Kubernetes; none",
)
START_TIMEOUT = seconds(
    "start_timeout", 300.0, "seconds to wait for the other workers"
)
# What completion offers of a source; the user goes on behind a colon.
SOURCES = (
    *("folder:", "list:", "prepared:", "tfds:"),
    *("shapes:train", "shapes:test"),
)
# Every command has these.
COMMON = (
    boolean("verbose", "show TensorFlow's notices, and tracebacks of errors"),
    # Read before the others: `expand_files` puts the lines in its place.
    path("flagfile", "", "file of flags, one a line"),
    answer("help", ("fields",), "show this text"),
)

_FILE_FLAGS = ("--flagfile", "-flagfile")


def expand_files(words):
    """A command line with the flags of its files in their places.

    Args:
      words: list of str.

    Returns:
      list of str.

    Raises:
      UsageError: for a file that cannot be read, a line that is no flag, or
        files that name each other in a circle.
    """
    return _expand(words, pathlib.Path(), ())


def _expand(words, folder, opened):
    """As `expand_files`, of words of a file in a folder; `opened` led to it."""
    expanded = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in _FILE_FLAGS:
            expanded.append(word)
            continue
        value = value if equals else next(rest, "")
        if not value:
            raise UsageError("--flagfile needs a file: --flagfile=FILE.")
        path = _find_file(value, folder)
        if path in opened:
            names = " -> ".join(str(p) for p in (*opened, path))
            raise UsageError(
                f"Flag files must not name each other in a circle: {names}. "
                "Remove one of the --flagfile lines."
            )
        lines = _read_lines(path)
        expanded += _expand(lines, path.parent, (*opened, path))
    return expanded


def _find_file(name, folder):
    """The file of a name: beside the file that names it, or from here."""
    path = pathlib.Path(os.path.expanduser(name.strip()))
    beside = folder / path
    return (beside if beside.exists() else path).absolute()


def _read_lines(path):
    """The flags of a file, a word each."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"--flagfile names what cannot be read: {path} ({error.strerror})."
        ) from None
    except UnicodeDecodeError:
        raise UsageError(
            f"A flag file must be text in UTF-8. Received {path}. Save it so."
        ) from None
    words = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith(("#", "//")):
            words.append(_read_line(line, f"{path}, line {number}"))
    return words


def _read_line(line, where):
    """A line as a word of a command line."""
    if not line.startswith("-"):
        raise UsageError(
            f"A line of a flag file must be --name=value. Received {line!r} "
            f"({where})."
        )
    name, *value = line.split(None, 1)
    if "=" not in name and value:
        line = f"{name}={value[0].removeprefix('=').lstrip()}"
    name, equals, text = line.partition("=")
    text = text.lstrip()
    line = name + equals + text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        raise UsageError(
            "No shell reads a flag file: quotes would be part of the value. "
            f"Received {line!r} ({where}). Write it without them."
        )
    return line


def parse(argv, commands, fields=lambda name, config: ()):
    """Splits a command line into command, flags and configuration overrides.

    Args:
      argv: list of str, without the program's name; argv[0] is the command.
      commands: dict name -> Command.
      fields: function: name of a command, text of --config or "" -> the names
        of fields that an unknown flag may mean.

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
    command = commands[name]
    if command.word and rest and not rest[0].startswith("-"):
        rest = [f"--{command.word}={rest[0]}", *rest[1:]]
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
    values = _parse_flags(command, [name, *plain], fields)
    if overrides and not command.has("config"):
        raise UsageError(
            f"{name} takes no configuration: it reads that of the run. "
            f"Received --config.{next(iter(overrides))}. Leave it out."
        )
    return name, values, overrides


class _Parser(flags.ArgumentParser):
    """Reads the text of one flag, as absl asks for it."""

    def __init__(self, flag):
        self._flag = flag

    def parse(self, argument):
        if not isinstance(argument, str):
            return argument  # a default
        try:
            return self._flag.read(argument)
        except ValueError as error:
            raise UsageError(
                f"--{self._flag.name} {error} Received {argument!r}."
            ) from None


class _Answer(flags.ArgumentParser):
    """Reads a flag of `answer`: True typed alone, else its text."""

    def __init__(self, flag):
        self._flag = flag

    def parse(self, argument):
        if argument in (True, "true"):  # absl's word for one typed alone
            return True
        if argument in (False, "false"):
            return False
        if argument in self._flag.choices:
            return argument
        name, known = self._flag.name, ", ".join(self._flag.choices)
        raise UsageError(
            f"--{name} is typed alone, or with one of {known}. Received "
            f"{argument!r}."
        )


def _define(flag, values):
    """Defines a flag in a FlagValues."""
    name, default, purpose = flag.name, flag.default, flag.purpose
    if flag.read is None and flag.choices:
        single = flags.Flag(
            _Answer(flag), flags.ArgumentSerializer(), name, default, purpose
        )
        single.boolean = True  # no word behind it is its text
        flags.DEFINE_flag(single, flag_values=values)
    elif flag.read is None:
        flags.DEFINE_bool(name, default, purpose, flag_values=values)
    elif flag.repeats:
        flags.DEFINE_multi(
            _Parser(flag),
            flags.ArgumentSerializer(),
            name,
            default,
            purpose,
            flag_values=values,
        )
    else:
        flags.DEFINE(_Parser(flag), name, default, purpose, flag_values=values)


def _meant(flag, command, argv, fields):
    """A sentence on what an unknown flag may mean: a flag, or a field."""
    known = [f"--{one.name}" for one in (*command.flags, *COMMON)]
    if command.has("config"):
        typed = [w.partition("=")[2] for w in argv if "-config=" in w]
        names = fields(argv[0], typed[-1] if typed else "")
        near = naming.nearest(flag, [*known, *(f"--config.{n}" for n in names)])
        if near:
            return f"Did you mean {near!r}?"
    return naming.suggestion(flag, known)


def _parse_flags(command, argv, fields):
    """Parses the flags of one command into FlagValues of its own."""
    allowed = (*command.flags, *COMMON)
    values = flags.FlagValues()
    values.set_gnu_getopt(bool(command.words))  # flags behind words, too
    for flag in allowed:
        _define(flag, values)
    try:
        rest = values(argv)[1:]
        if command.words:
            (words,) = [x for x in allowed if x.name == command.words]
            typed = [words.read(word) for word in rest]
            values[words.name].value = [*typed, *values[words.name].value]
            rest = []
    except flags.UnrecognizedFlagError as error:
        raise UsageError(
            f"There is no flag --{error.flagname}. "
            + _meant(f"--{error.flagname}", command, argv, fields)
        ) from None
    except (flags.Error, ValueError) as error:
        raise UsageError(str(error)) from None
    if rest:
        raise UsageError(
            f"{rest[0]!r} is neither a flag nor a value: flags are written "
            "--name=value."
        )
    required = set(command.required)
    for flag in allowed:
        if flag.needs is not None and values[flag.name].value:
            required &= set(flag.needs)
    missing = [
        f"--{name}"
        for name in command.required
        if name in required and not values[name].value
    ]
    if missing:
        raise UsageError(f"{' and '.join(missing)} must be given.")
    return values
