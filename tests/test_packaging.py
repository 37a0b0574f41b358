import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata

import pytest

import moco_tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(name):
    """Returns "package==version" of the lines of a requirements.in file."""
    lines = (ROOT / name).read_text().splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    return [line for line in lines if line and not line.startswith("-")]


def locked(name):
    """Returns package -> (version, number of hashes) of a lock."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        match = re.match(r"([\w.-]+)==(\S+)(.*)", line)
        if match:
            found[match[1]] = (match[2], match[3].count("--hash=sha256:"))
    return found


def test_pyproject_and_requirements_name_the_same_versions():
    assert PROJECT["project"]["dependencies"] == requirements("requirements.in")


def test_the_lock_holds_every_direct_dependency_at_its_version():
    lock = locked("requirements.txt")
    for line in requirements("requirements.in"):
        name, version = line.split("==")
        assert lock[name.replace("_", "-")][0] == version


def test_the_dev_extra_is_what_the_dev_lock_holds():
    lock = locked("requirements-dev.txt")
    extra = PROJECT["project"]["optional-dependencies"]["dev"]
    wanted = requirements("requirements-dev.in")
    names = [
        [line.split("==")[0] for line in lines] for lines in (extra, wanted)
    ]
    assert names[0] == names[1]
    # A version is fixed where a later one would not fit.
    assert {line for line in wanted if "==" in line} <= set(extra)
    for line in extra:
        name, version = line.split("==")
        assert lock[name][0] == version


@pytest.mark.parametrize("extra", ["convert", "serving"])
def test_other_extras_are_what_the_tests_run_with(extra):
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras[extra]) <= set(extras["dev"])


def test_every_locked_package_has_hashes_and_no_address():
    for name in (
        *("requirements.txt", "requirements-dev.txt"),
        "requirements-gpu.txt",
    ):
        lock = locked(name)
        assert len(lock) >= 10
        assert all(hashes > 0 for _, hashes in lock.values())
        text = (ROOT / name).read_text()
        for word in ("http:", "https:", "file:", "--index", "--find-links"):
            assert word not in text


def test_cuda_is_what_the_locked_tensorflow_asks_for():
    extra = [
        re.sub(r"[ ()]", "", line.partition(";")[0])
        for line in metadata.requires("tensorflow")
        if "and-cuda" in line
    ]
    assert len(extra) == 12
    assert sorted(extra) == sorted(requirements("requirements-gpu.in"))
    lock = locked("requirements-gpu.txt")
    assert sorted(extra) == sorted(f"{n}=={v}" for n, (v, _) in lock.items())
    version = metadata.version("tensorflow")
    assert locked("requirements.txt")["tensorflow"][0] == version


def test_both_locks_agree():
    lock, dev = locked("requirements.txt"), locked("requirements-dev.txt")
    for name in set(lock) & set(dev):
        assert lock[name][0] == dev[name][0]


def test_every_package_is_in_the_wheel():
    folders = {p.parent for p in (ROOT / "moco_tf").rglob("*.py")}
    packages = {".".join(f.relative_to(ROOT).parts) for f in folders}
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(packages | {"moco_tf.configs"}) == sorted(listed)


def test_every_file_that_a_package_reads_is_in_the_wheel():
    held = PROJECT["tool"]["setuptools"]["package-data"]
    listed = {
        path
        for package, patterns in held.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = {path for path in (ROOT / "moco_tf").rglob("*") if path.is_file()}
    read = {
        path
        for path in files
        if path.suffix not in (".py", ".pyc") and path.name != "BUILD"
    }
    assert read and read == listed


def test_the_changelog_tells_of_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## ([\w.]+)", text, re.M)[1] == moco_tf.__version__


def python(words, folder, **environment):
    """Runs this interpreter in a folder; returns what it prints."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def build(kind, tree, folder):
    """Builds "sdist" or "wheel" of a tree, with what is installed."""
    code = "import sys; from setuptools import build_meta\n"
    code += f"build_meta.build_{kind}(sys.argv[1])"
    python(["-c", code, str(folder)], tree)
    (path,) = folder.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return path


@pytest.fixture(name="wheel", scope="module")
def _wheel(tmp_path_factory):
    """A wheel of a source distribution of a copy of the tree."""
    root = tmp_path_factory.mktemp("packaging")
    tree = root / "tree"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("moco_tf", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, tree)
    with tarfile.open(build("sdist", tree, root)) as file:
        file.extractall(root, filter="data")
    (unpacked,) = root.glob("moco_tf-*/")
    return build("wheel", unpacked, root)


def test_the_wheel_of_the_source_distribution_lacks_no_file(wheel):
    with zipfile.ZipFile(wheel) as file:
        held = {n for n in file.namelist() if ".dist-info/" not in n}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "moco_tf").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != "BUILD"
    }
    expected |= {
        f"moco_tf/configs/{path.name}"
        for path in (ROOT / "configs").glob("*.py")
    }
    assert held == expected
    assert wheel.name.startswith(f"moco_tf-{moco_tf.__version__}-py3-")


def test_what_is_installed_works_without_the_source_tree(wheel, tmp_path):
    place, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    install = "-m pip install -q --no-deps --no-index --no-compile --target"
    python([*install.split(), str(place), str(wheel)], empty)
    there = {"PYTHONPATH": str(place)}
    code = "import moco_tf; print(moco_tf.__file__)"
    found = pathlib.Path(python(["-c", code], empty, **there).strip())
    assert found == place / "moco_tf" / "__init__.py"
    script = str(place / "bin" / "moco-tf")
    version = python([script, "--version"], empty, **there)
    assert version == f"moco-tf {moco_tf.__version__}\n"
    shown = python([script, "pretrain", "--help"], empty, **there)
    for path in (ROOT / "configs").glob("[!_]*.py"):
        task = path.stem.partition("_")[0]
        assert (path.stem in shown) == (task not in ("linear", "finetune"))
    code = "from moco_tf import config; "
    code += "print(config.load('quickstart').data.source)"
    assert python(["-c", code], empty, **there) == "shapes:train\n"
