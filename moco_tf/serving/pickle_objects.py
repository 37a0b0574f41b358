"""What a pickle's opcodes may make, and how the rest is refused."""

from collections.abc import Callable
from typing import Any, NoReturn


class Unreadable(ValueError):
    """A file that is damaged, or asks for more than tensors and values."""


class Constructor:
    """What a name in a file may stand for: a function of this project."""

    __slots__ = ("name", "build")

    def __init__(self, name: str, build: Callable):
        self.name = name
        self.build = build


class Marker:
    """What a name in a file may stand for: a value that cannot be called."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: Any = None):
        self.name = name
        self.value = value


class Pending:
    """An object that its file describes later, by a BUILD opcode.

    Attributes:
      places: positions of the memo that hold it.
    """

    def __init__(self):
        self.places = []

    def build(self, state):
        """Returns the finished object for the state that the file gives."""
        raise Unreadable(
            f"A state of type {type(state).__name__} fits nothing."
        )


def printable(text):
    """Text of a file, for messages: short, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def refuse(what) -> NoReturn:
    """Raises Unreadable that names what a file asked for."""
    raise Unreadable(
        f"It asks for {printable(what)}, which no weights need. Only tensors, "
        "numbers, text and containers are read; nothing of it was run. If you "
        "trust its author, save the state dict alone and import that."
    )
