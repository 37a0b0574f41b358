import ast
import re
import shutil
import tomllib

import bazel_offline
import pytest
from bazel_offline import ROOT

import moco_tf

BUILD_FILES = [ROOT / "BUILD", *bazel_offline.build_files()]


def rules(path):
    """Yields (rule, attributes) of a BUILD file; only literals are values."""
    for node in ast.parse(path.read_text()).body:
        values = {}
        for keyword in node.value.keywords:
            try:
                values[keyword.arg] = ast.literal_eval(keyword.value)
            except ValueError:  # a glob
                values[keyword.arg] = None
        yield node.value.func.id, values


def every_rule():
    return [
        (path, rule, values)
        for path in BUILD_FILES
        for rule, values in rules(path)
    ]


def locked(name):
    """Returns the packages of a lock, as labels spell them."""
    lines = re.findall(r"^([\w.-]+)==", (ROOT / name).read_text(), re.M)
    return {re.sub(r"[-.]", "_", line).lower() for line in lines}


def module_calls():
    """Returns (function, arguments) of each call of MODULE.bazel."""
    body = ast.parse((ROOT / "MODULE.bazel").read_text()).body
    calls = [n.value for n in body if isinstance(n.value, ast.Call)]
    return [
        (
            ast.unparse(call.func),
            {k.arg: ast.literal_eval(k.value) for k in call.keywords},
        )
        for call in calls
    ]


def test_every_label_names_a_target_or_a_file():
    targets = {}
    for path, _, values in every_rule():
        package = "/".join(path.parent.relative_to(ROOT).parts)
        if "name" in values:
            targets[f"//{package}:{values['name']}"] = path
    unknown = []
    for path, _, values in every_rule():
        package = "/".join(path.parent.relative_to(ROOT).parts)
        for name in (values.get("deps") or []) + (values.get("data") or []):
            if name.startswith("@pypi//"):
                continue
            full = name if name.startswith("//") else f"//{package}{name}"
            folder, _, target = full[2:].partition(":")
            target = target or folder.split("/")[-1]
            there = f"//{folder}:{target}" in targets
            if not there and not (ROOT / folder / target).is_file():
                unknown.append((str(path), name))
    assert unknown == []


def test_every_package_is_in_the_lock_that_the_module_names():
    (arguments,) = [a for name, a in module_calls() if name == "pip.parse"]
    assert arguments["hub_name"] == "pypi"
    names = bazel_offline.packages()
    assert {"numpy", "pytest", "tensorflow"} <= set(names)
    lock = arguments["requirements_lock"].removeprefix("//:")
    assert set(names) <= locked(lock)


def test_the_module_says_what_the_package_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    calls = module_calls()
    ((_, module),) = [call for call in calls if call[0] == "module"]
    assert module["version"] == moco_tf.__version__
    versions = {a["python_version"] for _, a in calls if "python_version" in a}
    (version,) = versions
    assert project["requires-python"].startswith(f">={version},")


def test_every_test_has_a_size():
    sizes = [v.get("size") for _, r, v in every_rule() if r == "pytest_test"]
    assert len(sizes) == len(list((ROOT / "tests").rglob("test_*.py")))
    assert set(sizes) <= {"small", "medium", "large"}


def test_an_environment_without_a_package_is_refused():
    assert bazel_offline.absent(["pytest", "no_such_package"]) == [
        "no_such_package"
    ]


_SYSTEM = pytest.mark.skipif(
    not bazel_offline.bazel(),
    reason="needs Bazel 4.2: apt-get install bazel-bootstrap",
)
_BUILD = """load("//tests:pytest_test.bzl", "pytest_test")
exports_files(["pytest_main.py"])
py_library(
    name = "pytest_main",
    srcs = ["pytest_main.py"],
    data = ["//:pyproject.toml"],
    deps = ["@pypi//pytest"],
)
"""
_RULE = """pytest_test(
    name = "{0}",
    size = "small",
    srcs = ["{0}.py"],
)
"""
_READS = """import pathlib
def test_read():
    (pathlib.Path(__file__).resolve().parent / "BUILD").read_text()
"""


@pytest.mark.system
@_SYSTEM
def test_a_test_fails_that_fails_or_reads_what_it_does_not_declare(
    tmp_path, capfd
):
    tests = tmp_path / "tree/tests"
    tests.mkdir(parents=True)
    for name in ("pyproject.toml", "WORKSPACE"):
        shutil.copy(ROOT / name, tests.parent)
    for name in ("pytest_main.py", "pytest_test.bzl"):
        shutil.copy(ROOT / "tests" / name, tests)
    (tests.parent / "BUILD").write_text('exports_files(["pyproject.toml"])')
    files = {
        "test_right": "def test_right():\n    pass\n",
        "test_wrong": "def test_wrong():\n    assert 1 == 2\n",
        "test_reads": _READS,
    }
    for name, text in files.items():
        (tests / f"{name}.py").write_text(text)
    text = _BUILD + "".join(map(_RULE.format, files))
    (tests / "BUILD").write_text(text)
    flags = [*bazel_offline.TESTS, "--keep_going"]
    status = bazel_offline.run(
        "test", ["//..."], flags, tmp_path / "scratch", tests.parent
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
def test_bazel_builds_the_product_and_runs_tests(tmp_path, capfd, monkeypatch):
    words = ["--build=//moco_tf/...", f"--scratch={tmp_path}"]
    words += ["--test=//tests:test_method_table,//tests/cluster:test_places"]
    monkeypatch.setattr("sys.argv", ["bazel_offline.py", *words])
    assert bazel_offline.main() == 0, capfd.readouterr().err
    assert "2 tests pass" in capfd.readouterr().out
    command = ["//:moco_tf", "pretrain", "--help"]
    assert bazel_offline.run("run", command, [], tmp_path) == 0
    assert "--workdir" in capfd.readouterr().out
