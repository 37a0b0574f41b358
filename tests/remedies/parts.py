"""The modules of this folder that have rows, in the order of their names."""

import importlib
import pathlib

_OTHERS = ("following", "messages", "parts")

PARTS = [
    importlib.import_module(f"tests.remedies.{path.stem}")
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py"))
    if not path.stem.startswith("test_") and path.stem not in _OTHERS
]
