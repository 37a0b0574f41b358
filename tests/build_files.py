"""Keeps the BUILD files: one target per module, deps equal to its imports.

python tests/build_files.py           lists BUILD files that are out of date
python tests/build_files.py --write   writes them anew
"""

import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TREES = ("moco_tf", "configs", "tests", "benchmarks")

_HEADER = """# Kept by: python tests/build_files.py --write
load("@rules_python//python:defs.bzl", {rules})

package(default_visibility = ["//visibility:public"])
"""
# Import name -> package, where the two differ.
_PACKAGES = {
    "absl": "absl_py",
    "PIL": "pillow",
    "sklearn": "scikit_learn",
    "yaml": "pyyaml",
}


def imports(path):
    """Returns the dotted names that a module imports, from anywhere in it.

    `from a import b` gives "a.b", which may be a module or a name in one.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{a.name}" for a in node.names)
    return sorted(found)


def label(dotted, path, root=ROOT):
    """Returns the Bazel label of an import, or None for the standard library.

    Args:
      dotted: as `imports` returns it. path: of the importing module, whose
        folder and the tests' folder are searched too.
    """
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        for base in (root, root / "tests", path.parent):
            module = base.joinpath(*parts[:length])
            package = module.relative_to(root).as_posix()
            folder = module.parent.relative_to(root).as_posix()
            if (module / "__init__.py").is_file():
                return f"//{package}"
            if module.with_suffix(".py").is_file():
                folder = "" if folder == "." else folder
                return f"//{folder}:{parts[length - 1]}"
    if parts[0] in sys.stdlib_module_names:
        return None
    return f"@pypi//{_PACKAGES.get(parts[0], parts[0]).lower()}"


def target(path, root=ROOT):
    """Returns the rule of a module: (kind, name, deps)."""
    folder = path.parent.relative_to(root)
    here = f"//{folder.as_posix()}"
    labels = {label(name, path, root) for name in imports(path)} - {None}
    deps = sorted(
        text.removeprefix(here) if text.startswith(here + ":") else text
        for text in labels
    )
    name = folder.name if path.stem == "__init__" else path.stem
    kind = "py_library"
    if path.name.startswith("test_"):
        kind = "py_test"
    elif 'if __name__ == "__main__":' in path.read_text():
        kind, name = "py_binary", name.strip("_")
    deps = [dep for dep in deps if dep not in (f":{name}", here)]
    return kind, name, deps


def data(path):
    """Returns what a module reads of its folder: files that it names."""
    text = path.read_text()
    found = []
    for entry in sorted(path.parent.iterdir()):
        if entry.suffix == ".py" or f'"{entry.name}"' not in text:
            continue
        if entry.is_file():
            found.append(f'["{entry.name}"]')
        elif not list(entry.rglob("*.py")):
            found.append(f'glob(["{entry.name}/**"])')
    return found


def _rule(path, root):
    kind, name, deps = target(path, root)
    lines = [f"{kind}(", f'    name = "{name}",']
    lines.append(f'    srcs = ["{path.name}"],')
    if path.stem == "__main__":
        lines.append('    main = "__main__.py",')
    if kind == "py_test":
        lines.append('    data = ["//tests/reference"],')
    elif data(path):
        lines.append(f"    data = {' + '.join(data(path))},")
    if len(deps) == 1:
        lines.append(f'    deps = ["{deps[0]}"],')
    elif deps:
        lines += ["    deps = [", *(f'        "{d}",' for d in deps), "    ],"]
    return "\n".join([*lines, ")"])


def content(folder, root=ROOT):
    """Returns what the BUILD file of a folder must hold; "" for no file."""
    modules = sorted(folder.glob("*.py"))
    if folder == root / "tests" / "reference":
        files = 'srcs = glob(["**"], exclude = ["BUILD"])'
        return (
            "# Kept by: python tests/build_files.py --write\n"
            'filegroup(\n    name = "reference",\n'
            f"    {files},\n"
            '    visibility = ["//visibility:public"],\n)\n'
        )
    if not modules:
        return ""
    kinds = sorted({target(path, root)[0] for path in modules})
    rules = ", ".join(f'"{kind}"' for kind in kinds)
    blocks = [_rule(path, root) for path in modules]
    return "\n".join([_HEADER.format(rules=rules), "\n\n".join(blocks), ""])


def stale(root=ROOT):
    """Returns the BUILD files that differ from what they must hold, a dict."""
    wanted = {}
    for tree in TREES:
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
