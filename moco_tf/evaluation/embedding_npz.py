"""Embeddings as .npz: arrays, none of them pickled, mapped when read."""

import json
import os
import zipfile

import numpy as np


def write(path, embeddings):
    """Writes embedding_files.Embeddings to a path; rows are not copied."""
    arrays = {
        **embeddings.rows,
        "index": embeddings.index,
        "names": np.array(embeddings.names, np.str_),
        "metadata": np.array(json.dumps(embeddings.about)),
    }
    if embeddings.labels is not None:
        arrays["labels"] = embeddings.labels
    if embeddings.class_names is not None:
        arrays["class_names"] = np.array(embeddings.class_names, np.str_)
    with open(path, "wb") as file:  # savez would append .npz to a name
        np.savez(file, **arrays)


def read(path):
    """Reads all but the features, which stay on the disk.

    Args:
      path: of a file that `write` has written.

    Returns:
      the fields of embedding_files.Embeddings, in order.

    Raises:
      ValueError, KeyError, EOFError, zipfile.BadZipFile: for another file.
    """
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["metadata"]))
        labels = file["labels"] if "labels" in file else None
        classes = file["class_names"] if "class_names" in file else None
        index, names = file["index"], file["names"].tolist()
    return (
        {layer: _map(path, layer, len(index)) for layer in about["layers"]},
        index,
        names,
        labels,
        classes if classes is None else classes.tolist(),
        about,
    )


def _map(path, name, count):
    """Maps an array of an .npz file from the disk, float32 [count, F]."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed and cannot be mapped")
    with open(path, "rb") as file:
        # 30 bytes, then a name and an extra field of the lengths in the last 4.
        file.seek(entry.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
        file.seek(int(lengths.sum()), os.SEEK_CUR)
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, by_columns, dtype = read_header(file)
        start = file.tell()
    if dtype != np.float32 or by_columns or shape[:-1] != (count,):
        raise ValueError(
            f"{name} must be float32 [{count}, F] by rows; received {dtype} "
            f"{shape}"
        )
    return np.memmap(path, np.float32, "r", start, shape)
