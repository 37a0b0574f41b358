"""The orientation that a camera notes in a JPEG (EXIF 2.3), in the graph."""

import tensorflow as tf

from moco_tf.data import headers

UPRIGHT = 1

_SEGMENTS = 32  # that may lie before the EXIF data
_ENTRIES = 64  # of the first directory, in the order of their tags
_ORIENTATION, _SHORT = 0x0112, 3
_JFIF = (0xFF, 0xE0, 0, 16)
# Second bytes of markers.
_APPLICATION, _EXIF, _COMMENT = 0xE0, 0xE1, 0xFE


def of_file(contents):
    """Which way up the pixels of a JPEG are stored; other files are upright.

    The header of a JPEG is a row of segments: FF, a marker, a length. Those of
    applications and comments are passed over up to the EXIF data.

    Args:
      contents: string scalar, the whole file.

    Returns:
      int32 scalar, 1..8 as in EXIF; UPRIGHT (1) where it says nothing else.
    """
    # Most files have their pixels' tables right behind the JFIF header.
    octets = headers.read(contents, 2, 20)
    is_jfif = tf.reduce_all(octets[:4] == _JFIF)
    first = tf.where(is_jfif, octets[18:], octets[:2])
    return tf.cond(
        _may_precede(first), lambda: _of_segments(contents), lambda: UPRIGHT
    )


def _may_precede(octets):
    """Whether these bytes begin a segment of an application, or a comment."""
    application = tf.bitwise.bitwise_and(octets[1], 0xF0) == _APPLICATION
    return (octets[0] == 0xFF) & (application | (octets[1] == _COMMENT))


def _of_segments(contents):
    """The same, of a file whose segments are looked through."""

    def head(place):
        return [place, headers.read(contents, place, 10)]

    def holds_exif(octets):
        named = tf.reduce_all(octets[4:] == list(b"Exif\x00\x00"))
        return (octets[0] == 0xFF) & (octets[1] == _EXIF) & named

    place, octets = tf.while_loop(
        lambda _, octets: _may_precede(octets) & ~holds_exif(octets),
        lambda place, octets: head(place + 2 + 256 * octets[2] + octets[3]),
        head(2),
        maximum_iterations=_SEGMENTS,
    )
    return tf.cond(
        holds_exif(octets),
        lambda: _of_directory(contents, place + 10),
        lambda: UPRIGHT,
    )


def _of_directory(contents, start):
    """The same, of EXIF data whose TIFF header lies at `start`."""
    head = headers.read(contents, start, 8)
    little_endian = head[0] == ord("I")  # else "M"
    directory = start + headers.join(head[4:], little_endian)
    # A count, then entries of 12 bytes: tag, type, count (4), value (4).
    octets = headers.read(contents, directory, 2 + 12 * _ENTRIES)
    numbers = headers.join(tf.reshape(octets, [-1, 2]), little_endian)
    entries = tf.reshape(numbers[1:], [_ENTRIES, 6])
    wanted = tf.reduce_all(entries[:, :2] == (_ORIENTATION, _SHORT), 1)
    wanted &= tf.range(_ENTRIES) < numbers[0]
    found = tf.reduce_max(tf.where(wanted, entries[:, 4], 0))
    known = (found >= 1) & (found <= 8)
    return tf.where(known, found, UPRIGHT)


def turn_upright(image, orientation):
    """Turns the pixels of an image so that it is seen as it was taken.

    Args:
      image: uint8 [H, W, 3]. orientation: int32 scalar, 1..8.

    Returns:
      uint8 [H, W, 3], or [W, H, 3] from 5 on.
    """

    def turned():
        sides = tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2])
        # Then reversed: up and down, left and right.
        reverse = [
            tf.reduce_any(orientation == [3, 4, 7, 8]),
            tf.reduce_any(orientation == [2, 3, 6, 7]),
        ]
        return tf.reverse(
            tf.transpose(image, sides), tf.boolean_mask([0, 1], reverse)
        )

    return tf.cond(orientation == UPRIGHT, lambda: image, turned)
