"""BUILD files say what the sources need; nothing of Bazel is needed here.

BUILD files and the rules of this tree are Python enough to be run by Python.
"""

import ast
import functools
import re
import sys
import tomllib
import types

import pytest

import moco_tf
from tests import source_imports
from tools import bazel_offline
from tools.bazel_offline import ROOT

# Import name -> package, where the two differ.
_PACKAGES = {
    "absl": "absl_py",
    "google": "protobuf",
    "PIL": "pillow",
    "sklearn": "scikit_learn",
    "tensorflow_serving": "tensorflow_serving_api",
    "yaml": "pyyaml",
}
# In no lock: what imports them says so or is skipped where they are missing.
_IN_NO_LOCK = ("IPython", "cv2", "simplejpeg", "torch", "torchvision")


def _glob(folder, include, exclude=(), allow_empty=True):
    """Bazel's glob: the files of a folder but not those of inner packages."""
    inner = {path.parent for path in folder.rglob("BUILD")} - {folder}
    taken = []
    for patterns in (include, exclude):
        patterns = [re.sub(r"\*\*$", "**/*", pattern) for pattern in patterns]
        paths = {path for p in patterns for path in folder.glob(p)}
        taken.append({p for p in paths if p.is_file()})
    return sorted(
        path.relative_to(folder).as_posix()
        for path in taken[0] - taken[1]
        if not inner.intersection(path.parents)
    )


def targets(path):
    """The targets of a BUILD file, label -> attributes with full labels."""
    folder = path.parent
    package = "/".join(folder.relative_to(ROOT).parts)
    made = {}

    def label(name):
        if name.startswith(":"):
            return f"//{package}{name}"
        if not name.startswith(("//", "@")):  # a file of this folder
            return f"//{package}:{name}"
        return name if ":" in name else f"{name}:{name.split('/')[-1]}"

    def rule(name, **attributes):
        made[label(f":{name}")] = {
            key: [label(one) for one in value]
            if key in ("srcs", "deps", "data")
            else value
            for key, value in attributes.items()
        }

    names = ("alias", "filegroup", "py_binary", "py_library", "py_test")
    scope = {name: rule for name in names}
    scope |= {"glob": functools.partial(_glob, folder), "fail": pytest.fail}
    scope |= {"package": lambda **_: None, "exports_files": lambda _: None}
    scope["native"] = types.SimpleNamespace(
        glob=scope["glob"], package_name=lambda: package
    )

    def load(where, *_):
        if where.startswith("//"):
            run(ROOT / where[2:].replace(":", "/"))

    def run(source):
        exec(compile(source.read_text(), source, "exec"), scope)

    scope["load"] = load
    run(path)
    return made


def file_of(label):
    package, _, name = label.removeprefix("//").partition(":")
    return ROOT / package / name


@pytest.fixture(name="tree", scope="module")
def _tree():
    """The targets of all BUILD files of the tree."""
    paths = [p for p in bazel_offline.build_files() if p.name == "BUILD"]
    return {label: t for path in paths for label, t in targets(path).items()}


def reached(tree, label):
    """The files and @pypi labels of a target and of all its deps."""
    files, packages, seen, open_ = set(), set(), set(), [label]
    while open_:
        name = open_.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.startswith("@pypi//"):
            packages.add(name)
        elif name in tree:
            files.update(map(file_of, tree[name].get("srcs", ())))
            open_ += tree[name].get("deps", ())
    return files, packages


def imported_file(dotted, importer):
    """The file of the tree that an import reads, or None."""
    parts = dotted.split(".")
    # The first two are pytest's too: `pythonpath` in pyproject.toml.
    bases = (ROOT, ROOT / "tests", importer.parent)
    for length in range(len(parts), 0, -1):
        for base in bases:
            module = base.joinpath(*parts[:length])
            for file in (module / "__init__.py", module.with_suffix(".py")):
                if file.is_file():
                    return file
    return None


def lacks(tree, label):
    """What the sources of a target import and its deps do not reach."""
    files, packages = reached(tree, label)
    for path in map(file_of, tree[label].get("srcs", ())):
        if path.suffix != ".py":
            continue
        for dotted in source_imports.dotted_imports(path):
            file = imported_file(dotted, path)
            first = dotted.split(".")[0]
            package = _PACKAGES.get(first, first).lower()
            if file and file not in files:
                yield f"{label} needs {file.relative_to(ROOT)}"
            elif file or first in (*sys.stdlib_module_names, *_IN_NO_LOCK):
                continue
            elif (ROOT / first).is_dir():  # a folder without __init__.py
                continue
            elif f"@pypi//{package}:{package}" not in packages:
                yield f"{label} needs @pypi//{package}"


def test_a_target_has_what_its_sources_import(tree):
    # Presets are files to Bazel: moco_tf.config reads them by path.
    labels = set(tree) - {"//configs:configs"}
    lines = {line for label in labels for line in lacks(tree, label)}
    assert sorted(lines) == []


def test_a_dep_that_is_missing_is_named(tree):
    label = "//moco_tf/data:data"
    without = tree | {label: tree[label] | {"deps": []}}
    assert f"{label} needs @pypi//tensorflow" in set(lacks(without, label))


def test_every_module_is_of_a_target(tree):
    sources = {file_of(s) for t in tree.values() for s in t.get("srcs", ())}
    folders = {file_of(label).parent for label in tree} - {ROOT}
    tops = {ROOT / path.relative_to(ROOT).parts[0] for path in folders}
    modules = {path for top in tops for path in top.rglob("*.py")}
    assert sorted(modules - sources) == []
    assert {"moco_tf", "tests", "tools"} <= {top.name for top in tops}


def test_every_label_names_a_target_or_a_file(tree):
    used = {
        label
        for target in tree.values()
        for key in ("srcs", "deps", "data")
        for label in target.get(key, ())
        if not label.startswith("@pypi//")
    }
    unknown = {
        label for label in used - set(tree) if not file_of(label).exists()
    }
    assert unknown == set()


def test_every_test_has_a_size(tree):
    tests = {label: t for label, t in tree.items() if "size" in t}
    assert len(tests) == len(list((ROOT / "tests").rglob("test_*.py")))
    sizes = {target["size"] for target in tests.values()}
    assert sizes == {"small", "medium", "large"}


def locked(name):
    """The packages of a lock, as labels spell them."""
    lines = re.findall(r"^([\w.-]+)==", (ROOT / name).read_text(), re.M)
    return {re.sub(r"[-.]", "_", line).lower() for line in lines}


def module_calls():
    """(function, arguments) of each call of MODULE.bazel."""
    body = ast.parse((ROOT / "MODULE.bazel").read_text()).body
    calls = [n.value for n in body if isinstance(n.value, ast.Call)]
    return [
        (
            ast.unparse(call.func),
            {k.arg: ast.literal_eval(k.value) for k in call.keywords},
        )
        for call in calls
    ]


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


def test_an_environment_without_a_package_is_refused():
    assert bazel_offline.absent(["pytest", "no_such_package"]) == [
        "no_such_package"
    ]
