"""Writes docs/api/ from the docstrings: python tests/api_reference.py --write.

A page for each room, an entry for each public module, class, method and
function. The sources are read, not imported. Without --write it lists the
pages that are out of date.
"""

import ast
import inspect
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "moco_tf"
FOLDER = ROOT / "docs" / "api"
_MADE = "<!-- Made by: python tests/api_reference.py --write -->\n\n"


def pages():
    """The pages that the sources give, dict path below docs/api -> text."""
    rooms = {"moco_tf": sorted(PACKAGE.glob("*.py"))}
    for folder in sorted(PACKAGE.iterdir()):
        if (folder / "__init__.py").is_file():
            rooms[f"moco_tf.{folder.name}"] = sorted(folder.glob("*.py"))
    made, index = {}, [_MADE + "# API\n"]
    for room, paths in rooms.items():
        name = f"{room.rpartition('.')[2]}.md"
        modules = [
            (path.stem, ast.parse(path.read_text()))
            for path in paths
            if not path.stem.startswith("_")
        ]
        entries = [module(room, stem, tree) for stem, tree in modules]
        made[name] = "\n".join([_MADE + f"# {room}\n", *entries])
        index.append(f"## [{room}]({name})\n")
        index.append("| module | what |\n|---|---|")
        index += [
            f"| [`{stem}`]({name}#{anchor(f'{room}.{stem}')}) | "
            f"{_prose(ast.get_docstring(tree) or '')[0]} |"
            for stem, tree in modules
        ]
        index.append("")
    made["README.md"] = "\n".join(index)
    return made


def anchor(heading):
    """What a link to a heading ends in, on the usual pages of Markdown."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def module(room, stem, tree):
    """The entry of a module."""
    parts = [f"## {room}.{stem}\n", *_text(tree)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _is_public(node):
            parts += [f"### class `{node.name}{_bases(node)}`\n", *_text(node)]
            parts += _methods(node)
        elif isinstance(node, ast.FunctionDef) and _is_public(node):
            parts += [f"### `{_signature(node)}`\n", *_text(node)]
    return "\n".join(parts)


def _methods(node):
    parts = []
    for item in node.body:
        if not isinstance(item, ast.FunctionDef) or not ast.get_docstring(item):
            continue
        if _is_public(item) or item.name in ("__init__", "__call__"):
            title = f"{node.name}.{_signature(item)}"
            if item.name == "__init__":
                title = node.name + _signature(item).removeprefix("__init__")
            parts += [f"#### `{title}`\n", *_text(item)]
    return parts


def _is_public(node):
    return not node.name.startswith("_")


def _bases(node):
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    return f"({bases})" if bases else ""


def _signature(node):
    decorators = [ast.unparse(item) for item in node.decorator_list]
    if "property" in decorators:
        return node.name
    text = ast.unparse(node.args)
    first = () if "staticmethod" in decorators else ("self", "cls")
    head, _, rest = text.partition(", ")
    return f"{node.name}({rest if head in first else text})"


def _text(node):
    """The docstring: its first line, and the rest as it is written."""
    docstring = ast.get_docstring(node)
    if not docstring:
        return []
    first, rest = _prose(docstring)
    rest = f"```text\n{rest}\n```\n" if rest else ""
    return [f"{first}\n", rest] if rest else [f"{first}\n"]


def _prose(docstring):
    """First line, safe in Markdown and in a table, and the rest."""
    first, _, rest = inspect.cleandoc(docstring).partition("\n\n")
    first = re.sub(r"([*_<>|\[\]])", r"\\\1", " ".join(first.split()))
    return first, rest.strip()


def outdated():
    """Paths below docs/api that differ from what the sources give."""
    made = pages()
    there = {path.name: path.read_text() for path in FOLDER.glob("*")}
    return sorted(
        name
        for name in made.keys() | there.keys()
        if made.get(name) != there.get(name)
    )


def main(argv):
    stale = outdated()
    if argv == ["--write"]:
        FOLDER.mkdir(exist_ok=True)
        made = pages()
        for name in stale:
            path = FOLDER / name
            path.write_text(made[name]) if name in made else path.unlink()
    print("\n".join(f"docs/api/{name}" for name in stale))
    return int(bool(stale) and argv != ["--write"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
