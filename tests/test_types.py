import pathlib

from mypy import api

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_annotations_and_code_agree(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    flags = ["--config-file=pyproject.toml", f"--cache-dir={tmp_path}"]
    out, err, status = api.run(flags)
    assert status == 0, out + err
    assert "no issues found" in out


def test_an_argument_of_another_type_is_found(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "wrong.py"
    path.write_text(
        "from moco_tf.data import sources\n"
        "from moco_tf.methods import moco\n"
        "sources.open_source(3)\n"
        "moco.MoCo(None, queue_size='many')\n"
    )
    flags = ["--config-file=", "--no-site-packages", "--ignore-missing-imports"]
    out, _, status = api.run([*flags, f"--cache-dir={tmp_path}", str(path)])
    assert status == 1
    for argument in ('"open_source"', '"queue_size" to "MoCo"'):
        assert argument in out
