"""Runs test files by pytest: the main module of Bazel's tests.

A py_test by itself imports its file and passes whatever is in it.
"""

import os
import pathlib
import sys

import pytest

# Not resolved: a link of Bazel's tree would lead out of it.
ROOT = pathlib.Path(__file__).absolute().parent.parent

if __name__ == "__main__":
    os.chdir(ROOT)
    settings = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    sys.exit(pytest.main([*settings, *sys.argv[1:]]))
