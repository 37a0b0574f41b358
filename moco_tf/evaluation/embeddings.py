"""Files of embeddings: features and their images, for other programs (`embed`).

    .npz      one array a layer float32 [n, F]; index, labels int64 [n]; names,
              class_names text; metadata, JSON
    .parquet  one column a layer of fixed-size lists of float32; index, label,
              name, class_name; the JSON in the schema's metadata

Labels and class names are there if the source has them. Neither format is read
with pickle. The features of both stay on the disk: an .npz is mapped, a Parquet
file is read by groups of rows.
"""

import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

import moco_tf
from moco_tf import counting, file_kinds, filesystem, naming, paths, state_files
from moco_tf.data import sources, specs, views
from moco_tf.evaluation import features, frozen

GROUP_ROWS = 4096  # 2048 features of so many rows take 32 MB
_BLOCK = 2**24  # bytes that are read at once
_METADATA = "moco_tf"  # key of the JSON in a Parquet schema
_REMEDY = (
    "Move it away, and write it again with the same command of `moco-tf embed`."
)
# The content of a file is a function of these entries of its metadata.
_IDENTITY = ("encoder", "fingerprint", "layers")


class Embeddings(NamedTuple):
    """Features of the images of a source, in its order."""

    rows: dict  # layer -> float32 [n, F]; slices of it are arrays
    index: np.ndarray  # int64 [n], numbers of the images in the source
    names: Any  # sequence of str, of the images
    labels: np.ndarray | None  # int64 [n], -1 for an image without a class
    class_names: list | None  # of str
    about: dict  # encoder and source, as of `describe`

    def class_of(self, row):
        """Returns the class of a row as text, its name or number; or None.

        It is "" for an image without a class among others that have one.
        """
        if self.labels is None:
            return None
        label = int(self.labels[row])
        if label < 0:
            return ""
        return self.class_names[label] if self.class_names else str(label)


def embed_source(
    encoder: frozen.FrozenEncoder,
    spec: str,
    path: str | pathlib.Path,
    layers: Sequence[str] = (),
    folder: str | pathlib.Path | None = None,
) -> Embeddings:
    """Writes the features of a source to a file, and prints what it wrote.

    Args:
      encoder: frozen.FrozenEncoder.
      spec: of the source, with or without labels, for `sources.open_source`.
      path: .npz or .parquet. A file that exists must be of the same encoder,
        source and layers; it is complete, and is not written again.
      layers: names of the features to write; (): all that the encoder has.
      folder: of stored features, which stay for other commands; None: beside
        the path, until the file is complete.

    Returns:
      Embeddings, as in the file.

    Raises:
      ValueError: before any work, for what cannot be embedded, and for a file
        of another encoder, source or choice of layers.

    Side effects: writes the file. A killed command, started again, goes on.
    """
    layers = choose_layers(encoder, layers)
    path = check_path(path)
    source = sources.open_source(spec, encoder.channels)
    if _embed(encoder, source, spec, path, layers, folder):
        print(f"wrote       {paths.shown(path)}")
    else:
        print(f"This file is finished: {paths.shown(path)}")
    embeddings = load(path)
    sizes = ", ".join(f"{x} {embeddings.rows[x].shape[1]}" for x in layers)
    labelled = "no labels"
    if embeddings.labels is not None:
        known = embeddings.labels[embeddings.labels >= 0]
        labelled = f"labels of {len(np.unique(known))} classes"
        if len(known) < len(embeddings.labels):
            labelled += f" for {len(known)} of them"
    print(
        f"source      {paths.shown(spec)}: {len(embeddings.index)} images, "
        f"{labelled}, "
        f"{embeddings.about['unreadable']} unreadable left out\n"
        f"{sources.remark_lines(source, ' ' * 12)}"
        f"encoder     {paths.shown(embeddings.about['title'])}\n"
        f"features    {sizes}"
    )
    return embeddings


def choose_layers(encoder, layers):
    """The layers of an encoder that are wanted, a tuple in its order; (): all.

    Raises:
      ValueError: for a layer that it does not have.
    """
    unknown = sorted(set(layers) - set(encoder.layers))
    if unknown:
        raise ValueError(
            f"The encoder has the features {', '.join(encoder.layers)}. "
            f"Received {', '.join(unknown)}. Pass "
            f"--features={encoder.layers[0]}."
        )
    return tuple(x for x in encoder.layers if x in layers or not layers)


def _embed(encoder, source, spec, path, layers, folder):
    """Writes a file unless it exists; returns whether it was written."""
    about = describe(encoder, source, spec, layers)
    if path.exists():
        _check_same(path, about)
        return False
    temporary = filesystem.beside(path, ".features")
    stored = features.extract_to_disk(encoder, source, folder or temporary)
    write(
        path,
        Embeddings(
            rows={layer: stored.rows[layer] for layer in layers},
            index=stored.index,
            names=sources.names_of(source, stored.index),
            labels=stored.labels,
            class_names=source.class_names,
            about={**about, "unreadable": len(stored.skipped)},
        ),
    )
    if not folder:
        shutil.rmtree(temporary)
    return True


def describe(encoder, source, spec, layers):
    """Describes the encoder and the source of a file.

    Args:
      encoder: frozen.FrozenEncoder. source: Source. spec: of the source.
      layers: names of the features.

    Returns:
      dict that JSON can hold: encoder, title, image_size, views, mean, std,
      source, fingerprint, layers, moco_tf (the version).
    """
    recipe = encoder.recipe
    return {
        "encoder": encoder.identity,
        "title": encoder.title,
        "image_size": encoder.image_size,
        "views": describe_views(encoder),
        "mean": list(recipe.mean),
        "std": list(recipe.std),
        "source": specs.absolute(spec),
        "fingerprint": source.fingerprint(),
        "layers": list(layers),
        "moco_tf": moco_tf.__version__,
    }


def describe_views(encoder):
    """The name of the views that an encoder expects; "" for a user's own."""
    named = [x for x, one in views.RECIPES.items() if one == encoder.recipe]
    return named[0] if named else ""


def _check_same(path, about):
    """Refuses a file of another encoder, source or choice of layers."""
    existing = load(path).about
    if all(existing.get(name) == about[name] for name in _IDENTITY):
        return
    shown = [
        f"{x.get('title')}, {x.get('source')}, {'+'.join(x.get('layers', []))}"
        for x in (existing, about)
    ]
    raise ValueError(
        "A file of embeddings is only kept for the same encoder, source and "
        f"layers. {str(pathlib.Path(path))!r} holds {shown[0]} (encoder "
        f"{str(existing.get('encoder'))[:16]}). Received {shown[1]} (encoder "
        f"{about['encoder'][:16]}). Give another --path, or move the file away."
    )


def check_path(path):
    """Returns a pathlib.Path; refuses a name of another format."""
    path = paths.expand(path)
    if path.suffix not in _WRITERS:
        raise ValueError(
            "A file of embeddings must be named .npz or .parquet. Received "
            f"{str(path)!r}."
        )
    return path


@counting.timed("writing the features")
def write(path, embeddings):
    """Writes a file in the format of its name, complete or not at all.

    Args:
      path: .npz or .parquet, replaced if it exists. embeddings: Embeddings.

    Raises:
      ValueError: for another format. OSError: if it cannot be written.

    Side effects: writes the file.
    """
    path = check_path(path)
    names, classes = embeddings.names, embeddings.class_names
    embeddings = embeddings._replace(
        names=[naming.as_text(name) for name in names],
        class_names=classes and [naming.as_text(name) for name in classes],
    )
    with filesystem.atomic_file(path) as part:
        _WRITERS[path.suffix](part, embeddings)


@counting.timed("reading the features")
def load(path):
    """Opens a file that `write` has written.

    Args:
      path: .npz or .parquet.

    Returns:
      Embeddings, of all layers in the file.

    Raises:
      ValueError: for a file that is not there, or not such a file.
    """
    path = check_path(path)
    if not os.path.lexists(path):
        raise ValueError(
            f"There is no file of embeddings {str(path)!r}. `moco-tf embed` "
            "writes one."
        )
    if damage := state_files.look(path):
        raise state_files.Damaged(path, damage, _REMEDY)
    try:
        return Embeddings(*_READERS[path.suffix](path))
    except (AttributeError, *state_files.DAMAGED_ARRAY) as error:
        raise state_files.Damaged(
            path,
            f"is not a complete file of embeddings: {error}".rstrip("."),
            f"{file_kinds.substitute(path)} {_REMEDY}".strip(),
        ) from error


def _write_npz(path, embeddings):
    """Writes Embeddings to a path; rows are not copied."""
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


def _read_npz(path):
    """Reads all but the features, which stay on the disk.

    Args:
      path: of a file that `write` has written.

    Returns:
      the fields of Embeddings, in order.

    Raises:
      ValueError, KeyError, EOFError, zipfile.BadZipFile: for another file.
    """
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["metadata"]))
        labels = file["labels"] if "labels" in file else None
        classes = file["class_names"] if "class_names" in file else None
        index, names = file["index"], file["names"].tolist()
    return (
        {layer: _map_npz(path, layer, len(index)) for layer in about["layers"]},
        index,
        names,
        labels,
        classes if classes is None else classes.tolist(),
        about,
    )


def _map_npz(path, name, count):
    """Maps an array of an .npz file from the disk, float32 [count, F]."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
        with archive.open(entry) as member:  # compares the checksum at its end
            while member.read(_BLOCK):
                continue
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


def _write_parquet(path, embeddings):
    """Writes Embeddings to a path, GROUP_ROWS at a time."""
    columns = {"index": embeddings.index, "name": embeddings.names}
    fields = [("index", pa.int64()), ("name", pa.string())]
    labels, classes = embeddings.labels, embeddings.class_names
    if labels is not None:
        columns["label"] = labels
        fields.append(("label", pa.int64()))
    if labels is not None and classes is not None:
        names = pa.array(classes, pa.string())
        fields.append(("class_name", pa.string()))
    fields += [
        (layer, pa.list_(pa.float32(), rows.shape[1]))
        for layer, rows in embeddings.rows.items()
    ]
    about = {**embeddings.about, "class_names": classes}
    schema = pa.schema(fields, metadata={_METADATA: json.dumps(about)})
    # By an open file: pyarrow would take some names as addresses.
    with (
        open(path, "wb") as output,
        pa.parquet.ParquetWriter(
            output, schema, write_page_checksum=True
        ) as file,
    ):
        for start in range(0, len(embeddings.index), GROUP_ROWS):
            group = slice(start, start + GROUP_ROWS)
            arrays = {name: pa.array(x[group]) for name, x in columns.items()}
            if "class_name" in schema.names:
                numbers = labels[group]  # null for an image without a class
                chosen = pa.array(numbers, mask=numbers < 0)
                arrays["class_name"] = names.take(chosen)
            for layer, rows in embeddings.rows.items():
                arrays[layer] = pa.FixedSizeListArray.from_arrays(
                    pa.array(np.asarray(rows[group], np.float32).ravel()),
                    rows.shape[1],
                )
            file.write_batch(pa.record_batch(arrays, schema=schema))


def _read_parquet(path):
    """Reads all but the features, which stay on the disk.

    Args:
      path: of a file that `write` has written.

    Returns:
      the fields of Embeddings, in order.

    Raises:
      ValueError, KeyError, OSError: for another file.
    """
    with paths.plain(path) as plain:
        file = pa.parquet.ParquetFile(
            os.path.abspath(plain),
            memory_map=True,
            page_checksum_verification=True,
        )
    metadata = file.schema_arrow.metadata or {}
    about = json.loads(metadata[_METADATA.encode()])
    classes = about.pop("class_names")
    known = {"index", "name", "label"} & set(file.schema_arrow.names)
    table = file.read(columns=sorted(known))
    return (
        {layer: _ParquetRows(path, file, layer) for layer in about["layers"]},
        table["index"].to_numpy(),
        table["name"].to_pylist(),
        table["label"].to_numpy() if "label" in known else None,
        classes,
        about,
    )


class _ParquetRows:
    """Features in a Parquet file: slices read the row groups they touch."""

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, path, file, layer):
        kind = file.schema_arrow.field(layer).type
        if not (
            pa.types.is_fixed_size_list(kind)
            and kind.value_type == pa.float32()
        ):
            raise ValueError(
                f"{layer} must be lists of float32 of one size; received {kind}"
            )
        self.shape = (file.metadata.num_rows, kind.list_size)
        self._path, self._file, self._layer = path, file, layer
        groups = range(file.num_row_groups)
        sizes = [file.metadata.row_group(group).num_rows for group in groups]
        self._starts = np.cumsum([0, *sizes])
        self._newest = (-1, None)  # slices smaller than a group follow

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Float32 [m, F] of a slice of step 1."""
        start, stop, _ = rows.indices(len(self))
        parts = [np.empty([0, self.shape[1]], np.float32)]
        for group, first in enumerate(self._starts[:-1]):
            if first < stop and start < self._starts[group + 1]:
                within = slice(max(start - first, 0), stop - first)
                parts.append(self._group(group)[within])
        return np.concatenate(parts)

    def _group(self, group):
        if self._newest[0] != group:
            try:
                table = self._file.read_row_group(group, [self._layer])
            except (OSError, ValueError) as error:
                raise state_files.Damaged(
                    self._path, f"is damaged: {error}".rstrip("."), _REMEDY
                ) from error
            column = table.column(0)
            values = column.combine_chunks().flatten().to_numpy()
            self._newest = (group, values.reshape(-1, self.shape[1]))
        return self._newest[1]


_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}
_READERS = {".npz": _read_npz, ".parquet": _read_parquet}
