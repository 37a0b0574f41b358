"""What the help says: examples that are understood, fields with a meaning."""

import pathlib
import shlex
import subprocess
import sys

import pytest

from moco_tf import config as configs
from moco_tf import config_schema
from moco_tf.cli import flags, usage
from moco_tf.cli import main as cli
from moco_tf.methods import table

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CONFIGURED = [name for name, c in cli.COMMANDS.items() if c.has("config")]
EXAMPLES = [
    (name, example)
    for name, command in cli.COMMANDS.items()
    for example in command.examples
]


def shown(capsys, *words):
    assert cli.run([*words]) == 0
    return capsys.readouterr().out


def rows(text):
    """The lines of fields in a help: name -> (value, words)."""
    start = text[text.index("Fields, as") :].splitlines()[1:]
    split = [line.split(maxsplit=2) for line in start if line[:2] == "  "]
    return {parts[0]: tuple(parts[1:]) for parts in split}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_two_examples_in_its_help(name, capsys):
    command = cli.COMMANDS[name]
    assert len(set(command.examples)) >= 2
    text = shown(capsys, name, "--help")
    for example in command.examples:
        assert f"\n  moco-tf {example}\n" in text
        assert example.split()[0] == name


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_an_example_is_a_command_that_is_understood(name, example):
    words = shlex.split(example.partition(" > ")[0])
    parsed, options, overrides = flags.parse(words, cli.COMMANDS)
    assert parsed == name
    command = cli.COMMANDS[name]
    if command.has("config") and not command.takes_overrides:
        cli._load(name, options, overrides)


@pytest.mark.parametrize("name", CONFIGURED)
def test_the_help_lists_the_fields_of_the_command_and_no_others(name, capsys):
    own = name if name in config_schema.TABLES else "pretrain"
    fields = {f.name: f for f in configs.describe(own)}
    unread = cli.COMMANDS[name].unread
    expected = {
        field
        for field in fields
        if field != "method" and field.split(".")[0] not in unread
    }
    listed = rows(shown(capsys, name, "--help"))
    assert set(listed) == expected
    for field, parts in listed.items():
        default, meaning = fields[field].default, fields[field].meaning
        assert meaning, field
        assert parts[1].strip() == meaning
        typed = "" if parts[0] == '""' else parts[0]
        read = config_schema.parse({field: fields[field].field}, field, typed)
        assert read == default


@pytest.mark.parametrize("method", table.METHODS)
def test_every_field_has_a_meaning(method):
    for field in configs.describe("pretrain", method):
        assert field.meaning, field.name


def test_the_fields_are_those_of_the_configuration_that_is_typed(capsys):
    listed = rows(shown(capsys, "pretrain", "--config=swav_imagenet", "--help"))
    config = configs.load("swav_imagenet")
    assert listed["swav.prototypes"][0] == str(config.swav.prototypes)
    assert listed["train.batch_size"][0] == str(config.train.batch_size)
    assert not any(name.startswith("moco.") for name in listed)


def test_in_full_there_are_rules_and_the_fields_of_all_methods(capsys):
    text = shown(capsys, "pretrain", "--help=fields")
    listed = rows(text)
    for method in table.METHODS:
        for name in table.METHODS[method].fields:
            assert f"{method}.{name}" in listed
    assert "(a whole number, at least 8)" in listed["data.image_size"][1]
    names = ", ".join(config_schema.PRETRAIN["data.augment_on"].names)
    assert listed["data.augment_on"][1].endswith(f"(one of {names})")
    assert "(a number, at least 0 and below 1)" in text


def test_a_command_without_configuration_has_no_fields(capsys):
    text = shown(capsys, "knn", "--help=fields")
    assert "Fields" not in text
    assert "fields: in full" not in text
    assert text.endswith("knn has no fields: it takes no configuration.\n")


def test_help_of_another_word_or_configuration_is_refused(capsys):
    assert cli.run(["pretrain", "--help=all"]) == 2
    message = "--help is typed alone, or with one of fields. Received 'all'."
    assert message in capsys.readouterr().err
    assert cli.run(["pretrain", "--config=quikstart", "--help"]) == 2
    assert "Did you mean 'quickstart'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (True, "true"),
        (1e-4, "0.0001"),
        (0.999, "0.999"),
        ((60, 80), "60,80"),
        ((0.05, 0.14), "0.05,0.14"),
        ("", ""),
    ],
)
def test_a_value_is_shown_as_it_is_typed(value, typed):
    assert usage.typed(value) == typed


def test_help_ends_quietly_where_nobody_reads_on():
    words = [sys.executable, "-m", "moco_tf", "pretrain", "--help=fields"]
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_help_needs_no_tensorflow():
    code = (
        "import sys; from moco_tf.cli import main; "
        "main.run(['pretrain', '--help=fields']); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True
    )
