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
import tensorflow as tf
from absl import logging

from moco_tf.data import views

# AutoGraph's reading of the source is most of the time to the first batch.
_as_written = tf.autograph.experimental.do_not_convert


class Features(NamedTuple):
    """Features of the readable images of a source, in the source's order."""

    backbone: np.ndarray  # float32 [N, F]
    projection: np.ndarray | None  # float32 [N, C]; None for raw pixels
    labels: np.ndarray | None  # int64 [N]; None for a source without labels
    index: np.ndarray  # int64 [N], place in the source
    skipped: list[str]  # names of the images that could not be read


def evaluation_batches(
    source, recipe, image_size, batch_size, first=0, view=None
):
    """Yields the evaluation view of every image once, in order.

    An image that cannot be read is left out; its index is missing.

    Args:
      source: Source. recipe: views.Recipe; `recipe.evaluate` is applied.
      image_size: side of the views, pixels. batch_size: images per batch.
      first: place of the first image.
      view: another view, a function of uint8 [H, W, C] and int64 index.

    Returns:
      tf.data.Dataset of (uint8 [n, S, S, C], int64 [n] index), n equal to
      batch_size but for the last batch.
    """

    @_as_written
    def make(record, index):
        image = source.image(record)
        if view is None:
            image = recipe.evaluate(image, image_size)
        else:
            image = view(image, index)
        shape = [image_size, image_size, source.channels]
        return tf.ensure_shape(image, shape), index

    dataset = tf.data.Dataset.range(first, len(source)).batch(batch_size)
    dataset = dataset.map(
        _as_written(lambda index: (source.records(index), index))
    )
    dataset = dataset.unbatch()
    dataset = dataset.map(make, os.cpu_count(), deterministic=True)
    if source.may_fail:
        # Before the batch: one bad image takes no other with it.
        dataset = dataset.ignore_errors()
    # Its thread sleeps for ever longer, and the iterator's end waits for it.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.batch(batch_size).prefetch(2).with_options(options)


@tf.function
def _encode(encoder, images, mean, std):
    # At module level with the encoder as an argument: one trace per encoder
    # and batch shape serves every evaluation of a run.
    return encoder.features(views.normalize(images, mean, std))


def unreadable_names(source, index, total):
    """Names of the images that are not in `index`; warns of them."""
    present = np.zeros(total, bool)
    present[index] = True
    skipped = [source.name(int(i)) for i in np.flatnonzero(~present)]
    if skipped:
        shown = ", ".join(skipped[:10]) + (", ..." if skipped[10:] else "")
        logging.warning(
            "%d of %d images cannot be read and are left out of the "
            "evaluation: %s",
            len(skipped),
            total,
            shown,
        )
    return skipped


def pad_batch(images, batch_size):
    """Images of a last batch and zeros, so many that one trace serves.

    Args:
      images: [n, S, S, C]. batch_size: int, at least n.
    """
    return tf.pad(images, [(0, batch_size - len(images)), *[(0, 0)] * 3])


def none_readable_error(source):
    """The ValueError for a source of which nothing can be evaluated."""
    first = f", the first is {source.name(0)}" if len(source) else ""
    return ValueError(
        "An evaluation needs at least one image that can be read. Received "
        f"{len(source)} images, none readable{first}."
    )


def _collect(source, batches, batch_size, encode):
    """Runs `encode` over all batches.

    Args:
      encode: uint8 [batch_size, S, S, C] -> tuple of float32 [batch_size, F].

    Returns:
      list with one [N, F] array per output, index int64 [N], skipped names.
    """
    outputs, indices = [], []
    for images, index in batches:
        encoded = encode(pad_batch(images, batch_size))
        outputs.append([np.asarray(x)[: len(index)] for x in encoded])
        indices.append(index.numpy())
    if not outputs:
        raise none_readable_error(source)
    index = np.concatenate(indices)
    skipped = unreadable_names(source, index, len(source))
    return (
        [np.concatenate(x) for x in zip(*outputs, strict=True)],
        index,
        skipped,
    )


def labels_of(source, index):
    """Labels int64 [n] of int64 [n] places of a source, or None."""
    if source.labels is None:
        return None
    return np.asarray(source.labels, np.int64)[index]


def extract_in_memory(
    encoder, source, recipe, image_size, batch_size, batches=None
):
    """Encodes every readable image of a source in inference mode.

    Args:
      encoder: encoder.Encoder. source: Source. recipe: views.Recipe.
      image_size: side of the images, pixels.
      batch_size: images per forward pass; does not change the result.
      batches: None for the evaluation view, or what `evaluation_batches` of
        the source gives, or monitor.RepeatedBatches.

    Returns:
      Features. Images that cannot be read are in `skipped` by name, and a
      warning tells of them.

    Raises:
      ValueError: when no image can be read.
    """
    if batches is None:
        batches = evaluation_batches(source, recipe, image_size, batch_size)
    (backbone, projection), index, skipped = _collect(
        source,
        batches,
        batch_size,
        lambda images: _encode(encoder, images, recipe.mean, recipe.std),
    )
    return Features(
        backbone, projection, labels_of(source, index), index, skipped
    )


def raw_pixels(source, recipe, size, batch_size=256):
    """Takes the normalised pixels themselves as features, for comparison.

    Args:
      source: Source. recipe: views.Recipe.
      size: side of the evaluation view, pixels. An image takes 4 C size**2
        bytes: 32 suffices to compare and keeps 50,000 images under 700 MB.
      batch_size: images per batch; does not change the result.

    Returns:
      Features with `backbone` float32 [N, size * size * C], no projection.

    Raises:
      ValueError: when no image can be read.
    """

    def flatten(images):
        images = views.normalize(images, recipe.mean, recipe.std)
        return (tf.reshape(images, [len(images), -1]),)

    batches = evaluation_batches(source, recipe, size, batch_size)
    (pixels,), index, skipped = _collect(source, batches, batch_size, flatten)
    return Features(pixels, None, labels_of(source, index), index, skipped)


def common_labels(bank, query, names=("bank", "query set")):
    """Returns the query set's labels in the bank's numbering, and the count.

    Class folders are numbered by name, so a query set that lacks a class
    numbers the others differently; names, where both have them, decide.

    Args:
      bank, query: Sources. names: what messages call them.

    Returns:
      labels: int64 [len(query)]. classes: number of classes.

    Raises:
      ValueError: for a source without labels, or a class the bank lacks.
    """
    for name, source in zip(names, (bank, query), strict=True):
        if source.labels is None:
            raise ValueError(
                f"An evaluation needs labels. The {name} has none: give a "
                "folder of class folders or a data set that has labels."
            )
    labels = np.asarray(query.labels, np.int64)
    known, asked = bank.class_names, query.class_names
    if known is not None and asked is not None:
        missing = sorted(set(asked) - set(known))
        if missing:
            raise ValueError(
                f"The {names[0]} must hold every class of the {names[1]}. "
                f"Received {len(known)} classes and {len(asked)}; missing in "
                f"the {names[0]}: {', '.join(missing)}. Give sources of the "
                "same classes."
            )
        number = {name: place for place, name in enumerate(known)}
        labels = np.array([number[name] for name in asked], np.int64)[labels]
        return labels, len(known)
    classes = int(np.max(bank.labels, initial=-1)) + 1
    highest = int(np.max(labels, initial=-1))
    if highest >= classes:
        raise ValueError(
            f"The {names[0]} must hold every class of the {names[1]}. "
            f"Received {classes} classes and the label {highest}. Give "
            "sources of the same classes."
        )
    return labels, classes


_FLUSH_ROWS = 8192  # at most so many are extracted again after a kill


class StoredFeatures(NamedTuple):
    """Features of the readable images of a source, in the source's order."""

    rows: dict  # layer -> float32 [n, F], mapped from disk
    index: np.ndarray  # int64 [n], place in the source
    labels: np.ndarray | None  # int64 [n]; None for a source without labels
    skipped: list  # names of the images that could not be read


def extract_to_disk(
    frozen, source, folder, batch_size=512, batches=None, tag=""
):
    """Encodes every readable image of a source once, for good.

    Args:
      frozen: frozen.FrozenEncoder. source: Source.
      folder: of all stored features.
      batch_size: images per forward pass.
      batches: (first image) -> tf.data.Dataset of uint8 [b, S, S, 3], int64
        [b] index from that image on; None: the evaluation view in order.
      tag: str, tells other views than the evaluation view apart.

    Returns:
      StoredFeatures.

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
                return evaluation_batches(
                    source, frozen.recipe, frozen.image_size, batch_size, first
                )

        _run(frozen, source, place, state, batch_size, batches)
    return _open(place, frozen, source, state)


def load_from_disk(frozen, source, folder):
    """The features of the evaluation view if all are there, else None.

    Args:
      frozen: frozen.FrozenEncoder. source: Source.
      folder: of all stored features.

    Returns:
      StoredFeatures, or None where `extract` would have to encode images.
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
        for layer, values in _encode_frozen(frozen, images, batch_size).items():
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


def _encode_frozen(frozen, images, batch_size):
    """Rows by layer."""
    encoded = frozen.encode(pad_batch(images, batch_size))
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
        raise none_readable_error(source)

    def mapped(name):
        return np.load(place / f"{name}.npy", mmap_mode="r")[:rows]

    index = np.array(mapped("index"))
    return StoredFeatures(
        {layer: mapped(layer) for layer in frozen.layers},
        index,
        labels_of(source, index),
        unreadable_names(source, index, len(source)),
    )
