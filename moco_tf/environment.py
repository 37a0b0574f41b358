"""The machine and the packages of a run."""

import datetime
import os
import platform
import sys
from importlib import metadata

import moco_tf

_PACKAGES = (
    "tensorflow",
    "keras",
    "tensorflow-addons",
    "keras-cv",
    "tensorflow-datasets",
    "numpy",
)


def describe():
    """Returns versions, devices, command and time of this process, a dict."""
    import tensorflow as tf  # here: a configuration is checked without it

    now = datetime.datetime.now(datetime.UTC)
    return {
        "started": now.isoformat("T", "seconds"),
        "command": [sys.executable, *sys.argv],
        "directory": os.getcwd(),
        "moco_tf": moco_tf.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": [d.name for d in tf.config.list_logical_devices()],
    }


def _version(name):
    """The version of a package, or None: not all commands need all of them."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
