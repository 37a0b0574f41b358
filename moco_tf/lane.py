"""The lane: which TensorFlow runs here, and what differs between the two.

    2.15     TensorFlow 2.15 with its Keras 2 and tensorflow-addons, Python 3.11
    current  TensorFlow 2.21 with tf-keras, which goes on with Keras 2, Python
             3.12 and 3.13

The package is written for Keras 2, since Keras 3 has no
MultiWorkerMirroredStrategy. Nothing else asks which TensorFlow it has. This
module loads nothing.
"""

import importlib.util
import os
import sys
from importlib import metadata

_LEGACY = "TF_USE_LEGACY_KERAS"  # read by TensorFlow 2.16 and later


def version(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def is_installed(module: str) -> bool:
    """Whether a module can be imported; it is not."""
    return importlib.util.find_spec(module) is not None


def name_of(tensorflow: str) -> str:
    """The lane of a version of TensorFlow: "2.15" or "current"."""
    release = tuple(int(part) for part in tensorflow.split(".")[:2])
    return "2.15" if release < (2, 16) else "current"  # 2.16 brought Keras 3


TENSORFLOW = version("tensorflow") or version("tensorflow-cpu") or "2.15"
NAME = name_of(TENSORFLOW)
# The lock of the extras wandb, mlflow and hf, in the checkout.
EXTRAS = f"requirements{'' if NAME == '2.15' else '-current'}-extras.txt"
# The package whose modules define the stock layers: first part of their names.
KERAS = "keras" if NAME == "2.15" else "tf_keras"
HAS_ADDONS = is_installed("tensorflow_addons")
# Whose LAMB and SGDW are used: there is no tensorflow-addons for Keras 2 in
# the lane "current".
OPTIMIZERS = "tensorflow-addons" if HAS_ADDONS else "moco_tf"
# Its locks begin with this.
LOCK = "requirements" if NAME == "2.15" else "requirements-current"
# protobuf's word for "print fields that have their default value too".
WITH_DEFAULTS = (
    "including_default_value_fields"
    if NAME == "2.15"
    else "always_print_fields_with_no_presence"
)
# The least compute capability that its wheel has kernels for.
OLDEST_GPU = (5, 0) if NAME == "2.15" else (6, 0)
# Of a step of one lane beside that of the other: their convolutions add in
# another order. Measured: docs/platform.md.
TOLERANCE = (
    "the loss of the next step differs by up to 1e-3 of itself in float32, "
    "later ones by more."
)
# What environment.json names with their versions.
PACKAGES = (
    "tensorflow",
    "keras" if NAME == "2.15" else "tf-keras",
    "tensorflow-addons",
    "keras-cv",
    "tensorflow-datasets",
    "numba",
    "numpy",
)


def choose_keras() -> None:
    """Makes tf.keras Keras 2; to be called before TensorFlow's import.

    Raises:
      ImportError: where this TensorFlow cannot have Keras 2.

    Side effects: sets TF_USE_LEGACY_KERAS, for child processes too; in the lane
    2.15, whose tf.keras it would make unusable, it is removed.
    """
    if NAME == "2.15":
        os.environ.pop(_LEGACY, None)
        return
    if not is_installed("tf_keras"):
        release = ".".join(TENSORFLOW.split(".")[:2])
        raise ImportError(
            "moco_tf needs Keras 2, which is in the package tf-keras for "
            f"TensorFlow 2.16 and later. Received TensorFlow {TENSORFLOW} "
            f"without it. Install it: pip install tf-keras~={release}.0"
        )
    if os.environ.setdefault(_LEGACY, "1").lower() not in ("1", "true"):
        raise ImportError(
            f"moco_tf needs Keras 2 as tf.keras, so {_LEGACY} must be 1 or "
            f"unset. Received {os.environ[_LEGACY]!r}. Remove it: unset "
            f"{_LEGACY}"
        )
    loaded = sys.modules.get("tensorflow")
    if loaded and loaded.keras.Model.__module__.split(".")[0] != KERAS:
        raise ImportError(
            "moco_tf needs Keras 2 as tf.keras. Received a process that has "
            "used Keras 3 as tf.keras already. Import moco_tf before "
            f"tensorflow, or start with {_LEGACY}=1 in the environment."
        )
