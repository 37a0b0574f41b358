import pytest

from moco_tf.cli import main as cli
from tests import shallow
from tests.evaluation import small_encoder


@pytest.fixture(name="workdir", scope="module")
def _workdir(tmp_path_factory):
    return small_encoder.write(tmp_path_factory.mktemp("run"))


@pytest.fixture(name="shallow_workdir")
def _shallow_workdir(tmp_path):
    """As `workdir`, where no other program must know the network."""
    with shallow.network():
        yield small_encoder.write(tmp_path)


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
def test_a_missing_or_wrong_flag_is_named(words, status, message, capsys):
    assert cli.run(words) == status
    assert message in capsys.readouterr().err
