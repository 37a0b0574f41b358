"""Keeps the BUILD files: one target per module, deps equal to its imports.

python tests/build_files.py           lists BUILD files that are out of date
python tests/build_files.py --write   writes them anew
"""

import pathlib
import sys

import bazel_sizes
import source_reads

ROOT = pathlib.Path(__file__).resolve().parent.parent

_KEPT = "# Kept by: python tests/build_files.py --write\n"
_VISIBLE = 'package(default_visibility = ["//visibility:public"])\n'
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
_OWN = ("torch", "torchvision")
# What packages import and do not declare.
_UNDECLARED = {
    "keras_cv": "tensorflow",
    "tensorflow_addons": "tensorflow",
    "tensorflow_datasets": "importlib_resources",
    "tf2onnx": "tensorflow",
}
# Folders whose modules are files to others, loaded by path.
_LOADED = ("configs",)
# Folders of files without a module.
_BARE = ("docs", "reference")


def label(dotted, path, root=ROOT):
    """Returns the Bazel label of an import, or None where there is none.

    Args:
      dotted: as `source_reads.reads` returns it. path: of the importing
        module, whose folder and the tests' folder are searched too.
    """
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        for base in (root, root / "tests", path.parent):
            module = base.joinpath(*parts[:length])
            for file in (module / "__init__.py", module.with_suffix(".py")):
                if file.is_file():
                    return _module_label(file, root)
    if parts[0] in sys.stdlib_module_names or parts[0] in _OWN:
        return None
    return f"@pypi//{_PACKAGES.get(parts[0], parts[0]).lower()}"


def _module_label(path, root):
    folder = f"//{path.parent.relative_to(root).as_posix()}"
    if path.stem == "__init__":
        return folder
    return f"{folder}:{path.stem.strip('_')}"


def _file_label(path, root):
    """Returns the label of a file or folder: its own or its package's files."""
    for folder in (path, *path.parents):
        if folder == root:
            return f"//:{path.relative_to(root).as_posix()}"
        if folder.is_dir() and _is_package(folder):
            break
    if path.suffix == ".py":
        return _module_label(path, root)
    if not _has_files(folder):
        return None
    return f"//{folder.relative_to(root).as_posix()}:files"


def _is_package(folder):
    return any(folder.glob("*.py")) or folder.name in _BARE


def _has_files(folder):
    """Returns whether a package has what others may read."""
    return folder.name in _LOADED or any(
        entry.suffix not in (".py", ".bzl")
        and entry.name not in ("BUILD", "__pycache__")
        and not any(entry.rglob("*.py"))
        and not _is_package(entry)
        for entry in folder.iterdir()
    )


def target(path, root=ROOT):
    """Returns the rule of a module: (kind, name, deps, data)."""
    folder = path.parent.relative_to(root)
    name = folder.name if path.stem == "__init__" else path.stem
    imports, files = source_reads.reads(path, root)
    deps = {label(dotted, path, root) for dotted in imports}
    data = set()
    for file in files:
        found = _file_label(file, root)
        (deps if file.suffix == ".py" else data).add(found)
    for package, more in _UNDECLARED.items():
        if f"@pypi//{package}" in deps:
            deps.add(f"@pypi//{more}")
    kind = "py_library"
    if path.name.startswith("test_"):
        kind = "pytest_test"
    elif 'if __name__ == "__main__":' in path.read_text():
        kind, name = "py_binary", name.strip("_")

    own = f"//{folder.as_posix()}:{name}"
    return kind, name, _short(deps, folder, own), _short(data, folder, own)


def _short(labels, folder, own):
    """Returns labels sorted, those of the package as ":name", without own."""
    here = f"//{folder.as_posix()}"
    told = {f"{here}:{folder.name}" if t == here else t for t in labels if t}
    return sorted(
        text.removeprefix(here) if text.startswith(f"{here}:") else text
        for text in told - {own}
    )


def _listed(attribute, labels):
    if len(labels) < 2:
        return [f'    {attribute} = ["{text}"],' for text in labels]
    return [
        f"    {attribute} = [",
        *(f'        "{text}",' for text in labels),
        "    ],",
    ]


def _size(path, root):
    place = path.relative_to(root / "tests").with_suffix("").as_posix()
    sizes = [
        size for size, places in bazel_sizes.SIZES.items() if place in places
    ]
    return sizes[0] if sizes else "medium"


def _rule(path, rule, root):
    kind, name, deps, data = rule
    lines = [f"{kind}(", f'    name = "{name}",']
    if kind == "pytest_test":
        lines.append(f'    size = "{_size(path, root)}",')
    lines.append(f'    srcs = ["{path.name}"],')
    if path.stem == "__main__":
        lines.append('    main = "__main__.py",')
    if name in bazel_sizes.CHECKOUT:
        lines.append('    tags = ["manual"],')
    lines += _listed("data", data) + _listed("deps", deps)
    return "\n".join([*lines, ")"])


def content(folder, root=ROOT):
    """Returns what the BUILD file of a folder must hold; "" for no file."""
    if not _is_package(folder):
        return ""
    modules = sorted(folder.glob("*.py"))
    rules = {path: target(path, root) for path in modules}
    kinds = {rule[0] for rule in rules.values()}
    header = _KEPT
    if kinds - {"pytest_test"}:
        names = ", ".join(f'"{k}"' for k in sorted(kinds - {"pytest_test"}))
        header += f'load("@rules_python//python:defs.bzl", {names})\n'
    if "pytest_test" in kinds:
        header += 'load("//tests:pytest_test.bzl", "pytest_test")\n'
    blocks = [header, _VISIBLE]
    blocks += [_rule(*item, root) + "\n" for item in rules.items()]
    if folder == root / "tests":
        blocks.append('exports_files(["pytest_main.py"])\n')
    if _has_files(folder):
        held = 'glob(["**"], exclude = ["BUILD", "**/__pycache__/**"])'
        blocks.append(
            f'filegroup(\n    name = "files",\n    srcs = {held},\n)\n'
        )
    return "\n".join(blocks)


def stale(root=ROOT):
    """Returns the BUILD files that differ from what they must hold, a dict."""
    wanted = {}
    for tree in source_reads.TREES:
        top = root / tree
        for folder in [top, *sorted(top.rglob("*"))]:
            if folder.is_dir() and folder.name != "__pycache__":
                wanted[folder / "BUILD"] = content(folder, root)
    return {
        path: text
        for path, text in wanted.items()
        if (path.read_text() if path.is_file() else "") != text
    }


if __name__ == "__main__":
    out_of_date = stale()
    for build, wanted_text in out_of_date.items():
        print(build.relative_to(ROOT))
        if "--write" in sys.argv:
            if wanted_text:
                build.write_text(wanted_text)
            else:
                build.unlink()
    sys.exit(bool(out_of_date) and "--write" not in sys.argv)
