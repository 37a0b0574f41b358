import json

import numpy as np
import pytest

from moco_tf import cli
from moco_tf.serving import torch_reader
from tests import shallow
from tests.evaluation import small_encoder


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    return small_encoder.write(tmp_path_factory.mktemp("run"))


def test_weights_leave_and_come_back_with_the_same_bits(workdir, tmp_path):
    first, second = tmp_path / "a.pth", tmp_path / "b.pth"
    layout = "--layout=torchvision"
    words = ["export-weights", f"--workdir={workdir}", layout]
    assert cli.run([*words, f"--path={first}"]) == 0
    again = tmp_path / "again"
    words = [
        "import-weights",
        f"--path={first}",
        f"--workdir={again}",
        "--config.data.image_size=16",
    ]
    assert cli.run(words) == 0
    words = ["export-weights", f"--workdir={again}", layout]
    assert cli.run([*words, f"--path={second}"]) == 0
    before, after = (torch_reader.read(path) for path in (first, second))
    assert list(before) == list(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_an_imported_encoder_is_judged_like_a_run(workdir, tmp_path, capsys):
    path, again = tmp_path / "a.pth", tmp_path / "again"
    words = ["export-weights", f"--workdir={workdir}", "--layout=torchvision"]
    assert cli.run([*words, f"--path={path}"]) == 0
    words = ["import-weights", f"--path={path}", f"--workdir={again}"]
    assert cli.run([*words, "--config.data.image_size=16"]) == 0
    words = [
        "knn",
        f"--workdir={again}",
        f"--bank=folder:{workdir.parent / 'train'}",
        f"--query=folder:{workdir.parent / 'test'}",
        "--k=5",
        "--features=backbone",
    ]
    assert cli.run(words) == 0
    assert "10 images, 2 classes, 1 unreadable" in capsys.readouterr().out


@pytest.fixture(name="shallow_workdir")
def _shallow_workdir(tmp_path):
    """As `workdir`, where no other program must know the network."""
    with shallow.network():
        yield small_encoder.write(tmp_path)


def test_export_writes_the_next_version(shallow_workdir, capsys):
    workdir = shallow_workdir
    for version in (1, 2):
        assert cli.run(["export", f"--workdir={workdir}"]) == 0
        folder = workdir / "export" / "encoder" / str(version)
        card = json.loads((folder / "model_card.json").read_text())
        assert card["name"] == "encoder"
    assert f"wrote {folder}" in capsys.readouterr().out


def test_convert_writes_beside_the_versions(shallow_workdir, capsys):
    workdir = shallow_workdir
    assert cli.run(["export", f"--workdir={workdir}", "--name=taken"]) == 0
    versions = workdir / "export" / "taken"
    images = f"--images=folder:{workdir.parent / 'train'}"
    words = ["convert", f"--model={versions}", "--to=tflite", images]
    assert cli.run(words) == 0
    output = capsys.readouterr().out
    path = workdir / "export" / "taken-1.tflite"
    assert f"wrote {path}" in output
    assert "on 16 images" in output
    assert path.read_bytes()[4:8] == b"TFL3"
    assert cli.run(words) == 1
    assert "give another by --path" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["convert", "--to=onnx"], 2, "--model must be given"),
        (["convert", "--model=x"], 2, "--to must be given"),
        (["convert", "--model=x", "--to=torch"], 1, "one of onnx, tflite"),
        (["convert", "--model=x", "--to=tflite"], 1, "Received 'x'"),
        (["export"], 2, "--workdir must be given"),
        (["export", "--workdir=x", "--version=one"], 2, "one whole number"),
        (["import-weights", "--path=x"], 2, "--workdir must be given"),
        (["export-weights", "--workdir=x"], 2, "--path must be given"),
        (["import-weights", "--path=/none", "--workdir=x"], 1, "/none"),
    ],
)
def test_what_is_missing_is_told(words, status, message, capsys):
    assert cli.run(words) == status
    assert message in capsys.readouterr().err
