"""Encoded bytes → uint8 RGB images, where the host may run Python.

The decoder of training, evaluation and the doctor, for the formats of served
encoders (`decode`) with the same pixels, and for WebP, TIFF and rare forms of
the others. The graph reads all JPEGs, and PNGs without metadata; Pillow reads
the rest, and how a photograph with metadata lies. So the graph is small: all of
it is paid for in every data set.
"""

import io

import numpy as np
import tensorflow as tf
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from moco_tf import file_kinds
from moco_tf.data import decode as in_graph
from moco_tf.data import file_bytes, metadata, orientation

FORMATS = in_graph.FORMATS + ("WebP", "TIFF")
FORMAT_NAMES = "JPEG, PNG, GIF, BMP, WebP or TIFF"
_JPEG, _PNG = FORMATS.index("JPEG"), FORMATS.index("PNG")
# Pillow's readers, by name, so that no other is tried.
_READERS = [
    reader.format
    for reader in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        WebPImagePlugin.WebPImageFile,
        TiffImagePlugin.TiffImageFile,
    )
]
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # modes of 16 bits
WITHOUT_SCALE = ("I", "F")
_UPRIGHT = np.int32(orientation.UPRIGHT)
_UNUSUAL = np.int32(0)
# Markers of a JPEG: a scan, EXIF or XMP, frames that are decoded, and segments
# that are passed over: tables, a comment, data of applications.
_SCAN, _EXIF, _FRAMES = b"\xda", b"\xe1", (b"\xc0", b"\xc1", b"\xc2")
_PASSED = [bytes([x]) for x in (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))]
_NO_SHAPE = (0, 0, 0)
_TURNS = {  # what brings an image upright, by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(contents):
    """Decodes a file of one of FORMATS, recognised by its first bytes.

    As `moco_tf.data.decode.decode`; of a TIFF the first page is read.

    Args:
      contents: string scalar, the bytes of the file.

    Returns:
      uint8 [H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: when run, for an empty, truncated or
        damaged file, another format, or more than MAX_PIXELS.
    """
    return decode_and_look(contents)[0]


def decode_and_look(contents):
    """Decodes as `decode`, and says how the image was stored.

    Returns:
      uint8 [H, W, 3], upright, and the orientation that it was turned by,
      int32 scalar, 1..8 as in EXIF.
    """
    if tf.executing_eagerly():
        return _decode(contents)
    return _traced_once(contents)


def _decode(contents):
    (stored,) = _call(_orientation_if_usual, [contents], [tf.int32])
    stored = tf.ensure_shape(stored, [])
    # Few nodes for what nearly all files are: each costs time for each image.
    decode_any = _decode_any if tf.executing_eagerly() else _any
    image, stored = tf.cond(
        stored > 0,
        lambda: (_decode_usual(contents, stored), stored),
        lambda: decode_any(contents),
    )
    return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(stored, [])


def _decode_usual(contents, stored):
    image = tf.io.decode_jpeg(
        contents, channels=3, dct_method=in_graph.DCT_METHOD
    )
    return orientation.turn_upright(image, stored)


def _decode_any(contents):
    number = in_graph.format_of(contents)
    is_plain_png = (number == _PNG) & metadata.is_plain_png(contents)
    way = tf.where(number == _JPEG, 0, tf.where(is_plain_png, 1, 2))
    return tf.switch_case(
        way,
        [
            lambda: _decode_jpeg(contents),
            lambda: _decode_plain_png(contents),
            lambda: _decode_on_host(contents),
        ],
    )


_any = file_bytes.apart(_decode_any)
_traced_once = tf.function(
    _decode, [tf.TensorSpec([], tf.string)], autograph=False
)


def _decode_jpeg(contents):
    image = in_graph.jpeg_pixels(contents)
    (stored,) = tf.cond(
        metadata.is_plain_jpeg(contents),
        lambda: [tf.constant(_UPRIGHT)],
        lambda: _call(_read_orientation, [contents], [tf.int32]),
    )
    stored = tf.ensure_shape(stored, [])
    return orientation.turn_upright(image, stored), stored


def _orientation_if_usual(contents):
    """How a JPEG of one or three colours lies, int32, 1..8 as in EXIF.

    0: another file, or one whose header is not a plain row of segments, or too
    large: that is left to `_decode_any`.
    """
    shape, has_exif = _header_of(contents)
    height, width, colours = shape
    if height * width > file_bytes.MAX_PIXELS or colours not in (1, 3):
        return [_UNUSUAL]
    return _read_orientation(contents) if has_exif else [_UPRIGHT]


def _header_of(contents):
    """Follows the segments of a JPEG up to its scan.

    Returns:
      height, width and colours, zeros where it is not a row of segments; and
      whether one of them may have metadata.
    """
    shape, has_exif, place = _NO_SHAPE, False, 2
    if contents[:3] != b"\xff\xd8\xff":
        return _NO_SHAPE, False
    while (segment := contents[place : place + 10])[:1] == b"\xff":
        marker, length = segment[1:2], int.from_bytes(segment[2:4], "big")
        if marker == _SCAN:
            return shape, has_exif
        if marker in _FRAMES and shape == _NO_SHAPE and len(segment) == 10:
            height = int.from_bytes(segment[5:7], "big")
            width = int.from_bytes(segment[7:9], "big")
            shape = height, width, segment[9]
        elif marker not in _PASSED or length < 2:
            break
        has_exif = has_exif or marker == _EXIF
        place += 2 + length
    return _NO_SHAPE, False


def _decode_plain_png(contents):
    octets = tf.reshape(file_bytes.read_bytes(contents, 16, 8), [2, 4])
    width, height = tf.unstack(file_bytes.join_bytes(octets, False))
    with tf.control_dependencies(file_bytes.check_size(height, width)):
        image = tf.io.decode_png(contents, channels=3)
    return image, tf.constant(_UPRIGHT)


def _decode_on_host(contents):
    image, stored, refusal = _call(
        _read_or_refuse,
        [contents],
        [tf.uint8, tf.int32, tf.string],
    )
    with tf.control_dependencies(file_bytes.require(refusal == "", refusal)):
        return tf.identity(image), stored


def _call(function, texts, kinds):
    """Calls a function of bytes in a graph, or at once.

    Args:
      function: of bytes -> list of arrays. texts: list of string scalars.
      kinds: list of dtypes.

    Returns:
      list of tensors.
    """
    if tf.executing_eagerly():
        # The platform would hand arrays over, which lose zeros at their ends.
        texts = [tf.convert_to_tensor(text).numpy() for text in texts]
        return [tf.constant(x) for x in function(*texts)]
    return tf.numpy_function(function, texts, kinds, stateful=False)


def _read_or_refuse(contents):
    """Pixels, orientation and no text, or no pixels and the reason."""
    nothing = np.zeros([0, 0, 3], np.uint8)
    kind = file_kinds.kind_of(contents[: file_kinds.HEAD])
    try:
        return [*_read(contents), ""]
    except _Refused as error:
        text = str(error)
    except UnidentifiedImageError:  # whose own text is another each time
        text = (
            f"An image must be a {FORMAT_NAMES}. Received {kind.name}. "
            f"{kind.remedy}"
        )
        if file_kinds.is_one_of(kind, FORMATS):
            text = f"This is {kind.name}, and its header is damaged."
    except Exception as error:  # of any kind: Pillow's readers raise many
        text = f"This is {kind.name}, and damaged: {error}"
    return [nothing, _UPRIGHT, " ".join(text.replace("'", '"').split())]


class _Refused(ValueError):
    """A file that is not decoded, with the reason in plain words."""


def _read(contents):
    """Decodes one file with Pillow: its pixels upright, its orientation."""
    if contents[12:16] == b"CgBI":
        raise _Refused(in_graph.OF_APPLE)
    with _open(contents) as image:
        if image.width * image.height > file_bytes.MAX_PIXELS:
            raise _Refused(
                f"An image must not have more than {file_bytes.MAX_PIXELS} "
                f"pixels. Received {image.width} x {image.height}."
            )
        if image.mode in WITHOUT_SCALE:
            raise _Refused(
                "Pixels must have 1 to 16 bits a channel. Received 32 bits or "
                "real numbers, which have no scale. Convert them to 16 bits."
            )
        if image.format != "TIFF":  # which is turned when it is loaded
            image.load()
        stored = _orientation_of(image)
        image.load()
        upright = turned_upright(image)
        if upright.mode in DEEP:
            # Deviation: Pillow's conversion makes all above 255 white.
            deep = np.asarray(upright)
            upright = Image.fromarray((deep >> 8).astype(np.uint8))
        return np.asarray(upright.convert("RGB")), stored


def _with_three_colours(contents):
    """A BMP of two colours as one that claims three, of which it uses two.

    Pillow takes 4 or 8 bits a pixel for one if the two are black and white.
    """
    if contents[:2] != b"BM" or contents[14:18] == b"\x0c\0\0\0":
        return contents
    bits, colours = contents[28:30], contents[46:50]
    if bits not in (b"\4\0", b"\x08\0") or colours != b"\2\0\0\0":
        return contents
    return contents[:46] + b"\3\0\0\0" + contents[50:]


def _open(contents):
    """The file as an opened PIL image, of which only the header is read."""
    contents = _with_three_colours(contents)
    try:
        return Image.open(io.BytesIO(contents), formats=_READERS)
    except Image.DecompressionBombError:
        raise _Refused(
            f"An image must not have more than {file_bytes.MAX_PIXELS} pixels."
        ) from None


def _read_orientation(contents):
    try:
        with _open(contents) as image:
            return [_orientation_of(image)]
    except Exception:  # of any kind: the graph decodes the file, or refuses it
        return [_UPRIGHT]


def _orientation_of(image):
    """The orientation that Pillow turns an opened image by, int32, 1..8."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of any kind: the pixels are there, so they are taken
        return _UPRIGHT
    # Of any type, as Pillow has it: 6.0 and 12/2 are 6.
    return np.int32(value if value in range(1, 9) else _UPRIGHT)


def turned_upright(image):
    """An image of PIL, loaded, as its orientation says.

    `ImageOps.exif_transpose` also writes the metadata anew, which fails where
    a part of them that does not matter here is damaged.
    """
    turn = _TURNS.get(int(_orientation_of(image)))
    return image if turn is None else image.transpose(turn)
