"""No message without a row, and no remedy that names what there is not."""

import collections
import fnmatch
import functools
import re
import shlex

import pytest

from moco_tf import config_schema
from moco_tf.cli import flags
from moco_tf.cli import main as cli
from moco_tf.methods import table
from tests.remedies import messages
from tests.remedies.parts import PARTS

# Files whose messages have no rows yet, with wildcards.
NOT_YET: tuple[str, ...] = ()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_message_of_a_part_has_a_row(part):
    faults = part.ROWS.faults()
    assert not faults, "\n".join(faults)


def test_every_file_with_messages_is_of_one_part():
    faults = {}
    for file in {message.file for message in messages.collect()}:
        names = [part.__name__ for part in PARTS if part.ROWS.covers(file)]
        later = any(fnmatch.fnmatch(file, name) for name in NOT_YET)
        if len(names) + later != 1:
            faults[file] = names
    assert faults == {}


FIELDS = {
    name: field
    for fields in (
        *config_schema.TABLES.values(),
        *map(table.fields, table.METHODS),
    )
    for name, field in fields.items()
}
SECTIONS = {name.partition(".")[0] for name in FIELDS if "." in name}
# Names of files that look like fields.
FILES = (
    *("data.pkl", "model.xml", "config.json", "model.weights"),
    *("data.stream", "data.sources", "log.txt", "log.worker", "model.keras"),
    "model.safetensors",
)
FLAGS = collections.defaultdict(list)
for _command in cli.COMMANDS.values():
    for _flag in (*_command.flags, *flags.COMMON):
        FLAGS[_flag.name].append(_flag)
# Flags of other programs that texts name, or custom properties of a style.
OTHERS = {
    "cluster/membership.py": ["distribution"],  # srun
    "data/tfds_records.py": ["data_dir", "file_format"],  # tfds build
    # nvidia-smi; launch/quickstart.sh
    "training/gpus.py": ["format", "query", "gpu"],
    "training/distribution.py": ["gpu"],
    "monitoring/loggers.py": ["append"],  # wandb sync
    "serving/export.py": ["dir", "tag_set", "signature_def"],
    "serving/model_card.py": ["data"],  # curl
    "reporting/drawing.py": ["muted", "line", "curve"],
}


@functools.cache
def texts():
    """(file, text) of all texts of the package, with * for what varies."""
    return [
        (text.file, re.sub(r"\{[^{}]*\}", "*", text.text))
        for text in messages.collect_texts()
        if not text.file.startswith("launch/")  # which have flags of their own
    ]


def test_every_flag_that_a_text_names_is_one():
    named = {
        (file, flag)
        for file, text in texts()
        for flag in re.findall(r"(?<![\w-])--([a-z]\w*)\b(?![.\w-])", text)
        if flag not in ("config", "flagfile")
    }
    assert len(named) > 20
    unknown = {
        (file, flag)
        for file, flag in named
        if flag not in FLAGS and flag not in OTHERS.get(file, ())
    }
    assert unknown == set()


def test_every_value_that_a_text_gives_a_flag_is_taken():
    for file, text in texts():
        for name, value in re.findall(r"(?<![\w-])--(\w+)=([^\s,;*]+)", text):
            if name in OTHERS.get(file, ()):
                continue
            reads = [flag.read for flag in FLAGS.get(name, ()) if flag.read]
            if reads and not value.isupper():
                assert any(_takes(read, value.rstrip(".)")) for read in reads)


def _takes(read, text):
    try:
        read(text)
    except ValueError:
        return False
    return True


def test_every_field_that_a_text_names_is_one():
    sections = "|".join(SECTIONS)
    named = {
        name.removeprefix("config.").removesuffix("*") or "*"
        for _, text in texts()
        for name in (
            *re.findall(r"(?<![\w.])config\.[\w*]+(?:\.[\w*]+)?", text),
            *re.findall(rf"(?<![\w./*])(?:{sections})\.[a-z]\w*", text),
        )
        if name not in FILES
    }
    assert len(named) > 30
    ends = {name.partition(".")[2] for name in FIELDS}
    unknown = {
        name
        for name in named - set(FIELDS) - SECTIONS - {"*", "SECTION.FIELD"}
        if not (name.startswith("*.") and name[2:] in ends)
        if not (name.endswith(".") and name[:-1] in SECTIONS)
    }
    assert unknown == set()


def test_every_value_that_a_text_gives_a_field_is_taken():
    count = 0
    for _, text in texts():
        for name, value in re.findall(r"config\.([\w.]+)=([^\s;)`]+)", text):
            value = value.rstrip(".,")
            if name in FIELDS and value.strip("*") == value != value.upper():
                fields = {name: FIELDS[name]}
                value = config_schema.parse(fields, name, value)
                config_schema.check_field(fields, name, value)
                count += 1
    assert count > 8


def test_every_command_that_a_text_names_is_one():
    count = 0
    for _, text in texts():
        for name, rest in re.findall(
            r"moco-tf ([a-z][\w-]*)((?: --\S+)*)", text
        ):
            if not rest and not re.search(rf"moco-tf {name}[`.,; ]", text):
                continue
            assert name in cli.COMMANDS, text
            count += 1
            for word in shlex.split(rest.replace("`", "")):
                flag, _, value = word[2:].rstrip(".").partition("=")
                if not flag.startswith("config."):
                    assert cli.COMMANDS[name].has(flag), text
    assert count > 10
