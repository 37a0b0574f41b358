import pathlib
import re
import tomllib

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
    assert PROJECT["project"]["version"] == moco_tf.__version__


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
    for name in ("requirements.txt", "requirements-dev.txt"):
        lock = locked(name)
        assert len(lock) >= 10
        assert all(hashes > 0 for _, hashes in lock.values())
        text = (ROOT / name).read_text()
        for word in ("http:", "https:", "file:", "--index", "--find-links"):
            assert word not in text


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
