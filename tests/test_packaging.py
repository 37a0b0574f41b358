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
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import moco_tf
from moco_tf import lane as lane_of_this
from moco_tf.methods import table

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


LANES = {  # the start of a lane's files, and its Pythons
    "requirements": ("3.11",),
    "requirements-current": ("3.12", "3.13"),
}
by_lane = pytest.mark.parametrize("lane", LANES)
THIS = "requirements" if lane_of_this.NAME == "2.15" else "requirements-current"


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


def of_python(lines, python):
    """The requirements of pyproject.toml that a version of Python is given."""
    chosen = []
    for line in lines:
        text, _, marker = line.partition(";")
        holds = not marker or Marker(marker).evaluate(
            {"python_version": python}
        )
        if holds:
            chosen.append(text)
    return chosen


def extra(name, lane):
    """The requirements of an extra in a lane."""
    lines = PROJECT["project"]["optional-dependencies"][name]
    return of_python(lines, LANES[lane][0])


@by_lane
def test_pyproject_and_requirements_name_the_same_versions(lane):
    wanted = requirements(f"{lane}.in")
    for python in LANES[lane]:
        lines = of_python(PROJECT["project"]["dependencies"], python)
        assert sorted(lines) == sorted(wanted)


def test_every_python_of_a_lane_is_allowed_and_no_other():
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    pythons = [f"3.{minor}" for minor in range(8, 20)]
    assert list(allowed.filter(pythons)) == [
        python for lane in LANES.values() for python in lane
    ]


@by_lane
def test_the_lock_holds_every_direct_dependency_at_its_version(lane):
    lock = locked(f"{lane}.txt")
    for line in requirements(f"{lane}.in"):
        name, version = line.split("==")
        assert lock[name.replace("_", "-")][0] == version


@by_lane
def test_the_dev_extra_is_what_the_dev_lock_holds(lane):
    lock = locked(f"{lane}-dev.txt")
    pins = extra("dev", lane)
    wanted = requirements(f"{lane}-dev.in")
    names = [
        [line.split("==")[0] for line in lines] for lines in (pins, wanted)
    ]
    assert names[0] == names[1]
    # A version is fixed where a later one would not fit.
    assert {line for line in wanted if "==" in line} <= set(pins)
    for line in pins:
        name, version = line.split("==")
        assert lock[name][0] == version


@by_lane
@pytest.mark.parametrize("name", ["convert", "serving"])
def test_other_extras_are_what_the_tests_run_with(name, lane):
    assert set(extra(name, lane)) <= set(extra("dev", lane))


@by_lane
def test_the_gpu_extra_is_of_the_same_tensorflow(lane):
    (line,) = extra("gpu", lane)
    assert line.replace("[and-cuda]", "") in requirements(f"{lane}.in")


@by_lane
def test_every_locked_package_has_hashes_and_no_address(lane):
    kinds = ("", "-dev", "-gpu", "-extras")
    for name in (f"{lane}{kind}.txt" for kind in kinds):
        lock = locked(name)
        assert len(lock) >= 10
        assert all(hashes > 0 for _, hashes in lock.values())
        text = (ROOT / name).read_text()
        for word in ("http:", "https:", "file:", "--index", "--find-links"):
            assert word not in text


@by_lane
def test_the_lock_of_what_no_command_needs_is_of_its_extras_and_the_lane(lane):
    wanted = requirements(f"{lane}-extras.in")
    pins = [
        pin for name in ("wandb", "mlflow", "hf") for pin in extra(name, lane)
    ]
    assert pins == wanted
    lock, beside = locked(f"{lane}.txt"), locked(f"{lane}-extras.txt")
    for line in wanted:
        name, version = line.split("==")
        assert beside[name][0] == version
    both = set(lock) & set(beside)
    assert "protobuf" in both  # wandb's bound on it decides its version
    for name in both:
        assert lock[name][0] == beside[name][0]


def test_cuda_is_what_the_locked_tensorflow_asks_for():
    asked = [
        re.sub(r"[ ()]", "", line.partition(";")[0])
        for line in metadata.requires("tensorflow")
        if "and-cuda" in line
    ]
    assert len(asked) == 12
    assert sorted(asked) == sorted(requirements(f"{THIS}-gpu.in"))
    lock = locked(f"{THIS}-gpu.txt")
    assert len(lock) == 12
    for line in map(Requirement, asked):
        assert lock[line.name][0] in line.specifier
    version = metadata.version("tensorflow")
    assert locked(f"{THIS}.txt")["tensorflow"][0] == version


@by_lane
def test_both_locks_agree(lane):
    lock, dev = locked(f"{lane}.txt"), locked(f"{lane}-dev.txt")
    assert set(lock) < set(dev)
    for name in lock:
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
    shown = re.search(r"^Configurations: (.*)$", shown, re.M)[1].split(", ")
    for path in (ROOT / "configs").glob("[!_]*.py"):
        task = path.stem.partition("_")[0]
        assert (path.stem in shown) == (task not in ("linear", "finetune"))
    code = "from moco_tf import config; "
    code += "print(config.load('quickstart').data.source)"
    assert python(["-c", code], empty, **there) == "shapes:train\n"


CITATION = {  # of the schema 1.2.0: what is required, and what else is taken
    "cff-version", "message", "title", "authors", "type", "version", "license",
    "abstract", "keywords", "references",
}  # fmt: skip


def test_the_citation_is_of_this_version_and_of_the_schemas_form():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert set(cited) <= CITATION
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["version"] == moco_tf.__version__
    assert cited["license"] == PROJECT["project"]["license"]
    for work in (cited, *cited["references"]):
        assert work["title"] and work["type"] in ("software", "article")
        for author in work["authors"]:
            names = {"name"}, {"family-names", "given-names"}
            assert set(author) in names and all(author.values())
    for work in cited["references"]:
        assert isinstance(work["year"], int)
        (identifier,) = work["identifiers"]
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", identifier["value"])
    cited_papers = {
        w["identifiers"][0]["value"][6:] for w in cited["references"]
    }
    assert cited_papers == set(table.METHODS["moco"].papers)
