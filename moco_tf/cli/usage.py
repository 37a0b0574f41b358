"""What `--help` prints: flags, examples, and the fields of a configuration.

Help is made of what parses the command line: the flags of a command, the rules
of its fields (config_schema) and the base's comments on them. It reads files of
configurations and needs no TensorFlow.
"""

import os

from moco_tf import config as configs
from moco_tf import config_schema
from moco_tf.cli import flags
from moco_tf.methods import table

_VALUE_WIDTH = 18  # of the column of defaults; longer ones stick out


def show(text):
    """Prints a text that people read in parts: `moco-tf knn --help | head`.

    Side effects: where nobody reads on, standard output goes nowhere from then
      on, or Python would complain at its end.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)


def usage(commands):
    """Returns the list of commands."""
    lines = ["Usage: moco-tf COMMAND [flags]", "", "Commands:"]
    lines += [f"  {name:<16}{c.purpose}" for name, c in commands.items()]
    # What a person types first.
    first = [commands["doctor"].examples[0], commands["pretrain"].examples[0]]
    lines += ["", "To begin with a folder of images:"]
    lines += [f"  moco-tf {example}" for example in first]
    lines += [
        "",
        "moco-tf COMMAND --help lists the flags of a command, with examples.",
    ]
    return "\n".join(lines)


def command_usage(name, command, config="", in_full=False):
    """Returns the help of a command.

    Args:
      name: str. command: Command.
      config: name or path of a configuration, whose fields are shown; "": the
        base's.
      in_full: whether fields come with their rules, and those of all methods.

    Raises:
      ValueError: for a configuration that cannot be loaded.
    """
    lines = [f"moco-tf {name}: {command.purpose}", ""]
    if command.words:
        word = command.words.upper()
        lines += [f"Usage: moco-tf {name} {word} {word} ... [flags]", ""]
    if command.examples:
        lines += ["Examples:"]
        lines += [f"  moco-tf {example}" for example in command.examples]
        lines += [""]
    lines += ["Flags:"] if command.examples else []
    lines += _flag_rows(command)
    if command.has("config"):
        known = ", ".join(configs.names(name))
        lines += ["", f"Configurations: {known}", ""]
        lines += _fields(name, command, config, in_full)
    elif in_full:
        lines += ["", f"{name} has no fields: it takes no configuration."]
    return "\n".join(lines)


def _flag_rows(command):
    """A line for each flag."""
    rows = []
    for flag in (*command.flags, *flags.COMMON):
        if flag.name == "help" and command.has("config"):
            flag = flag._replace(purpose=f"{flag.purpose}; =fields: in full")
        value = "" if flag.read is None else f"={flag.name.upper()}"
        rows.append((f"--{flag.name}{value}", flag.purpose, _default(flag)))
    if command.has("config"):
        row = ("--config.SECTION.FIELD=VALUE", "override a field", "")
        rows.insert(1, row)
    width = max(len(row[0]) for row in rows) + 2
    return [
        f"  {flag:<{width}}{purpose}{default}"
        for flag, purpose, default in rows
    ]


def _default(flag):
    """The default of a flag as the help shows it."""
    default = flag.default
    if flag.read is None or default in (None, "", ()):
        return ""
    return f" [{typed(default)}]"


def typed(value):
    """A value as it is typed on a command line."""
    if isinstance(value, tuple):
        return ",".join(map(typed, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_fields(name, command, method="moco"):
    """The fields of a configuration that a command looks at.

    Args:
      name: of the command. command: Command.
      method: of a pre-training.

    Returns:
      list of config.Described.
    """
    # A command without fields of its own takes those of a pre-training.
    own = name if name in config_schema.TABLES else "pretrain"
    return [
        field
        for field in configs.describe(own, method)
        if field.name.partition(".")[0] not in (*command.unread, "method")
    ]


def _fields(name, command, config, in_full):
    """The lines of the fields, with those of one method or of all."""
    own = name if name in config_schema.TABLES else "pretrain"
    values, method, title = {}, "moco", "their defaults"
    if config:
        loaded = configs.load(config, command=own)
        values = configs.flatten(loaded.to_dict())
        method = values.get("method", method)
        title = f"the values of {config}"
    elif own == "pretrain":
        title = f"their defaults for the method {method}"
    lines = [f"Fields, as --config.SECTION.FIELD=VALUE, with {title}:"]
    fields = read_fields(name, command, method)
    lines += _field_rows(fields, values, in_full)
    if not in_full:
        also = "types and bounds"
        if own == "pretrain":
            also += ", and the other methods' fields"
        return [*lines, "", f"--help=fields adds {also}."]
    if own == "pretrain" and not config:
        for other in table.METHODS:
            if other != method:
                entry = table.METHODS[other]
                presets = ", ".join(entry.configs)
                lines += [
                    "",
                    f"{entry.title} instead of moco, as in {presets}:",
                ]
                section = [
                    field
                    for field in read_fields(name, command, other)
                    if field.name.startswith(f"{other}.")
                ]
                lines += _field_rows(section, values, in_full)
    return lines


def _field_rows(fields, values, in_full):
    """A line for each field: name, value, meaning, and what it takes."""
    width = max(len(field.name) for field in fields) + 2
    rows = []
    for field in fields:
        value = typed(values.get(field.name, field.default)) or '""'
        words = field.meaning
        if in_full:
            words = f"{words} ({field.rule})" if words else field.rule
        rows.append(
            f"  {field.name:<{width}}{value:<{_VALUE_WIDTH}}  {words}".rstrip()
        )
    return rows
