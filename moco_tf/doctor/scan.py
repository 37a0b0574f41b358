"""Reads every image of a source once, and keeps some figures of each."""

import contextlib
import re
import sys
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from moco_tf import standard_error
from moco_tf.data import decode, image_files, image_ops, unreadable

BITS = 64  # of a perceptual hash
LITTLE = 16  # pixels of the side of the smallest copy

_SIDE = 32  # pixels of the thumbnail that the hash is made of
_FREQUENCIES = 12  # of them, those with the lowest sums are taken
_KEY = (1911, 5722)  # any two numbers


def measure(image):
    """Measures one image.

    Args:
      image: uint8 [H, W, 3].

    Returns:
      dict. height, width: int32, pixels. spread: float32, levels, the largest
      distance between the channels of a place; 0 is grey. contrast: int32,
      levels, the largest range of a channel. pixels: int64, the same for the
      same pixels. look: int64, 64 bits, nearly the same for images that look
      the same. little: uint8 [LITTLE * LITTLE], luminance.
    """
    shape = tf.shape(image)
    small = _shrink(image, _SIDE)  # [32, 32, 3]
    extent = tf.reduce_max(image, [0, 1]) - tf.reduce_min(image, [0, 1])
    spread = tf.reduce_max(small, -1) - tf.reduce_min(small, -1)
    grey = tf.constant(image_ops.LUMINANCE)
    luminance = tf.tensordot(small, grey, 1)  # [32, 32]
    halves = tf.reshape(luminance, [LITTLE, 2, LITTLE, 2])
    little = tf.round(tf.reduce_mean(halves, [1, 3]))
    return {
        "height": shape[0],
        "width": shape[1],
        "spread": tf.reduce_max(spread),
        "contrast": tf.cast(tf.reduce_max(extent), tf.int32),
        "pixels": tf.strings.to_hash_bucket_strong(
            tf.io.serialize_tensor(image),  # holds the shape too
            2**63 - 1,
            _KEY,
        ),
        "look": perceptual_hash(luminance),
        "little": tf.reshape(tf.cast(little, tf.uint8), [LITTLE * LITTLE]),
    }


def _shrink(image, side):
    """The whole image in little: float32 [side, side, 3], levels.

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
    found = tf.matmul(
        tf.matmul(basis, luminance), basis, transpose_b=True
    )  # [12, 12]
    signs = tf.gather_nd(found, _places()) > 0  # [64]
    # The last bit is the sign of int64, so the sum wraps nowhere.
    values = np.left_shift(np.uint64(1), np.arange(BITS, dtype=np.uint64))
    values = tf.constant(values.view(np.int64))
    return tf.reduce_sum(tf.where(signs, values, tf.zeros_like(values)))


def _places():
    """The lowest frequencies but the constant one: int [64, 2]."""
    places = np.indices([_FREQUENCIES] * 2).reshape(2, -1).T[1:]
    order = np.lexsort((places[:, 0], places.sum(axis=1)))
    return places[order][:BITS]


_WARNINGS = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Invalid JPEG")
# Of images that cannot be read: their op fails, and says so itself.
_FAILURES = re.compile(
    rb"jpeg_mem\.cc|png_io\.cc|^Unsupported (marker|JPEG)|^Bogus |^Not a JPEG"
    rb"|^Input file read error|^libpng |^Improper call|^Empty (JPEG|input)"
)


def _is_of_decoder(line):
    """Whether the decoder wrote a line (bytes) of standard error."""
    return line.startswith(_WARNINGS) or _FAILURES.search(line)


class DecoderWords:
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


@contextlib.contextmanager
def listen():
    """Redirects standard error of the process to a DecoderWords.

    Side effects: what is not the decoder's is written to standard error at
    the end. Progress must go elsewhere meanwhile.
    """
    with standard_error.held_back(lambda x: not _is_of_decoder(x)) as file:
        yield DecoderWords(file)


_CHUNK = 256  # images between two readings of the decoder's warnings
_PARTS = 4  # that a chunk with a warning is cut into, to find the image

_NAMES = tuple(  # of files, in the order of decode.FORMATS
    ".*(" + "|".join(f"\\{ending.decode()}" for ending in endings) + ")"
    for endings in image_files.ENDINGS
)

_COLUMNS = {
    "height": np.int32,
    "width": np.int32,
    "spread": np.float32,
    "contrast": np.int32,
    "pixels": np.int64,
    "look": np.int64,
    "format": np.uint8,
    "misnamed": np.uint8,
    "orientation": np.uint8,
}


class Scan(NamedTuple):
    """Figures of the N images of a source, in its order.

    Attributes:
      columns: dict name -> array [N], or uint8 [N, 256] of `little` (see
        measure), and uint8 of what is known of a file: `format`,
        1 + its place in decode.FORMATS, `misnamed`, 1 where its name says
        another, `orientation`, 1..8 as in EXIF. Zero where an image cannot be
        read, and these where a source has no files.
      unreadable: dict index -> why it cannot be read.
      damaged: dict index -> the decoder's warning; the image was read.
    """

    columns: dict
    unreadable: dict
    damaged: dict

    @property
    def readable(self):
        """Places of the images that could be read, int64."""
        all_places = np.arange(len(self.columns["pixels"]))
        return np.setdiff1d(all_places, list(self.unreadable))


def scan_source(source, threads, stream=None):
    """Reads all images of a source in parallel.

    Args:
      source: Source (moco_tf/data/sources.py).
      threads: int, images read at a time.
      stream: text stream of the progress bar; None = standard output. Without
        a terminal there is none.

    Returns:
      Scan.

    Side effects: standard error is held back meanwhile.
    """
    stream = sys.stdout if stream is None else stream
    read = _reader(source, threads)
    size = LITTLE**2
    columns = {
        name: np.zeros(len(source), kind) for name, kind in _COLUMNS.items()
    }
    columns["little"] = np.zeros([len(source), size], np.uint8)
    found = Scan(columns, {}, {})
    bar = tqdm.tqdm(
        total=len(source),
        desc="images",
        file=stream,
        disable=not stream.isatty(),
        dynamic_ncols=True,
    )
    with bar, listen() as words:
        for start in range(0, len(source), _CHUNK):
            indices = np.arange(start, min(start + _CHUNK, len(source)))
            _add_chunk(found, source, read, words, indices)
            bar.update(len(indices))
    return found


def _add_chunk(found, source, read, words, indices):
    """Reads some images and notes them in a Scan."""
    seen = _store(found.columns, read(indices))
    warned = words.read()
    for index in np.setdiff1d(indices, seen).tolist():
        _, reason = unreadable.read(source, index)
        # A network folder may have failed for a moment.
        if reason is None and len(_store(found.columns, read([index]))):
            seen = np.append(seen, index)
        else:
            found.unreadable[index] = reason or "It could be read only once."
    if warned:
        words.read()  # of the images that have just been read again
        found.damaged.update(_warned(read, words, np.sort(seen)))


def _warned(read, words, indices):
    """Finds the images that the decoder warns of: dict index -> its words.

    Images are read in parallel, so only fewer and fewer of them tell which.
    """
    read(indices)
    said = words.read()
    if not said:
        return {}
    if len(indices) == 1:
        return {int(indices[0]): " ".join(said)}
    found: dict[int, str] = {}
    for part in np.array_split(indices, min(_PARTS, len(indices))):
        found |= _warned(read, words, part)
    return found


def _store(columns, rows):
    """Writes rows with their index into the columns; returns the indices."""
    places = rows["index"]
    for name, values in columns.items():
        values[places] = rows[name]
    return places


def _reader(source, threads):
    """A function: int64 [n] indices -> dict of arrays, of those readable."""

    def measured(index):
        record = source.records(index[tf.newaxis])[0]
        image, known = _read(source, record)
        return measure(image) | known | {"index": index}

    # A set of none has no single element.
    absent = {name: tf.zeros([], kind) for name, kind in _COLUMNS.items()}
    absent["index"] = tf.constant(-1, tf.int64)
    absent["little"] = tf.zeros([LITTLE**2], tf.uint8)

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False
    )
    def rows(indices):
        dataset = tf.data.Dataset.from_tensor_slices(indices)
        dataset = dataset.map(measured, num_parallel_calls=threads)
        dataset = dataset.ignore_errors()
        last = tf.data.Dataset.from_tensors(absent)
        return dataset.concatenate(last).batch(_CHUNK + 1).get_single_element()

    def read(indices):
        with tf.device("CPU:0"):
            found = rows(tf.constant(indices, tf.int64))
        return {name: value.numpy()[:-1] for name, value in found.items()}

    return read


def _read(source, record):
    """Decodes one record: uint8 [H, W, 3], and what is known of its file.

    Of two files both must be readable; the first is looked at.
    """
    if not isinstance(source, image_files.FileSource):
        unknown = tf.constant(0, tf.uint8)
        names = ("format", "misnamed", "orientation")
        image = source.image(record)[..., :3]
        return image, dict.fromkeys(names, unknown)
    contents = tf.io.read_file(record)
    image = decode.decode(contents)
    place = decode.format_of(contents)
    name = tf.strings.lower(record)
    fits = [tf.strings.regex_full_match(name, pattern) for pattern in _NAMES]
    known = {
        "format": place + 1,
        "misnamed": ~tf.gather(fits, place),
        "orientation": decode.exif_orientation(contents),
    }
    return image, {key: tf.cast(x, tf.uint8) for key, x in known.items()}
