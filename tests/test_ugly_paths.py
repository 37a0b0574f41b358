"""Runs whose folders, files, lists and outputs have any name."""

import csv
import html
import os
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given

from moco_tf import paths
from moco_tf.cli import main as cli
from moco_tf.data import sources, specs
from moco_tf.evaluation import frozen
from moco_tf.monitoring import tensorboard
from moco_tf.serving import server
from moco_tf.training import checkpoints
from tests import properties, shallow, small_run, ugly_names
from tests.evaluation import small_encoder
from tests.serving import plain_served

_network = shallow.fixture()
WORST = ugly_names.WORST


def run(*words):
    """Runs a command line in this process; it must succeed."""
    assert cli.run([str(word) for word in words]) == 0


def pretrain(root, epochs, *words):
    """Pre-trains on the images of a folder, with kNN, in a run beside them."""
    images = f"folder:{root / 'images'}"
    config = small_run.make_config(images="", evaluated=True)
    values = {
        f"{section}.{key}": config[section][key]
        for section in ("data", "model", "moco", "train", "knn", "log")
        for key in config[section]
    }
    values |= {"data.source": images, "knn.bank": images, "knn.query": images}
    values |= {"train.epochs": epochs, "log.tensorboard": True}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    workdir = f"--workdir={root / 'run'}"
    run("pretrain", "--config=moco_cifar10", workdir, *flags, *words)


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory):
    """Images, and a run on them that was resumed, in the worst of folders."""
    root = ugly_names.make(tmp_path_factory.mktemp("ugly"), WORST)
    small_run.write_images(root / "images")
    (root / "images" / "dark").rename(root / "images" / WORST)
    pretrain(root, 1, "--profile_steps=2,3")
    pretrain(root, 2, "--extend")
    return root


def test_a_run_is_resumed_with_all_of_its_files(root):
    workdir = root / "run"
    steps = [step for step, _ in checkpoints.complete(workdir)]
    assert steps[-1] == 2 * small_run.STEPS_PER_EPOCH
    assert checkpoints.best(workdir) is not None
    rows = list(csv.DictReader((workdir / "metrics.csv").open()))
    assert {row["epoch"] for row in rows} == {"1", "2"}
    events = list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    assert len(events) == 2
    assert list((workdir / "tensorboard" / "plugins").rglob("*.xplane.pb"))
    assert (workdir / "tensorboard" / "projector" / "sprite.png").is_file()


@pytest.mark.parametrize("name", ["a[!b]\\ *,?~\udcfe\n"])
def test_it_goes_on_with_its_data_under_another_name(
    name, root, tmp_path, capsys
):
    moved = ugly_names.make(tmp_path, name)
    for part in ("images", "run"):
        shutil.copytree(root / part, moved / part)
    before = (moved / "run" / "config.json").read_text()
    pretrain(moved, 2)
    shown = paths.shown(moved / "run")
    assert f"This run is finished: {shown} holds" in capsys.readouterr().out
    assert (moved / "run" / "config.json").read_text() != before
    run("report", f"--workdir={moved / 'run'}", "--images=20")
    text = (moved / "run" / "report.html").read_text("utf-8")
    assert "Not shown." not in text


def test_its_encoder_is_evaluated(root, capsys):
    workdir = f"--workdir={root / 'run'}"
    images = f"folder:{root / 'images'}"
    run("knn", workdir, "--k=5")
    run("knn", workdir, f"--plot={root / 'plot'}")
    probe = ["--config.train.batch_size=8", "--config.train.epochs=1"]
    probe.append("--config.schedule.name=cosine")
    run("linear", workdir, f"--output={root / 'probe'}", *probe)
    assert (root / "probe" / "confusion.png").is_file()
    for name in ("e.npz", "e.parquet"):
        run("embed", workdir, f"--source={images}", f"--path={root / name}")
    names = f"{WORST}/001.png,bright/002.png"
    for name in ("e.npz", "e.parquet"):
        run(
            "neighbours",
            f"--bank={root / name}",
            f"--csv={root / 'near.csv'}",
            f"--grid={root / 'near.png'}",
            f"--names={names}",
            "--k=2",
        )
        with open(root / "near.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        queries = [row["query"] for row in rows]
        # Of letters that are no text the file of features has "?".
        shown = WORST.replace("\udcff", "?")
        assert queries[::2] == [f"{shown}/001.png", "bright/002.png"]
    run("embed", workdir, f"--source={images}", f"--path={root / 'e.npz'}")
    out = capsys.readouterr().out
    assert f"This file is finished: {paths.quote(root / 'e.npz')}" in out
    assert out.encode().decode() == out


def test_its_report_shows_names_as_text(root, capsys):
    page = root / "report.html"
    words = [f"--workdir={root / 'run'}", f"--path={page}", "--images=20"]
    run("report", *words)
    assert paths.quote(page) in capsys.readouterr().out
    text = page.read_text("utf-8")
    assert "<i>" not in text
    assert "Not shown." not in text
    shown = str(root / "run").replace("\udcff", "?")
    assert f"<code>{shown}</code>" in html.unescape(text)


def commands(text):
    """The words of the commands that an export prints, as bash reads them."""
    lines = text.partition("try:\n")[2].splitlines()[:2]
    return [
        subprocess.run(
            ["bash", "-c", os.fsencode(f"printf '%s\\0' {line}")],
            capture_output=True,
            check=True,
        ).stdout.split(b"\0")[:-1]
        for line in lines
    ]


def test_it_is_exported_loaded_converted_and_served(root, capsys):
    output = root / "out"
    images = f"--images=folder:{root / 'images'}"
    bank = f"--bank=folder:{root / 'images'}"
    run("export", f"--workdir={root / 'run'}", f"--output={output}", bank)
    folder = output / "encoder" / "1"
    show, serve = commands(capsys.readouterr().out)
    assert show[2] == os.fsencode(f"--dir={folder}")
    assert serve[2] == os.fsencode(f"--model={folder.parent}")
    encoder = frozen.open_frozen(root / "run")
    blank = np.zeros([1, 16, 16, 3], np.uint8)
    expected = encoder.encode(blank)["backbone"]
    keras = root / f"[{WORST}].keras"
    shutil.copy(folder / "encoder.keras", keras)
    for path in (folder, keras):
        loaded = frozen.open_frozen(saved_model=path, recipe="cifar")
        features = loaded.encode(blank)["backbone"]
        np.testing.assert_allclose(features, expected, atol=1e-5)
    app = server.RestApp(folder.parent, "encoder")
    app.close()
    lite = root / f"[{WORST}].tflite"
    run("convert", f"--model={folder}", "--to=tflite", f"--path={lite}", images)
    assert f"wrote {paths.quote(lite)}" in capsys.readouterr().out
    assert not list(root.glob(".*.part"))
    card = (folder / "README.md").read_text("utf-8")
    (line,) = [x for x in card.splitlines() if x.startswith("| data |")]
    assert line.count("|") - line.count(r"\|") == 3


def test_data_of_any_name_is_examined_and_prepared(root, capsys):
    cache = root / "cache"
    run("prepare", f"--source=folder:{root / 'images'}", f"--path={cache}")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"use it as   {paths.quote(f'prepared:{cache}')}"
    listed = root / "list.txt"
    lines = [b"images/bright/000.png", b"images/bright/002.png"]
    listed.write_bytes(b"\n".join(lines))
    texts = [
        f"{kind}:{root / name}"
        for kind, name in (
            ("folder", "images"),
            ("prepared", "cache"),
            ("list", "list.txt"),
        )
    ]
    pair = f"{root / 'images'},{root / 'images'}"
    texts.append(f"pairs:{pair}")
    for spec in texts:
        source = sources.open_source(spec, None)
        assert source.image(source.records(tf.constant([0]))[0]).shape[0] == 20
        assert specs.absolute(spec) == spec
        assert source.fingerprint()
        source.name(0)
    run(
        "doctor",
        "--config=moco_cifar10",
        f"--config.data.source={texts[0]}",
        f"--path={root / 'faults.csv'}",
        f"--json={root / 'table.json'}",
        "--config.train.batch_size=8",
        "--config.model.bn_groups=2",
        "--trial_steps=0",
    )
    assert "misnamed" not in capsys.readouterr().out
    assert (root / "faults.csv").is_file() and (root / "table.json").is_file()


@pytest.fixture(name="moved", scope="module")
def _moved(tmp_path_factory):
    """An encoder's run and a served model in a folder with a plain name."""
    folder = tmp_path_factory.mktemp("moved")
    workdir = small_encoder.write(folder / "plain")
    plain_served.save(folder / "plain" / "model" / "1")
    return folder, frozen.build_encoder(frozen.load_config(workdir))


def read_from(moved, name):
    """Renames the folder of `moved`, reads what it holds, and writes to it."""
    folder, encoder = moved
    (old,) = folder.iterdir()
    try:
        os.rename(old, folder / name)
    except OSError as error:
        pytest.skip(f"{name!a}: {error.strerror}")
    workdir = folder / name / "workdir"
    first = encoder.weights[0]
    expected = first.numpy()
    first.assign(expected + 1)
    checkpoints.restore_query_encoder(encoder, checkpoints.latest(workdir))
    np.testing.assert_array_equal(first.numpy(), expected)
    first.assign(expected + 2)
    checkpoints.save_query_encoder(encoder, workdir, 7, {})
    first.assign(expected)
    path = checkpoints.latest(workdir)
    assert path.name == "step-000000007"
    checkpoints.restore_query_encoder(encoder, path)
    np.testing.assert_array_equal(first.numpy(), expected + 2)
    first.assign(expected)
    shutil.rmtree(path)
    events = tensorboard.EventWriter(workdir / "events")
    events.write({"step": 9, "loss": 1.0})
    events.close()
    (file,) = (workdir / "events").iterdir()
    assert b"1 loss/contrastive" in file.read_bytes()
    shutil.rmtree(workdir / "events")


@pytest.mark.parametrize("name", ugly_names.NAMES)
def test_what_lies_below_an_ugly_name_is_read_and_written(name, moved):
    read_from(moved, name)


@properties.fewest
@given(ugly_names.RANDOM)
def test_what_lies_below_any_name_is_read_and_written(moved, name):
    read_from(moved, name)


@pytest.mark.parametrize(
    "name", ["a[b]", "back\\slash", "st*r", "two\nlines", "\udcff"]
)
def test_an_exported_model_is_loaded_from_an_ugly_folder(name, moved):
    folder, _ = moved
    (old,) = folder.iterdir()
    os.rename(old, folder / name)
    app = server.RestApp(folder / name / "model", "encoder")
    app.close()


def test_a_damaged_checkpoint_is_named_by_its_own_path(moved):
    folder, encoder = moved
    (old,) = folder.iterdir()
    workdir = old.rename(folder / "a[b]\\") / "workdir"
    path = checkpoints.latest(workdir)
    (index,) = path.glob("*.index")
    data = index.read_bytes()
    index.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError) as caught:
        checkpoints.restore_query_encoder(encoder, path)
    index.write_bytes(data)
    assert str(path) in str(caught.value)
    assert "moco_tf-" not in str(caught.value)
    checkpoints.restore_query_encoder(encoder, path)


def test_a_star_does_not_read_the_run_beside_it(tmp_path):
    """A pattern would match both folders, and take the first."""
    paths_of = [tmp_path / name for name in ("a*b", "a-b")]
    for number, path in enumerate(paths_of):
        encoder = tf.keras.Sequential([tf.keras.layers.Dense(1)])
        encoder.build([1, 1])
        encoder.set_weights([np.array([[number]]), np.zeros(1)])
        checkpoints.save_query_encoder(encoder, path, 1, {})
    for number, path in enumerate(paths_of):
        checkpoints.restore_query_encoder(encoder, checkpoints.latest(path))
        assert encoder.get_weights()[0] == number
