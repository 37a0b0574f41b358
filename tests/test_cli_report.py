import pytest

from moco_tf.cli import flags
from moco_tf.cli import main as cli
from tests.reporting import small_report


def test_several_workdirs_make_one_file(tmp_path, capsys):
    words = ["report", "--images=0", f"--path={tmp_path / 'both.html'}"]
    for name in ("one", "two"):
        workdir = small_report.write(tmp_path / name)
        words.append(f"--workdir={workdir}")
    assert cli.run(words) == 0
    assert "both.html (0." in capsys.readouterr().out
    assert "Comparison of 2 runs" in (tmp_path / "both.html").read_text()


def test_the_file_is_in_the_workdir_unless_told(tmp_path):
    workdir = small_report.write(tmp_path / "run")
    assert cli.run(["report", f"--workdir={workdir}", "--images=0"]) == 0
    assert (workdir / "report.html").is_file()


def test_a_folder_that_is_no_run_ends_with_status_1(tmp_path, capsys):
    assert cli.run(["report", f"--workdir={tmp_path}"]) == 1
    assert "its workdir holds config.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--workdir must be given"),
        (["--workdir=x", "--images=many"], "--images takes one whole number"),
    ],
)
def test_what_is_not_understood_ends_with_status_2(words, message, capsys):
    assert cli.run(["report", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_flag_that_may_be_given_again_is_a_list():
    commands = {"report": cli.COMMANDS["report"]}
    argv = ["report", "--workdir=a", "--workdir=b,c"]
    _, options, _ = flags.parse(argv, commands)
    assert options.workdir == ["a", "b,c"]
