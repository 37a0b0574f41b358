"""Features of a whole source on disk: extracted once, resumed, mapped.

    FOLDER/ENCODER-SOURCE/{backbone.npy, projection.npy, index.npy, state.json}

The names are digests of the weights and of the data, so a changed encoder or
data set never meets old features. A killed extraction goes on where its last
state.json stands.
"""

import json
import os
import pathlib
from typing import NamedTuple

import numpy as np
from absl import logging

from moco_tf.evaluation import features

_FLUSH_ROWS = 8192  # at most so many are extracted again after a kill


class Stored(NamedTuple):
    """Features of the readable images of a source, in the source's order."""

    rows: dict  # layer -> float32 [n, F], mapped from disk
    index: np.ndarray  # int64 [n], place in the source
    labels: np.ndarray | None  # int64 [n]; None for a source without labels
    skipped: list  # names of the images that could not be read


def extract(frozen, source, folder, batch_size=512, batches=None, tag=""):
    """Encodes every readable image of a source once, for good.

    Args:
      frozen: frozen.Frozen. source: Source.
      folder: of all stored features.
      batch_size: images per forward pass.
      batches: (first image) -> tf.data.Dataset of uint8 [b, S, S, 3], int64
        [b] index from that image on; None: the evaluation view in order.
      tag: str, tells other views than the evaluation view apart.

    Returns:
      Stored.

    Raises:
      ValueError: when no image can be read.
      OSError: before the first image, if there is no room for the features.

    Side effects: writes below `folder`.
    """
    place = _place(frozen, source, folder, tag)
    place.mkdir(parents=True, exist_ok=True)
    state = _read_state(place)
    if state["next"] < len(source):
        if batches is None:

            def batches(first):
                return features.evaluation_batches(
                    source, frozen.recipe, frozen.image_size, batch_size, first
                )

        _run(frozen, source, place, state, batch_size, batches)
    return _open(place, frozen, source, state)


def find(frozen, source, folder):
    """The features of the evaluation view if all are there, else None.

    Args:
      frozen: frozen.Frozen. source: Source. folder: of all stored features.

    Returns:
      Stored, or None where `extract` would have to encode images.
    """
    place = _place(frozen, source, folder, "")
    state = _read_state(place)
    if state["rows"] and state["next"] >= len(source):
        return _open(place, frozen, source, state)
    return None


def _place(frozen, source, folder, tag):
    """The folder of an encoder's features of a source."""
    name = f"{frozen.identity[:16]}-{source.fingerprint()[:16]}{tag}"
    return pathlib.Path(folder) / name


def _run(frozen, source, place, state, batch_size, batches):
    """Extracts from state["next"] on; state is written every few batches."""
    if state["next"]:
        logging.info("extraction goes on at image %d", state["next"])
    files, unsaved = {}, 0
    for images, index in batches(state["next"]):
        rows = len(index)
        for layer, values in _encode(frozen, images, batch_size).items():
            if layer not in files:
                files[layer] = _map(place, layer, len(source), values.shape[1])
            files[layer][state["rows"] : state["rows"] + rows] = values
        if "index" not in files:
            files["index"] = _map(place, "index", len(source), 0)
        files["index"][state["rows"] : state["rows"] + rows] = index
        state["rows"] += rows
        state["next"] = int(index[-1]) + 1
        unsaved += rows
        if unsaved >= _FLUSH_ROWS:
            unsaved = 0
            _save(place, files, state)
    if not state["rows"]:
        return  # nothing could be read: the next start tries again
    state["next"] = len(source)
    _save(place, files, state)


def _encode(frozen, images, batch_size):
    """Rows by layer."""
    encoded = frozen.encode(features.filled(images, batch_size))
    count = len(images)
    return {layer: encoded[layer].numpy()[:count] for layer in frozen.layers}


def _map(place, name, count, size):
    """An array on disk [count, size], or int64 [count] for size 0."""
    path = place / f"{name}.npy"
    shape, dtype = ((count, size), np.float32) if size else ((count,), np.int64)
    if path.is_file():
        return np.lib.format.open_memmap(path, mode="r+")
    # Another command on the same run may be at it too: the rows are equal.
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        made = np.lib.format.open_memmap(part, "w+", dtype, shape)
        with part.open("r+b") as file:
            # A disk that is full later would end the process by SIGBUS.
            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
    except OSError as error:
        part.unlink(missing_ok=True)
        megabytes = np.prod(shape) * np.dtype(dtype).itemsize / 1e6
        raise OSError(
            f"There is no room for {path}: {error.strerror}. It takes "
            f"{megabytes:.1f} MB. Free space, then give the same command again."
        ) from error
    os.replace(part, path)
    return made


def _save(place, files, state):
    for file in files.values():
        file.flush()
    part = place / f"state.{os.getpid()}.part"
    part.write_text(json.dumps(state))
    os.replace(part, place / "state.json")


def _read_state(place):
    path = place / "state.json"
    if path.is_file():
        return json.loads(path.read_text())
    return {"next": 0, "rows": 0}


def _open(place, frozen, source, state):
    rows = state["rows"]
    if not rows:
        raise features.none_readable(source)

    def mapped(name):
        return np.load(place / f"{name}.npy", mmap_mode="r")[:rows]

    index = np.array(mapped("index"))
    return Stored(
        {layer: mapped(layer) for layer in frozen.layers},
        index,
        features.labels_of(source, index),
        features.missing_names(source, index, len(source)),
    )
