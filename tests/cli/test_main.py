import io
import os
import pathlib
import subprocess
import sys
import threading

import pytest
import tensorflow as tf

import moco_tf
from moco_tf import config as configs
from moco_tf.cli import main as cli
from moco_tf.cli import quiet
from moco_tf.training import distribution
from tests import ugly_names

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def calls(monkeypatch):
    """Replaces what the commands run by a note of their arguments."""
    noted = []
    for name, command in cli.COMMANDS.items():
        run = lambda options, config, name=name: noted.append(  # noqa: E731
            (name, options, config)
        )
        monkeypatch.setitem(cli.COMMANDS, name, command._replace(run=run))
    monkeypatch.setattr(quiet, "prepare", lambda verbose: None)
    return noted


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_alone_it_lists_the_commands(argv, capsys):
    assert cli.run(argv) == 0
    printed = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in printed
        assert command.purpose in printed


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"moco-tf {moco_tf.__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_lists_its_flags(name, capsys, calls):
    assert cli.run([name, "--help"]) == 0
    printed = capsys.readouterr().out
    for flag in cli.COMMANDS[name].flags:
        assert f"--{flag.name}" in printed
        assert flag.purpose in printed
    assert calls == []


@pytest.mark.parametrize(
    "argv, message",
    [
        (["pretrian"], "There is no command 'pretrian'. Did you mean"),
        (["train-it-all"], "'train-it-all'. Known: "),
        (["pretrain", "--confg=x"], "Did you mean '--config'?"),
        (["pretrain", "--k=3"], "There is no flag --k."),
        (["pretrain", "--config=quickstart"], "--workdir must be given"),
        (["pretrain"], "--workdir must be given"),
        (["knn", "--workdir"], "Missing value for flag --workdir"),
        (["knn", "runs/x"], "'runs/x' is neither a flag nor a value"),
        (["knn", "--workdir=x", "--config.seed=1"], "takes no configuration"),
        (
            ["pretrain", "--workdir=x", "--config=quickstrt"],
            "Did you mean 'quickstart'?",
        ),
        (
            [
                "pretrain",
                "--workdir=x",
                "--config=quickstart",
                "--config.moco.queue=8",
            ],
            "Did you mean 'moco.queue_size'?",
        ),
        (
            ["pretrain", "--workdir=x", "--config=quickstart", "--config.seed"],
            "--config.seed needs a value",
        ),
    ],
)
def test_what_is_not_understood_ends_with_status_2(
    argv, message, capsys, calls
):
    assert cli.run(argv) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 2
    assert "Traceback" not in printed
    assert calls == []


def test_pretrain_receives_flags_and_configuration(calls):
    argv = "pretrain --config quickstart --workdir=w --devices=cpu:2 --extend"
    overrides = ["--config.train.epochs=3", "--config.seed", "5"]
    assert cli.run([*argv.split(), *overrides]) == 0
    name, options, config = calls[0]
    assert (name, options.workdir, options.devices) == (
        "pretrain",
        "w",
        "cpu:2",
    )
    assert options.extend
    assert (config.train.epochs, config.seed) == (3, 5)


def test_pretrain_hands_its_flags_to_the_strategy(monkeypatch, capsys):
    received = []

    def refuse(*arguments, **named):
        received.append((*arguments, named))
        raise ValueError("enough seen")

    monkeypatch.setattr(distribution, "make_strategy", refuse)
    words = ["pretrain", "--config=quickstart", "--workdir=none"]
    assert cli.run([*words, "--devices=cpu:2", "--deterministic"]) == 1
    assert "enough seen" in capsys.readouterr().err
    named = {
        "cross_device_ops": "auto",
        "communication": "auto",
        "deterministic": True,
    }
    assert received == [("cpu:2", None, named)]


def test_knn_reads_the_configuration_of_the_run(calls):
    assert cli.run(["knn", "--workdir=w", "--bank=shapes"]) == 0
    name, options, config = calls[0]
    assert (name, options.bank, options.query, config) == (
        "knn",
        "shapes",
        "",
        None,
    )


@pytest.mark.parametrize(
    "error, status, message",
    [
        (ValueError("rule"), 1, "moco-tf: error: rule\n"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (FloatingPointError("loss is nan"), 1, "loss is nan"),
        (
            KeyboardInterrupt(),
            130,
            "moco-tf: interrupted. The same command resumes it.",
        ),
    ],
)
def test_errors_of_a_command_become_one_line(
    error, status, message, capsys, monkeypatch
):
    def fail(options, config):
        raise error

    command = cli.COMMANDS["pretrain"]._replace(run=fail)
    monkeypatch.setitem(cli.COMMANDS, "pretrain", command)
    monkeypatch.setattr(quiet, "prepare", lambda verbose: None)
    argv = ["pretrain", "--config=quickstart", "--workdir=w"]
    assert cli.run(argv) == status
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_a_defect_keeps_its_traceback(monkeypatch):
    def fail(options, config):
        raise TypeError("a defect")

    command = cli.COMMANDS["knn"]._replace(run=fail)
    monkeypatch.setitem(cli.COMMANDS, "knn", command)
    monkeypatch.setattr(quiet, "prepare", lambda verbose: None)
    with pytest.raises(TypeError, match="a defect"):
        cli.run(["knn", "--workdir=w"])


def test_listing_commands_does_not_import_tensorflow():
    code = (
        "import sys; from moco_tf.cli import main; main.run([]); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_command_starts_quietly(tmp_path):
    """The imports and the error of a folder that holds no run: one line."""
    done = subprocess.run(
        [sys.executable, "-m", "moco_tf", "knn", f"--workdir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("moco-tf: error: ")
    assert len(done.stderr.splitlines()) == 1


def test_tensorflow_stays_quiet_in_an_interactive_python():
    """As in a notebook, where its import lets its logger say more."""
    code = (
        "import logging, sys; sys.ps1 = '>>> '\n"
        "from moco_tf.cli import quiet; quiet.prepare()\n"
        "with quiet.imports(): import tensorflow\n"
        "tensorflow.get_logger().warning('5 calls triggered retracing')\n"
        "tensorflow.get_logger().error('no memory')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    shown = done.stdout + done.stderr
    assert "no memory" in shown and "retracing" not in shown


def test_a_warning_is_one_sentence_and_said_once():
    """In a process of its own: the handlers of this one are pytest's."""
    code = (
        "from moco_tf.cli import quiet; from absl import logging\n"
        "quiet.prepare()\n"
        "for n in (1, 2, 1): logging.warning('%d of 9 are left out', n)\n"
        "logging.info('unsaid'); logging.error('no picture')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr.splitlines() == [
        "Warning: 1 of 9 are left out",
        "Warning: 2 of 9 are left out",
        "Error: no picture",
    ]


def test_held_back_lines_are_shown_but_for_known_notices(capfd):
    with quiet.imports():
        os.write(2, b"E cuda_dnn.cc:9261] Unable to register cuDNN factory\n")
        os.write(2, b"disk failure\n")
    assert capfd.readouterr().err == "disk failure\n"


def test_an_import_that_fails_shows_everything(capfd):
    with pytest.raises(ImportError), quiet.imports():
        os.write(2, b"Unable to register cuDNN factory\n")
        raise ImportError("broken")
    assert capfd.readouterr().err == "Unable to register cuDNN factory\n"


def test_a_thread_that_cannot_be_started_leaves_none_waiting(monkeypatch):
    started, start = [], threading.Thread.start

    def start_two(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")  # as of a limit
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    words = "can't start new thread after 2. Raise the limit"
    with pytest.raises(OSError, match=words):
        quiet.start_xla()
    assert not any(thread.is_alive() for thread in started)


def test_a_thread_that_fails_leaves_none_waiting(monkeypatch):
    failures, errors = [ValueError("no oneDNN")], []

    def fail_once(*arguments, transpose=tf.transpose):
        if failures:
            raise failures.pop()
        return transpose(*arguments)

    monkeypatch.setattr(tf, "transpose", fail_once)
    monkeypatch.setattr(threading, "excepthook", errors.append)
    quiet.start_xla()
    assert [str(error.exc_value) for error in errors] == ["no oneDNN"]


@pytest.mark.parametrize("name", [*ugly_names.NAMES, ugly_names.WORST])
def test_a_configuration_lies_in_a_folder_of_any_name(
    name, tmp_path, capsys, monkeypatch
):
    path = ugly_names.make(tmp_path, name) / f"{name[:9]}.py"
    path.write_text(
        "from moco_tf import config\n"
        "def get_config():\n    return config.load('quickstart')\n"
    )
    words = ["pretrain", f"--config={path}", "--show_config"]
    assert cli.run([*words, "--config.seed=5"]) == 0
    assert "config.seed = 5" in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(path.parent))
    in_home = f"~/{path.name}"
    assert cli.run(["pretrain", f"--config={in_home}", "--show_config"]) == 0
    assert configs.load(in_home) == configs.load("quickstart")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_cannot_write_a_path_gets_its_letters_by_number(
    encoding, tmp_path, monkeypatch
):
    path = ugly_names.make(tmp_path, "日本 \udcff") / "c.py"
    path.write_text(
        "from moco_tf import config\n"
        "def get_config():\n    return config.load('quickstart')\n"
    )
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    words = ["--show_config", "--config.data.source=folder:/é"]
    assert cli.run(["pretrain", f"--config={path}", *words]) == 0
    stream.flush()
    assert b"config.data.source" in written.getvalue()


@pytest.mark.parametrize("on_path", [False, True])
def test_report_ends_a_run_with_a_command_that_can_be_typed(
    on_path, tmp_path, monkeypatch
):
    from moco_tf import pretrain
    from moco_tf.reporting import page

    done = []
    monkeypatch.setattr(pretrain, "pretrain", lambda *_, **__: None)
    monkeypatch.setattr(page, "finish", lambda *words: done.append(words))
    script = "/bin/moco-tf" if on_path else None
    monkeypatch.setattr(cli.shutil, "which", lambda name: script)
    words = ["pretrain", "--config=quickstart", "--cluster=none"]
    assert cli.run([*words, f"--workdir={tmp_path}"]) == 0
    assert done == []
    assert cli.run([*words, f"--workdir={tmp_path}", "--report"]) == 0
    ((workdir, program),) = done
    assert workdir == str(tmp_path)
    script = pathlib.Path(sys.executable).parent / "moco-tf"
    assert program == ("moco-tf" if on_path else str(script))
