"""What `import moco_tf` offers, and what it does not load."""

import os
import platform
import subprocess
import sys

import pytest

import moco_tf

HEAVY = (
    "tensorflow",
    "keras",
    "tf_keras",
    "tensorflow_datasets",
    "numpy",
    "PIL",
)


def loaded(*words):
    """Which of HEAVY a Python command line loads, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if " | " in line]
    names = {line.rpartition("|")[2].strip().split(".")[0] for line in lines}
    assert "moco_tf" in names
    return names & set(HEAVY), done.returncode


def test_the_import_loads_nothing():
    assert loaded("-c", "import moco_tf; dir(moco_tf)") == (set(), 0)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN of x86")
@pytest.mark.parametrize("chosen", ["", "0"])
def test_onednn_is_on_unless_the_user_turned_it_off(chosen):
    name = "TF_ENABLE_ONEDNN_OPTS"
    environment = {k: v for k, v in os.environ.items() if k != name}
    if chosen:
        environment[name] = chosen
    code = (
        "import moco_tf, tensorflow as tf\n"
        "from tensorflow.python.util import _pywrap_util_port as port\n"
        "print(port.IsMklEnabled())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout == f"{not chosen}\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["pretrain", "--help"], 0),
        (["pretrian"], 2),
        (["pretrain", "--confg=quickstart"], 2),
        (["pretrain", "--workdir=x", "--config=quickstrat"], 2),
        (["pretrain", "--workdir=x", "--config=quickstart", "--config.a=1"], 2),
        (["export"], 2),
    ],
)
def test_what_needs_no_tensorflow_does_not_wait_for_it(words, status):
    assert loaded("-m", "moco_tf", *words) == (set(), status)


@pytest.mark.parametrize("name", moco_tf.__all__)
def test_every_public_name_is_what_its_module_defines(name):
    found = getattr(moco_tf, name)
    assert name in dir(moco_tf)
    if name in ("config", "pretrain"):
        assert found.__name__ == f"moco_tf.{name}"
    elif callable(found):
        assert found.__name__ == name
        assert found.__module__.startswith("moco_tf.")


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'MoCO'"):
        moco_tf.MoCO  # noqa: B018
    with pytest.raises(ImportError):
        from moco_tf import MoCO  # noqa: F401
