"""How an image lies in a prepared cache: as its pixels, or as a JPEG.

A stored form says what `prepare` writes of an image, what the row of an image
says of it, and how the graph takes it from the mapped file again, without
Python: thousands of images a second would wait for one another there.

    raw   uint8 [H, W, 3], not compressed: a view reads only its own pages
    jpeg  a baseline JPEG, some sixth of that; its checksum is compared
          whenever it is read
"""

import zlib
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from moco_tf.data import file_bytes

_DAMAGED = (
    "Its bytes in the cache are damaged: their checksum differs. Prepare them "
    "again with another --path."
)
_LONGEST = 65500  # of libjpeg's sides, pixels


class Stored(NamedTuple):
    """An image as a cache keeps it.

    Attributes:
      data: bytes-like. height, width: int, pixels. checksum: int, of the data.
    """

    data: Any
    height: int
    width: int
    checksum: int


NOTHING = Stored(b"", 0, 0, 0)  # of an original that cannot be read


class Form(Protocol):
    """One of the ways to store images.

    Attributes:
      name: str, of --format. short_side: int, pixels, of --short_side=0.
      alignment: int, bytes; images start at multiples of it.
      row: dtype of a row of index.bin: offset, height, width, label and the
        checksum, the last field, at least. Of an original that could not be
        read height is 0, and offset its line in the log.
      mark: str, the name of the checksum.
      checked: bool, whether `image` compares checksums, so that any may fail.
      settings: dict, what about.json says of it.
      refusal: str, why an image cannot be stored, where one cannot.
    """

    name: str
    short_side: int
    alignment: int
    row: np.dtype
    mark: str
    checked: bool
    settings: dict
    refusal: str

    def encode(self, image: Any) -> Any:
        """What is stored of an image uint8 [H, W, 3], in the graph.

        Nothing of one that cannot be stored.
        """

    def stored(self, encoded: Any, height: int, width: int) -> Stored:
        """The Stored of an image whose `encode` was computed."""

    def checksum(self, data: Any) -> int:
        """The checksum of stored bytes."""

    def row_of(self, stored: Stored, offset: int, label: int) -> np.ndarray:
        """The row of an image that starts at an offset."""

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Bytes int64 [n] of the images of rows [n]; 0: not readable."""

    def marks(self, rows: np.ndarray) -> np.ndarray:
        """Checksums int64 [n] of rows [n], at least 0 (see data/listing.py)."""

    def records(self, rows: np.ndarray) -> np.ndarray:
        """int64 [n, 3] of rows [n]: what `image` needs, offsets first.

        The second one is 0 for an original that could not be read, and for no
        other.
        """

    def image(self, mapped: Any, record: Any) -> Any:
        """The image uint8 [H, W, 3] of a record [3], in the graph.

        Args:
          mapped: uint8 [bytes], images.bin.
          record: tuple of int64 scalars, of `records`.

        Raises:
          tf.errors.InvalidArgumentError: when run, for a damaged one, where
            the form is checked.
        """


class Raw:
    """Pixels."""

    name = "raw"
    short_side = 256
    alignment = 64  # TensorFlow takes a slice that starts there uncopied
    row = np.dtype(
        [
            ("offset", "<i8"),
            ("height", "<i4"),
            ("width", "<i4"),
            ("label", "<i8"),  # -1 without labels
            ("crc32", "<u4"),  # of the pixels
        ]
    )
    mark = "crc32"
    checked = False  # it would read all pixels where a view needs a few
    settings: dict = {}
    refusal = ""

    def encode(self, image):
        """The pixels themselves."""
        return image

    def stored(self, encoded, height, width):
        """As `Form.stored`."""
        pixels = np.ascontiguousarray(encoded).data.cast("B")
        return Stored(pixels, height, width, self.checksum(pixels))

    def checksum(self, data):
        """As `Form.checksum`: CRC-32."""
        return zlib.crc32(data)

    def row_of(self, stored, offset, label):
        """As `Form.row_of`."""
        _, height, width, checksum = stored
        return np.array((offset, height, width, label, checksum), self.row)

    def sizes(self, rows):
        """As `Form.sizes`."""
        return 3 * rows["height"].astype(np.int64) * rows["width"]

    def marks(self, rows):
        """As `Form.marks`."""
        return rows["crc32"].astype(np.int64)

    def records(self, rows):
        """Offset, height and width."""
        names = ("offset", "height", "width")
        return np.column_stack([rows[name] for name in names]).astype(np.int64)

    def image(self, mapped, record):
        """As `Form.image`: a slice, without a copy."""
        offset, height, width = record
        size = tf.reshape(3 * height * width, [1])
        pixels = tf.slice(mapped, tf.reshape(offset, [1]), size)
        return tf.reshape(pixels, tf.stack([height, width, 3]))


class Jpeg:
    """Baseline JPEGs of quality 90, with half of the colours' resolution.

    In the bytes of 4:2:0 at a short side of 320, 4:4:4 has one of 284: its
    views are as far from those of the files, with less of their detail, and it
    takes longer to decode (benchmarks/cache_formats.py). A progressive one, or
    one with fitted tables of codes, would cost more time than its bytes are
    worth.
    """

    name = "jpeg"
    short_side = 320
    alignment = 1
    row = np.dtype(
        [
            ("offset", "<i8"),
            ("bytes", "<u4"),
            ("height", "<i4"),
            ("width", "<i4"),
            ("label", "<i8"),  # -1 without labels
            ("farmhash64", "<u8"),  # of the JPEG
        ]
    )
    mark = "farmhash64"
    checked = True
    settings = {"quality": 90, "chroma": "4:2:0"}
    refusal = f"A JPEG has no more than {_LONGEST} pixels a side."

    def encode(self, image):
        """A JPEG, string scalar; "" for too long a side."""

        def encoded():
            return tf.io.encode_jpeg(
                image,
                format="rgb",
                quality=self.settings["quality"],
                chroma_downsampling=True,
                progressive=False,
                optimize_size=False,
            )

        longest = tf.reduce_max(tf.shape(image)[:2])
        return tf.cond(longest > _LONGEST, lambda: tf.constant(b""), encoded)

    def stored(self, encoded, height, width):
        """As `Form.stored`."""
        if not encoded:
            return NOTHING
        return Stored(encoded, height, width, self.checksum(encoded))

    def checksum(self, data):
        """As `Form.checksum`: FarmHash's Fingerprint64.

        TensorFlow's graph has no CRC. This is the same on all machines, as its
        name says.
        """
        with tf.device("CPU:0"):
            row = tf.constant(np.frombuffer(data, np.uint8)[np.newaxis])
            return int(tf.fingerprint(row).numpy().view("<u8")[0, 0])

    def row_of(self, stored, offset, label):
        """As `Form.row_of`."""
        data, height, width, checksum = stored
        row = (offset, len(data), height, width, label, checksum)
        return np.array(row, self.row)

    def sizes(self, rows):
        """As `Form.sizes`."""
        return rows["bytes"].astype(np.int64)

    def marks(self, rows):
        """As `Form.marks`, without the last bit."""
        return (rows["farmhash64"] >> np.uint64(1)).astype(np.int64)

    def records(self, rows):
        """Offset, bytes and checksum."""
        checksums = rows["farmhash64"].astype("<u8").view("<i8")
        return np.column_stack([rows["offset"], self.sizes(rows), checksums])

    def image(self, mapped, record):
        """As `Form.image`: checked, then decoded as other JPEGs are."""
        offset, size, checksum = record
        start, length = tf.reshape(offset, [1]), tf.reshape(size, [1])
        data = tf.slice(mapped, start, length)
        actual = tf.bitcast(tf.fingerprint(data[tf.newaxis])[0], tf.int64)
        intact = file_bytes.require(actual == checksum, _DAMAGED)
        with tf.control_dependencies(intact):
            contents = _as_text(data, size)
        return tf.io.decode_jpeg(
            contents, channels=3, dct_method="INTEGER_ACCURATE"
        )


def _as_text(data, size):
    """Bytes as a string scalar.

    No operation says just that. In a serialised tensor the content is the last
    field, and as long as it is.

    Args:
      data: uint8 [size]. size: int64 scalar.
    """
    message = tf.io.serialize_tensor(data)
    size = tf.cast(size, tf.int32)
    return tf.strings.substr(message, tf.strings.length(message) - size, size)


RAW, JPEG = Raw(), Jpeg()
FORMS: dict[str, Form] = {"raw": RAW, "jpeg": JPEG}
