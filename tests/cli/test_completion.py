"""What the tab key offers, asked of the shells themselves."""

import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from moco_tf import config as configs
from moco_tf import config_schema
from moco_tf.cli import completion, usage
from moco_tf.cli import main as cli
from moco_tf.methods import table

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BASH = shutil.which("bash")
ZSH = shutil.which("zsh")
# Loads the script and, for each typed line, prints what is offered, a line
# each between two marks. Word breaks are those of an interactive bash.
_ASK_BASH = r"""
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
source "$1"
while IFS= read -r line; do
    COMP_LINE=$line COMP_POINT=${#line}
    _moco_tf moco-tf
    printf '%s\n' "${COMPREPLY[@]}" ===
done
"""
# The widgets of zsh's completion answer in an editor alone: these note what
# they are given, as the editor would offer it.
_ASK_ZSH = r"""
compdef() { registered="$*" }
compadd() {
    while [[ $1 == -* ]]; do
        case $1 in -S) shift 2 ;; --) shift; break ;; *) shift ;; esac
    done
    print -rl -- $@
}
compset() { prefix=$2 }
_describe() { print -rl -- ${(P)2%%:*} }
_files() { print -r -- "files $*" }
source $1
[[ $registered == "_moco_tf moco-tf" ]] || exit 9
while IFS= read -r line; do
    words=("${(@s: :)line}")
    CURRENT=$#words
    _moco_tf
    print -r -- '==='
done
"""


@pytest.fixture(name="scripts", scope="module")
def _scripts(tmp_path_factory):
    """Both scripts, as the command prints them, and some files beside."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        text = completion.script(shell, cli.COMMANDS)
        (folder / f"script.{shell}").write_text(text)
    (folder / "place" / "photos").mkdir(parents=True)
    (folder / "place" / "two words").mkdir()
    (folder / "place" / "mine.py").touch()
    return folder


def ask(scripts, shell, *typed):
    """What the tab key offers behind each typed line: a list of words each."""
    code, program = {
        "bash": (_ASK_BASH, [BASH, "--norc", "--noprofile"]),
        "zsh": (_ASK_ZSH, [ZSH, "-f"]),
    }[shell]
    done = subprocess.run(
        [*program, "-c", code, shell, str(scripts / f"script.{shell}")],
        input="".join(f"moco-tf {line}\n" for line in typed),
        cwd=scripts / "place",
        env=os.environ | {"HOME": str(scripts)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    parts = done.stdout.split("===\n")[:-1]
    return [[w for w in part.split("\n") if w] for part in parts]


SHELLS = [
    pytest.param(
        shell,
        marks=pytest.mark.skipif(
            shutil.which(shell) is None, reason=f"{shell} is not installed"
        ),
    )
    for shell in completion.SHELLS
]
by_shell = pytest.mark.parametrize("shell", SHELLS)


def plain(words):
    return [word.rstrip(" ") for word in words]


@by_shell
def test_commands_and_their_flags_are_offered(scripts, shell):
    lines = ["", *(f"{name} -" for name in cli.COMMANDS)]
    first, *others = ask(scripts, shell, *lines)
    assert set(plain(first)) - {"--help", "--version"} == set(cli.COMMANDS)
    for (name, command), words in zip(
        cli.COMMANDS.items(), others, strict=True
    ):
        offered = {word.strip(" =") for word in words} - {"--config."}
        flags = {f"--{flag.name}" for flag in command.flags}
        assert offered == flags | {"--help", "--verbose", "--flagfile"}, name
        assert ("--config." in words) == command.has("config")


@by_shell
def test_presets_are_those_of_the_command(scripts, shell):
    lines = ("pretrain --config=", "linear --config=", "pretrain --config ")
    tasks = ("pretrain", "linear", "pretrain")
    for task, words in zip(tasks, ask(scripts, shell, *lines), strict=True):
        known = set(plain(words)) & set(configs.names()) | set(
            plain(words)
        ) & set(configs.names(task))
        assert known == set(configs.names(task))


@by_shell
@pytest.mark.parametrize("name", ["pretrain", "benchmark", "linear", "doctor"])
def test_sections_and_fields_are_offered_one_after_the_other(
    scripts, shell, name
):
    command = cli.COMMANDS[name]
    methods = table.METHODS if name in ("pretrain", "benchmark") else ("moco",)
    fields = {
        f.name for m in methods for f in usage.read_fields(name, command, m)
    }
    sections = sorted({f.split(".")[0] for f in fields if "." in f})
    lines = [f"{name} --config.{section}." for section in sections]
    starts, *parts = ask(scripts, shell, f"{name} --config.", *lines)
    assert {f"--config.{section}." for section in sections} <= set(starts)
    assert "--config.seed=" in starts
    for section, words in zip(sections, parts, strict=True):
        start = f"--config.{section}."
        offered = {word for word in words if word.startswith(start)}
        expected = {f for f in fields if f.startswith(f"{section}.")}
        assert offered == {f"--config.{field}=" for field in expected}


@by_shell
def test_behind_a_preset_there_is_the_section_of_its_method_alone(
    scripts, shell
):
    line = "pretrain --config=swav_small_batch --config."
    (words,) = ask(scripts, shell, line)
    sections = {word.removeprefix("--config.").rstrip(".") for word in words}
    assert sections & set(table.METHODS) == {"swav"}


@by_shell
def test_values_are_those_that_a_field_or_a_flag_takes(scripts, shell):
    lines, expected = [], []
    for name in ("pretrain", "finetune", "linear"):
        for field in configs.describe(name):
            if field.field.names:
                lines.append(f"{name} --config.{field.name}=")
                expected.append(set(field.field.names))
            elif field.field.kind is bool:
                lines.append(f"{name} --config.{field.name}=")
                expected.append({"true", "false"})
    lines += [
        "convert --to=",
        "convert --to ",
        "completion ",
        "knn --features=",
    ]
    runtimes = {"onnx", "tflite", "openvino"}
    expected += [runtimes, runtimes, {"bash", "zsh"}]
    expected += [{"backbone", "projection", "both"}]
    for line, words, known in zip(
        lines, ask(scripts, shell, *lines), expected, strict=True
    ):
        assert set(plain(words)) == known, line
    assert len(lines) > 20


def test_bash_offers_files_and_folders_where_they_are_taken(scripts):
    lines = {
        "pretrain --config=mi": ["mine.py "],
        "pretrain --config mi": ["mine.py "],
        "pretrain --workdir=./": ["./photos/", r"./two\ words/", "./mine.py "],
        "pretrain --config.data.source=folder:": [r"two\ words/", "photos/"],
        "pretrain --config.data.source=list:m": ["mine.py "],
        "embed --source=fol": ["folder:"],
        "embed --source=shapes:": ["train ", "test "],
        "knn --bank folder:ph": ["photos/"],
        "pretrain --workdir=~/pl": ["~/place/"],
    }
    replies = ask(scripts, "bash", *lines)
    for (line, expected), words in zip(lines.items(), replies, strict=True):
        assert sorted(words) == sorted(expected), line


def test_bash_puts_a_reply_behind_its_word_breaks(scripts):
    """Where = is no word break, a reply is the word from its start."""
    path = scripts / "script.bash"
    code = (
        "COMP_WORDBREAKS=' '; source $1; COMP_LINE='moco-tf knn --features=p'"
    )
    code += '; COMP_POINT=${#COMP_LINE}; _moco_tf; printf %s "${COMPREPLY[@]}"'
    words = [BASH, "-c", code, "bash", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "--features=projection "


def test_what_stands_behind_the_cursor_does_not_count(scripts):
    code = "source $1; COMP_LINE='moco-tf kn --devices=cpu' COMP_POINT=10; "
    code += '_moco_tf; printf %s "${COMPREPLY[@]}"'
    path = scripts / "script.bash"
    words = [BASH, "-c", code, "bash", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "knn "


def test_an_interactive_bash_completes_by_the_script(scripts):
    """bash itself splits the line, and calls what was registered."""
    code = "source script.bash\ncomplete -p moco-tf\n"
    words = [BASH, "--norc", "--noprofile", "-c", code]
    done = subprocess.run(
        words, cwd=scripts, capture_output=True, text=True, check=True
    )
    assert done.stdout == "complete -o nospace -F _moco_tf moco-tf\n"


def test_the_script_for_zsh_has_the_form_that_it_loads(scripts):
    text = (scripts / "script.zsh").read_text()
    assert text.startswith("#compdef moco-tf\n")
    assert "compdef _moco_tf moco-tf" in text
    lines = [line.split() for line in text.split("\n")]
    opened = sum(words[:1] == ["case"] for words in lines)
    assert opened == sum("esac" in words for words in lines) > 7
    # Both scripts have the same words: only what asks for them differs.
    bash = (scripts / "script.bash").read_text()
    tables = [t[: t.index("_moco_tf_value()")] for t in (text, bash)]
    tables = [t[t.index("_moco_tf_commands()") :] for t in tables]
    assert tables[0] == tables[1].replace(
        tables[1][tables[1].index("_moco_tf_paths()") :], ""
    )


def test_every_field_that_lists_its_values_is_completed():
    """A later field with names is not forgotten: none is written here."""
    values = completion._values(cli.COMMANDS)
    listed = {n for n, f in config_schema.PRETRAIN.items() if f.names}
    keys = "|".join(values)
    assert all(f" --config.{name}'" in keys for name in listed)


def test_the_command_prints_the_script_without_tensorflow(scripts):
    code = (
        "import sys; from moco_tf.cli import main; "
        "main.run(['completion', 'bash']); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == (scripts / "script.bash").read_text()


def test_a_shell_must_be_named(capsys):
    assert cli.run(["completion"]) == 2
    assert "--shell must be given" in capsys.readouterr().err
    assert cli.run(["completion", "fish"]) == 2
    assert "must be one of bash, zsh. Received 'fish'" in (
        capsys.readouterr().err
    )


def _press_tab(folder, typed, expected, seconds=20):
    """What an interactive zsh shows once the tab key was pressed.

    It reads until `expected` is shown, or the time is over.
    """
    command = (  # the prompt in two parts: what is typed is shown as well
        "PS1='rea''dy> '; stty rows 50 cols 110; fpath=($PWD $fpath);"
        " autoload -U compinit; compinit -u -D\n"
    )
    process, terminal = pty.fork()
    if not process:
        os.chdir(folder)
        os.execve(ZSH, ["zsh", "-f", "-i"], {"TERM": "xterm", "HOME": "."})
    shown, end = "", time.monotonic() + seconds

    def read_until(words):
        nonlocal shown
        shown = ""
        while not all(word in shown for word in words):
            left = max(0, end - time.monotonic())
            if not select.select([terminal], [], [], left)[0]:
                break
            shown += os.read(terminal, 65536).decode(errors="replace")
            # Without colours, movements and bells.
            shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\0-\t\r]", "", shown)

    try:
        os.write(terminal, command.encode())
        read_until(["ready> "])
        os.write(terminal, f"{typed}\t".encode())
        read_until(expected)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    return shown


@pytest.mark.system
@pytest.mark.skipif(not ZSH, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("moco-tf pre", ["prepare", "decode a source once", "pretrain"]),
        ("moco-tf pretrain --config.tr", ["--config.train."]),
        ("moco-tf pretrain --config=moco_c", ["moco_cifar10"]),
        ("moco-tf pretrain --workdir=two", [r"two\ words/"]),
        ("moco-tf convert --to=", ["onnx", "openvino", "tflite"]),
    ],
)
def test_the_tab_key_in_an_editor_of_zsh(scripts, typed, expected):
    place = scripts / "place"
    shutil.copy(scripts / "script.zsh", place / "_moco-tf")
    shown = _press_tab(place, typed, expected)
    assert [word for word in expected if word not in shown] == [], shown
