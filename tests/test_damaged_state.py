"""Every file that a run leaves, damaged in every way: named, and nothing lost.

What is damaged is either refused, with the file and the way back in the
message, or replaced by the last good state, with a warning that names it. In
both cases the damaged file is still there afterwards, and no other is changed.
"""

import json
import pathlib
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import pretrain, state_files, workdirs
from moco_tf.data import prepared_source, sources, unreadable
from moco_tf.evaluation import (
    baseline,
    embeddings,
    features,
    frozen,
    results,
)
from moco_tf.models import saved_models
from moco_tf.monitoring import health, metrics_csv, tensorboard, warning_log
from moco_tf.reporting import findings, page
from moco_tf.serving import labelling
from moco_tf.training import callbacks, checkpoints
from tests.data import prepared_caches
from tests.evaluation import plain_frozen
from tests.reporting import small_report
from tests.training import fakes

LAST = "step-000000010"
DATA = "state.data-00000-of-00001"
TASK = {
    **{"top1": 0.5, "top1_low": 0.4, "top1_high": 0.6, "images": 10},
    **{"encoder_identity": "ab" * 32, "features": "backbone"},
}


def run_config():
    return configs.load("moco_cifar10", {"data.source": "folder:images"})


@pytest.fixture(name="good", scope="module")
def _good(tmp_path_factory):
    """What a run and the commands on it leave, below one folder."""
    root = tmp_path_factory.mktemp("good")
    run = root / "run"
    write_run(run)
    task = configs.load("linear", {}, "linear")
    (run / "linear").mkdir()
    workdirs.save(task, run / "linear", "12ab", "linear", "ab" * 32)
    state_files.write_json(run / "linear" / "result.json", TASK)
    arrays = {"kernel": np.ones([2, 3]), "bias": np.ones(3)}
    classes = np.array(["a", "b", "c"])
    np.savez(run / "linear" / "linear.npz", classes=classes, **arrays)
    greys = {f"{n % 2}/{n}.png": 10 * n for n in range(9)}
    plain_frozen.write_greys(root / "images", greys)
    extract(root)
    for suffix in (".npz", ".parquet"):
        embed(root / f"features{suffix}", root)
    write_model(root / "model")
    (root / "pictures").mkdir()
    prepared_caches.write_pictures(root / "pictures")
    (root / "pictures" / "a" / "0.png").write_bytes(b"none")
    prepared_caches.make(root / "pictures", root / "cache")
    for shard in range(2):
        prepared_caches.make(
            *(root / "pictures", root / "shards"),
            stored_as="jpeg",
            shard=shard,
            shards=2,
        )
    return root


def write_run(run):
    """The files of a run of two epochs, with an encoder of one layer."""
    workdirs.save(run_config(), run, "12ab")
    (run / "lock").write_text("process 7 on that machine")
    small_report.write_rows(run, [small_report.row(n) for n in (1, 2)])
    notices = [health.Notice("collapse", "one."), health.Notice("pace", "two.")]
    warning_log.WarningLog(run / "warnings.csv", 0).add(5, notices)
    lines = "name,reason,first_step\na.png,empty,1\nb.png,empty,2\n"
    (run / "unreadable.csv").write_text(lines)
    figures = dict.fromkeys(metrics_csv.BASELINES, 0.25) | {"k": 200}
    state_files.write_json(run / baseline.FILE, figures, True)
    events = tensorboard.EventWriter(run / "tensorboard")
    events.write({"step": 5, "loss": 1.0})
    events.close()
    (next((run / "tensorboard").iterdir())).rename(
        run / "tensorboard" / "events.out.tfevents.0000000001.host"
    )
    method = fakes.make_method()
    for step in (5, 10):
        fakes.mark(method, step)
        path = checkpoints.save(method, run, 2, {"epoch": step / 5})
    checkpoints.keep_as_best(path)


def write_model(folder):
    """A SavedModel with a card, of one variable, and the same for Keras."""
    images = tf.keras.Input([8, 8, 3])
    rows = tf.keras.layers.GlobalAveragePooling2D()(images)
    rows = tf.keras.layers.Dense(2, name="dense")(rows)
    model = tf.keras.Model(images, rows)
    model.save(folder, save_format="tf")
    card = {"preprocessing": {"views": "cifar", "image_size": 8}}
    card[saved_models.CHECKSUM] = saved_models.checksum(folder)
    state_files.write_json(folder / "model_card.json", card)
    model.save(folder / "encoder.keras", save_format="keras")


@pytest.fixture(name="root")
def _root(good, tmp_path):
    """A copy of it, on a path of its own."""
    return shutil.copytree(good, tmp_path / "all", symlinks=True)


@pytest.fixture(name="method", scope="module")
def _method():
    return fakes.make_method()


def source_of(root):
    return sources.open_source(f"folder:{root / 'images'}")


def extract(root, method=None):
    encoder = plain_frozen.make_frozen()
    folder = root / "run" / "features"
    stored = features.extract_to_disk(encoder, source_of(root), folder)
    expected = [10 * n for n in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
    np.testing.assert_array_equal(stored.rows["backbone"][:, 0], expected)


def embed(path, root, method=None):
    encoder = plain_frozen.make_frozen()
    spec = f"folder:{root / 'images'}"
    return embeddings.embed_source(encoder, spec, path)


def resume(root, method):
    """What the chief does before the first step, with a small method."""
    run = root / "run"
    with workdirs.hold(run):
        workdirs.check(run_config(), run, "12ab")
        pretrain.Files.check(run)
        step = checkpoints.restore(method, checkpoints.resumed(run))
        workdirs.save(run_config(), run, "12ab")
        metrics = metrics_csv.MetricsFile(run / "metrics.csv")
        metrics.cut_back(step, callbacks.oldest_step(step, 5))
        metrics.close()
        tensorboard.EventWriter(run / "tensorboard", step).close()
        warning_log.WarningLog(run / "warnings.csv", step)
        unreadable.UnreadableLog(run / "unreadable.csv", None, 0.0)
    return step


def read_baseline(root, method=None):
    path = root / "run" / baseline.FILE
    if path.is_symlink() or path.exists():
        baseline.read(path, {"k": 200})


def report(root, method=None):
    (run,) = page.read_runs([root / "run"])
    for _, sentence in findings.readings(run):
        print(sentence)


def report_task(root, method=None):
    page.read_runs([root / "run" / "linear"])


def read_config(root, method=None):
    frozen.load_config(root / "run")


def evaluate(name):
    def read(root, method):
        path = frozen.find_checkpoint(root / "run", name)
        checkpoints.read_meta(path)
        checkpoints.restore_query_encoder(method.query_encoder, path)

    return read


def take_up_task(root, method=None):
    data = [workdirs.RunData(None, part) for part in ("12", "ab")]
    labelled = types.SimpleNamespace(data=data)
    output = root / "run" / "linear"
    with workdirs.hold(output):
        result, begin = results.open_result(
            configs.load("linear", {}, "linear"),
            output,
            labelled,
            "linear",
            "ab" * 32,
            fields=("features",),
            files=("linear.npz",),
        )
        begin()
        assert result is None or result == TASK


def open_head(root, method=None):
    encoder = plain_frozen.make_frozen()
    labelling.open_head(root / "run" / "linear", encoder, 2)


def load_features(name):
    def read(root, method=None):
        loaded = embeddings.load(root / name)
        assert loaded.rows["backbone"][:].shape == (9, 2)

    return read


def open_model(name=""):
    def read(root, method=None):
        path = root / "model" / name
        encoder = frozen.open_frozen(saved_model=path, image_size=8)
        encoder.encode(tf.zeros([1, 8, 8, 3], tf.uint8))

    return read


def open_cache(root, method=None):
    prepared_source.open_prepared(str(root / "cache"))


def open_shards(root, method=None):
    prepared_source.open_prepared(str(root / "shards"))


def _cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _garble(path):
    data = path.read_bytes()
    third = len(data) // 3
    changed = bytes(255 - byte for byte in data[third:])
    path.write_bytes(data[:third] + changed)


def _to_folder(path):
    path.unlink()
    path.mkdir()
    (path / "something").write_text("of somebody")


def _to_loop(path):
    """An entry that no user, not even root, can open."""
    path.unlink()
    path.symlink_to(path.name)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": _cut,
    "garbled": _garble,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "missing": pathlib.Path.unlink,
    "folder": _to_folder,
    "unreadable": _to_loop,
}
# File below the root -> who reads it, and the damages of which nothing is said:
# the file is optional, or its lines are those that a kill may cut off.
ROWS = {
    "run/config.json": ([resume, report, read_config], ()),
    "run/environment.json": ([resume, report], ("missing",)),
    "run/lock": ([resume], ("empty", "cut", "garbled", "zeros", "missing")),
    "run/metrics.csv": ([resume, report], ("cut",)),
    "run/warnings.csv": ([resume, report], ("empty", "cut", "missing")),
    "run/unreadable.csv": ([resume], ("empty", "cut", "missing")),
    f"run/{baseline.FILE}": ([read_baseline], ("missing",)),
    f"run/checkpoints/{LAST}/meta.json": ([resume, evaluate("latest")], ()),
    f"run/checkpoints/{LAST}/state.index": ([resume, evaluate("10")], ()),
    f"run/checkpoints/{LAST}/{DATA}": ([resume, evaluate("10")], ()),
    "run/checkpoints/best/meta.json": ([evaluate("best")], ()),
    "run/checkpoints/best/state.index": ([evaluate("best")], ()),
    f"run/checkpoints/best/{DATA}": ([evaluate("best")], ()),
    "run/linear/config.json": ([take_up_task, report_task], ()),
    "run/linear/result.json": (
        [take_up_task, report, report_task, open_head],
        ("missing",),
    ),
    "run/linear/linear.npz": ([take_up_task, open_head], ()),
    "features.npz": ([load_features("features.npz")], ()),
    "features.parquet": ([load_features("features.parquet")], ()),
    "model/saved_model.pb": ([open_model()], ()),
    "model/fingerprint.pb": ([open_model()], ("missing", "empty")),
    "model/variables/variables.index": ([open_model()], ()),
    "model/variables/variables.data-00000-of-00001": ([open_model()], ()),
    "model/encoder.keras": ([open_model("encoder.keras")], ()),
    "model/model_card.json": ([open_model()], ()),
    "cache/about.json": ([open_cache], ()),
    "cache/images.bin": ([open_cache], ("garbled", "zeros")),  # see --verify
    "cache/index.bin": ([open_cache], ()),
    "cache/names.bin": ([open_cache], ()),
    "cache/unreadable.csv": ([open_cache], ()),
    "shards/shard-1-of-2/about.json": ([open_shards], ()),
    "shards/shard-1-of-2/images.bin": ([open_shards], ("garbled", "zeros")),
    "shards/shard-0-of-2/index.bin": ([open_shards], ()),
    **{
        f"run/features/{name}": ([extract], silent)
        for name, silent in (
            ("state.json", ("missing",)),
            ("backbone.npy", ()),
            ("projection.npy", ()),
            ("index.npy", ()),
        )
    },
}
# What reading may write: records of a start, and what is made again.
_REWRITTEN = ("environment.json", "lock", "log.txt", ".damaged-", "tfevents")
CASES = [
    pytest.param(name, read, id=f"{name}-{read.__name__}")
    for name, (readers, _) in ROWS.items()
    for read in readers
]


def _find(root, name):
    """The path of a row; the folder of stored features has a name of sums."""
    folder, _, file = name.rpartition("/")
    if folder == "run/features":
        return next((root / folder).iterdir()) / file
    return root / name


def _contents(root):
    """The bytes of all files below a folder, by their paths."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name, read", CASES)
def test_what_is_not_damaged_is_read_without_a_word(
    root, method, capsys, name, read
):
    capsys.readouterr()
    read(root, method)
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name, read", CASES)
def test_damage_is_named_and_loses_nothing(
    root, method, capfd, name, read, damage
):
    path = _find(root, name)
    DAMAGES[damage](path)
    before = _contents(root)
    capfd.readouterr()
    try:
        read(root, method)
        message = ""
    except (ValueError, OSError) as error:  # what the command line prints
        message = str(error)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err
    said = message or printed.out
    if damage not in ROWS[name][1]:
        named = str(path) in said
        assert named or (str(path.parent) in said and path.name in said), said
        assert not message or ". " in message, "no remedy"
    else:
        assert not message, message
    after = _contents(root)
    kept = list(after.values())
    for other, data in before.items():
        changed = after.get(other) != data
        torn = damage == "cut" and other == name and name.endswith(".csv")
        again = any(x in other for x in _REWRITTEN)
        again = again or (other.endswith("config.json") and other != name)
        if changed and not torn and not again:
            assert data in kept, f"{other} is lost"
    if damage == "folder":
        assert b"of somebody" in kept


TEXTS = [
    *("run/config.json", "run/environment.json", "run/metrics.csv"),
    *("run/warnings.csv", "run/unreadable.csv", "run/linear/result.json"),
    *(f"run/checkpoints/{LAST}/meta.json", "model/model_card.json"),
    *("run/features/state.json", "cache/about.json"),
]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["crlf", "mark"])
def test_line_ends_of_another_system_are_no_damage(
    root, method, capsys, name, mark
):
    path = _find(root, name)
    data = path.read_bytes().replace(b"\r\n", b"\n")
    path.write_bytes(mark + data.replace(b"\n", b"\r\n"))
    for read in ROWS[name][0]:
        capsys.readouterr()
        read(root, method)
        assert "damaged" not in capsys.readouterr().out


JSON = [name for name in TEXTS if name.endswith(".json")]


@pytest.mark.parametrize("name", JSON)
def test_a_file_of_a_later_version_is_left_to_that_version(
    root, method, capsys, name
):
    path = _find(root, name)
    later = json.loads(path.read_text()) | {"format": 99}
    path.write_text(json.dumps(later))
    before = _contents(root)
    with pytest.raises(ValueError) as error:
        ROWS[name][0][0](root, method)
    folder = path.parent if name.startswith("cache") else path
    assert str(folder) in str(error.value)
    assert "99" in str(error.value)
    assert "the version that wrote it" in str(error.value)
    after = _contents(root)
    records = (*_REWRITTEN[:2], "linear/config.json")  # of a start
    for other, data in before.items():
        assert other.endswith(records) or after[other] == data, other


def test_a_configuration_of_a_later_version_says_so(root):
    path = root / "run" / "config.json"
    saved = json.loads(path.read_text())
    saved["config"]["moco"]["warp"] = 1
    path.write_text(json.dumps(saved))
    with pytest.raises(state_files.Damaged, match="warp.* copy of it back"):
        read_config(root)
    path.write_text(json.dumps(saved | {"moco_tf": "0.2.0"}))
    with pytest.raises(state_files.LaterVersion, match="0.2.0.*warp.*wrote it"):
        read_config(root)


def test_columns_of_a_later_version_are_kept(root):
    path = root / "run" / "metrics.csv"
    lines = path.read_text().splitlines()
    text = "\n".join([f"{lines[0]},warp", *(f"{x},1" for x in lines[1:])])
    path.write_text(text + "\n")
    with pytest.raises(ValueError, match="later version that wrote it"):
        metrics_csv.MetricsFile(path)
    assert path.read_text() == text + "\n"
    assert metrics_csv.read(path)[-1]["warp"] == 1


@pytest.mark.parametrize("name", ["meta.json", "state.index", DATA])
def test_a_checkpoint_moved_away_lets_the_run_go_on_from_the_one_before(
    root, method, name
):
    path = root / "run" / "checkpoints" / LAST
    (path / name).write_bytes(b"")
    with pytest.raises(state_files.Damaged) as error:
        resume(root, method)
    assert f"Move {path} out of {path.parent}" in str(error.value)
    assert "steps 5)" in str(error.value)
    path.rename(root / LAST)
    assert resume(root, method) == 5
    assert {x.name for x in (root / LAST).iterdir()} == {
        *("meta.json", "state.index", DATA)
    }


@pytest.mark.parametrize("damage", ["empty", "zeros", "missing"])
def test_a_checkpoint_is_used_when_its_step_is_written_down(
    root, method, damage
):
    path = root / "run" / "checkpoints" / LAST / "meta.json"
    DAMAGES[damage](path)
    with pytest.raises(state_files.Damaged) as error:
        resume(root, method)
    words = '{"step": 10}'
    assert f"write {words} into the file" in str(error.value)
    path.write_text(words)
    assert resume(root, method) == 10
    evaluate("latest")(root, method)
    report(root)


def test_the_only_checkpoint_is_not_to_be_moved(root, method):
    path = root / "run" / "checkpoints"
    shutil.rmtree(path / "step-000000005")
    (path / LAST / "state.index").write_bytes(b"none")
    with pytest.raises(state_files.Damaged, match="Bring back a copy") as error:
        resume(root, method)
    assert "Move" not in str(error.value)


def test_a_checkpoint_of_another_model_is_not_called_damaged(root):
    with pytest.raises(ValueError, match="It is intact") as error:
        resume(root, fakes.make_method(queue_size=7))
    assert not isinstance(error.value, state_files.Damaged)


def test_what_stands_in_the_place_of_a_checkpoint_is_kept(root, method, capsys):
    path = root / "run" / "checkpoints" / "step-000000011"
    path.mkdir()
    (path / "notes").write_text("of somebody")
    fakes.mark(method, 11)
    assert checkpoints.save(method, root / "run", 9, {}) == path
    kept = path.with_name("step-000000011.damaged-1")
    assert (kept / "notes").read_text() == "of somebody"
    assert str(kept) in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["empty", "missing", "folder"])
def test_a_configuration_comes_back_from_another_start(root, method, damage):
    path = root / "run" / "config.json"
    DAMAGES[damage](path)
    with pytest.raises(ValueError, match="with a new --workdir") as error:
        resume(root, method)
    assert "config.json of that folder to" in str(error.value)
    assert str(root / "run") in str(error.value)
    workdirs.save(run_config(), root / "again", "12ab")
    if damage == "folder":
        path.rename(root / "moved")
    shutil.copy(root / "again" / "config.json", path)
    assert resume(root, method) == 10


@pytest.mark.parametrize(
    "name", ["config.json", f"checkpoints/{LAST}/meta.json"]
)
def test_what_lies_in_place_of_a_record_is_named(root, method, name):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:"
    (root / "run" / name).write_text(f"{text}{'0' * 64}\nsize 7\n")
    with pytest.raises(state_files.Damaged, match=f"{name} .*Git LFS"):
        resume(root, method)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_embeddings_moved_away_are_written_again(root, suffix):
    path = root / f"features{suffix}"
    good = embeddings.load(path).rows["backbone"][:]
    _garble(path)
    with pytest.raises(ValueError, match="Move it away, and write it again"):
        embed(path, root).rows["backbone"][:]
    path.rename(root / "moved")
    np.testing.assert_array_equal(embed(path, root).rows["backbone"][:], good)


def test_a_model_whose_card_is_moved_away_takes_its_views_as_words(root):
    card = root / "model" / "model_card.json"
    card.write_text('{"preprocessing": ')
    with pytest.raises(state_files.Damaged, match="pass --views and --image"):
        open_model()(root)
    card.rename(root / "moved")
    frozen.open_frozen(saved_model=root / "model", recipe="cifar", image_size=8)


def test_features_that_are_cut_are_extracted_again(root, capsys):
    path = _find(root, "run/features/backbone.npy")
    state = json.loads((path.parent / "state.json").read_text())
    assert state["crc32"].keys() == {"backbone", "projection", "index"}
    _cut(path)
    extract(root)  # compares the values
    printed = capsys.readouterr().out
    assert "extracted again" in printed and str(path) in printed
    extract(root)
    assert capsys.readouterr().out == ""


def test_features_of_an_earlier_version_have_no_checksums(root, capsys):
    path = _find(root, "run/features/state.json")
    state = json.loads(path.read_text())
    path.write_text(json.dumps({x: state[x] for x in ("next", "rows")}))
    extract(root)
    assert capsys.readouterr().out == ""


def test_a_lock_with_garbled_bytes_is_no_hindrance(root):
    (root / "run" / "lock").write_bytes(b"\xff\xfe")
    with workdirs.hold(root / "run"):
        (root / "run" / "lock").write_bytes(b"process \xff")
        with pytest.raises(ValueError, match="Only one process"):
            with workdirs.hold(root / "run"):
                raise AssertionError("two processes hold it")
