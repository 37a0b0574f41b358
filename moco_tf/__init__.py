"""Momentum Contrast (MoCo v1 and v2) and its kin in TensorFlow.

What is imported from here is loaded when it is first used: this module loads
nothing, and TensorFlow takes seconds. It chooses the Keras that TensorFlow will
have, if that is loaded later (moco_tf.lane).
"""

import importlib
import os
import platform
from typing import Any

from moco_tf import lane

# Before HDF5 is loaded, with TensorFlow: it takes code for an array from any
# library in the folders of the first, unless the second says "none" (::).
os.environ.setdefault("HDF5_PLUGIN_PATH", "disable")
os.environ.setdefault("HDF5_PLUGIN_PRELOAD", "::")
# ONNX Runtime 1.29 and later report each session to their maker otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# TensorFlow leaves oneDNN off on processors without AVX512, AMX or AVX-VNNI,
# where steps take half the time with it too (docs/performance.md).
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"

_MODULES = ("config", "pretrain")
_HOMES = {  # name -> module that it is defined in
    "BYOL": "methods.byol",
    "CMC": "methods.cmc",
    "CPC": "methods.cpc",
    "DINO": "methods.dino",
    "EndToEnd": "methods.end_to_end",
    "MemoryBank": "methods.memory_bank",
    "MoCo": "methods.moco",
    "RECIPES": "data.views",
    "Recipe": "data.views",
    "Run": "api",
    "SimCLR": "methods.simclr",
    "Stream": "data.stream",
    "SwAV": "methods.swav",
    "build_backbone": "models.encoder",
    "compare": "api",
    "embed": "api",
    "export_run": "serving.export",
    "knn": "api",
    "linear": "api",
    "open_frozen": "evaluation.frozen",
    "open_source": "data.sources",
    "train": "api",
}

__all__ = ["__version__", *_MODULES, *_HOMES]


lane.choose_keras()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"moco_tf.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"moco_tf.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'moco_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
