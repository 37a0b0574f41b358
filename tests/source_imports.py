"""What the sources import, read without loading them."""

import ast
import re

# A module that a text names, as in the table of the methods.
_NAMED = re.compile(r"(moco_tf(?:\.\w+)+)(?::\w+)?")


def dotted_imports(path):
    """The dotted names that a file imports, from anywhere in it.

    `from a import b` gives "a.b", which may be a module or a name in one. A
    text that is nothing but the name of a module of moco_tf counts as well.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = _NAMED.fullmatch(node.value)
            if named:
                yield named[1]
