"""Reads every image of a source once, and keeps some figures of each.

What is kept of an image, about 300 bytes, is computed in the graph: its size,
its colour, and two hashes, of its pixels and of what it looks like.

libjpeg repairs damaged data as well as it can: it fills the rest with grey, or
goes on at a wrong position. The image then counts as decoded, and no op returns
what happened: only a warning on standard error says so, which is read here.
"""

import contextlib
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import standard_error
from moco_tf.data import (
    decode,
    host_decode,
    image_files,
    image_ops,
    unreadable,
)

HASH_BITS = 64  # of a perceptual hash
THUMBNAIL_SIDE = 16  # pixels

_CHUNK = 256  # images between two readings of the decoder's warnings
_LONGEST_ENDING = max(map(len, image_files.READABLE_ENDINGS))
_PARTS = 4  # that a chunk with a warning is cut into, to find the image

_COLUMNS = {
    "height": np.int32,
    "width": np.int32,
    "spread": np.float32,
    "contrast": np.int32,
    "pixel_hash": np.int64,
    "perceptual_hash": np.int64,
    "format": np.uint8,
    "misnamed": np.uint8,
    "orientation": np.uint8,
}

_SIDE = 32  # pixels of the copy that the perceptual hash is made of
_FREQUENCIES = 12  # of them, those with the lowest sums are taken
_KEY = (1911, 5722)  # of the pixel hash; any two numbers
_WARNINGS = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Invalid JPEG")
# Of images that cannot be read: their op fails, and says so itself.
_FAILURES = re.compile(
    rb"jpeg_mem\.cc|png_io\.cc|^Unsupported (marker|JPEG)|^Bogus |^Not a JPEG"
    rb"|^Input file read error|^libpng |^Improper call|^Empty (JPEG|input)"
)


class Scan(NamedTuple):
    """Figures of the N images of a source, in its order.

    Attributes:
      columns: dict name -> array [N], or uint8 [N, 256] of `thumbnail`: those
        of `measure`, and uint8 figures of the file: `format`, 1 + its position
        in host_decode.FORMATS; `misnamed`, 1 where the name says another
        format; `orientation`, 1..8 as in EXIF. All are zero where an image
        cannot be read, those of the file also where a source has no files.
      unreadable: dict index -> why it cannot be read.
      damaged: dict index -> the decoder's warning; the image was read.
    """

    columns: dict
    unreadable: dict
    damaged: dict

    @property
    def readable(self):
        """Indices of the images that could be read, int64."""
        indices = np.arange(len(self.columns["pixel_hash"]))
        return np.setdiff1d(indices, list(self.unreadable))


def scan_source(source, threads, done=lambda count: None):
    """Reads all images of a source in parallel.

    Args:
      source: Source (moco_tf/data/sources.py).
      threads: int, images read at a time.
      done: function, called with the number of images that have been read.

    Returns:
      Scan.

    Side effects: standard error is captured meanwhile.
    """
    read = _reader(source, threads)
    columns = {
        name: np.zeros(len(source), kind) for name, kind in _COLUMNS.items()
    }
    columns["thumbnail"] = np.zeros([len(source), THUMBNAIL_SIDE**2], np.uint8)
    scan = Scan(columns, {}, {})
    with _decoder_warnings() as warnings:
        for start in range(0, len(source), _CHUNK):
            indices = np.arange(start, min(start + _CHUNK, len(source)))
            _add_chunk(scan, source, read, warnings, indices)
            done(len(indices))
    return scan


def sample(source, threads, most=_CHUNK):
    """Reads images of a source, evenly from all of it.

    Args:
      source: Source. threads: int, images read at a time.
      most: int, images.

    Returns:
      Scan of them alone: position n in its columns is no number in the source.

    Side effects: standard error is captured meanwhile.
    """
    indices = np.unique(np.linspace(0, len(source) - 1, most).astype(np.int64))
    with _decoder_warnings():
        rows = _reader(source, threads)(indices)
    del rows["index"]
    return Scan(rows, {}, {})


def _add_chunk(scan, source, read, warnings, indices):
    """Reads some images and notes them in a Scan."""
    readable = _store(scan.columns, read(indices))
    warned = warnings.read()
    for index in np.setdiff1d(indices, readable).tolist():
        _, reason = unreadable.read(source, index)
        # A network folder may have failed for a moment.
        if reason is None and len(_store(scan.columns, read([index]))):
            readable = np.append(readable, index)
        else:
            scan.unreadable[index] = reason or "It could be read only once."
    if warned:
        warnings.read()  # of the images that have just been read again
        scan.damaged.update(_find_damaged(read, warnings, np.sort(readable)))


def _find_damaged(read, warnings, indices):
    """Finds the images that the decoder warns of: dict index -> warning.

    Images are read in parallel, so a warning says nothing of its image: fewer
    and fewer of them are read again, until it is a single one.
    """
    read(indices)
    lines = warnings.read()
    if not lines:
        return {}
    if len(indices) == 1:
        return {int(indices[0]): " ".join(lines)}
    damaged: dict[int, str] = {}
    for part in np.array_split(indices, min(_PARTS, len(indices))):
        damaged |= _find_damaged(read, warnings, part)
    return damaged


def _store(columns, rows):
    """Writes rows with their index into the columns; returns the indices."""
    indices = rows["index"]
    for name, values in columns.items():
        values[indices] = rows[name]
    return indices


def _reader(source, threads):
    """A function: int64 [n] indices -> dict of arrays, of those readable."""

    def measure_image(index):
        record = source.records(index[tf.newaxis])[0]
        image, file_figures = _decode(source, record)
        return measure(image) | file_figures | {"index": index}

    # An empty dataset has no single element: this row stands at its end.
    absent = {name: tf.zeros([], kind) for name, kind in _COLUMNS.items()}
    absent["index"] = tf.constant(-1, tf.int64)
    absent["thumbnail"] = tf.zeros([THUMBNAIL_SIDE**2], tf.uint8)

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False
    )
    def measure_all(indices):
        dataset = tf.data.Dataset.from_tensor_slices(indices)
        dataset = dataset.map(measure_image, num_parallel_calls=threads)
        dataset = dataset.ignore_errors()
        last = tf.data.Dataset.from_tensors(absent)
        return dataset.concatenate(last).batch(_CHUNK + 1).get_single_element()

    def read(indices):
        with tf.device("CPU:0"):
            rows = measure_all(tf.constant(indices, tf.int64))
        return {name: value.numpy()[:-1] for name, value in rows.items()}

    return read


def _decode(source, record):
    """Decodes one record: uint8 [H, W, 3], and the figures of its file.

    Of two files both must be readable; the first is looked at.
    """
    if not isinstance(source, image_files.FileSource):
        unknown = tf.constant(0, tf.uint8)
        names = ("format", "misnamed", "orientation")
        image = source.image(record)[..., :3]
        return image, dict.fromkeys(names, unknown)
    contents = tf.io.read_file(record)
    image, stored = host_decode.decode_and_look(contents)
    number = decode.format_of(contents)
    # Not by a pattern: none matches a line break, or bytes that are no text.
    name = tf.strings.lower(tf.strings.join([b" " * _LONGEST_ENDING, record]))
    fits = [
        tf.reduce_any([_ends_with(name, ending) for ending in endings])
        for endings in image_files.ENDINGS
    ]
    figures = {
        "format": number + 1,
        "misnamed": ~tf.gather(fits, number),
        "orientation": stored,
    }
    return image, {key: tf.cast(x, tf.uint8) for key, x in figures.items()}


def _ends_with(name, ending):
    """Whether a string scalar, longer than the bytes of an ending, has it."""
    size = len(ending)
    return tf.equal(tf.strings.substr(name, -size, size), ending)


def measure(image):
    """Measures one image.

    Args:
      image: uint8 [H, W, 3].

    Returns:
      dict. height, width: int32, pixels. spread: float32, levels, the largest
      distance between the channels of a pixel; 0 is grey. contrast: int32,
      levels, the largest range of a channel. pixel_hash: int64, the same for
      the same pixels. perceptual_hash: int64, 64 bits, nearly the same for
      images that look the same. thumbnail: uint8 [THUMBNAIL_SIDE ** 2],
      luminance.
    """
    shape = tf.shape(image)
    small = _shrink(image, _SIDE)  # [32, 32, 3]
    extent = tf.reduce_max(image, [0, 1]) - tf.reduce_min(image, [0, 1])
    spread = tf.reduce_max(small, -1) - tf.reduce_min(small, -1)
    grey = tf.constant(image_ops.LUMINANCE)
    luminance = tf.tensordot(small, grey, 1)  # [32, 32]
    halves = tf.reshape(luminance, [THUMBNAIL_SIDE, 2, THUMBNAIL_SIDE, 2])
    thumbnail = tf.round(tf.reduce_mean(halves, [1, 3]))
    return {
        "height": shape[0],
        "width": shape[1],
        "spread": tf.reduce_max(spread),
        "contrast": tf.cast(tf.reduce_max(extent), tf.int32),
        "pixel_hash": tf.strings.to_hash_bucket_strong(
            tf.io.serialize_tensor(image),  # holds the shape too
            2**63 - 1,
            _KEY,
        ),
        "perceptual_hash": perceptual_hash(luminance),
        "thumbnail": tf.reshape(
            tf.cast(thumbnail, tf.uint8), [THUMBNAIL_SIDE**2]
        ),
    }


def _shrink(image, side):
    """Shrinks an image to float32 [side, side, 3], levels.

    Every pixel counts, so rescaled copies give nearly the same.
    """
    small = tf.image.resize(image[tf.newaxis], [side, side], "area")[0]
    return tf.ensure_shape(small, [side, side, 3])


def perceptual_hash(luminance):
    """Signs of the lowest frequencies of an image (a DCT hash).

    Another brightness moves the constant frequency alone, which is left out;
    another contrast scales all others alike.

    Args:
      luminance: float32 [32, 32].

    Returns:
      int64, of 64 bits.
    """
    middles = (np.arange(_SIDE) + 0.5) / _SIDE
    cosines = np.cos(np.pi * np.outer(np.arange(_FREQUENCIES), middles))
    basis = tf.constant(cosines, tf.float32)
    spectrum = tf.matmul(
        tf.matmul(basis, luminance), basis, transpose_b=True
    )  # [12, 12]
    signs = tf.gather_nd(spectrum, _lowest_frequencies()) > 0  # [64]
    # The last bit is the sign of int64, so the sum wraps nowhere.
    values = np.left_shift(np.uint64(1), np.arange(HASH_BITS, dtype=np.uint64))
    values = tf.constant(values.view(np.int64))
    return tf.reduce_sum(tf.where(signs, values, tf.zeros_like(values)))


def _lowest_frequencies():
    """The lowest frequencies but the constant one: int [64, 2]."""
    frequencies = np.indices([_FREQUENCIES] * 2).reshape(2, -1).T[1:]
    order = np.lexsort((frequencies[:, 0], frequencies.sum(axis=1)))
    return frequencies[order][:HASH_BITS]


@contextlib.contextmanager
def _decoder_warnings():
    """Redirects standard error of the process to a _DecoderWarnings.

    Side effects: lines that are not the decoder's are written to standard
    error at the end. Progress must go elsewhere meanwhile.
    """
    with standard_error.capture(lambda x: not _is_of_decoder(x)) as file:
        yield _DecoderWarnings(file)


class _DecoderWarnings:
    """Reads the decoder's warnings since the last reading."""

    def __init__(self, file):
        """Reads from a binary file that standard error goes to."""
        self._file = file

    def read(self):
        """The decoder's warnings since the last call, a list of str."""
        return [
            line.decode(errors="replace")
            for line in self._file.read().splitlines()
            if line.startswith(_WARNINGS)
        ]


def _is_of_decoder(line):
    """Whether the decoder wrote a line (bytes) of standard error."""
    return line.startswith(_WARNINGS) or _FAILURES.search(line)
