"""Flags from files, by themselves and through the command line."""

import pytest

from moco_tf.cli import flags
from moco_tf.cli import main as cli


@pytest.fixture(name="write")
def _write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.mark.parametrize(
    "text",
    [
        "--config=a\n--config.train.epochs=2\n",
        "\n# a comment\n  --config=a  \n// another\n--config.train.epochs=2",
        "--config = a\n--config.train.epochs\t=2\n",
        "--config= a\n--config.train.epochs=\t2\n",
        "--config a\r\n--config.train.epochs 2\r\n",
        b"\xef\xbb\xbf--config=a\n--config.train.epochs=2\n",
    ],
)
def test_a_file_stands_for_its_lines(write, text):
    path = write("flags", text)
    expected = ["--verbose", "--config=a", "--config.train.epochs=2", "--x"]
    for words in ([f"--flagfile={path}"], ["--flagfile", path]):
        assert flags.expand_files(["--verbose", *words, "--x"]) == expected


def test_files_may_name_others_from_here_or_beside_them(
    write, tmp_path, monkeypatch
):
    write("more/inner", "--b=2\n")
    write("more/outer", "--a=1\n--flagfile=inner\n--c=3\n")
    monkeypatch.chdir(tmp_path)
    assert flags.expand_files(["--flagfile=more/outer", "--d=4"]) == (
        ["--a=1", "--b=2", "--c=3", "--d=4"]
    )
    write("from_here", "--flagfile=more/inner\n")
    assert flags.expand_files(["--flagfile=from_here"]) == ["--b=2"]
    twice = flags.expand_files(["--flagfile=more/inner"] * 2)
    assert twice == ["--b=2", "--b=2"]


def test_a_file_in_the_home_folder(write, tmp_path, monkeypatch):
    write("flags", "--a=1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert flags.expand_files(["--flagfile=~/flags"]) == ["--a=1"]


def test_a_value_may_hold_blanks_and_signs(write):
    line = "--config.data.source=folder:/my images/a=b # c"
    assert flags.expand_files([f"--flagfile={write('f', line)}"]) == [line]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.epochs=2", "must be --name=value. Received 'train.epochs=2'"),
        ("--a=1\n--b='x y'", "line 2). Write it without them"),
        ("--a=1\n--b= 'x y'", "line 2). Write it without them"),
        (b"--a=\xff", "must be text in UTF-8"),
        ("--flagfile=nowhere", "names what cannot be read"),
        ("--flagfile=", "--flagfile needs a file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(write, text, message):
    with pytest.raises(flags.UsageError) as error:
        flags.expand_files([f"--flagfile={write('f', text)}"])
    assert message in str(error.value)


def test_a_circle_is_named(write):
    path = write("a", "--flagfile=b")
    write("b", "--flagfile=a")
    with pytest.raises(flags.UsageError, match="circle: .*a -> .*b -> .*a"):
        flags.expand_files([f"--flagfile={path}"])


@pytest.mark.parametrize("words", [["--flagfile"], ["--flagfile="]])
def test_a_file_must_be_named(words):
    with pytest.raises(flags.UsageError, match="--flagfile=FILE"):
        flags.expand_files(words)


def test_a_command_reads_fields_and_flags_from_files(write, capsys):
    inner = write("inner", "# of this machine\n--config.train.epochs=3\n")
    outer = write(
        "outer",
        f"--config=moco_cifar10\n--flagfile={inner}\n"
        "--config.optimizer.learning_rate=0.5\n--show_config\n",
    )
    words = ["pretrain", f"--flagfile={outer}", "--config.train.epochs=4"]
    assert cli.run(words) == 0
    shown = capsys.readouterr().out
    assert "config.train.epochs = 4 " in shown  # the later one counts
    assert "config.optimizer.learning_rate = 0.5 " in shown


def test_a_mistake_in_a_file_is_refused_as_on_the_command_line(write, capsys):
    path = write("f", "--config=moco_cifar10\n--config.train.lr=1\n")
    assert cli.run(["pretrain", "--workdir=w", f"--flagfile={path}"]) == 2
    assert "'optimizer.learning_rate'" in capsys.readouterr().err


def test_the_help_names_flag_files(capsys):
    assert cli.run(["knn", "--help"]) == 0
    assert "--flagfile=FLAGFILE" in capsys.readouterr().out
