"""What the package says to people who must act: read from its sources.

A message is the text of a `raise`, or any other text of the package with a
sentence that advises something: of a finding, a warning, a note that is put
together elsewhere. Nothing of the package is loaded.
"""

import ast
import functools
import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "moco_tf"

# What a sentence that advises something begins with.
_VERBS = """
Add Ask Bring Call Change Check Choose Compare Convert Copy Correct Delete Do
Draw Embed Evaluate Export Fill Fine-tune Free Give Grant Import Install Keep
Label Leave Load Look Lower Make Mend Mount Move Name Number Open Pass Prepare
Put Raise Read Remove Rename Repeat Replace Resize Restore Run Save Scale See
Send Set Start Stop Take Train Try Unpack Unset Use Wait Widen Wrap Write
""".split()
_ADVICE = re.compile(
    r"(?:(?<=[.:;!?})\n] )|(?<=\})|(?<=: )|(?<=; )|(?<=\n)|^)"
    rf" *({'|'.join(_VERBS)}|Did you mean)\b"
    r"|`moco-tf [a-z]|--config\.\w+\.\w+=",
    re.M,
)
# After a colon or a semicolon a sentence goes on in small letters.
_ALSO = re.compile(
    rf"(?<=[:;,] )({'|'.join(v.lower() for v in _VERBS)})(?= [\w{{`\-'])"
)
_SUGGESTION = "{naming.suggestion}"


class Message(NamedTuple):
    """A message as it stands in the sources.

    Attributes:
      file: str, of `sources`. function: str, its dotted name, "" in none.
      text: str; values stand in it as {their expression}.
      first, last: int, lines of the statement. raised: bool.
      named: bool, whether the sources call it a remedy.
    """

    file: str
    function: str
    text: str
    first: int
    last: int
    raised: bool
    named: bool = False

    @property
    def place(self):
        """File and function, as rows name them."""
        return f"{self.file}:{self.function}"

    @property
    def remedy(self):
        """What the message advises, to its end; "" if it states a rule only."""
        text = self.text
        starts = [
            match.start()
            for pattern in (_ADVICE, _ALSO)
            for match in pattern.finditer(text)
        ]
        if _SUGGESTION in text:
            starts.append(text.index(_SUGGESTION))
        if not starts:
            return text if self.named else ""
        return text[min(starts) :].strip()

    @property
    def fixed(self):
        """The parts of the text that no value changes, a list."""
        parts = re.split(r"\{[^{}]*\}", self.text)
        return [part for part in parts if part.strip()]


@functools.cache
def collect():
    """All messages of the package, a tuple, in the order of the sources."""
    return tuple(m for m in collect_texts() if m.raised or m.remedy)


def read(source, file):
    """The messages of the text of a module, a list."""
    return [m for m in read_texts(source, file) if m.raised or m.remedy]


@functools.cache
def collect_texts():
    """All texts of the sources but their docstrings, a tuple of Message."""
    return tuple(
        text
        for file, path in sources().items()
        for text in read_texts(path.read_text(encoding="utf-8"), file)
    )


@functools.cache
def sources():
    """The files with messages: name below moco_tf/, or launch/..., -> path."""
    inside = sorted(PACKAGE.rglob("*.py"))
    beside = sorted((ROOT / "launch").glob("*.py"))
    files = {path.relative_to(PACKAGE).as_posix(): path for path in inside}
    return files | {path.relative_to(ROOT).as_posix(): path for path in beside}


def read_texts(source, file):
    """The texts of a module, a list of Message."""
    reader = _Reader(file)
    reader.visit(ast.parse(source))
    return reader.collected


class _Reader(ast.NodeVisitor):
    """Walks a module with the names of the functions around."""

    def __init__(self, file):
        self.collected = []
        self._file = file
        self._around = []

    def _enter(self, node):
        self._around.append(node.name)
        body = node.body
        if ast.get_docstring(node) is not None:
            body = body[1:]
        for part in (*node.decorator_list, *_defaults(node), *body):
            self.visit(part)
        self._around.pop()

    visit_FunctionDef = visit_ClassDef = _enter

    def visit_Module(self, node):
        body = node.body[ast.get_docstring(node) is not None :]
        for part in body:
            self.visit(part)

    def visit_Raise(self, node):
        if node.exc is None or not _text(node.exc).strip(" {}"):
            return
        self._add(node, _text(node.exc), raised=True)

    def _assign(self, node):
        targets = getattr(node, "targets", None) or [node.target]
        names = {t.id for t in targets if isinstance(t, ast.Name)}
        text = _text(node.value) if node.value is not None else ""
        # Not what only puts another text and a value together.
        if "remedy" in names and re.sub(r"\{[^{}]*\}", "", text).strip(" ."):
            self._add(node, text, raised=False, named=True)
        elif node.value is not None:
            self.visit(node.value)

    visit_Assign = visit_AugAssign = visit_AnnAssign = _assign

    def visit_Constant(self, node):
        if isinstance(node.value, str):
            self._add(node, node.value, raised=False)

    def visit_JoinedStr(self, node):
        self._add(node, _text(node), raised=False)

    def visit_BinOp(self, node):
        text = _text(node)
        if isinstance(node.op, ast.Add) and text:
            self._add(node, text, raised=False)
        else:
            self.generic_visit(node)

    def _add(self, node, text, raised, named=False):
        self.collected.append(
            Message(
                self._file,
                ".".join(self._around),
                text,
                node.lineno,
                node.end_lineno,
                raised,
                named,
            )
        )


def _defaults(node):
    return getattr(getattr(node, "args", None), "defaults", ())


def _text(node):
    """The text that an expression makes, with {expressions} for values."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = node.values
        return "".join(
            part.value if isinstance(part, ast.Constant) else _value(part.value)
            for part in parts
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        if not left and not right:
            return ""
        return (left or _value(node.left)) + (right or _value(node.right))
    if isinstance(node, ast.Call):
        if getattr(node.func, "attr", "") in ("strip", "rstrip"):
            return _text(node.func.value)
        name = ast.unparse(node.func)
        if name == "naming.suggestion":
            return _SUGGESTION
        if name[-1:] != ")" and name.rpartition(".")[2][:1].isupper():
            return " ".join(filter(None, map(_text, node.args)))
    return ""


def _value(node):
    text = _text(node)
    if text:
        return text
    return "{" + re.sub(r"[{}]", "", ast.unparse(node)) + "}"
