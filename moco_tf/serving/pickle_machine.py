"""A pickle reader that imports nothing and calls only what it is given.

Python's own unpickler acts on a file's word: it imports modules, calls what it
finds there, sets attributes. This one knows the opcodes that numbers, text and
containers need; a name in the file stands for an entry of a table or is
refused. Files of every protocol, 0 to 5, are read.
"""

import collections
import pickletools
from typing import NoReturn

from moco_tf.serving import pickle_opcodes
from moco_tf.serving.pickle_objects import (
    Constructor,
    Marker,
    Pending,
    Unreadable,
    refuse,
)

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
            action = pickle_opcodes.ACTIONS.get(code)
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
