"""Features of a source by a frozen encoder: in memory, or kept on disk.

`extract_in_memory` encodes a source in one go, for an encoder that is still
training. `extract_to_disk` encodes it once for all commands and resumes after a
kill:

    FOLDER/ENCODER-SOURCE/{backbone.npy, projection.npy, index.npy, state.json}

The names are digests of the weights and of the data, so a changed encoder or
data set never meets old features. A .npy file has room for all images; its
first `rows` rows are filled. state.json holds `rows` and `next`, the image
at which a killed extraction goes on, and at the end the checksums of the rows.
Files that do not fit these are set aside, and the images encoded again.
"""

import json
import os
import pathlib
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from moco_tf import cores, counting, filesystem, state_files
from moco_tf.data import class_folders, sources, unreadable, views
from moco_tf.models import cloning, inputs

_CHECKED = 2**26  # bytes of rows whose checksum is computed at once
_ROOM = 2**30  # bytes that a batch may take on its way through the encoder
_LIVE = 4  # largest outputs of a layer that live at a time
_PIXEL = 256  # bytes of such an output for a pixel, where layers are unknown
_MOST = 512  # images of a batch
_FLUSH_ROWS = 8192  # at most so many are extracted again after a kill
# AutoGraph's reading of the source is most of the time to the first batch.
_as_written = tf.autograph.experimental.do_not_convert


class Features(NamedTuple):
    """Features in memory of a source's readable images, in its order."""

    backbone: np.ndarray  # float32 [N, F]
    projection: np.ndarray | None  # float32 [N, C]; None for raw pixels
    labels: np.ndarray | None  # int64 [N]; None for a source without labels
    index: np.ndarray  # int64 [N], numbers of the images in the source
    skipped: list[str]  # names of the images that could not be read


class StoredFeatures(NamedTuple):
    """Features on disk of a source's readable images, in its order."""

    rows: dict  # layer -> float32 [n, F], mapped from the disk
    index: np.ndarray  # int64 [n], numbers of the images in the source
    labels: np.ndarray | None  # int64 [n]; None for a source without labels
    skipped: list  # names of the images that could not be read


def evaluation_batches(
    source, recipe, image_size, batch_size, first=0, view=None
):
    """Yields the evaluation view of every image once, in order.

    An image that cannot be read is left out; its index is missing.

    Args:
      source: Source. recipe: views.Recipe; `recipe.evaluate` is applied.
      image_size: side S of the views, pixels. batch_size: images per batch.
      first: number of the first image.
      view: a function (uint8 [H, W, C], int64 index) -> uint8 [S, S, C] that
        makes another view; None: the evaluation view.

    Returns:
      tf.data.Dataset of (uint8 [n, S, S, C], int64 [n] index), n equal to
      batch_size but for the last batch.
    """

    @_as_written
    def make(record, index):
        image = source.image(record)
        if view is None:
            image = recipe.evaluate_on_host(image, image_size)
        else:
            image = view(image, index)
        shape = [image_size, image_size, source.channels]
        return tf.ensure_shape(image, shape), index

    dataset = tf.data.Dataset.range(first, len(source)).batch(batch_size)
    dataset = dataset.map(
        _as_written(lambda index: (source.records(index), index))
    )
    dataset = dataset.unbatch()
    dataset = dataset.map(make, cores.count(), deterministic=True)
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
    """Names the images that an extraction has left out, and warns of them.

    Args:
      source: Source. index: int64 [n], numbers of the images that were read.
      total: int, images in the source.

    Returns:
      list of str, in the source's order.
    """
    present = np.zeros(total, bool)
    present[index] = True
    skipped = [source.name(int(i)) for i in np.flatnonzero(~present)]
    if skipped:
        shown = ", ".join(skipped[:10]) + (", ..." if skipped[10:] else "")
        if hasattr(source, "file_paths"):  # a file may say more than its name
            first = int(np.flatnonzero(~present)[0])
            reason = unreadable.read(source, first)[1]
            shown += f". The first: {reason}" if reason else ""
        logging.warning(
            "%d of %d images cannot be read and are left out of the "
            "evaluation: %s",
            len(skipped),
            total,
            shown,
        )
    return skipped


def pad_batch(images, batch_size):
    """Appends zeros to a last batch, so that one trace serves all batches.

    Args:
      images: uint8 [n, S, S, C]. batch_size: int, at least n.

    Returns:
      uint8 [batch_size, S, S, C].
    """
    return tf.pad(images, [(0, batch_size - len(images)), *[(0, 0)] * 3])


def _collect(source, batches, batch_size, encode):
    """Runs `encode` over all batches.

    Args:
      source: Source. batches: iterable of (uint8 [n, S, S, C], int64 [n]).
      batch_size: int, no less than any n.
      encode: uint8 [batch_size, S, S, C] -> tuple of float32 [batch_size, F].

    Returns:
      list with one [N, F] array per output, index int64 [N], skipped names.
    """
    outputs, indices = [], []
    with counting.counted(len(source), 0, "encoding") as bar:
        for images, index in batches:
            encoded = encode(pad_batch(images, batch_size))
            outputs.append([np.asarray(rows)[: len(index)] for rows in encoded])
            indices.append(index.numpy())
            bar.add(len(index))
    if not outputs:
        raise unreadable.none_error(source)
    index = np.concatenate(indices)
    skipped = unreadable_names(source, index, len(source))
    layers = [np.concatenate(rows) for rows in zip(*outputs, strict=True)]
    return layers, index, skipped


def labels_of(source, index):
    """Labels int64 [n] of the images int64 [n] of a source, or None."""
    if source.labels is None:
        return None
    return np.asarray(source.labels, np.int64)[index]


def extract_in_memory(
    encoder, source, recipe, image_size, batch_size, batches=None
):
    """Encodes all readable images of a source, in inference mode.

    Args:
      encoder: encoder.Encoder. source: Source. recipe: views.Recipe.
      image_size: side of the images, pixels.
      batch_size: images per forward pass; does not change the result.
      batches: of the source, from `evaluation_batches` or
        monitor.RepeatedBatches; None: the evaluation view.

    Returns:
      Features. Images that cannot be read are in `skipped` by name, and a
      warning names them.

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
    """Takes the normalised pixels as features, to compare an encoder with.

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
      bank, query: Sources. names: of both, for messages.

    Returns:
      labels: int64 [len(query)]. classes: int, number of classes.

    Raises:
      ValueError: for a source without labels, or a class the bank lacks.
    """
    for name, source in zip(names, (bank, query), strict=True):
        if sources.labelled(source, name) is not source:
            raise ValueError(
                "Every image that is compared needs a label. Received a "
                f"{name} with images without: take sources.labelled of it."
            )
    labels = np.asarray(query.labels, np.int64)
    bank_names, query_names = bank.class_names, query.class_names
    if bank_names is not None and query_names is not None:
        missing = sorted(set(query_names) - set(bank_names))
        if missing:
            raise ValueError(
                f"The {names[0]} must hold every class of the {names[1]}. "
                f"Received {len(bank_names)} classes and {len(query_names)}; "
                f"missing in the {names[0]}: {', '.join(missing)}. Give "
                f"sources of the same classes.{_alike(missing, bank_names)}"
            )
        numbers = {name: number for number, name in enumerate(bank_names)}
        renumbered = np.array([numbers[x] for x in query_names], np.int64)
        return renumbered[labels], len(bank_names)
    classes = int(np.max(bank.labels, initial=-1)) + 1
    highest = int(np.max(labels, initial=-1))
    if highest >= classes:
        raise ValueError(
            f"The {names[0]} must hold every class of the {names[1]}. "
            f"Received {classes} classes and the label {highest}. Give "
            "sources of the same classes."
        )
    return labels, classes


def _alike(missing, known):
    """A sentence for classes that differ in what one does not see, or ""."""
    plain = {class_folders.plain(name): name for name in known}
    for name in missing:
        other = plain.get(class_folders.plain(name))
        if other is not None:
            return (
                f" {name!r} and {other!r} differ in blanks, case or the form "
                "of their letters: write them alike."
            )
    return ""


def batch_for(frozen, count=_MOST):
    """Images that an encoder takes at a time, so that memory is bounded.

    Args:
      frozen: frozen.FrozenEncoder. count: int, images there are.

    Returns:
      int, a power of two up to 512, or `count` where that is less.
    """
    side, encoder = frozen.image_size, frozen.encoder
    image = _PIXEL * side**2
    # A run of views of two sizes has no size of its layers either.
    if encoder is not None and encoder.backbone.input_shape[1]:
        parts = 1
        if frozen.config is not None and frozen.config.model.input == "grid":
            patch = frozen.config.model.patch
            parts = inputs.patches_a_side(side, patch) ** 2
        image = max(cloning.output_bytes(encoder.backbone, 1, parts))
    fitting = max(1, _ROOM // (_LIVE * image))
    return min(_MOST, 1 << fitting.bit_length() - 1, max(count, 1))


def extract_to_disk(frozen, source, folder, batch_size=0, batches=None, tag=""):
    """Encodes all readable images of a source, unless the disk has them.

    Args:
      frozen: frozen.FrozenEncoder. source: Source.
      folder: of the stored features of all encoders and sources.
      batch_size: images per forward pass; does not change the result. 0: as
        many as `batch_for` says.
      batches: (first image) -> tf.data.Dataset of uint8 [b, S, S, 3], int64
        [b] index from that image on; None: the evaluation view in order.
      tag: str, ends the folder's name where the views are not the evaluation
        view.

    Returns:
      StoredFeatures.

    Raises:
      ValueError: when no image can be read.
      OSError: before the first image, if there is no room for the features.

    Side effects: writes below `folder`; files there that are damaged are set
    aside.
    """
    batch_size = batch_size or batch_for(frozen, len(source))
    path = _folder_of(frozen, source, folder, tag)
    path.mkdir(parents=True, exist_ok=True)
    state = _take_up(path, frozen, source)
    if state["next"] < len(source):
        if batches is None:

            def batches(first):
                return evaluation_batches(
                    source, frozen.recipe, frozen.image_size, batch_size, first
                )

        _extract(frozen, source, path, state, batch_size, batches)
    return _open(path, frozen, source, state)


def load_from_disk(frozen, source, folder):
    """Opens the stored features of the evaluation view, if all are there.

    Args:
      frozen: frozen.FrozenEncoder. source: Source.
      folder: of the stored features of all encoders and sources.

    Returns:
      StoredFeatures, or None where `extract_to_disk` would encode images.
    """
    path = _folder_of(frozen, source, folder, "")
    try:
        state = _read_state(path)
        if state["rows"] and state["next"] >= len(source):
            _check_arrays(path, frozen, source, state)
            return _open(path, frozen, source, state)
    except state_files.Damaged:
        pass  # `extract_to_disk` says so, and makes them anew
    return None


def _folder_of(frozen, source, folder, tag):
    """Path of the stored features of one encoder and source."""
    name = f"{frozen.identity[:16]}-{source.fingerprint()[:16]}{tag}"
    return pathlib.Path(folder) / name


def _extract(frozen, source, path, state, batch_size, batches):
    """Extracts from image state["next"] on, and saves the state on the way."""
    if state["next"]:
        logging.info("extraction goes on at image %d", state["next"])
    arrays, unsaved = {}, 0
    with counting.counted(len(source), state["next"], "encoding") as bar:
        for images, index in batches(state["next"]):
            before, count = state["next"], len(index)
            block = slice(state["rows"], state["rows"] + count)
            encoded = frozen.encode(pad_batch(images, batch_size))
            for layer in frozen.layers:
                rows = encoded[layer].numpy()[:count]
                if layer not in arrays:
                    arrays[layer] = _open_array(
                        path, layer, (len(source), rows.shape[1]), np.float32
                    )
                arrays[layer][block] = rows
            if "index" not in arrays:
                arrays["index"] = _open_array(
                    path, "index", (len(source),), np.int64
                )
            arrays["index"][block] = index
            state["rows"] += count
            state["next"] = int(index[-1]) + 1
            bar.add(state["next"] - before)
            unsaved += count
            if unsaved >= _FLUSH_ROWS:
                unsaved = 0
                _save(path, arrays, state)
    if not state["rows"]:
        return  # nothing could be read: the next start tries again
    state["next"] = len(source)
    state["crc32"] = {
        name: _checksum(array, state["rows"]) for name, array in arrays.items()
    }
    _save(path, arrays, state)


def _open_array(folder, name, shape, dtype):
    """Opens FOLDER/NAME.npy, mapped for writing; makes it if it is missing.

    Raises:
      OSError: if there is no room for it.
    """
    path = folder / f"{name}.npy"
    if path.is_file():
        return np.lib.format.open_memmap(path, mode="r+")
    try:
        # Two commands may extract the same features at the same time, and
        # write equal rows.
        with filesystem.atomic_file(path, per_process=True) as part:
            array = np.lib.format.open_memmap(part, "w+", dtype, shape)
            with part.open("r+b") as file:
                # A disk that is full later would end the process by SIGBUS.
                os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
    except OSError as error:
        megabytes = np.prod(shape) * np.dtype(dtype).itemsize / 1e6
        raise OSError(
            f"There is no room for {path}: {error.strerror}. It takes "
            f"{megabytes:.1f} MB. Free space, then give the same command again."
        ) from error
    return array


def _save(folder, arrays, state):
    """Writes the state, after the rows that it counts."""
    for array in arrays.values():
        array.flush()
    path = folder / "state.json"
    with filesystem.atomic_file(path, per_process=True) as part:
        part.write_text(json.dumps({"format": state_files.FORMAT, **state}))


def _read_state(folder):
    """How far an extraction came.

    Raises:
      Damaged: if state.json cannot be read.
    """
    path = folder / "state.json"
    if not os.path.lexists(path):
        return {"next": 0, "rows": 0}
    state = state_files.read_json(path)
    if not all(type(state.get(name)) is int for name in ("next", "rows")):
        raise state_files.Damaged(path, "does not say how many rows there are")
    return state


def _take_up(folder, frozen, source):
    """How far an earlier extraction came, whose files are as it left them.

    Side effects: what is damaged is set aside, for the images to be encoded
    again: all rows are of one extraction.
    """
    try:
        state = _read_state(folder)
        _check_arrays(folder, frozen, source, state)
        return state
    except state_files.Damaged as error:
        other = state_files.set_aside(folder)
        state_files.warn(
            f"{error} The features are extracted again; the others are kept "
            f"in {other}, which may be removed"
        )
        folder.mkdir()
        return {"next": 0, "rows": 0}


def _check_arrays(folder, frozen, source, state):
    """Compares the arrays with what state.json says of them.

    Raises:
      Damaged: naming a file that is missing, of another shape or changed.
    """
    known = state.get("crc32", {})  # not before the end; earlier versions: none
    for name in ("index", *frozen.layers):
        path = folder / f"{name}.npy"
        if not state["rows"] and not os.path.lexists(path):
            continue
        if damage := state_files.look(path):
            raise state_files.Damaged(path, damage)
        try:
            array = np.load(path, mmap_mode="r")
        except state_files.DAMAGED_ARRAY as error:
            words = f"is no array of NumPy: {error}".rstrip(".")
            raise state_files.Damaged(path, words) from error
        rank = 1 if name == "index" else 2
        if array.ndim != rank or len(array) != len(source):
            words = f"has the shape {array.shape}, for {len(source)} images"
            raise state_files.Damaged(path, words)
        count = state["rows"]
        if name in known and _checksum(array, count) != known[name]:
            raise state_files.Damaged(path, "has changed since it was written")


@counting.timed("checking the features")
def _checksum(array, count):
    """CRC-32 of the first rows of an array, int."""
    row = max(1, array[:1].nbytes)
    step = max(1, _CHECKED // row)
    value = 0
    for first in range(0, count, step):
        rows = np.ascontiguousarray(array[first : min(first + step, count)])
        value = zlib.crc32(rows.data.cast("B"), value)
    return value


def _open(folder, frozen, source, state):
    """Maps the rows that the state counts; ValueError if there are none."""
    count = state["rows"]
    if not count:
        raise unreadable.none_error(source)

    def open_rows(name):
        return np.load(folder / f"{name}.npy", mmap_mode="r")[:count]

    index = np.array(open_rows("index"))
    return StoredFeatures(
        {layer: open_rows(layer) for layer in frozen.layers},
        index,
        labels_of(source, index),
        unreadable_names(source, index, len(source)),
    )
