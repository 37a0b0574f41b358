"""Rows of cli/: command lines that are not understood."""

import threading
import types
from unittest import mock

from moco_tf import config as configs
from moco_tf import pretrain
from moco_tf.cli import evaluation, flags, main, quiet, runs, serving
from moco_tf.monitoring import representation_plot
from tests.remedies import following

ROWS = following.Rows("cli/*.py")

PRETRAIN = ("pretrain", "--workdir=x", "--config=quickstart")


def parse(*words):
    """The flags and overrides of a command line."""
    return flags.parse(list(words), main.COMMANDS, main._fields)[1:]


@ROWS.followed("cli/flags.py:parse", "There is no command")
def unknown_command():
    text = yield lambda: parse("pretrian", *PRETRAIN[1:])
    yield lambda: parse(following.suggested(text), *PRETRAIN[1:])


@ROWS.followed("cli/quiet.py:start_xla", "Raise the limit of processes")
def too_few_threads():
    start = threading.Thread.start

    def start_none(thread):
        raise RuntimeError("can't start new thread")

    def under_a_limit(threads_may_start):
        chosen = start if threads_may_start else start_none
        with mock.patch.object(threading.Thread, "start", chosen):
            quiet.start_xla()

    yield lambda: under_a_limit(threads_may_start=False)
    yield lambda: under_a_limit(threads_may_start=True)


@ROWS.followed("cli/flags.py:parse", "needs a value: {word}=VALUE")
def override_without_a_value():
    text = yield lambda: parse(*PRETRAIN, "--config.seed")
    word = text.rpartition(" ")[2].rstrip(".").replace("VALUE", "3")
    yield lambda: parse(*PRETRAIN, word)


@ROWS.followed("cli/flags.py:parse", "takes no configuration")
def override_of_a_run():
    yield lambda: parse("knn", "--workdir=x", "--config.seed=1")
    yield lambda: parse("knn", "--workdir=x")


@ROWS.followed("cli/flags.py:_read_path", "Mount or copy it")
def address_for_a_path():
    yield lambda: parse("pretrain", "--workdir=s3://runs/a", *PRETRAIN[2:])
    yield lambda: parse("pretrain", "--workdir=/mnt/runs/a", *PRETRAIN[2:])


@ROWS.followed("cli/flags.py:_parse_flags", "There is no flag")
def unknown_flag():
    text = yield lambda: parse(*PRETRAIN, "--device=cpu")
    yield lambda: parse(*PRETRAIN, f"{following.suggested(text)}=cpu")


@ROWS.followed("cli/flags.py:_meant", "Did you mean")
def field_without_its_prefix():
    def meant(*words):
        try:
            return str(parse(*PRETRAIN, *words)[1])
        except flags.UsageError as error:
            return str(error)

    text = yield lambda: meant("--train.epochs=2")
    word = following.suggested(text)
    assert word == "--config.train.epochs"
    yield lambda: meant(f"{word}=2")


@ROWS.followed("cli/flags.py:_parse_flags", "neither a flag nor a value")
def word_without_a_flag():
    yield lambda: parse(*PRETRAIN, "extend")
    yield lambda: parse(*PRETRAIN, "--extend")
    yield lambda: parse(*PRETRAIN, "--devices=cpu")


@ROWS.followed("cli/flags.py:_parse_flags", "must be given")
def missing_flags():
    text = yield lambda: parse("pretrain")
    words = [word for word in text.split() if word.startswith("--")]
    yield lambda: parse("pretrain", *(f"{word}=x" for word in words))


@ROWS.followed("cli/flags.py:_expand", "needs a file: --flagfile=FILE")
def flag_file_without_a_name(tmp_path):
    (tmp_path / "FILE").write_text("--extend\n")
    yield lambda: flags.expand_files(["--flagfile"])
    yield lambda: flags.expand_files([f"--flagfile={tmp_path / 'FILE'}"])


@ROWS.followed("cli/flags.py:_expand", "Remove one of the --flagfile")
def flag_files_in_a_circle(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("--extend\n--flagfile=b\n")
    second.write_text("--flagfile=a\n")
    yield lambda: flags.expand_files([f"--flagfile={first}"])
    second.write_text("")
    yield lambda: flags.expand_files([f"--flagfile={first}"])


@ROWS.followed("cli/flags.py:_read_lines", "Save it so")
def flag_file_of_another_encoding(tmp_path):
    path = tmp_path / "flags"
    path.write_text("--extend\n", encoding="utf-16")
    yield lambda: flags.expand_files([f"--flagfile={path}"])
    path.write_text("--extend\n", encoding="utf-8")
    yield lambda: flags.expand_files([f"--flagfile={path}"])


@ROWS.followed("cli/flags.py:_read_line", "must be --name=value")
def line_that_is_no_flag(tmp_path):
    path = tmp_path / "flags"
    path.write_text("extend\n")
    yield lambda: flags.expand_files([f"--flagfile={path}"])
    path.write_text("--devices=cpu\n")
    yield lambda: flags.expand_files([f"--flagfile={path}"])


@ROWS.followed("cli/flags.py:_read_line", "Write it without them")
def line_with_quotes(tmp_path):
    path = tmp_path / "flags"
    path.write_text("--workdir='my run'\n")
    yield lambda: flags.expand_files([f"--flagfile={path}"])
    path.write_text("--workdir=my run\n")
    yield lambda: flags.expand_files([f"--flagfile={path}"])


@ROWS.followed("cli/main.py:run", "Try: moco-tf{known} --help")
def help_on_a_command(capsys):
    def run(*words):
        main.run(list(words))
        return capsys.readouterr().err

    text = yield lambda: run("pretrain", "--workdri=x")
    words = text.rpartition("moco-tf ")[2].split()
    yield lambda: run(*words)


@ROWS.followed("cli/main.py:_given", "doctor prints")
def choice_that_is_not_made_yet(capsys):
    def show(*words):
        return main.run(["pretrain", "--show_config", *words]) == 0

    def refused():
        assert not show()
        raise ValueError(capsys.readouterr().err)

    yield refused
    yield lambda: show("--config=quickstart")
    yield lambda: parse("doctor", "--config.data.source=folder:x")


@ROWS.followed("cli/runs.py:check_chosen", "choose on one machine")
def choice_of_a_cluster():
    cluster = types.SimpleNamespace(workers=("a:1", "b:1"))
    text = yield lambda: runs.check_chosen({}, cluster)
    words = text.partition("moco-tf ")[2].partition(" choose")[0].split()
    yield lambda: parse(*words, "--config.data.source=folder:x")
    yield lambda: runs.check_chosen({}, None)
    yield lambda: runs.check_chosen(object(), cluster)  # of the file


@ROWS.followed("cli/main.py:_profile_steps", "Pass, for example, 10,20")
def one_step_to_trace(monkeypatch):
    monkeypatch.setattr(pretrain, "pretrain", lambda *_, **__: None)

    def run(steps):
        words = [*PRETRAIN, f"--profile_steps={steps}", "--cluster=none"]
        options, _ = parse(*words)
        source = dict.fromkeys(("knn.bank", "knn.query"), "")
        source["data.source"] = "folder:photos"
        main._pretrain(options, configs.load("quickstart", source))

    text = yield lambda: run("10")
    yield lambda: run(text.rpartition(" ")[2].rstrip("."))


@ROWS.followed("cli/evaluation.py:_open_encoder", "--output must be given")
def saved_model_without_an_output(monkeypatch):
    from moco_tf.evaluation import frozen

    monkeypatch.setattr(frozen, "open_frozen", lambda *_, **__: None)

    def run(*words):
        options, _ = parse("knn", "--saved_model=x", *words)
        evaluation._open_encoder(options, "knn")

    yield run
    yield lambda: run("--output=folder")


@ROWS.followed("cli/serving.py:_export", "Leave them out, or export with")
def head_for_a_folder_of_the_hub(monkeypatch):
    from moco_tf.evaluation import frozen
    from moco_tf.serving import export, hub_folder

    monkeypatch.setattr(frozen, "open_frozen", lambda *_, **__: None)
    for module in (export, hub_folder):
        monkeypatch.setattr(module, "export_run", lambda *_, **__: None)

    def run(*words):
        serving._export(parse("export", "--workdir=x", *words)[0], None)

    yield lambda: run("--format=hf", "--head=linear.npz")
    yield lambda: run("--format=hf")
    yield lambda: run("--format=saved_model", "--head=linear.npz")


@ROWS.followed("cli/evaluation.py:_knn", "--plot needs the --workdir")
def plot_without_a_run(monkeypatch):
    monkeypatch.setattr(representation_plot, "plot_run", lambda *_: 1)

    def run(*words):
        evaluation._knn(parse("knn", "--plot=x.png", *words)[0], None)

    yield run
    yield lambda: run("--workdir=x")


@ROWS.followed("cli/runs.py:_prepare", "--source must be given")
def cache_of_nothing(monkeypatch):
    from moco_tf import prepare

    about = {"bytes": {"images.bin": 1}, "images": 1, "unreadable": 0}
    about |= {"source": "x", "short_side": 8}
    monkeypatch.setattr(prepare, "prepare", lambda *_, **__: about)
    monkeypatch.setattr(prepare, "verify", lambda *_: 1)

    def run(*words):
        runs._prepare(parse("prepare", "--path=x", *words)[0], None)

    yield run
    yield lambda: run("--source=shapes:test")
    yield lambda: run("--verify")


ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("cli/flags.py:choice.read", "must be one of"),
    ("cli/flags.py:_Answer.parse", "is typed alone, or with one of"),
    ("cli/flags.py:_numbers.read", "with commas between"),
    ("cli/flags.py:_read_integer", "takes one whole number"),
    ("cli/flags.py:_read_number", "takes one number"),
    ("cli/flags.py:_read_seconds", "seconds from 0 on"),
    ("cli/flags.py:_Parser.parse", "Received"),
    ("cli/flags.py:_read_lines", "names what cannot be read"),
    ("cli/runs.py:_doctor", "--trial_steps takes 0 or more"),
)
ROWS.states(
    following.PART_OF_ANOTHER,
    ("cli/runs.py:_doctor", "The table says what to do"),
)
ROWS.states(
    following.NO_MESSAGE,
    ("cli/usage.py:_flag_rows", "--config.SECTION.FIELD=VALUE"),
    ("cli/usage.py:_fields", "--config.SECTION.FIELD=VALUE, with"),
    ("cli/evaluation.py:", "draw the logged figures"),
    ("cli/completion.py:_head", "to be made again after an update"),
    ("cli/evaluation.py:", "--config.probe.way=published"),
    ("cli/evaluation.py:", "--config.data.labels=0.1"),
    ("cli/evaluation.py:", "--config.model.init=random"),
    ("cli/main.py:", "pretrain --config.data.source=folder:photos"),
    ("cli/main.py:", "pretrain --config=moco_v2_imagenet"),
    ("cli/runs.py:", "--json=figures.json"),
    ("cli/runs.py:", "doctor --config.data.source=folder:photos"),
    ("cli/runs.py:", "doctor --config=moco_v2_imagenet"),
    ("cli/main.py:", "run it again to go on"),
    ("cli/runs.py:", "name the bottleneck"),
    ("cli/runs.py:", "give it again to compare"),
)
