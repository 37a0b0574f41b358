"""What a module takes from the tree: the modules and files that it names."""

import ast
import re
import textwrap

TREES = ("moco_tf", "configs", "docs", "launch", "tests", "benchmarks")
# "moco_tf.methods.moco", or with ":MoCo" the name in it.
_DOTTED = re.compile(r"((?:moco_tf|tests)(?:\.\w+)+)(?::\w+)?")
_FENCED = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
_IMPORTERS = ("importorskip", "import_module", "files")


def reads(path, root):
    """Returns what a module takes from the tree: imports and files.

    Returns:
      imports: sorted dotted names, from anywhere in the module. `from a import
        b` gives "a.b", which may be a module or a name in one. What is
        imported by its name in a string counts as well, and so do the imports
        of code in a string (`python -c`) and of examples on pages it reads.
      files: sorted paths of files and folders. That is `ROOT / "docs" /
        "data.md"`, where the start is a constant or made from `__file__`, up
        to the first part that is no literal; and "launch/setup.sh", a literal
        with a slash. A run of one's own in the checkout is none of it.
    """
    nodes = list(ast.walk(ast.parse(path.read_text())))
    files = _files(nodes, path, root)
    imports = set(_imported(nodes))
    for page in files:
        if page.suffix == ".md":
            for block in _FENCED.findall(page.read_text()):
                imports.update(_imported(ast.walk(ast.parse(block))))
    return sorted(imports), files


def _imported(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            if _called(node) in _IMPORTERS and _text(node.args[0]):
                yield _text(node.args[0])
        elif isinstance(node, ast.List):
            words = [_text(element) for element in node.elts]
            if "-m" in words[:-1] and words[words.index("-m") + 1]:
                yield f"{words[words.index('-m') + 1]}.__main__"
        elif _text(node):
            yield from _imported_by_text(node.value)


def _imported_by_text(text):
    match = _DOTTED.fullmatch(text)
    if match:
        yield match[1]
    if "import " in text:
        try:
            tree = ast.parse(textwrap.dedent(text))
        except SyntaxError:  # prose
            return
        yield from _imported(ast.walk(tree))


def _files(nodes, path, root):
    found = set()
    for start, parts in _joined(nodes):
        told = ast.unparse(start)
        if "__file__" in told or told.isupper():
            found.add("/".join(parts))
    for node in nodes:
        if isinstance(node, ast.Call) and _called(node) == "PackageLoader":
            package, folder = map(_text, node.args)
            found.add("/".join([*package.split("."), folder]))
        elif "/" in (_text(node) or ""):
            found.add(node.value)
    named = set()
    for name in found:
        first, slash, _ = name.partition("/")
        places = [path.parent, root / "tests"] if first else []
        if first in (*TREES, ".ci") or not slash:
            places.append(root)
        there = [place / name for place in places if _exists(place / name)]
        named.update(there[:1])
    return sorted(named - {root, root / "tests"})


def _joined(nodes):
    """Yields start and literal parts of each `start / "a" / "b"`."""
    divisions = [
        node
        for node in nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    ]
    inner = {id(node.left) for node in divisions}
    for node in divisions:
        if id(node) in inner:
            continue
        parts = []
        while isinstance(node, ast.BinOp):
            parts.insert(0, _text(node.right))
            node = node.left
        yield node, parts[: parts.index(None)] if None in parts else parts
    for node in nodes:
        if isinstance(node, ast.Call) and _called(node) == "with_name":
            yield node.func.value, [_text(node.args[0]) or ""]


def _called(node):
    """Returns the name of the method of a call, or None."""
    return getattr(node.func, "attr", None)


def _text(node):
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else None


def _exists(path):
    try:
        return path.exists()
    except (OSError, ValueError):  # a literal that can name no file
        return False
