"""Reads every image of a source once, and keeps some figures of each."""

import sys
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from moco_tf.data import decode, files, orientation, unreadable
from moco_tf.doctor import decoder_words, fingerprints

_CHUNK = 256  # images between two readings of the decoder's warnings
_PARTS = 4  # that a chunk with a warning is cut into, to find the image

_NAMES = tuple(  # of files, in the order of decode.FORMATS
    ".*(" + "|".join(f"\\{ending.decode()}" for ending in endings) + ")"
    for endings in files.ENDINGS
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
        fingerprints.measure), and uint8 of what is known of a file: `format`,
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
    size = fingerprints.LITTLE**2
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
    with bar, decoder_words.listen() as words:
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
        return fingerprints.measure(image) | known | {"index": index}

    # A set of none has no single element.
    absent = {name: tf.zeros([], kind) for name, kind in _COLUMNS.items()}
    absent["index"] = tf.constant(-1, tf.int64)
    absent["little"] = tf.zeros([fingerprints.LITTLE**2], tf.uint8)

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
    if not isinstance(source, files.FileSource):
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
        "orientation": orientation.of_file(contents),
    }
    return image, {key: tf.cast(x, tf.uint8) for key, x in known.items()}
