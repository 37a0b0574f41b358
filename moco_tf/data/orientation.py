"""How a picture lies, by EXIF data or an XMP packet, in the graph.

What is turned is what Pillow's `ImageOps.exif_transpose` turns, of whatever
type and wherever the orientation is noted; what it leaves is left.
`metadata` takes the data out of files.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data import file_bytes

UPRIGHT = 1  # of EXIF's orientations, 1..8
PREFIX = b"Exif\0\0"
_TAG = 0x0112
# The usual ones; with the number reversed; one that Pillow takes for usual.
_HEADS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"MM\0+")
_ENTRY = 12  # bytes

# The types of values, with the bytes of one; 0: unknown.
_UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 0)
_WHOLE_1, _WHOLE_2, _WHOLE_4, _WHOLE_8 = (6,), (3, 8), (4, 9, 13), (16,)
_RATIO, _SIGNED_RATIO, _FLOAT, _DOUBLE = 5, 10, 11, 12
# The numbers 0..8 as they are stored.
_FLOATS = np.arange(9, dtype=np.float32).view(np.uint32).astype(np.int64)
_DOUBLES = (np.arange(9, dtype=np.float64).view(np.uint64) >> 32).astype(
    np.int64
)
_IN_XMP = r"^\C*?tiff:Orientation(?:=\"|>)([0-9])\C*$"


class _Directory(NamedTuple):
    """The entries of a directory.

    Attributes:
      tags, kinds: int32 [n]. sizes, offsets: int64 [n], bytes of their values,
        and where they lie unless they are in the entry. inline: bool [n].
      places: int64 [n], of the first byte of the values.
    """

    tags: tf.Tensor
    kinds: tf.Tensor
    sizes: tf.Tensor
    inline: tf.Tensor
    places: tf.Tensor


def of(exif, xmp):
    """The orientation in the metadata of a file.

    Args:
      exif: string scalar, EXIF data, with its prefix or without; "" = none.
      xmp: string scalar, an XMP packet, which counts where the EXIF data have
        no orientation; "" = none.

    Returns:
      int32 scalar, 1..8 as in EXIF; UPRIGHT (1) where there is none.
    """
    return tf.cond(
        (exif == b"") & (xmp == b""),
        lambda: UPRIGHT,
        lambda: _noted(exif, xmp),
    )


def _orientation(exif, xmp):
    exif = tf.where(
        file_bytes.starts_with(exif, PREFIX),
        file_bytes.slice_of(exif, len(PREFIX), tf.strings.length(exif)),
        exif,
    )
    head = tf.strings.substr(exif, 0, 4)
    known = (tf.strings.length(exif) >= 8) & tf.reduce_any(head == _HEADS)
    noted, value = _in_exif(exif)
    # What is no EXIF data is an error of Pillow's, which then turns nothing.
    value = tf.where(known & noted, value, 0)
    silent = (exif == b"") | (known & ~noted)
    value = tf.cond(silent & (xmp != b""), lambda: _in_xmp(xmp), lambda: value)
    return tf.where((value >= 1) & (value <= 8), value, UPRIGHT)


_noted = file_bytes.apart(_orientation, tf.string, tf.string)


def _in_xmp(xmp):
    """The first orientation that a packet notes, int32; 0 = none."""
    digit = tf.strings.regex_replace(xmp, _IN_XMP, r"\1")
    digit = tf.where(tf.strings.length(digit) == 1, digit, "0")
    known = tf.strings.regex_full_match(digit, "[0-9]")
    return tf.strings.to_number(tf.where(known, digit, "0"), tf.int32)


def _in_exif(data):
    """Whether EXIF data note an orientation, bool, and its value, int32."""
    little_endian = file_bytes.starts_with(data, b"I")
    directory = _read_directory(data, little_endian)
    stored = _stored(directory, tf.cast(tf.strings.length(data), tf.int64))
    stored &= directory.tags == _TAG
    entry = tf.argmax(tf.concat([stored, [True]], 0))  # the first, or none
    place = tf.concat([directory.places, [0]], 0)[entry]
    kind = tf.concat([directory.kinds, [0]], 0)[entry]
    octets = file_bytes.read_bytes(data, tf.cast(place, tf.int32), 8)
    return tf.reduce_any(stored), _value(octets, kind, little_endian)


def _read_directory(data, little_endian):
    """The first directory of EXIF data: as many entries as there are."""
    size = tf.strings.length(data)
    place = file_bytes.read_bytes(data, 4, 4)
    start = file_bytes.join_bytes(place, little_endian)
    start = tf.where((start < 0) | (start > size), size, start)
    count = file_bytes.read_bytes(data, start, 2)
    count = file_bytes.join_bytes(count, little_endian)
    count = tf.minimum(count, tf.maximum(size - start - 2, 0) // _ENTRY)
    rows = file_bytes.slice_of(data, start + 2, _ENTRY * count)
    octets = tf.reshape(tf.io.decode_raw(rows, tf.uint8), [count, _ENTRY])
    octets = tf.cast(octets, tf.int32)
    pairs = tf.reshape(octets[:, :4], [count, 2, 2])
    tags, kinds = tf.unstack(
        file_bytes.join_bytes(pairs, little_endian), axis=1
    )
    fours = tf.reshape(octets[:, 4:], [count, 2, 4])
    counts, offsets = tf.unstack(
        file_bytes.join_bytes(fours, little_endian, tf.int64), axis=1
    )
    units = tf.gather(_UNITS, tf.minimum(kinds, len(_UNITS) - 1))
    sizes = counts * tf.cast(units, tf.int64)
    inline = sizes <= 4
    first = tf.cast(start + 2 + 8 + _ENTRY * tf.range(count), tf.int64)
    return _Directory(
        tags, kinds, sizes, inline, tf.where(inline, first, offsets)
    )


def _stored(directory, size):
    """Which entries Pillow keeps, bool [n].

    Of a tag the first with a value; of the values that are not in their
    entries as many as are no longer than all data together, and none behind
    one that the data are too short for.

    Args:
      directory: _Directory. size: int64 scalar, bytes of the data.
    """
    with_value = directory.sizes > 0
    count = tf.size(directory.tags)
    numbers = tf.range(count)
    _, tag = tf.unique(directory.tags)
    firsts = tf.math.unsorted_segment_min(
        tf.where(with_value, numbers, count), tag, count
    )
    counted = ~directory.inline & (tf.gather(firsts, tag) == numbers)
    lengths = tf.where(counted, directory.sizes, 0)
    fits = tf.cumsum(lengths) <= size
    cut = counted & fits & (directory.places + directory.sizes > size)
    before = tf.cumsum(tf.cast(cut, tf.int32)) == 0
    return with_value & (directory.inline | fits) & before


def _value(octets, kind, little_endian):
    """A value as a whole number, int32; 0 where it is none of 1..8.

    Args:
      octets: int32 [8], from its first byte. kind: int32, its type.
    """

    def join(count):
        octet = octets[:count]
        return file_bytes.join_bytes(octet, little_endian, tf.int64)

    one, two, four = tf.cast(octets[0], tf.int64), join(2), join(4)
    behind = file_bytes.join_bytes(octets[4:], little_endian, tf.int64)
    low = tf.where(little_endian, four, behind)
    high = tf.where(little_endian, behind, four)

    def is_of(kinds):
        return tf.reduce_any(kind == kinds)

    def ratio(top, bottom):
        below = tf.where(bottom == 0, tf.ones_like(bottom), bottom)
        whole = (bottom != 0) & (top % below == 0)
        return tf.where(whole, top // below, 0)

    def signed(number):
        return tf.where(number >= 2**31, number - 2**32, number)

    def position(number, table):  # 0 where it is not in the table
        return tf.argmax(number == table)

    values = (
        (_WHOLE_1, one),
        (_WHOLE_2, two),
        (_WHOLE_4, four),
        (_WHOLE_8, tf.where(high == 0, low, 0)),
        ((_RATIO,), ratio(four, behind)),
        ((_SIGNED_RATIO,), ratio(signed(four), signed(behind))),
        ((_FLOAT,), position(four, _FLOATS)),
        ((_DOUBLE,), tf.where(low == 0, position(high, _DOUBLES), 0)),
    )
    value = sum(tf.where(is_of(kinds), x, 0) for kinds, x in values)
    return tf.cast(tf.clip_by_value(value, 0, 9), tf.int32)


def turn_upright(image, orientation):
    """Turns an image by its orientation, so that up is up.

    Args:
      image: uint8 [H, W, 3]. orientation: int32 scalar, 1..8.

    Returns:
      uint8 [H, W, 3], or [W, H, 3] from 5 on.
    """

    return tf.cond(
        orientation == UPRIGHT,
        lambda: image,
        lambda: _turned(image, orientation),
    )


@tf.function(
    input_signature=[
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([], tf.int32),
    ],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _turned(image, orientation):
    sides = tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2])
    # Then reversed: up and down, left and right.
    reverse = [
        tf.reduce_any(orientation == [3, 4, 7, 8]),
        tf.reduce_any(orientation == [2, 3, 6, 7]),
    ]
    return tf.reverse(
        tf.transpose(image, sides), tf.boolean_mask([0, 1], reverse)
    )
