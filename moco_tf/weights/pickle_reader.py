"""Reads pickles that import nothing and call nothing but a table's functions.

Python's own unpickler acts on a file's word: it imports modules, calls what
they hold, sets attributes. This one knows the opcodes of numbers, text and
containers, in the protocols 0 to 5. A name in a file stands for an entry of a
table (pickle_names has one), or for nothing: it becomes an inert marker, as
does whatever would be made of it, by a call, as an instance or from the
registry of extensions. State that a file sets on a marker is passed over. So
the settings that people save beside weights do no harm and need not be known.
Names that are there to act, such as os.system, are refused all the same: no
weights have them, and who was given such a file should hear of it.

No file can take long or fill the memory: the number of opcodes, the length of
a line and of a number, what calls and states unfold to, and the types of keys
are limited.
"""

import ast
import collections
import dataclasses
import pickle  # for the names of the opcodes alone
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, NoReturn

# A checkpoint of a ResNet-152 takes 60 thousand.
_MAX_OPCODES = 5_000_000
_MAX_ARGUMENTS = 8  # items in arguments of calls, times the size of the file
_MAX_LINE = 4096  # bytes, of the text opcodes
_MAX_NUMBER = 1024  # bytes of a whole number
_MAX_AXES = 16
_LISTED = 5  # names in a message
_KEY_TYPES = (str, int, float, bool, bytes, type(None))
_SIZED = (str, bytes, list, tuple, dict)
_MARK = object()
# Modules of which no value is saved, and functions beside values.
_ACTING_MODULES = """_pickle _posixsubprocess bdb cPickle ctypes importlib nt os
    pdb pickle pip popen2 posix pty runpy shutil socket subprocess sys timeit
    torch.hub webbrowser"""
_ACTING_BUILTINS = """__import__ apply breakpoint compile eval exec execfile
    file input open reload"""
_ACTING = re.compile(
    rf"({'|'.join(map(re.escape, _ACTING_MODULES.split()))})\..*"
    rf"|(builtins|__builtin__)\.({'|'.join(_ACTING_BUILTINS.split())})",
    re.DOTALL,
)
# Functions of Python by which older protocols make an object of a class.
_MAKERS = ("_reconstructor", "__newobj__", "__newobj_ex__")


class Unreadable(ValueError):
    """A file that is damaged, or asks for more than tensors and values."""


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """A name in a file, and the table's entry that it stands for."""

    name: str  # "module.name"
    value: Any


class Inert:
    """What is not read: an object, or what a call would give.

    Attributes:
      kind: str, what it is, for messages: the name of its class or function.
      items: dict of the entries that the file gives it, as to a dict.
    """

    __slots__ = ("kind", "items")

    def __init__(self, kind):
        self.kind = printable(kind)
        self.items: dict = {}


class Pending:
    """An object that its file describes later, by a BUILD opcode."""

    def __init__(self, build: Callable):
        """Keeps a function of the state in the file -> finished object."""
        self.build = build
        self.memo_keys: list[int] = []  # entries of the memo that refer to it


def load(data, start, names, persistent_load=None):
    """Reads one pickle.

    Args:
      data: memoryview of the file. start: int, where the pickle begins.
      names: dict "module.name" -> function that the file may call, or another
        value, which it may refer to; all other names become Inert.
      persistent_load: function of a persistent id; None refuses them.

    Returns:
      (value, position behind the pickle).

    Raises:
      Unreadable: for a damaged pickle and for anything that is refused. No
        code of the file runs in any case.
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


def refuse(request) -> NoReturn:
    """Raises Unreadable with the name of what a file asked for."""
    raise Unreadable(
        f"It asks for {printable(request)}, which no weights need. Only "
        "tensors, numbers, text and containers are read; nothing of it was "
        "run. If you trust its author, save the state dict alone and import "
        "that."
    )


def printable(text):
    """Text of a file, for messages: short, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def listed(names, conjunction="and"):
    """The first names of a file, for messages: "a, b and 3 more".

    Args:
      names: list of str. conjunction: before the number of the others.
    """
    shown = ", ".join(map(printable, names[:_LISTED]))
    more = len(names) - _LISTED
    return f"{shown} {conjunction} {more} more" if more > 0 else shown


def natural_numbers(values, title):
    """Checks sizes, strides and the like that a file gives.

    Args:
      values: of a file. title: str, names them in the refusal.

    Returns:
      tuple of int, none below 0.

    Raises:
      Unreadable: unless the values are a tuple or list of a few such numbers.
    """
    fits = type(values) in (tuple, list) and len(values) <= _MAX_AXES
    if not fits or any(type(v) is not int or v < 0 for v in values):
        raise Unreadable(
            f"{title} must be up to {_MAX_AXES} whole numbers of 0 or more."
        )
    return tuple(values)


class _Machine:
    """The stack, the memo and the position of one pickle."""

    def __init__(self, data, start, names, persistent_load):
        self.data = data
        self.position = start
        self.names = names
        self.persistent_load = persistent_load
        self.stack = []
        self.memo = {}
        self.arguments = 0  # items in the arguments of all calls

    def run(self):
        for _ in range(_MAX_OPCODES):
            code = bytes(self.take(1))
            if code == pickle.STOP:
                return self.last(1)[0]
            if code in _VALUES:
                self.stack.append(_VALUES[code](self))
            elif code in _ACTIONS:
                _ACTIONS[code](self)
            else:
                self.refuse_opcode(code)
        raise Unreadable(
            f"Its pickle has more than {_MAX_OPCODES} steps; weights need far "
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
        refuse(f"the pickle operation {known.name}")

    # What follows an opcode in the file.

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
        """Bytes, with their length in `count` bytes before them."""
        return bytes(self.take(self.number(count)))

    def long(self, count):
        data = self.sized(count)
        if len(data) > _MAX_NUMBER:
            raise Unreadable(
                f"A number of it has {len(data)} bytes; weights need few."
            )
        return int.from_bytes(data, "little", signed=True)

    def text(self, count):
        return self.sized(count).decode("utf-8", "surrogatepass")

    def line(self, encoding="utf-8", limit=_MAX_LINE):
        """Text up to the end of the line, of so many bytes at most."""
        limit = min(limit, len(self.data) - self.position)
        length, end = min(_MAX_LINE, limit), b""
        while not end and length:
            part = bytes(self.data[self.position :][:length])
            text, end, _ = part.partition(b"\n")
            length = min(2 * length, limit) if length < limit else 0
        if not end:
            raise Unreadable(
                f"It is cut off or damaged: a line at byte {self.position} has "
                "no end."
            )
        self.position += len(text) + 1
        return text.decode(encoding, "backslashreplace")

    def text_line(self, encoding="utf-8"):
        """The line of a text, which may be the bytes of an array."""
        return self.line(encoding, len(self.data))

    # Stack and memo.

    def last(self, count):
        """Pops the newest values; none of them may be a mark."""
        values = self.stack[-count:]
        if len(values) < count or any(value is _MARK for value in values):
            raise Unreadable(f"It is damaged at byte {self.position}.")
        del self.stack[-count:]
        return values

    def items(self):
        """Pops the values above the newest mark, and the mark."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def remember(self, key):
        value = self.stack[-1]
        self.memo[key] = value
        if isinstance(value, Pending):
            value.memo_keys.append(key)

    # Names, and calls of what they stand for.

    def name(self, module, name):
        if type(module) is not str or type(name) is not str:
            refuse(f"a name of type {kind_of(module)}")
        name = f"{module}.{name}"
        if name in self.names:
            return Name(name, self.names[name])
        if _ACTING.fullmatch(name):
            refuse(name)
        return Inert(name)

    def call(self, function, arguments, named=()):
        """What a function or a class of the table gives, or Inert."""
        if type(arguments) is not tuple:
            refuse(f"a call of {kind_of(function)}")
        if type(function) is Inert:
            is_maker = function.kind.rpartition(".")[2] in _MAKERS
            is_of = arguments[0] if is_maker and arguments else function
            return Inert(kind_of(is_of))
        if type(function) is not Name:
            refuse(f"a call of {kind_of(function)}")
        if not callable(function.value) or named:
            return Inert(function.name)
        self.count(arguments)
        try:
            return function.value(*arguments)
        except TypeError as error:
            raise Unreadable(
                f"It gives {function.name} other arguments than it takes: "
                f"{str(error)[:200]}."
            ) from error

    def instance(self, kind=None):
        """An object of a class: the one given, or the first at the mark."""
        arguments = self.items()
        function = arguments.pop(0) if kind is None else kind
        return self.call(function, tuple(arguments))

    def extension(self, size):
        """Python's registry of extensions, which is not asked."""
        number = self.number(size, signed=size == 4)
        return Inert(f"extension {number} of the pickle registry")

    def count(self, arguments):
        """Limits what calls and states copy: the memo repeats for nothing."""
        self.arguments += sum(len(v) for v in arguments if type(v) in _SIZED)
        if self.arguments > _MAX_ARGUMENTS * len(self.data):
            raise Unreadable("It would unfold to many times its own size.")

    def build(self):
        state, value = self.stack.pop(), self.stack[-1]
        if type(value) is Inert:
            return
        if isinstance(value, Pending):
            self.count(state if type(state) is tuple else (state,))
            self.stack[-1] = built = value.build(state)
            for key in value.memo_keys:
                self.memo[key] = built
            value.memo_keys.clear()
            return
        # torch's notes on a state dict ("_metadata") are passed over.
        notes = type(state) is dict and all(type(key) is str for key in state)
        if not isinstance(value, dict) or not notes:
            refuse(f"attributes of {kind_of(value)}")

    def persistent(self, identity):
        if self.persistent_load is None:
            refuse("an object from outside of its pickle")
        return self.persistent_load(identity)


def kind_of(value):
    """The name of a value, for messages; never its contents."""
    if type(value) is Name:
        return value.name
    if type(value) is Inert:
        return value.kind
    return "a mark" if value is _MARK else f"a {type(value).__name__}"


def _integer(text):
    """The value of an INT opcode; 00 and 01 are how protocol 1 says no, yes."""
    return text == "01" if text in ("00", "01") else int(text)


def _quoted(text):
    """The value of a STRING opcode: a literal of Python 2, in quotes."""
    value = ast.literal_eval(text) if text[:1] in ("'", '"') else None
    if type(value) is not str:
        raise ValueError("a text without quotes")
    return value


def as_key(value):
    """A value as a key. Containers could take for ever to hash: Inert."""
    if type(value) in _KEY_TYPES or type(value) is Inert:
        return value
    return Inert(kind_of(value))


def _store(pairs, target):
    if type(target) not in (dict, collections.OrderedDict, Inert):
        refuse(f"entries of {kind_of(target)}")
    entries = target.items if type(target) is Inert else target
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        entries[as_key(key)] = value
    return target


def _extend(values, target):
    if type(target) is list:
        target.extend(values)
    elif type(target) is not Inert:
        refuse(f"items of {kind_of(target)}")


def _add(values, target):
    if type(target) is set:
        target.update(map(as_key, values))
    elif type(target) is not Inert:
        refuse(f"members of {kind_of(target)}")
    return target


# Opcodes that push a value: what they read of the machine `m`.
_VALUES: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.NONE: lambda m: None,
    pickle.NEWTRUE: lambda m: True,
    pickle.NEWFALSE: lambda m: False,
    pickle.INT: lambda m: _integer(m.line()),
    pickle.BININT: lambda m: m.number(4, signed=True),
    pickle.BININT1: lambda m: m.number(1),
    pickle.BININT2: lambda m: m.number(2),
    pickle.LONG: lambda m: int(m.line().removesuffix("L")),
    pickle.LONG1: lambda m: m.long(1),
    pickle.LONG4: lambda m: m.long(4),
    pickle.FLOAT: lambda m: float(m.line()),
    pickle.BINFLOAT: lambda m: struct.unpack(">d", m.take(8))[0],
    # Text or bytes of Python 2 are one character a byte.
    pickle.STRING: lambda m: _quoted(m.text_line()),
    pickle.BINSTRING: lambda m: m.sized(4).decode("latin1"),
    pickle.SHORT_BINSTRING: lambda m: m.sized(1).decode("latin1"),
    pickle.UNICODE: lambda m: m.text_line("raw_unicode_escape"),
    pickle.BINUNICODE: lambda m: m.text(4),
    pickle.SHORT_BINUNICODE: lambda m: m.text(1),
    pickle.BINUNICODE8: lambda m: m.text(8),
    pickle.BINBYTES: lambda m: m.sized(4),
    pickle.SHORT_BINBYTES: lambda m: m.sized(1),
    pickle.BINBYTES8: lambda m: m.sized(8),
    pickle.BYTEARRAY8: lambda m: m.sized(8),  # read as bytes
    pickle.EMPTY_LIST: lambda m: [],
    pickle.LIST: lambda m: m.items(),
    pickle.EMPTY_TUPLE: lambda m: (),
    pickle.TUPLE: lambda m: tuple(m.items()),
    pickle.TUPLE1: lambda m: tuple(m.last(1)),
    pickle.TUPLE2: lambda m: tuple(m.last(2)),
    pickle.TUPLE3: lambda m: tuple(m.last(3)),
    pickle.EMPTY_DICT: lambda m: {},
    pickle.DICT: lambda m: _store(m.items(), {}),
    pickle.EMPTY_SET: lambda m: set(),
    # Read as a set: nothing here uses one as a key.
    pickle.FROZENSET: lambda m: _add(m.items(), set()),
    pickle.MARK: lambda m: _MARK,
    pickle.DUP: lambda m: m.stack[-1],
    pickle.GET: lambda m: m.memo[int(m.line())],
    pickle.BINGET: lambda m: m.memo[m.number(1)],
    pickle.LONG_BINGET: lambda m: m.memo[m.number(4)],
    pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.name(*m.last(2)),
    pickle.REDUCE: lambda m: m.call(*m.last(2)),
    pickle.NEWOBJ: lambda m: m.call(*m.last(2)),
    pickle.NEWOBJ_EX: lambda m: m.call(*m.last(3)),
    pickle.OBJ: lambda m: m.instance(),
    pickle.INST: lambda m: m.instance(m.name(m.line(), m.line())),
    pickle.EXT1: lambda m: m.extension(1),
    pickle.EXT2: lambda m: m.extension(2),
    pickle.EXT4: lambda m: m.extension(4),
    pickle.PERSID: lambda m: m.persistent(m.line()),
    pickle.BINPERSID: lambda m: m.persistent(m.stack.pop()),
}

# Opcodes that change the machine and push nothing.
_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    # Protocol numbers and frames say nothing that matters here.
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    pickle.POP: lambda m: m.stack.pop(),
    pickle.POP_MARK: lambda m: m.items(),
    pickle.APPEND: lambda m: _extend(m.last(1), m.stack[-1]),
    pickle.APPENDS: lambda m: _extend(m.items(), m.stack[-1]),
    pickle.SETITEM: lambda m: _store(m.last(2), m.stack[-1]),
    pickle.SETITEMS: lambda m: _store(m.items(), m.stack[-1]),
    pickle.ADDITEMS: lambda m: _add(m.items(), m.stack[-1]),
    pickle.PUT: lambda m: m.remember(int(m.line())),
    pickle.BINPUT: lambda m: m.remember(m.number(1)),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number(4)),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.BUILD: lambda m: m.build(),
}
