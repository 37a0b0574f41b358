"""Bazel itself builds the product and runs tests as they stand."""

import re
import shutil

import pytest

from moco_tf import lane
from tools import bazel_offline
from tools.bazel_offline import ROOT

_SYSTEM = pytest.mark.skipif(
    not bazel_offline.bazel(),
    reason="needs Bazel 4.2: apt-get install bazel-bootstrap",
)
_FILES = {
    "BUILD": 'exports_files(["pyproject.toml"])',
    "moco_tf/BUILD": """py_library(
    name = "moco_tf",
    visibility = ["//visibility:public"],
)
""",
    "tests/BUILD": """load("//tests:pytest_test.bzl", "pytest_tests")
py_library(
    name = "tests",
    srcs = ["pytest_main.py"],
    data = ["//:pyproject.toml"],
    deps = ["@pypi//pytest"],
)
pytest_tests(small = ["right", "wrong", "reads"])
""",
    "tests/test_right.py": "def test_right():\n    pass\n",
    "tests/test_wrong.py": "def test_wrong():\n    assert 1 == 2\n",
    "tests/test_reads.py": """import pathlib
def test_read():
    (pathlib.Path(__file__).resolve().parent / "BUILD").read_text()
""",
}


@pytest.mark.system
@_SYSTEM
def test_a_test_fails_that_fails_or_reads_what_it_does_not_declare(
    tmp_path, capfd
):
    tree = tmp_path / "tree"
    for name, text in _FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    for name in ("pyproject.toml", "WORKSPACE"):
        shutil.copy(ROOT / name, tree)
    for name in ("pytest_main.py", "pytest_test.bzl"):
        shutil.copy(ROOT / "tests" / name, tree / "tests")
    flags = [*bazel_offline.TESTS, "--keep_going"]
    status = bazel_offline.run(
        "test", ["//..."], flags, tmp_path / "scratch", tree
    )
    out, err = capfd.readouterr()
    assert status == 3, err  # built, and a test failed
    assert re.findall(r"^//tests:(\w+) +(PASSED|FAILED)", out, re.M) == [
        ("test_right", "PASSED"),
        ("test_reads", "FAILED"),
        ("test_wrong", "FAILED"),
    ]
    assert "assert 1 == 2" in out + err
    assert "No such file or directory" in out + err


@pytest.mark.system
@_SYSTEM
@pytest.mark.skipif(
    lane.NAME != "2.15",
    reason="BUILD files name the packages of the lane 2.15",
)
def test_bazel_builds_the_product_and_runs_tests(tmp_path, capfd, monkeypatch):
    words = ["--build=//moco_tf/...", f"--scratch={tmp_path}"]
    words += [
        "--test=//tests/methods:test_table,//tests/cluster:test_membership"
    ]
    monkeypatch.setattr("sys.argv", ["bazel_offline.py", *words])
    assert bazel_offline.main() == 0, capfd.readouterr().err
    assert "2 tests pass" in capfd.readouterr().out
    command = ["//:moco_tf", "pretrain", "--help"]
    assert bazel_offline.run("run", command, [], tmp_path) == 0
    assert "--workdir" in capfd.readouterr().out
