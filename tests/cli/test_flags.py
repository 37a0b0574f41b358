"""Flags of each type: what is read, what is refused, what the help shows."""

import pathlib

import pytest

import moco_tf
from moco_tf.cli import flags, usage
from moco_tf.cli import main as cli

COMMAND = flags.Command(
    run=lambda options, config: None,
    purpose="bake",
    flags=(
        flags.boolean("hot", "open the window"),
        flags.text("cake", "plum", "of which fruit"),
        flags.path("recipe", None, "file to read"),
        flags.paths("plate", "file to write"),
        flags.choice("oven", ("gas", "wood"), "gas", "gas or wood"),
        flags.integer("eggs", 0, "how many"),
        flags.seconds("wait", 300.0, "before it is cut"),
        flags.integers("layers", (), "centimetres of each"),
        flags.integers("bowls", (1, 20), "sizes"),
        flags.floats("spoons", (0.1,), "of salt"),
        flags.boolean("list", "list what is needed", needs=("recipe",)),
    ),
    required=("recipe", "plate"),
)
REQUIRED = ["--recipe=r", "--plate=p"]


def parse(*words):
    return flags.parse(["bake", *REQUIRED, *words], {"bake": COMMAND})[1]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("--hot", True),
        ("--nohot", False),
        ("--cake=", ""),
        ("--oven=wood", "wood"),
        ("--eggs=-3", -3),
        ("--wait=0.5", 0.5),
        ("--layers=1,20", (1, 20)),
        ("--layers=", ()),
        ("--spoons=0.1,2", (0.1, 2.0)),
    ],
)
def test_a_word_becomes_a_value_of_its_type(word, value):
    name = word.partition("=")[0].removeprefix("--").removeprefix("no")
    result = getattr(parse(word), name)
    assert result == value
    assert type(result) is type(value)


def test_what_is_not_typed_has_its_default():
    options = parse()
    for flag in COMMAND.flags:
        if flag.name not in ("recipe", "plate"):
            assert options[flag.name].value == flag.default


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--eggs=x", "--eggs takes one whole number. Received 'x'."),
        ("--eggs=1,2", "--eggs takes one whole number. Received '1,2'."),
        ("--eggs=1.5", "--eggs takes one whole number. Received '1.5'."),
        ("--wait=soon", "--wait takes one number. Received 'soon'."),
        ("--wait=-1", "--wait takes seconds from 0 on. Received '-1'."),
        ("--wait=nan", "--wait takes seconds from 0 on. Received 'nan'."),
        ("--wait=inf", "--wait takes seconds from 0 on. Received 'inf'."),
        (
            "--layers=1,a",
            "--layers takes whole numbers with commas between. Received '1,a'.",
        ),
        (
            "--bowls=",
            "--bowls takes whole numbers with commas between. Received ''.",
        ),
        (
            "--spoons=salt",
            "--spoons takes numbers with commas between. Received 'salt'.",
        ),
        ("--oven=sun", "--oven must be one of gas, wood. Received 'sun'."),
        ("--nohot=1", "--nohot=1 does not take an argument"),
        ("--hot=so", "flag --hot=so: "),
    ],
)
def test_a_word_that_breaks_the_rule_is_refused(word, message):
    with pytest.raises(flags.UsageError) as error:
        parse(word)
    assert str(error.value).startswith(message)


def test_a_refused_flag_of_a_command_ends_with_status_2(capsys):
    assert cli.run(["report", "--workdir=x", "--images=many"]) == 2
    message = "--images takes one whole number. Received 'many'."
    assert message in capsys.readouterr().err


def test_the_home_folder_stands_for_a_tilde_in_paths_only(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    words = ["bake", "--recipe=~/a", "--plate=~/b", "--plate", "~/c,d"]
    _, options, _ = flags.parse([*words, "--cake=~/e"], {"bake": COMMAND})
    assert options.recipe == "/home/ada/a"
    assert options.plate == ["/home/ada/b", "/home/ada/c,d"]
    assert options.cake == "~/e"
    knn = ["knn", "--workdir=~/a", "--bank=folder:~/b"]
    _, options, _ = flags.parse(knn, cli.COMMANDS)
    assert (options.workdir, options.bank) == ("/home/ada/a", "folder:~/b")


def test_an_answer_needs_fewer_flags_than_the_command():
    commands = {"bake": COMMAND}
    with pytest.raises(flags.UsageError, match="^--recipe and --plate must"):
        flags.parse(["bake"], commands)
    with pytest.raises(flags.UsageError, match="^--recipe must be given"):
        flags.parse(["bake", "--list"], commands)
    _, options, _ = flags.parse(["bake", "--list", "--recipe=r"], commands)
    assert options.list
    _, options, _ = flags.parse(["bake", "--help"], commands)
    assert options.help


def test_the_help_shows_types_and_defaults():
    lines = usage.command_usage("bake", COMMAND).splitlines()
    assert lines == [
        "moco-tf bake: bake",
        "",
        "  --hot                open the window",
        "  --cake=CAKE          of which fruit [plum]",
        "  --recipe=RECIPE      file to read",
        "  --plate=PLATE        file to write",
        "  --oven=OVEN          gas or wood [gas]",
        "  --eggs=EGGS          how many [0]",
        "  --wait=WAIT          before it is cut [300]",
        "  --layers=LAYERS      centimetres of each",
        "  --bowls=BOWLS        sizes [1,20]",
        "  --spoons=SPOONS      of salt [0.1]",
        "  --list               list what is needed",
        "  --verbose            show TensorFlow's notices, and tracebacks of "
        "errors",
        "  --flagfile=FLAGFILE  file of flags, one a line",
        "  --help               show this text",
    ]


def test_no_module_reads_the_global_flags_of_absl():
    modules = pathlib.Path(moco_tf.__file__).parent.rglob("*.py")
    assert [m.name for m in modules if "flags.FLAGS" in m.read_text()] == []
