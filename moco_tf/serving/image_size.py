"""The size of an image by its header, as the decoder will read it.

A limit that reads sizes otherwise than the decoder can be passed: by chunks in
front of the header, by a canvas around a small frame. So this reads what
`moco_tf.data.decode` reads; a test compares the two.
"""

import struct

import tensorflow as tf

_UNKNOWN = (0, 0)  # the decoder refuses the file too
_EXTENSION, _FRAME, _END = 0x21, 0x2C, 0x3B  # between the blocks of a GIF


def of_file(data):
    """Height and width of an encoded image, in pixels as they are stored.

    Args:
      data: bytes of a file.

    Returns:
      two int; 0, 0 for what the decoder cannot read.
    """
    for first, read in _READERS.items():
        if data.startswith(first):
            try:
                return read(data)
            except (struct.error, IndexError, tf.errors.OpError):
                return _UNKNOWN  # the header is cut or damaged
    return _UNKNOWN


def _of_jpeg(data):
    # The decoder asks the same library.
    height, width, _ = tf.image.extract_jpeg_shape(data).numpy()
    return int(height), int(width)


def _of_png(data):
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _of_bmp(data):
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), abs(width)


def _of_gif(data):
    """The size of the canvas, which grows with the first frame."""
    position = 13 + _gif_table(data[10])
    while data[position] != _FRAME:
        if data[position] == _END:
            return _UNKNOWN
        is_extension = data[position] == _EXTENSION
        position += 2 if is_extension else 1  # or a stray byte
        while is_extension and data[position]:  # parts that begin with a length
            position += 1 + data[position]
        position += is_extension
    width, height = struct.unpack_from("<HH", data, 6)
    left, top, *frame = struct.unpack_from("<HHHH", data, position + 1)
    return max(height, top + frame[1]), max(width, left + frame[0])


def _gif_table(flags):
    """Bytes of a GIF's table of colours."""
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0


_READERS = {
    b"\xff\xd8\xff": _of_jpeg,
    b"\x89PNG\r\n\x1a\n": _of_png,
    b"GIF8": _of_gif,
    b"BM": _of_bmp,
}
