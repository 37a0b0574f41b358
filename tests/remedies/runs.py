"""Rows of what a run is started from: configurations, workdirs, paths."""

import errno
import fcntl
import os
import shutil
import tempfile
import types

import numpy as np

from moco_tf import config as configs
from moco_tf import filesystem, paths, pretrain, workdirs
from moco_tf.data import sources
from moco_tf.training import distribution
from tests.evaluation import plain_frozen
from tests.remedies import following

ROWS = following.Rows(
    *("__init__.py", "config.py", "filesystem.py", "paths.py", "pretrain.py"),
    *("records.py", "resuming.py", "workdirs.py", "training/callbacks.py"),
)

SOURCE = {"data.source": "shapes:train"}


def config_of(preset="moco_cifar10", command="pretrain", **fields):
    """A configuration; fields with __ for the dot."""
    texts = {k.replace("__", "."): str(v) for k, v in fields.items()}
    given = SOURCE if command == "pretrain" else {}
    return configs.load(preset, given | texts, command)


# Configurations.


def written(path, text):
    """A file of a configuration."""
    path.write_text(f"from moco_tf import config as configs\n\n\n{text}\n")
    return str(path)


MINE = 'def get_config():\n    return configs.base("moco")'


@ROWS.followed("config.py:load", "Pass a configuration of that method")
def method_as_a_field():
    text = yield lambda: configs.load("moco_cifar10", {"method": "simclr"})
    for name in text.rpartition(": ")[2].rstrip(".").split(", "):
        yield lambda preset=name: configs.load(preset)


@ROWS.followed("config.py:load", "Add them, or begin the file with")
def fields_that_a_file_lacks(tmp_path):
    short = (
        "def get_config():\n"
        '    config = configs.base("moco")\n'
        "    del config.train.epochs\n"
        "    return config"
    )
    path = written(tmp_path / "mine.py", short)
    text = yield lambda: configs.load(path)
    added = written(
        tmp_path / "added.py",
        short.replace("del config.train.epochs", "config.train.epochs = 5"),
    )
    yield lambda: configs.load(added)
    call = text.rpartition("config = moco_tf.config.")[2].rstrip(".")
    begun = f"def get_config():\n    return configs.{call}"
    begun = written(tmp_path / "begun.py", begun)
    yield lambda: configs.load(begun)


@ROWS.followed("config.py:_find", "There is no configuration")
def unknown_preset():
    text = yield lambda: configs.load("quikstart")
    yield lambda: configs.load(following.suggested(text))


@ROWS.followed("config.py:_read", "Rename it")
def file_of_another_ending(tmp_path):
    path = written(tmp_path / "mine.txt", MINE)
    yield lambda: configs.load(path)
    os.rename(path, tmp_path / "mine.py")
    yield lambda: configs.load(str(tmp_path / "mine.py"))


@ROWS.followed("config.py:_read_fields", "Mend it")
def file_that_is_no_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {epochs: 3")
    yield lambda: configs.load(path)
    path.write_text("train: {epochs: 3}")
    yield lambda: configs.load(path)


@ROWS.followed("config.py:_read_fields", "Write the fields by their names")
def file_of_a_list(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("- 20")
    text = yield lambda: configs.load(path)
    path.write_text(text.partition("fields, as ")[2].partition(". Rec")[0])
    yield lambda: configs.load(path)


@ROWS.followed("config.py:_read_fields", "Give that of another folder")
def config_json_of_a_run(tmp_path):
    workdirs.save(configs.load("quickstart"), tmp_path / "run")
    linear = configs.load("linear", {}, "linear")
    workdirs.save(linear, tmp_path / "linear", command="linear")
    yield lambda: configs.load(tmp_path / "linear" / "config.json")
    yield lambda: configs.load(tmp_path / "run" / "config.json")


# Workdirs.


def hold(workdir, error=None):
    with workdirs.hold(workdir):
        if error:
            raise error


@ROWS.followed("workdirs.py:hold", "Wait until it has ended, or pass another")
def workdir_that_another_writes(tmp_path):
    with workdirs.hold(tmp_path / "run"):
        yield lambda: hold(tmp_path / "run")
        yield lambda: hold(tmp_path / "other")
    yield lambda: hold(tmp_path / "run")  # it has ended


@ROWS.followed("workdirs.py:hold", "Free space, then give the same command")
def full_disk(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    yield lambda: hold(tmp_path, full)
    yield lambda: hold(tmp_path)


@ROWS.followed("workdirs.py:_open_lock", "Pass another folder, or change its")
def folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" / "run"
    yield lambda: hold(blocked)
    yield lambda: hold(tmp_path / "run")
    (tmp_path / "file").unlink()
    yield lambda: hold(blocked)


@ROWS.followed("workdirs.py:_open_lock", "Move it away: nothing of the run")
def folder_in_place_of_the_lock(tmp_path):
    (tmp_path / "run" / "lock").mkdir(parents=True)
    yield lambda: hold(tmp_path / "run")
    (tmp_path / "run" / "lock").rename(tmp_path / "moved")
    yield lambda: hold(tmp_path / "run")


@ROWS.followed("records.py:way_back", "Put a copy of it back; or give")
def checkpoints_without_a_configuration(tmp_path):
    workdir, config = tmp_path / "run", config_of()
    workdirs.save(config, workdir, "f")
    (workdir / "checkpoints").mkdir()
    whole = (workdir / "config.json").read_bytes()
    (workdir / "config.json").unlink()
    yield lambda: workdirs.check(config, workdir, "f")
    (workdir / "config.json").write_bytes(whole)
    yield lambda: workdirs.check(config, workdir, "f")
    workdirs.save(config, tmp_path / "new", "f")  # what its first step does
    shutil.copy(tmp_path / "new" / "config.json", workdir)
    yield lambda: workdirs.check(config, workdir, "f")


@ROWS.followed("records.py:read_saved", "or to read weights a file of that")
def folder_of_another_library(tmp_path):
    folder = tmp_path / "resnet"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["resnet18"]}')
    workdirs.save(config_of(), tmp_path / "run", "f")
    yield lambda: workdirs.load_saved(folder)
    yield lambda: workdirs.load_saved(tmp_path / "run")


@ROWS.followed("workdirs.py:_read_listing", "Bring back a copy of it, or the")
def listing_that_is_damaged(tmp_path):
    greys = {f"{n}.png": 10 * n for n in range(8)}
    spec = plain_frozen.write_greys(tmp_path / "images", greys)
    workdir = tmp_path / "run"

    def restore():
        return workdirs.restore_source(sources.open_source(spec), workdir)

    data = restore()
    workdirs.save(
        config_of(data__source=spec),
        workdir,
        data.fingerprint,
        listings=[("images", data.images)],
    )
    (path,) = workdir.glob("*.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    changed = tmp_path / "images" / "7.png"
    gone = changed.read_bytes()
    changed.unlink()
    yield restore
    path.write_bytes(whole)
    yield restore
    path.write_bytes(whole[:50])
    changed.write_bytes(gone)  # the images as they were
    yield restore


@ROWS.followed("workdirs.py:load_saved", "Give another folder")
def workdir_of_another_command(tmp_path):
    task = config_of("linear", "linear")
    workdirs.save(task, tmp_path / "linear", command="linear")
    workdirs.save(config_of(), tmp_path / "run")
    yield lambda: workdirs.load_saved(tmp_path / "linear")
    yield lambda: workdirs.load_saved(tmp_path / "run")


@ROWS.followed("workdirs.py:_check_encoder", "Pass the same --checkpoint, or")
def output_of_another_encoder(tmp_path):
    task = config_of("linear", "linear")

    def check(folder, encoder):
        workdirs.check(task, folder, "f", command="linear", encoder=encoder)

    workdirs.save(task, tmp_path, "f", command="linear", encoder="one")
    yield lambda: check(tmp_path, "two")
    yield lambda: check(tmp_path, "one")
    yield lambda: check(tmp_path / "other", "two")


@ROWS.followed("workdirs.py:_check_resumable", "Restore it, or pass another")
def run_on_other_data(tmp_path):
    workdirs.save(config_of(), tmp_path, "first")
    yield lambda: workdirs.check(config_of(), tmp_path, "second")
    yield lambda: workdirs.check(config_of(), tmp_path, "first")
    yield lambda: workdirs.check(config_of(), tmp_path / "other", "second")


@ROWS.followed("workdirs.py:_other_images", "Restore the first ones")
def run_on_other_images(tmp_path):
    greys = {f"{n}.png": 10 * n for n in range(8)}
    first = plain_frozen.write_greys(tmp_path / "first", greys)
    second = plain_frozen.write_greys(
        tmp_path / "second", {f"other{n}.png": 99 for n in range(8)}
    )
    workdir = tmp_path / "run"

    def restore(spec, folder=workdir):
        source = sources.open_source(spec)
        return workdirs.restore_source(source, folder)

    data = restore(first)
    workdirs.save(
        config_of(data__source=first),
        workdir,
        data.fingerprint,
        listings=[("images", data.images)],
    )
    text = yield lambda: restore(second)
    (remedy,) = following.advised(text)
    assert remedy["data.source"] == first
    yield lambda: restore(remedy["data.source"])
    yield lambda: restore(second, tmp_path / "new")


def resume(workdir, *flags, **fields):
    """Checks that a run may go on with other fields."""
    workdirs.check(
        config_of(**fields), workdir, "f", extend="--extend" in flags
    )


@ROWS.followed("resuming.py:explain", "Pass the first values, or another")
def run_with_another_recipe(tmp_path):
    workdirs.save(config_of(), tmp_path, "f")
    text = yield lambda: resume(tmp_path, moco__temperature=0.5)
    assert "moco.temperature: 0.1 -> 0.5" in text, text
    yield lambda: resume(tmp_path, moco__temperature=0.1)
    assert "--workdir" in text
    yield lambda: resume(tmp_path / "other", moco__temperature=0.5)


@ROWS.followed("resuming.py:explain", "More epochs: add --extend")
def run_with_more_epochs(tmp_path, capsys):
    workdirs.save(config_of(train__epochs=10), tmp_path, "f")
    yield lambda: resume(tmp_path, train__epochs=20)
    yield lambda: resume(tmp_path, "--extend", train__epochs=20)


@ROWS.followed("resuming.py:explain", "To stop earlier: --config.train.max")
def run_with_fewer_epochs(tmp_path, capsys):
    workdirs.save(config_of(train__epochs=10), tmp_path, "f")
    yield lambda: resume(tmp_path, train__epochs=5)
    yield lambda: resume(tmp_path, train__epochs=10, train__max_steps=99)


@ROWS.followed("resuming.py:describe_extension", "stop the run and add")
def milestones_that_stay_behind(tmp_path, capsys):
    fields = {"schedule__name": "step", "schedule__milestones": "6,8"}
    first = config_of(train__epochs=10, **fields)
    workdirs.save(first, tmp_path, "f")

    def extend(**more):
        fields_now = fields | {"train__epochs": 20} | more
        resume(tmp_path, "--extend", **fields_now)
        return capsys.readouterr().out

    text = yield extend
    (remedy,) = following.advised(text)
    marks = remedy["schedule.milestones"]
    yield lambda: extend(schedule__milestones=marks)


# Paths and locks.


@ROWS.followed("paths.py:_temporary_folder", "Set TMPDIR to one")
def no_plain_folder_for_links(tmp_path, monkeypatch):
    ugly = tmp_path / "a[b]"
    ugly.mkdir()
    monkeypatch.setattr(paths, "_TEMPORARY", ())
    monkeypatch.setenv("TMPDIR", str(ugly))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield paths._temporary_folder
    plain = tmp_path / "plain"
    plain.mkdir()
    monkeypatch.setenv("TMPDIR", str(plain))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield paths._temporary_folder


@ROWS.followed("filesystem.py:lock", "Start one at a time")
def file_system_without_locks(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    def lock():
        with (tmp_path / "file").open("w") as file:
            assert filesystem.lock(file, tmp_path)  # the run goes on
        return capsys.readouterr().out

    monkeypatch.setattr(fcntl, "flock", no_locks)
    yield lock
    monkeypatch.undo()
    yield lock


# Workers.


@ROWS.followed("pretrain.py:_agree", "Start all with the same command")
def worker_with_another_seed(tmp_path, monkeypatch):
    data = types.SimpleNamespace(identity=lambda: "images")
    guard = types.SimpleNamespace(
        is_chief=False,
        cluster=types.SimpleNamespace(name=lambda number=1: f"worker {number}"),
    )
    chief = workdirs.identity(config_of(), "images")
    monkeypatch.setattr(
        distribution, "chief_values", lambda strategy, values: [chief, -1]
    )

    def agree(config):
        pretrain._agree(config, data, tmp_path, None, guard)

    yield lambda: agree(config_of(seed=np.int64(3)))
    yield lambda: agree(config_of())


@ROWS.followed("pretrain.py:_compare", "Put them on a shared file system")
def worker_with_other_weights(monkeypatch):
    guard = types.SimpleNamespace(
        cluster=types.SimpleNamespace(name=lambda number=1: f"worker {number}")
    )
    monkeypatch.setattr(
        distribution, "chief_values", lambda strategy, values: [0xABC]
    )

    def compare(digest):
        weights = types.SimpleNamespace(digest=lambda: digest, text="a.pth")
        pretrain._compare(weights, None, guard)

    yield lambda: compare("def")
    yield lambda: compare("abc")


ROWS.tested(
    "tests/test_damaged_state.py::"
    "test_a_configuration_of_a_later_version_says_so",
    ("workdirs.py:load_saved", "Use the version that wrote it"),
)
ROWS.tested(
    "tests/test_pretrain.py::"
    "test_a_run_that_diverges_says_what_to_lower_and_where",
    ("pretrain.py:make_callback", "in another --workdir"),
)
ROWS.tested(
    "tests/test_public.py::test_onednn_is_on_unless_the_user_turned_it_off",
    ("resuming.py:_other_kernels", "import moco_tf before tensorflow"),
)
ROWS.states(
    following.SAYS_WHAT_IS_TAKEN,
    ("config.py:_find", "names a file that is not there"),
    ("config.py:_read", "must return a ConfigDict"),
)
ROWS.states(
    following.PART_OF_ANOTHER,
    ("config.py:_read", "failed: {type(error).__name__}"),
    ("config.py:_module", "is no file of Python"),
    ("pretrain.py:_fit", "{sentence}"),
    ("training/callbacks.py:RunCallback.check_finite", "The loss of step"),
    ("workdirs.py:_check_resumable", "started with another configuration"),
    ("records.py:read_starts", "lists no starts"),
    ("workdirs.py:check", "must hold their"),
    ("workdirs.py:load_saved", "It lacks"),
    ("workdirs.py:load_saved", "has no configuration"),
)
ROWS.states(
    following.OF_A_CALLER,
    ("__init__.py:__getattr__", "has no attribute"),
)
ROWS.states(following.NO_MESSAGE, ("__init__.py:", "Run"))
