"""What names in a pickle stand for: containers, bytes and NumPy's arrays."""

import ast
import collections
import math
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np


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


def _integer(text):
    """The value of an INT opcode; 00 and 01 are how protocol 1 says no, yes."""
    return (
        {"00": False, "01": True}[text] if text in ("00", "01") else int(text)
    )


def _quoted(text):
    """The value of a STRING opcode: a literal of Python 2, in quotes."""
    value = ast.literal_eval(text) if text[:1] in ("'", '"') else None
    if type(value) is not str:
        raise ValueError("a text without quotes")
    return value


def _pushes(read):
    """An action that pushes what `read(machine)` returns."""

    def action(machine):
        machine.push(read(machine))

    return action


def _unpacked(form):
    size = struct.calcsize(form)
    return _pushes(lambda m: struct.unpack(form, m.take(size))[0])


def _number(count, signed=False):
    return _pushes(lambda m: m.number(count, signed))


def _long(count):
    return _pushes(
        lambda m: int.from_bytes(m.sized(count), "little", signed=True)
    )


def _text(count):
    """Text of Python 3, with its length before it."""
    return _pushes(lambda m: m.sized(count).decode("utf-8", "surrogatepass"))


def _old_text(count):
    """Text or bytes of Python 2: one character a byte."""
    return _pushes(lambda m: m.sized(count).decode("latin1"))


def _dict(machine):
    items = machine.items()
    machine.push({})
    machine.store(items)


def _frozenset(machine):
    items = machine.items()
    machine.push(set())
    machine.add(items)


# A frozenset is read as a set: nothing here uses one as a key.
ACTIONS = {
    # Frames and protocol numbers say nothing that matters here.
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    # Values.
    b"N": _pushes(lambda m: None),
    b"\x88": _pushes(lambda m: True),
    b"\x89": _pushes(lambda m: False),
    b"I": _pushes(lambda m: _integer(m.line())),
    b"L": _pushes(lambda m: int(m.line().removesuffix("L"))),
    b"J": _number(4, signed=True),
    b"K": _number(1),
    b"M": _number(2),
    b"\x8a": _long(1),
    b"\x8b": _long(4),
    b"F": _pushes(lambda m: float(m.line())),
    b"G": _unpacked(">d"),
    b"S": _pushes(lambda m: _quoted(m.line())),
    b"T": _old_text(4),
    b"U": _old_text(1),
    b"V": _pushes(lambda m: m.line("raw_unicode_escape")),
    b"X": _text(4),
    b"\x8c": _text(1),
    b"\x8d": _text(8),
    b"B": _pushes(lambda m: m.sized(4)),
    b"C": _pushes(lambda m: m.sized(1)),
    b"\x8e": _pushes(lambda m: m.sized(8)),
    b"\x96": _pushes(lambda m: m.sized(8)),  # a bytearray, read as bytes
    # Containers.
    b"(": lambda m: m.mark(),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.items(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"]": _pushes(lambda m: []),
    b"l": _pushes(lambda m: m.items()),
    b"a": lambda m: m.extend(m.last(1)),
    b"e": lambda m: m.extend(m.items()),
    b")": _pushes(lambda m: ()),
    b"t": _pushes(lambda m: tuple(m.items())),
    b"\x85": _pushes(lambda m: tuple(m.last(1))),
    b"\x86": _pushes(lambda m: tuple(m.last(2))),
    b"\x87": _pushes(lambda m: tuple(m.last(3))),
    b"}": _pushes(lambda m: {}),
    b"d": _dict,
    b"s": lambda m: m.store(m.last(2)),
    b"u": lambda m: m.store(m.items()),
    b"\x8f": _pushes(lambda m: set()),
    b"\x90": lambda m: m.add(m.items()),
    b"\x91": _frozenset,
    # The memo.
    b"g": _pushes(lambda m: m.memo[int(m.line())]),
    b"h": _pushes(lambda m: m.memo[m.number(1)]),
    b"j": _pushes(lambda m: m.memo[m.number(4)]),
    b"p": lambda m: m.remember(int(m.line())),
    b"q": lambda m: m.remember(m.number(1)),
    b"r": lambda m: m.remember(m.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    # Names, and calls of what they stand for.
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": lambda m: m.name(*m.last(2)),
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
    b"P": lambda m: m.persistent(m.line()),
    b"Q": lambda m: m.persistent(m.stack.pop()),
}


# A checkpoint of a ResNet-152 takes 60 thousand.
_MOST_OPCODES = 5_000_000
_MOST_BUILT = 8  # times the size of the file
_LONGEST_LINE = 4096  # bytes, of the text opcodes
_KEY_TYPES = (str, int, float, bool, bytes, type(None))
_SIZED = (str, bytes, list, tuple, dict)
_MARK = object()


def load(data, start, names, persistent_load=None):
    """Reads one pickle.

    Args:
      data: memoryview of the file. start: int, where the pickle begins.
      names: dict (module, name) -> Constructor or Marker; any other name is
        refused.
      persistent_load: function of a persistent id; None refuses them.

    Returns:
      (value, position behind the pickle).

    Raises:
      Unreadable: for a damaged pickle and for anything that is refused; no
        code of the file has run.
    """
    machine = _Machine(data, start, names, persistent_load)
    try:
        return machine.run(), machine.position
    except Unreadable:
        raise
    except Exception as error:  # of hostile or damaged opcodes: any kind
        raise Unreadable(
            f"It is damaged at byte {machine.position}: "
            f"{type(error).__name__} ({str(error)[:200]})."
        ) from error


class _Machine:
    """The stack, the memo and the position of one pickle."""

    def __init__(self, data, start, names, persistent_load):
        self.data = data
        self.position = start
        self.names = names
        self.persistent_load = persistent_load
        self.stack = []
        self.memo = {}
        self.spent = 0  # items given to constructors

    def run(self):
        for _ in range(_MOST_OPCODES):
            code = bytes(self.take(1))
            if code == b".":
                return self.last(1)[0]
            action = ACTIONS.get(code)
            if action is None:
                self.refuse_opcode(code)
            action(self)
        raise Unreadable(
            f"Its pickle has more than {_MOST_OPCODES} steps; weights need far "
            "fewer."
        )

    def refuse_opcode(self, code) -> NoReturn:
        codes = pickletools.code2op  # type: ignore[attr-defined]
        known = codes.get(code.decode("latin1"))
        if known is None:
            raise Unreadable(
                f"It is damaged at byte {self.position - 1}: {code!r} begins "
                "nothing."
            )
        if code == b"i":  # INST: module and name follow
            refuse(f"{self.line()}.{self.line()}")
        if code in (b"\x82", b"\x83", b"\x84"):
            count = {b"\x82": 1, b"\x83": 2, b"\x84": 4}[code]
            refuse(f"extension {self.number(count)} of the pickle registry")
        if code in (b"\x81", b"\x92"):  # NEWOBJ, NEWOBJ_EX: the class is below
            below = 2 if code == b"\x81" else 3
            refuse(f"a new object of {_kind(self.stack[-below])}")
        refuse(f"the pickle operation {known.name}")

    def take(self, count):
        start, end = self.position, self.position + count
        if count < 0 or end > len(self.data):
            raise Unreadable(
                f"It is cut off or damaged: {count} bytes are wanted at byte "
                f"{start}, {len(self.data) - start} are left."
            )
        self.position = end
        return self.data[start:end]

    def number(self, count, signed=False):
        return int.from_bytes(self.take(count), "little", signed=signed)

    def sized(self, count):
        """Bytes with their length before them."""
        return bytes(self.take(self.number(count)))

    def line(self, encoding="utf-8"):
        """Text up to the end of the line."""
        left = min(_LONGEST_LINE, len(self.data) - self.position)
        text, end, _ = bytes(self.data[self.position :][:left]).partition(b"\n")
        if not end:
            raise Unreadable(
                f"It is cut off or damaged: a line at byte {self.position} has "
                "no end."
            )
        self.position += len(text) + 1
        return text.decode(encoding, "backslashreplace")

    def push(self, value):
        self.stack.append(value)

    def mark(self):
        self.stack.append(_MARK)

    def items(self):
        """Pops what lies above the newest mark, and the mark."""
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def remember(self, place):
        value = self.stack[-1]
        self.memo[place] = value
        if isinstance(value, Pending):
            value.places.append(place)

    def name(self, module, name):
        if type(module) is not str or type(name) is not str:
            refuse(f"a name of type {_kind(module)}")
        found = self.names.get((module, name))
        if found is None:
            refuse(f"{module}.{name}")
        self.push(found)

    def call(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Constructor or type(arguments) is not tuple:
            refuse(f"a call of {_kind(function)}")
        self.spent += sum(len(v) for v in arguments if type(v) in _SIZED)
        if self.spent > _MOST_BUILT * len(self.data):
            raise Unreadable("It would unfold to many times its own size.")
        try:
            self.push(function.build(*arguments))
        except TypeError as error:
            raise Unreadable(
                f"It gives {function.name} other arguments than it takes: "
                f"{str(error)[:200]}."
            ) from error

    def build(self):
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, Pending):
            self.stack[-1] = built = value.build(state)
            for place in value.places:
                self.memo[place] = built
        elif type(value) is not collections.OrderedDict or _attributes(state):
            refuse(f"attributes of {_kind(value)}")
        # Else: torch's notes on a state dict ("_metadata"), which no one needs.

    def persistent(self, identity):
        if self.persistent_load is None:
            refuse("an object from outside of its pickle")
        self.push(self.persistent_load(identity))

    def store(self, pairs):
        target = self.stack[-1]
        if type(target) not in (dict, collections.OrderedDict):
            refuse(f"entries of {_kind(target)}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_key(key)] = value

    def extend(self, values):
        target = self.stack[-1]
        if type(target) is not list:
            refuse(f"items of {_kind(target)}")
        target.extend(values)

    def add(self, values):
        target = self.stack[-1]
        if type(target) is not set:
            refuse(f"members of {_kind(target)}")
        target.update(map(_key, values))

    def last(self, count):
        """The last values, taken off the stack."""
        found = self.stack[-count:]
        if len(found) < count or any(value is _MARK for value in found):
            raise Unreadable(f"It is damaged at byte {self.position}.")
        del self.stack[-count:]
        return found


def _kind(value):
    """The name of a value, for messages; never its contents."""
    if isinstance(value, Constructor | Marker):
        return value.name
    return "a mark" if value is _MARK else f"a {type(value).__name__}"


def _attributes(state):
    """Whether a state is other than a plain dict of named values."""
    return type(state) is not dict or any(type(key) is not str for key in state)


def _key(value):
    # Containers as keys could take for ever to hash.
    if type(value) not in _KEY_TYPES:
        refuse(f"{_kind(value)} as a key")
    return value


_NUMBERS = re.compile(r"[fiu][1248]|b1")  # never objects, nor text
_MOST_AXES = 16


class _PendingType(Pending):
    """A dtype until its byte order comes."""

    def __init__(self, text):
        super().__init__()
        self.text = text

    def build(self, state):
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if order not in ("<", ">", "|", "=") or any(state[2:5]):
            refuse(f"numpy.dtype {self.text} of other than plain numbers")
        return np.dtype(self.text).newbyteorder(order)


class _PendingArray(Pending):
    """An array until its shape, type and bytes come."""

    def build(self, state):
        if type(state) is not tuple or len(state) != 5:
            refuse("numpy.ndarray with an unknown state")
        _, shape, dtype, fortran, data = state
        return array(data, dtype, shape, "F" if fortran else "C")


def dtype(text, *_):
    """numpy.dtype(text, align, copy): plain numbers alone."""
    if type(text) is not str or not _NUMBERS.fullmatch(text.lstrip("<>|=")):
        refuse(f"numpy.dtype({str(text)[:20]!r})")
    return _PendingType(text)


def array(data, dtype, shape, order="C"):
    """An array over bytes of a file, read-only.

    Args:
      data: bytes, or text of one character a byte (of Python 2).
      dtype: np.dtype. shape: tuple of int. order: "C" or "F".

    Raises:
      Unreadable: unless the bytes are as many as the shape needs.
    """
    data = data.encode("latin1") if type(data) is str else data
    if type(data) is not bytes or not isinstance(dtype, np.dtype):
        refuse(f"numpy.ndarray of {type(data).__name__}")
    if type(order) is not str or order not in ("C", "F"):
        refuse("numpy.ndarray of another memory order")
    sizes = whole_numbers(shape, "a shape")
    needed = math.prod(sizes) * dtype.itemsize
    if needed != len(data):
        raise Unreadable(
            f"An array of shape {sizes} and type {dtype} needs {needed} bytes. "
            f"Received {len(data)}."
        )
    return np.frombuffer(data, dtype).reshape(sizes, order=order)


def whole_numbers(values, what):
    """Returns a tuple of int, none below 0.

    Raises:
      Unreadable: for anything else.
    """
    right = type(values) in (tuple, list) and len(values) <= _MOST_AXES
    if not right or any(type(v) is not int or v < 0 for v in values):
        raise Unreadable(
            f"{what} must be up to {_MOST_AXES} whole numbers of 0 or more."
        )
    return tuple(values)


def _reconstruct(kind, shape, code):
    del shape, code
    if not isinstance(kind, Marker) or kind.name != "numpy.ndarray":
        refuse("numpy._reconstruct of another class")
    return _PendingArray()


def _scalar(dtype, data):
    return array(data, dtype, ())[()].item()


def _encode(text, encoding):
    if type(text) is not str or encoding != "latin1":
        refuse(f"_codecs.encode to {str(encoding)[:20]}")
    return text.encode("latin1")


def _no_bytes():
    return b""


def _ordered(pairs=()):
    found = collections.OrderedDict()
    if type(pairs) not in (tuple, list):
        refuse(f"collections.OrderedDict of a {type(pairs).__name__}")
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2:
            refuse("collections.OrderedDict of other than pairs")
        if type(pair[0]) not in (str, int):
            refuse(f"a {type(pair[0]).__name__} as a key")
        found[pair[0]] = pair[1]
    return found


def _set(values):
    if type(values) is not list or not {type(v) for v in values} <= {str, int}:
        refuse("a set of other than text and whole numbers")
    return set(values)


def table(constructors, markers=()):
    """Names for load.

    Args:
      constructors: dict "module.name" -> function. markers: dict likewise, to
        a value that cannot be called.
    """
    found: dict[tuple[str, ...], object] = {}
    for name, build in constructors.items():
        found[tuple(name.rsplit(".", 1))] = Constructor(name, build)
    for name, value in dict(markers).items():
        found[tuple(name.rsplit(".", 1))] = Marker(name, value)
    return found


_PLAIN = {
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.bytes": _no_bytes,
    "__builtin__.set": _set,
    "__builtin__.frozenset": _set,
    "__builtin__.bytes": _no_bytes,
    "numpy.dtype": dtype,
}
# NumPy 2 renamed numpy.core.
for _core in ("numpy.core", "numpy._core"):
    _PLAIN[f"{_core}.multiarray._reconstruct"] = _reconstruct
    _PLAIN[f"{_core}.multiarray.scalar"] = _scalar
    _PLAIN[f"{_core}.numeric._frombuffer"] = array

NAMES = table(_PLAIN, {"numpy.ndarray": None})
