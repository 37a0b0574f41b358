"""EXIF data and XMP packets in JPEG and PNG files, found in the graph.

Both formats are rows of parts with their lengths; the rows are followed to
their ends as Pillow follows them.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data import file_bytes, orientation

_PARTS = 256  # of a file that are followed at least
_PART_BYTES = 1024  # of a longer file, for each further part

# JPEG: the bytes from a marker to what follows it, or one of these.
_STOP, _LENGTH = 0, -1  # what is looked at one by one; a length of two bytes
_SCAN, _EXIF_MARKER, _FIRST_MARKER = 0xDA, 0xE1, 0xC0
_WINDOW = 1024  # bytes, as long as most headers
_JUMPS = 4  # 2 ** 4 segments in a window
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"

# PNG.
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_CHUNK = 12  # bytes of a chunk beside its data
_MAX_ALIKE = 4096  # chunks that are passed over at once
_MAX_PACKED = 2**16  # bytes; unpacked it has at most some thousand times that
_XMP_KEY = b"XML:com.adobe.xmp\0"
_RAW_KEY = b"Raw profile type exif\0"
_EXIF_KEY = b"exif\0"
_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")


class Metadata(NamedTuple):
    """What a file says of itself beside its pixels.

    Attributes:
      orientation: int32 scalar, 1..8 as in EXIF.
      followed: bool scalar; False: it has too many parts to be followed in
        the graph, and the orientation is not known.
      contents: string scalar, the file, with what is missing at its end where
        it is known.
    """

    orientation: tf.Tensor
    followed: tf.Tensor
    contents: tf.Tensor


def _marker_steps():
    """int32 [256]: bytes to go on by the second byte of a marker."""
    steps = np.full(256, _STOP)
    steps[_FIRST_MARKER:0xFF] = _LENGTH
    steps[[0x00, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)]] = 2  # alone
    steps[0xFF] = 1  # a fill byte
    steps[[_SCAN, _EXIF_MARKER]] = _STOP
    return steps.astype(np.int32)


_STEPS = _marker_steps()


def _budget(contents):
    return _PARTS + tf.strings.length(contents) // _PART_BYTES


def of_jpeg(contents):
    """Follows the segments of a JPEG up to its scan.

    Segments may stand in any order, with fill bytes and stray ones between.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      Metadata.
    """
    stored, followed = tf.cond(
        is_plain_jpeg(contents),
        lambda: (orientation.UPRIGHT, True),
        lambda: _in_segments(contents),
    )
    return Metadata(stored, followed, contents)


def is_plain_jpeg(contents):
    """Whether a JPEG has a short header without metadata: bool scalar."""
    return _is_scan(_next_stop(contents, 2)[1])


def _is_scan(octets):
    return (octets[0] == 0xFF) & (octets[1] == _SCAN)


def _follow_segments(contents):
    """The orientation and `followed` of the Metadata of a JPEG."""
    size = tf.strings.length(contents)

    def goes_on(position, octets, left, exif, xmp):
        return ~_is_scan(octets) & (position < size) & (left > 0)

    def follow(position, octets, left, exif, xmp):
        length = tf.maximum(256 * octets[2] + octets[3], 2)
        is_marker = octets[0] == 0xFF
        exif, xmp = tf.cond(
            is_marker & (octets[1] == _EXIF_MARKER),
            lambda: _collect(contents, position + 4, length - 2, exif, xmp),
            lambda: [exif, xmp],
        )
        step = tf.gather(_STEPS, octets[1])
        # Markers below the first end the file, for Pillow too.
        is_known = octets[1] >= _FIRST_MARKER
        far = tf.where(is_known, 2 + length, size)
        step = tf.where(is_marker, tf.where(step > 0, step, far), 1)
        stop = _next_stop(contents, tf.minimum(position + step, size))
        return [*stop, left - 1, exif, xmp]

    stop = _next_stop(contents, tf.constant(2))
    _, _, left, exif, xmp = tf.while_loop(
        goes_on, follow, [*stop, _budget(contents), b"", b""]
    )
    return orientation.of(exif, xmp), left > 0


_in_segments = file_bytes.apart(_follow_segments)


def _next_stop(contents, start):
    """Passes over segments that say nothing here, some at a time.

    A loop of small steps would cost more than decoding a small image.

    Args:
      contents: string scalar. start: int32 scalar.

    Returns:
      the position of the next segment that is to be looked at, or that leads
      far away, and its first 4 bytes, int32.
    """
    octets = file_bytes.read_bytes(contents, start, _WINDOW + 4)
    first, second, third, fourth = (octets[i : i + _WINDOW] for i in range(4))
    steps = tf.where(first == 0xFF, tf.gather(_STEPS, second), 1)
    lengths = 2 + tf.maximum(256 * third + fourth, 2)
    here = tf.range(_WINDOW)
    following = here + tf.where(steps == _LENGTH, lengths, steps)
    following = tf.where(following < _WINDOW, following, here)
    for _ in range(_JUMPS):
        following = tf.gather(following, following)
    stop = following[0]
    return [start + stop, tf.ensure_shape(octets[stop : stop + 4], [4])]


def _collect(contents, start, length, exif, xmp):
    """EXIF data, of several segments in a row, and the last XMP packet."""
    payload = file_bytes.slice_of(contents, start, length)

    def behind(prefix):
        return file_bytes.slice_of(payload, len(prefix), length)

    is_exif = file_bytes.starts_with(payload, orientation.PREFIX)
    is_xmp = file_bytes.starts_with(payload, _XMP_PREFIX)
    return [
        exif + tf.where(is_exif, behind(orientation.PREFIX), b""),
        tf.where(is_xmp, behind(_XMP_PREFIX), xmp),
    ]


def of_png(contents):
    """Follows the chunks of a PNG to its end, or to its second frame.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      Metadata; `contents` ends behind the first frame. A file that is cut
      inside another chunk than the last counts as not followed.
    """
    return tf.cond(
        is_plain_png(contents),
        lambda: Metadata(orientation.UPRIGHT, True, contents),
        lambda: Metadata(*_in_chunks(contents)),
    )


def is_plain_png(contents):
    """Whether a PNG has a header, one chunk of pixels and an end, no more."""
    octets = file_bytes.read_bytes(contents, 12, 29)
    is_header = tf.reduce_all(octets[:4] == list(b"IHDR"))
    is_pixels = tf.reduce_all(octets[25:] == list(b"IDAT"))
    pixels = file_bytes.join_bytes(octets[21:25], little_endian=False)
    size = tf.strings.length(contents)
    is_end = file_bytes.slice_of(contents, size - _CHUNK, _CHUNK) == _PNG_END
    whole = 33 + 2 * _CHUNK + pixels == size
    return is_header & is_pixels & whole & is_end


class _Chunks(NamedTuple):
    """Where the reader of a PNG's chunks is, and what it has found."""

    position: tf.Tensor
    kind: tf.Tensor  # string, of the chunk there
    left: tf.Tensor  # chunks that may still be followed
    has_pixels: tf.Tensor
    is_animated: tf.Tensor
    has_exif: tf.Tensor
    exif: tf.Tensor
    raw: tf.Tensor  # EXIF data as hex digits, of a text
    xmp: tf.Tensor


def _follow_chunks(contents):
    size = tf.strings.length(contents)
    octets = tf.io.decode_raw(contents, tf.uint8)

    def kind_at(position):
        return file_bytes.slice_of(contents, position + 4, 4)

    def goes_on(chunks):
        is_there = chunks.position + 8 < size
        return ~_is_last(chunks) & is_there & (chunks.left > 0)

    def follow(chunks):
        length = file_bytes.join_bytes(
            file_bytes.read_bytes(contents, chunks.position, 4), False
        )
        rest = size - chunks.position - _CHUNK
        is_cut = (length < 0) | (length > rest)
        chunks = tf.cond(
            ~is_cut & tf.reduce_any(chunks.kind == _TEXTS),
            lambda: _read_text(contents, chunks, length),
            lambda: chunks,
        )
        times = tf.cond(
            (chunks.kind == b"IDAT") & ~is_cut,
            lambda: _alike(octets, chunks.position, length),
            lambda: 1,
        )
        position = chunks.position + times * (_CHUNK + length)
        position = tf.where(is_cut, size + 1, position)
        return [
            chunks._replace(
                position=position,
                kind=kind_at(position),
                left=chunks.left - 1,
                has_pixels=chunks.has_pixels | (chunks.kind == b"IDAT"),
                is_animated=chunks.is_animated | (chunks.kind == b"acTL"),
            )
        ]

    start = tf.constant(8)
    no, nothing = tf.constant(False), tf.constant(b"")
    first = _Chunks(
        start, kind_at(start), _budget(contents), no, no, no, *[nothing] * 3
    )
    (chunks,) = tf.while_loop(goes_on, follow, [first])
    return _finish(contents, chunks)


_in_chunks = file_bytes.apart(_follow_chunks)


def _is_last(chunks):
    """Whether the chunk at the position is the end, or of a second frame."""
    is_frame = chunks.has_pixels & chunks.is_animated
    return (chunks.kind == b"IEND") | (is_frame & (chunks.kind == b"fcTL"))


def _finish(contents, chunks):
    """The fields of Metadata of a PNG whose chunks were followed."""
    exif = tf.cond(
        chunks.has_exif | (chunks.raw == b""),
        lambda: chunks.exif,
        lambda: _from_digits(chunks.raw),
    )
    rest = file_bytes.slice_of(contents, chunks.position, _CHUNK)
    end = tf.strings.substr(_PNG_END, 0, tf.strings.length(rest))
    is_inside = chunks.position <= tf.strings.length(contents)
    is_whole = _is_last(chunks) | (is_inside & (rest == end))
    contents = tf.cond(
        is_whole & ~(rest == _PNG_END),
        lambda: tf.strings.substr(contents, 0, chunks.position) + _PNG_END,
        lambda: contents,
    )
    return Metadata(
        orientation.of(exif, chunks.xmp), (chunks.left > 0) & is_whole, contents
    )


def _alike(octets, position, length):
    """How many chunks of one kind and length lie side by side, int32.

    Many programs write the pixels in chunks of some kilobytes.

    Args:
      octets: uint8 [n], of the file. position: int32 scalar, of the first
        chunk. length: int32 scalar, bytes of its data, which are all there.
    """
    step = _CHUNK + length
    count = tf.minimum((tf.size(octets) - position) // step, _MAX_ALIKE)
    places = position + step * tf.range(count)
    heads = tf.gather(octets, places[:, tf.newaxis] + tf.range(8))
    same = tf.reduce_all(heads == heads[0], 1)
    differs = tf.concat([~same, [True]], 0)
    return tf.argmax(differs, output_type=tf.int32)


def _read_text(contents, chunks, length):
    """The chunks with what a chunk of text or EXIF data says."""
    data = file_bytes.slice_of(contents, chunks.position + 8, length)
    kind = chunks.kind
    is_exif = kind == b"eXIf"
    is_plain = kind == b"tEXt"

    def is_about(key):
        return ~is_exif & file_bytes.starts_with(data, key)

    def behind(count):
        return file_bytes.slice_of(data, count, length)

    is_xmp, is_raw = is_about(_XMP_KEY), is_about(_RAW_KEY)
    is_raw &= kind != b"iTXt"
    is_text_exif = is_plain & is_about(_EXIF_KEY)
    key = tf.where(is_xmp, len(_XMP_KEY), len(_RAW_KEY))
    text, readable = tf.cond(
        is_xmp | is_raw,
        lambda: _unpack(behind(key), kind),
        lambda: [b"", True],
    )
    return chunks._replace(
        left=tf.where(readable, chunks.left, 0),
        has_exif=chunks.has_exif | is_exif | is_text_exif,
        exif=tf.cond(
            is_exif | is_text_exif,
            lambda: behind(tf.where(is_exif, 0, len(_EXIF_KEY))),
            lambda: chunks.exif,
        ),
        raw=tf.where(is_raw, text, chunks.raw),
        xmp=tf.where(is_xmp, text, chunks.xmp),
    )


def _unpack(data, kind):
    """The text behind a chunk's key, and whether it is short enough to read.

    Args:
      data: string scalar. kind: string scalar, b"tEXt", b"zTXt" or b"iTXt".
    """
    size = tf.strings.length(data)
    is_international = kind == b"iTXt"
    # A flag and the method; then the language and the key's translation.
    flag = file_bytes.starts_with(data, b"\1")
    text = tf.strings.regex_replace(data, r"^\C\C[^\0]*\0[^\0]*\0", "")
    text = tf.where(is_international, text, data)
    is_packed = tf.where(is_international, flag, kind == b"zTXt")
    skipped = tf.where(kind == b"zTXt", 1, 0)
    packed = file_bytes.slice_of(text, skipped, size)
    readable = ~is_packed | (size <= _MAX_PACKED)
    text = tf.cond(
        is_packed & readable,
        lambda: tf.io.decode_compressed(packed, "ZLIB"),
        lambda: text,
    )
    return [text, readable]


_DIGITS = np.full(256, -1, np.int32)  # no digit
_DIGITS[list(b" \t\n\r\v\f")] = -2  # left out
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _DIGITS[list(_digits)] = np.arange(16)
_BYTES = [bytes([number]) for number in range(256)]


def _from_digits(text):
    """The bytes that a text of hex digits behind three lines stands for."""
    lines = tf.strings.regex_replace(text, r"^(?:[^\n]*\n){3}", "")
    is_long = tf.strings.length(lines) < tf.strings.length(text)
    octets = tf.io.decode_raw(lines, tf.uint8)
    digits = tf.gather(_DIGITS, tf.cast(octets, tf.int32))
    is_wrong = tf.reduce_any(digits == -1)
    digits = tf.boolean_mask(digits, digits >= 0)
    pairs = tf.reshape(digits[: tf.size(digits) // 2 * 2], [-1, 2])
    values = 16 * pairs[:, 0] + pairs[:, 1]
    is_wrong |= tf.size(digits) % 2 == 1
    data = tf.strings.reduce_join(tf.gather(_BYTES, values))
    # What is no EXIF data says nothing, as an error of Pillow's does.
    wrong = tf.where(is_wrong, b"no digits", data)
    return tf.where(is_long, wrong, b"")
