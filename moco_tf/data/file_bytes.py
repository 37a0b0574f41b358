"""Bytes of a file in the graph: as numbers, checks of them, what they tell."""

import numpy as np
import tensorflow as tf

from moco_tf import file_kinds

# A header may claim any size; memory is reserved before a pixel is read.
MAX_PIXELS = 89_478_485
_HEAD = 24  # bytes that tell a kind; as many as a Git LFS pointer needs
_ANY = -1
_MARKUP = file_kinds.HTML._replace(
    name="HTML or XML",
    remedy=file_kinds.HTML.remedy + " Convert it to PNG if it is a drawing.",
)


def apart(function, *kinds):
    """A function that stays one node of the graphs that call it.

    The nodes of a branch cost time where it is not taken, too.

    Args:
      function: of tensors, all scalars. kinds: their dtypes; none: a string.
    """
    return tf.function(
        function,
        [tf.TensorSpec([], kind) for kind in kinds or [tf.string]],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def read_bytes(contents, start, count):
    """Some bytes of a file, as numbers.

    Args:
      contents: string scalar, the bytes of the file.
      start: int32 scalar, position of the first; clipped to the file.
      count: int.

    Returns:
      int32 [count]; zeros beyond the end of the file.
    """
    octets = tf.io.decode_raw(
        slice_of(contents, start, count), tf.uint8, fixed_length=count
    )
    return tf.ensure_shape(tf.cast(octets, tf.int32), [count])


def slice_of(contents, start, count):
    """Some bytes of a file, as a string; fewer where the file ends.

    Args:
      contents: string scalar. start, count: int32 scalars.
    """
    start = tf.clip_by_value(start, 0, tf.strings.length(contents))
    return tf.strings.substr(contents, start, count)


def starts_with(contents, first):
    """Whether a string begins with some bytes: bool scalar."""
    return tf.equal(tf.strings.substr(contents, 0, len(first)), first)


def join_bytes(octets, little_endian=True, dtype=tf.int32):
    """Integers of several bytes each.

    Args:
      octets: int32 [..., 2 or 4], bytes. little_endian: bool scalar.
      dtype: tf.int32, where the highest bit is the sign, or tf.int64.

    Returns:
      `dtype` [...].
    """
    weights = [1 << 8 * number for number in range(octets.shape[-1])]
    weights = tf.where(
        little_endian,
        tf.constant(weights, dtype),
        tf.constant(weights[::-1], dtype),
    )
    return tf.reduce_sum(tf.cast(octets, dtype) * weights, -1)


def require(holds, *message):
    """Ops that fail unless a bool scalar holds; none where ops run at once.

    Args:
      holds: bool scalar. message: texts and scalars, of the error.
    """
    check = tf.debugging.Assert(holds, list(message))
    return [] if check is None else [check]


def check_size(height, width):
    """Ops that fail for more than MAX_PIXELS; int scalars."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return require(
        pixels <= MAX_PIXELS,
        f"An image must not have more than {MAX_PIXELS} pixels. Received",
        height,
        width,
    )


def first_fit(contents, patterns):
    """The first of some patterns that a file's first bytes fit.

    Args:
      contents: string scalar, the bytes of the file.
      patterns: list of dict: position -> byte; the last fits all files.

    Returns:
      int64 scalar, the pattern's place in the list.
    """
    width = 1 + max(position for octets in patterns for position in octets)
    wanted = np.full([len(patterns), width], _ANY, np.int32)
    for row, octets in zip(wanted, patterns, strict=True):
        row[list(octets)] = list(octets.values())
    fits = (read_bytes(contents, 0, width) == wanted) | (wanted == _ANY)
    return tf.argmax(tf.reduce_all(fits, 1))


def octets_at(*parts):
    """A pattern, dict: position -> byte, of positions and bytes in turn."""
    return {
        start + offset: octet
        for start, part in zip(parts[::2], parts[1::2], strict=True)
        for offset, octet in enumerate(part)
    }


def describe_kind(contents):
    """What a file is, and the remedy where an image was expected.

    The table is that of `file_kinds`, as far as few bytes tell a kind; a served
    encoder has no Python that could look further.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      string scalar, sentences: "a PDF. Take the pictures out of it ...".
    """
    kinds, patterns = zip(*_kinds(), strict=True)
    words = tf.constant([_sentences(kind) for kind in kinds])
    return tf.where(
        tf.strings.length(contents) == 0,
        _sentences(file_kinds.EMPTY),
        tf.gather(words, first_fit(contents, patterns)),
    )


def _sentences(kind):
    return f"{kind.name}. {kind.remedy}"


def _kinds():
    """The kinds that the first _HEAD bytes tell.

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
    patterns = [(kind, octets_at(*parts)) for kind, parts in rows]
    return [row for row in patterns if max(row[1], default=0) < _HEAD]


def _box(brand):
    return b"\0\0\0\x10ftyp" + brand + b"\0\0\0\0"
