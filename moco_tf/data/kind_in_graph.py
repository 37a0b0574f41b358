"""The kind of a file by its first bytes, in the graph: for a refusal's words.

The table is that of `file_kinds`, as far as few bytes tell a kind; a served
encoder has no Python that could look further.
"""

import numpy as np
import tensorflow as tf

from moco_tf import file_kinds

_HEAD = 24  # bytes; as many as a Git LFS pointer needs
_ANY = -1
_MARKUP = file_kinds.HTML._replace(
    name="HTML or XML",
    remedy=file_kinds.HTML.remedy + " Convert it to PNG if it is a drawing.",
)


def describe(contents):
    """What a file is, and the remedy where an image was expected.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      string scalar, sentences: "a PDF. Take the pictures out of it ...".
    """
    rows = _patterns(_HEAD)
    wanted = np.full([len(rows), _HEAD], _ANY, np.int16)
    for row, (_, octets) in zip(wanted, rows, strict=True):
        for position, octet in octets.items():
            row[position] = octet
    head = tf.strings.substr(contents, 0, _HEAD)
    head = tf.cast(
        tf.io.decode_raw(head, tf.uint8, fixed_length=_HEAD), tf.int16
    )
    fits = tf.reduce_all((head == wanted) | (wanted == _ANY), 1)
    words = tf.constant([_sentences(kind) for kind, _ in rows])
    return tf.where(
        tf.strings.length(contents) == 0,
        _sentences(file_kinds.EMPTY),
        tf.gather(words, tf.argmax(fits)),
    )


def _sentences(kind):
    return f"{kind.name}. {kind.remedy}"


def _patterns(length):
    """The kinds that so many first bytes tell.

    Returns:
      list of (Kind, dict: position -> byte); the first that fits counts, and
      the last fits all.
    """
    rows: list[tuple] = [
        (kind, parts) for kind, *parts in file_kinds.SIGNATURES
    ]
    rows += [
        (file_kinds.kind_of(_box(brand)), (4, b"ftyp" + brand))
        for brand in file_kinds.BRANDS
    ]
    rows += [
        (file_kinds.ISO, (4, b"ftyp")),
        (file_kinds.ZIP, (0, b"PK\x03\x04")),
    ]
    rows += [(file_kinds.SVG, (0, b"<svg"))]
    rows += [
        (kind, (0, blank + first))
        for kind, first in (
            (_MARKUP, b"<"),
            (file_kinds.JSON, b"{"),
            (file_kinds.JSON, b"["),
        )
        for blank in (b"", b" ", b"\n", b"\r\n", b"\xef\xbb\xbf")
    ]
    rows += [
        (file_kinds.NETPBM, (0, b"P%d%b" % (number, blank)))
        for number in range(1, 7)
        for blank in (b"\n", b" ")
    ]
    rows += [(file_kinds.UNKNOWN, ())]
    found = []
    for kind, parts in rows:
        octets = {
            start + offset: octet
            for start, part in zip(parts[::2], parts[1::2], strict=True)
            for offset, octet in enumerate(part)
        }
        if max(octets, default=0) < length:
            found.append((kind, octets))
    return found


def _box(brand):
    return b"\0\0\0\x10ftyp" + brand + b"\0\0\0\0"
