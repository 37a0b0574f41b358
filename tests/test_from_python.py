"""One line of Python trains, and what it returns is of the same run."""

import json
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import moco_tf
from moco_tf.cli import main as cli
from moco_tf.data import sources, unreadable
from moco_tf.evaluation import in_memory, linear
from moco_tf.monitoring import progress
from tests import shallow, small_run

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "from_python.ipynb"
_network = shallow.fixture(shallow.ONE_BLOCK)
FIELDS = dict(
    preset="moco_cifar10",
    width=0.125,
    batch_size=8,
    epochs=2,
    image_size=16,
    threads=2,
    bn_groups=2,
    dim=16,
    queue_size=37,
    log={"every_steps": 4, "tensorboard": False},
    k=5,
)


@pytest.fixture(name="images", scope="module")
def _images(tmp_path_factory):
    return small_run.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(name="run", scope="module")
def _run(images, tmp_path_factory):
    return moco_tf.train(
        images,
        tmp_path_factory.mktemp("runs") / "one",
        bank=images,
        query=images,
        **FIELDS,
    )


def command(images, workdir):
    """The words of the same run as a command."""
    names = {
        "model": ("width", "bn_groups", "dim"),
        "data": ("image_size", "threads"),
        "train": ("batch_size", "epochs"),
        "moco": ("queue_size",),
        "knn": ("k",),
    }
    words = [
        f"--config.{section}.{name}={FIELDS[name]}"
        for section, fields in names.items()
        for name in fields
    ]
    words += [
        f"--config.{x}=folder:{images}" for x in ("knn.bank", "knn.query")
    ]
    words += ["--config.log.every_steps=4", "--config.log.tensorboard=false"]
    words += ["--config=moco_cifar10", f"--config.data.source=folder:{images}"]
    return ["pretrain", f"--workdir={workdir}", *words]


def test_the_command_goes_on_with_the_run_as_its_own(run, images, capsys):
    assert cli.run(command(images, run.workdir)) == 0
    assert "This run is finished" in capsys.readouterr().out


def test_the_same_call_goes_on_and_so_does_one_without_a_preset(
    run, images, capsys
):
    again = moco_tf.train(
        images, run.workdir, bank=images, query=images, **FIELDS
    )
    assert again.workdir == run.workdir
    moco_tf.train(workdir=run.workdir)
    assert capsys.readouterr().out.count("This run is finished") == 2


def test_metrics_are_columns_of_one_length(run):
    metrics = run.metrics
    assert metrics["step"] == [4, 6, 10, 12]
    assert {len(column) for column in metrics.values()} == {4}
    assert metrics["knn_backbone"][0] is None
    assert 0 <= metrics["knn_backbone"][-1] <= 1
    assert "probe_loss" not in metrics  # nothing has measured it


def test_images_in_memory_have_the_features_of_their_files(run, images):
    stored = run.embed(images)
    assert stored.features.shape == (50, run.encoder.output_shape[-1])
    assert stored.names[0] == "bright/000.png"
    assert stored.class_names == ["bright", "dark"]
    opened = [Image.open(pathlib.Path(images) / x) for x in stored.names[:3]]
    arrays = np.stack([np.asarray(image) for image in opened])
    for given in (opened, arrays):
        rows = run.embed(given).features
        np.testing.assert_allclose(rows, stored.features[:3], atol=1e-5)
    size = run.encoder.input_shape[1]
    views = [run.frozen.recipe.evaluate(x, size).numpy() for x in arrays]
    rows = run.encoder(np.stack(views)).numpy()
    np.testing.assert_allclose(rows, stored.features[:3], atol=1e-4)


def test_the_encoder_is_one_of_keras_alone(run, tmp_path):
    run.encoder.save(tmp_path / "encoder.keras")
    again = tf.keras.models.load_model(
        tmp_path / "encoder.keras", safe_mode=True
    )
    pixels = np.full([1, *run.encoder.input_shape[1:]], 200, np.uint8)
    np.testing.assert_array_equal(again(pixels), run.encoder(pixels))
    assert run.encoder.trainable_variables


@pytest.mark.parametrize(
    "image", [np.zeros([4, 4, 3]), np.zeros([4, 4], np.uint8)]
)
def test_an_image_of_another_form_is_refused(run, image):
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
        run.embed([image])


def test_knn_gives_a_row_for_each_pair(run):
    rows = moco_tf.knn(run.workdir, k=[3, 5], features="backbone")
    assert [(row["k"], row["temperature"]) for row in rows] == [
        (3, 0.1),
        (5, 0.1),
    ]
    last = run.metrics["knn_backbone"][-1]
    assert rows[1]["top1"] == pytest.approx(last, abs=0.02)


def test_linear_returns_its_result(run, images):
    result = moco_tf.linear(
        run, images, images, epochs=3, batch_size=8, milestones=[1, 2]
    )
    path = run.workdir / "linear" / "result.json"
    assert result["top1"] == json.loads(path.read_text())["top1"]
    assert (run.workdir / "linear" / "log.txt").stat().st_size


def test_an_interrupted_probe_says_so_in_its_log(
    run, images, tmp_path, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(linear, "train_cached", interrupt)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        moco_tf.linear(run, images, images, tmp_path, batch_size=8)
    (line,) = (tmp_path / "log.txt").read_text().splitlines()[-1:]
    assert line.startswith("Interrupted. What was finished is saved")


def test_runs_are_compared_by_name_first(run):
    before, task = moco_tf.compare(run, run.workdir / "linear")
    assert next(iter(before)) == "run"
    assert before["run"] == "one" and task["run"] == "linear"
    assert before["epochs"] == 2 and before["finished"]
    assert before["knn_backbone"] == run.metrics["knn_backbone"][-1]
    assert before["moco.queue_size"] == 37 and task["moco.queue_size"] is None
    assert 0 <= task["test_top1"] <= 1


def test_a_notebook_shows_figures_and_curves(run):
    page = run._repr_html_()
    assert "2 of 2 epochs" in page and page.count("<figure") == 2
    assert "<script" not in page and "http" not in page.replace(
        "http://www.w3.org", ""
    )


def test_an_interrupted_run_goes_on(images, tmp_path, monkeypatch, capsys):
    update = progress.Progress.update

    def interrupt(shown, step, values=None):
        if step == 6:
            raise KeyboardInterrupt
        update(shown, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "update", interrupt)
        with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
            moco_tf.train(images, tmp_path / "run", **FIELDS)
    assert "What was finished is saved" in capsys.readouterr().out
    run = moco_tf.train(images, tmp_path / "run", **FIELDS)
    said = capsys.readouterr().out
    assert "left 1 epochs, " in said and "at the speed so far" in said
    assert run.metrics["step"] == [4, 6, 10, 12]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("\n== ") == 1  # a second start below the first
    assert log.index("Interrupted") < log.index("at the speed so far")


def test_errors_are_those_of_the_command(images, tmp_path, capsys):
    words = command(images, tmp_path / "run")
    words.append("--config.train.batch_size=80")
    assert cli.run(words) == 1
    said = capsys.readouterr().err
    fields = {**FIELDS, "batch_size": 80}
    with pytest.raises(ValueError) as refused:
        moco_tf.train(
            images, tmp_path / "run", bank=images, query=images, **fields
        )
    assert f"moco-tf: error: {refused.value}\n" in said
    (note,) = refused.value.__notes__
    assert note == "In Python --config.moco.queue_size=80 is queue_size=80."
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="A run needs a workdir"):
        moco_tf.train(images)


def test_the_notebook_runs(images, tmp_path, monkeypatch, capsys):
    """Its cells, in one process, with small images in the place of its own.

    Preset and epochs are the notebook's: they must go together.
    """
    book = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in cells:
        text = "".join(cell["source"])
        text = text.replace("k=[10, 50]", "k=[3, 5]")
        text = text.replace("epochs=5", "epochs=5, batch_size=8")
        exec(compile(text, cell["source"][0], "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= {"IMAGES": images, "TEST": images}
            small = {**FIELDS, "bank": images, "query": images}
            for name in ("preset", "epochs"):
                small[name] = names["SETTINGS"][name]
            names["SETTINGS"] |= small
    assert pathlib.Path("runs/notebook/report.html").exists()
    assert pathlib.Path("runs/notebook/export/encoder/1/README.md").exists()
    assert 0 <= names["probe"]["top1"] <= 1
    assert names["other"].metrics["loss"] != names["run"].metrics["loss"]


def turned_with_damage():
    """EXIF of an image that lies on its side, and of a maker that is no text.

    Pillow reads the former, and cannot write the latter.
    """
    entries = [(0x0112, 3, 1, 6), (0x010F, 5, 1, 8)]
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0\2\0" + rows + bytes(4)


@pytest.mark.parametrize(
    "form", ["turned", "16 bits", "palette", "damaged.jpg", "damaged.png"]
)
def test_an_image_of_pil_has_the_pixels_of_its_file(tmp_path, form):
    path, ramp = tmp_path / "x.png", np.arange(12, dtype=np.uint16)
    if form == "turned":
        path, exif = tmp_path / "x.jpg", Image.Exif()
        exif[0x0112] = 6
        grey = (20 * ramp).astype(np.uint8).reshape(3, 4)
        Image.fromarray(grey).convert("RGB").save(path, exif=exif, quality=95)
    elif form.startswith("damaged"):
        path = tmp_path / form
        grey = (20 * ramp).astype(np.uint8).reshape(3, 4)
        Image.fromarray(grey).save(path, exif=turned_with_damage())
    elif form == "16 bits":
        Image.fromarray(5000 * ramp.reshape(3, 4)).save(path)
    else:
        grey = (20 * ramp).astype(np.uint8).reshape(3, 4)
        Image.fromarray(grey).convert("RGB").quantize(8).save(path)
    source = sources.open_source(f"folder:{tmp_path}")
    expected, reason = unreadable.read(source, 0)
    assert reason is None
    turned = form.startswith(("turned", "damaged"))
    assert expected.shape[:2] == ((4, 3) if turned else (3, 4))
    with Image.open(path) as image:
        np.testing.assert_array_equal(in_memory._pixels(image, 3), expected)


def test_an_image_of_pil_of_32_bits_has_no_known_range():
    with pytest.raises(ValueError, match="mode 'F', of 32"):
        in_memory._pixels(Image.fromarray(np.ones([3, 4], np.float32)), 3)
