"""Which lane this is, and that it is chosen before TensorFlow is loaded."""

import importlib
import os
import pathlib
import re
import sys
from importlib import metadata

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import lane
from tests import source_imports

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("2.15.1", "2.15"),
        ("2.9.3", "2.15"),
        ("2.16.0", "current"),
        ("2.21.0", "current"),
        ("2.23.0.dev20261026", "current"),
        ("3.0.0-rc1", "current"),
    ],
)
def test_the_lane_of_a_tensorflow(version, name):
    assert lane.name_of(version) == name


def test_this_tensorflow_has_keras_2_of_the_package_that_is_named():
    assert lane.TENSORFLOW == tf.__version__
    keras = importlib.import_module(lane.KERAS)
    assert keras.__version__.startswith("2.")
    assert tf.keras.layers.Dense is keras.layers.Dense
    assert lane.KERAS.replace("_", "-") in lane.PACKAGES


def test_the_python_is_one_of_the_lane():
    pythons = {"2.15": [(3, 11)], "current": [(3, 12), (3, 13)]}
    assert sys.version_info[:2] in pythons[lane.NAME]


def test_the_optimisers_are_those_that_are_installed():
    installed = {d.metadata["Name"] for d in metadata.distributions()}
    assert lane.HAS_ADDONS == ("tensorflow-addons" in installed)
    assert lane.OPTIMIZERS in (*installed, "moco_tf")


def test_lane_2_15_has_no_choice_of_keras(monkeypatch):
    monkeypatch.setattr(lane, "NAME", "2.15")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    lane.choose_keras()
    assert "TF_USE_LEGACY_KERAS" not in os.environ


def test_a_package_that_is_missing_has_no_version():
    assert lane.version("no-such-package") is None
    assert lane.version("numpy") == np.__version__


_ASKS = re.compile(
    r"\"TF_USE_LEGACY_KERAS\"|(?<!moco_tf\.)__version__\S*\s*(<|>|==|in\b)|"
    r"__version__\.(split|startswith)|sys\.version_info"
)


def sources(*folders):
    return [path for name in folders for path in (ROOT / name).rglob("*.py")]


def test_nothing_else_asks_for_a_version_of_the_platform():
    asking = {
        path.stem
        for path in sources("moco_tf")
        if _ASKS.search(path.read_text())
    }
    assert asking == {"lane"}


def test_keras_is_imported_as_that_of_tensorflow():
    for path in sources("moco_tf", "benchmarks", "examples", "launch", "tools"):
        first = {d.split(".")[0] for d in source_imports.dotted_imports(path)}
        assert not first & {"keras", "tf_keras"}, path
