"""Builds and tests the tree with Bazel 4.2, without a network.

python tools/bazel_offline.py             builds all, runs the small tests
python tools/bazel_offline.py --sizes=small,medium,large   runs all tests
python tools/bazel_offline.py --build=//moco_tf/... --test=//tests/data/...

Bazel 4.2 is Debian's: apt-get install bazel-bootstrap. It knows no
MODULE.bazel, so this script makes the repositories that the tree names: rules
that hand on Bazel's own, and for each @pypi label an empty library, after it
has seen that the environment that runs this script has the package. The tests
run by this environment's Python.

A test runs from an archive of what it declares (`--build_python_zip`). Links
into the checkout, Bazel's other way, would show it files that it does not.
Flags that this script does not know are Bazel's: --test_timeout=600.
"""

import argparse
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Folder of a file defs.bzl -> the native rules that it hands on. All but the
# first are for the packages of Bazel itself that every py_test needs.
_RULES = {
    "rules_python/python": "py_binary py_library py_test",
    "rules_cc/cc": "cc_binary cc_library cc_test cc_toolchain"
    " cc_toolchain_suite",
    "rules_java/java": "java_binary java_import java_library java_runtime"
    " java_package_configuration java_plugin java_test java_toolchain",
}
_NOTHING = 'filegroup(name = "{}", visibility = ["//visibility:public"])\n'
_LIBRARY = 'py_library(name = "{}", visibility = ["//visibility:public"])\n'
_INTERPRETER = """
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")
py_runtime(
    name = "runtime",
    interpreter_path = "{python}",
    python_version = "PY3",
)
py_runtime_pair(name = "pair", py3_runtime = ":runtime")
toolchain(
    name = "interpreter",
    toolchain = ":pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""
# Flags of `bazel test`.
TESTS = [
    "--build_python_zip",
    "--build_tests_only",
    "--local_test_jobs=1",
    "--nosandbox_default_allow_network",
    "--test_env=TF_CPP_MIN_LOG_LEVEL=2",
    "--test_output=errors",
]


def build_files():
    """Returns the paths of the tree's BUILD files and their rules, sorted."""
    ignored = (ROOT / ".bazelignore").read_text().split()
    trees = [
        folder
        for folder in ROOT.iterdir()
        if folder.name not in ignored and not folder.name.startswith(".")
    ]
    paths = [ROOT / "BUILD"]
    for pattern in ("BUILD", "*.bzl"):
        paths += [path for tree in trees for path in tree.rglob(pattern)]
    return sorted(paths)


def packages():
    """Returns the names of the @pypi labels of the BUILD files, sorted."""
    text = "".join(path.read_text() for path in build_files())
    return sorted(set(re.findall(r'"@pypi//(\w+)"', text)))


def absent(names):
    """Returns the packages that this environment does not have."""
    missing = []
    for name in names:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def write_repositories(folder):
    """Writes the repositories; returns name -> folder."""
    files = {"remote_coverage_tools/BUILD": _NOTHING.format("lcov_merger")}
    files["remote_coverage_tools/BUILD"] += _NOTHING.format(
        "coverage_report_generator"
    )
    for place, names in _RULES.items():
        lines = [f"{name} = native.{name}\n" for name in names.split()]
        files[f"{place}/defs.bzl"] = "".join(lines)
        files[f"{place}/BUILD"] = ""
    files["pypi/BUILD"] = _INTERPRETER.format(python=sys.executable)
    for name in packages():
        files[f"pypi/{name}/BUILD"] = _LIBRARY.format(name)
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    tops = sorted({name.split("/")[0] for name in files})
    for top in tops:
        (folder / top / "WORKSPACE").touch()
    return {top: folder / top for top in tops}


def bazel():
    """Returns the path of a Bazel 4, or None."""
    path = shutil.which("bazel")
    if path is None:
        return None
    version = subprocess.run(
        [path, "--version"], capture_output=True, text=True
    ).stdout
    # Debian's gives no number.
    return path if re.match(r"bazel (4\.|no_version)", version) else None


def run(command, targets, flags, scratch, root=ROOT):
    """Runs `bazel COMMAND`; returns its status."""
    repositories = write_repositories(scratch / "repositories")
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    words = [
        bazel(),
        "--batch",
        "--nohome_rc",
        f"--output_user_root={scratch / 'bazel'}",
        command,
        "--symlink_prefix=/",  # no links in the checkout
        "--nosandbox_debug",
        "--extra_toolchains=@pypi//:interpreter",
        *(f"--override_repository={n}={p}" for n, p in repositories.items()),
        *flags,
        "--",
        *targets,
    ]
    environment = os.environ | {"PATH": path}
    return subprocess.run(words, cwd=root, env=environment).returncode


def main():
    parser = argparse.ArgumentParser(
        description="Builds and tests the tree with Bazel 4.2, offline.",
        allow_abbrev=False,
    )
    parser.add_argument("--build", default="//...", help="[//...]")
    parser.add_argument("--test", default="//tests/...", help="[//tests/...]")
    parser.add_argument("--sizes", default="small", help="of tests [small]")
    parser.add_argument("--scratch", help="kept and used again [temporary]")
    options, flags = parser.parse_known_args()
    if bazel() is None:
        sys.exit("needs Bazel 4.2 on PATH: apt-get install bazel-bootstrap")
    missing = absent(packages())
    if missing:
        sys.exit(
            "this environment must have every package that BUILD files name. "
            f"Missing: {', '.join(missing)}. Install requirements-dev.txt."
        )
    flags = [*TESTS, f"--test_size_filters={options.sizes}", *flags]
    with tempfile.TemporaryDirectory() as temporary:
        scratch = pathlib.Path(options.scratch or temporary).absolute()
        status = run("build", options.build.split(","), [], scratch)
        if status == 0:
            chosen = options.test.split(",")
            status = run("test", chosen, flags, scratch)
    return status


if __name__ == "__main__":
    sys.exit(main())
