"""EXIF data and XMP packets in all forms that say how a picture lies.

`cases` has the data alone; `made_jpegs` and `made_rasters` put them into files.
"""

import struct

ORIENTATION = 0x0112
# Types of entries by number: the letter of `struct`, or None for bytes.
KINDS = {
    "BYTE": (1, None),
    "ASCII": (2, None),
    "SHORT": (3, "H"),
    "LONG": (4, "I"),
    "RATIONAL": (5, "II"),
    "SBYTE": (6, "b"),
    "UNDEFINED": (7, None),
    "SSHORT": (8, "h"),
    "SLONG": (9, "i"),
    "SRATIONAL": (10, "ii"),
    "FLOAT": (11, "f"),
    "DOUBLE": (12, "d"),
    "IFD": (13, "I"),
    "unknown": (14, None),
    "LONG8": (16, "Q"),
}
PREFIX = b"Exif\0\0"
_HEADS = {"<": b"II*\0", ">": b"MM\0*"}


def entry(tag, kind, value, order, count=1):
    """An entry of a directory: (tag, number of the type, count, bytes).

    Args:
      tag: int. kind: name in KINDS.
      value: number, the first; those after it count up from 1.
      order: "<" or ">". count: int, of values.
    """
    number, letter = KINDS[kind]
    values = [value, *range(1, count)][:count]
    if letter is None:
        data = bytes(x & 255 for x in values)
    elif len(letter) == 2:  # a numerator and a denominator
        data = b"".join(struct.pack(order + letter, 2 * x, 2) for x in values)
    else:
        data = b"".join(struct.pack(order + letter, x) for x in values)
    return tag, number, count, data


def block(
    entries, order="<", *, head=None, start=8, following=0, more=b"", extra=0
):
    """EXIF data without the prefix: a header, a directory, long values.

    Args:
      entries: list of `entry`. order: "<" or ">".
      head: first four bytes, if not the usual ones.
      start: int, where the directory begins. following: int, the next one.
      more: bytes behind all. extra: int, entries that are claimed too many.
    """
    behind = start + 2 + 12 * len(entries) + 4
    rows, values = b"", b""
    for tag, number, count, data in entries:
        if len(data) > 4:
            place = struct.pack(order + "I", behind + len(values))
            values += data
        else:
            place = data.ljust(4, b"\0")
        rows += struct.pack(order + "HHI", tag, number, count) + place
    return (
        (head or _HEADS[order])
        + struct.pack(order + "I", start)
        + bytes(start - 8)
        + struct.pack(order + "H", len(entries) + extra)
        + rows
        + struct.pack(order + "I", following)
        + values
        + more
    )


def oriented(value=6, order="<", kind="SHORT", **options):
    """EXIF data of one entry, the orientation."""
    return block([entry(ORIENTATION, kind, value, order)], order, **options)


def xmp(text):
    """An XMP packet with a text in it."""
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
        + text
        + b"></rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def values():
    """Yields (name, EXIF data): all values of the usual types."""
    for order in "<>":
        for kind in ("SHORT", "LONG"):
            for value in range(1, 9):
                name = f"{kind} {value} {order}"
                yield name, oriented(value, order, kind)
        for value in (0, 9, 255, 0x0600):
            yield f"SHORT {value} {order}", oriented(value, order)
        for value in (0, 9, 6 + 2**16, 6 << 16, 6 << 24):
            yield f"LONG {value} {order}", oriented(value, order, "LONG")


def kinds():
    """Yields (name, EXIF data): all types, with several counts of values."""
    for order in "<>":
        for kind in KINDS:
            for count in (0, 1, 2, 3, 5):
                what = entry(ORIENTATION, kind, 6, order, count)
                yield f"{kind} x {count} {order}", block([what], order)
        for kind in ("SBYTE", "SSHORT", "SLONG", "SRATIONAL", "FLOAT"):
            yield f"{kind} -6 {order}", oriented(-6, order, kind)
        for kind in ("FLOAT", "DOUBLE"):
            yield f"{kind} 6.5 {order}", oriented(6.5, order, kind)
        for top, bottom in ((12, 2), (6, 0), (0, 0), (13, 2), (0, 6)):
            data = struct.pack(order + "II", top, bottom)
            what = [(ORIENTATION, 5, 1, data)]
            yield f"RATIONAL {top}/{bottom} {order}", block(what, order)
        data = struct.pack(order + "ii", -12, -2)
        yield f"SRATIONAL -12/-2 {order}", block([(274, 10, 1, data)], order)


def directories():
    """Yields (name, EXIF data): directories in other orders, or damaged."""
    six = entry(ORIENTATION, "SHORT", 6, "<")
    three = entry(ORIENTATION, "SHORT", 3, "<")
    long_six = entry(ORIENTATION, "SHORT", 6, "<", 3)
    maker = (0x010F, 2, 8, b"a maker\0")
    later = (0x9003, 2, 20, b"2026:11:30 05:19:01\0")
    unknown = (ORIENTATION, 99, 1, bytes(4))
    beyond = (ORIENTATION, 4, 1, b"\x06\0\0\0")
    yield "first of others", block([six, maker, later])
    yield "last of others", block([maker, later, six])
    yield "behind 100 entries", block([maker] * 100 + [six])
    yield (
        "behind 100 other entries",
        block([(0x8000 + x, 3, 1, b"\1\0") for x in range(100)] + [six]),
    )
    yield "behind 2000 entries", block([(1, 3, 1, b"\1\0")] * 2000 + [six])
    yield "twice, 6 first", block([six, three])
    yield "twice, 3 first", block([three, six])
    yield "an unknown type first", block([unknown, six])
    yield "none first", block([(ORIENTATION, 3, 0, b""), six])
    yield "unsorted", block([later, six, maker])
    yield "directory far behind", block([maker, six], start=500)
    yield "directory at an odd place", block([six], start=13)
    yield "directory inside the header", b"II*\0\x02\0\0\0" + bytes(20)
    yield "next directory is itself", block([six], following=8)
    second = block([six], start=26)[26:]
    yield "second directory only", block([maker], following=34, more=second)
    yield "more claimed than there are", block([maker, six], extra=9)
    yield "values out of line", block([maker, later, long_six])
    yield "values out of line, then inline", block([long_six, three])
    head, rest = block([long_six])[:18], block([long_six])[22:]
    far = struct.pack("<I", 10_000)
    yield "values beyond the end", head + far + rest
    yield "values beyond the end, then inline", (
        b"II*\0\x08\0\0\0\x02\0"
        + struct.pack("<HHI", ORIENTATION, 3, 3) + far
        + struct.pack("<HHII", ORIENTATION, 3, 1, 3) + bytes(4)
    )  # fmt: skip
    yield "a huge count", block([(ORIENTATION, 3, 2**31, b"\6\0"), three])
    big = (0x010F, 2, 30, bytes(30))
    shared = block([(0x010F + x, *big[1:]) for x in range(9)] + [long_six])
    yield "long values before it", shared
    yield "more values than bytes", _sharing(40, long_six)
    yield "more values than bytes, inline", _sharing(40, six)
    yield "the type LONG at its place", block([beyond])
    plain = block([maker, six, later])
    for size in (0, 4, 7, 8, 9, 10, 21, 22, 23, 33, 34, 35, 46, 60):
        yield f"cut to {size} bytes", plain[:size]


def _sharing(count, last):
    """Entries whose long values lie all at one place, then another entry."""
    rows = [(0x8000 + x, 2, 30, bytes(30)) for x in range(count)]
    made = bytearray(block([*rows, last]))
    place = struct.pack("<I", 10 + 12 * (count + 1) + 4)
    for row in range(count):
        made[10 + 12 * row + 8 : 10 + 12 * row + 12] = place
    return bytes(made[: len(made) - 30 * (count - 2)])


def headers():
    """Yields (name, EXIF data): other first bytes."""
    for name, order, head in (
        ("MM with bytes exchanged", ">", b"MM*\0"),
        ("II with bytes exchanged", "<", b"II\0*"),
        ("of no order", "<", b"XX*\0"),
        ("of both orders", "<", b"IM*\0"),
        ("of another number", "<", b"II+\1"),
        ("of BigTIFF", "<", b"II+\0"),
        ("of BigTIFF, big endian", ">", b"MM\0+"),
    ):
        yield name, oriented(order=order, head=head)
    yield "prefix twice", PREFIX + oriented()
    yield "prefix three times", 2 * PREFIX + oriented()


def cases():
    """Yields (group, name, EXIF data without its prefix)."""
    for made in (values, kinds, directories, headers):
        for name, data in made():
            yield made.__name__, name, data
