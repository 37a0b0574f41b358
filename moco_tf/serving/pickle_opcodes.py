"""What each opcode of a pickle does to a machine; all others are refused.

The table holds the opcodes of numbers, text, containers, names and calls.
Those that reach past a table of names are not in it: INST, OBJ, NEWOBJ,
NEWOBJ_EX, EXT1, EXT2, EXT4, and out-of-band buffers.
"""

import ast
import struct


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
