"""Rows of what stands beside the commands: calls of Python."""

import pathlib
import types

import tensorflow as tf

from moco_tf import api, keywords
from tests.remedies import following

ROWS = following.Rows("api.py", "keywords.py")


@ROWS.followed("api.py:train", "Pass one, as in")
def run_without_a_workdir(monkeypatch, tmp_path):
    monkeypatch.setattr("moco_tf.pretrain.pretrain", lambda *a, **k: None)
    monkeypatch.setattr(api, "Run", str)
    one = tf.distribute.get_strategy()
    monkeypatch.setattr(api, "_strategy", lambda *a: one)
    yield lambda: api.train("shapes:test", preset="quickstart")
    folder = tmp_path / "mine"
    yield lambda: api.train("shapes:test", folder, preset="quickstart")


@ROWS.followed("keywords.py:_full_name", "Pass, for instance")
def name_of_several_sections():
    def configure(**fields):
        return keywords.of_run(
            "shapes:test", pathlib.Path(), "quickstart", fields
        )

    yield lambda: configure(momentum=0.5)
    yield lambda: configure(optimizer={"momentum": 0.5})


@ROWS.followed("api.py:compare", "Pass output=DIR alone")
def page_of_a_comparison_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr("moco_tf.comparing.compare", lambda *a, **k: None)
    monkeypatch.setattr("moco_tf.comparing.rows", lambda result: [])
    names, images = ("untrained", "pixels"), "shapes:test"
    yield lambda: api.compare(*names, images=images, path="both.html")
    yield lambda: api.compare(*names, images=images, output=tmp_path)


@ROWS.followed("api.py:compare", 'Pass images="photos" too')
def encoders_without_images(monkeypatch):
    monkeypatch.setattr("moco_tf.comparing.compare", lambda *a, **k: None)
    monkeypatch.setattr("moco_tf.comparing.rows", lambda result: [])
    yield lambda: api.compare("untrained", "pixels", k=5)
    yield lambda: api.compare("untrained", "pixels", k=5, images="photos")


@ROWS.followed("api.py:Run.export", "Pass format='hf', or leave it out")
def export_of_another_format(monkeypatch):
    from moco_tf.serving import export, hub_folder

    monkeypatch.setattr(export, "export_run", lambda *_, **__: None)
    monkeypatch.setattr(hub_folder, "export_run", lambda *_, **__: None)
    run = types.SimpleNamespace(frozen=None, workdir=pathlib.Path("x"))
    yield lambda: api.Run.export(run, format="onnx")
    yield lambda: api.Run.export(run, format="hf")
    yield lambda: api.Run.export(run)
