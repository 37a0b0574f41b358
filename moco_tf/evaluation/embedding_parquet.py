"""Embeddings as Parquet: one column a layer, written and read by groups."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet

GROUP_ROWS = 4096  # 2048 features of so many rows take 32 MB
_METADATA = "moco_tf"  # its key in the schema


def write(path, embeddings):
    """Writes embedding_files.Embeddings to a path, GROUP_ROWS at a time."""
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
    with pa.parquet.ParquetWriter(path, schema) as file:
        for start in range(0, len(embeddings.index), GROUP_ROWS):
            group = slice(start, start + GROUP_ROWS)
            arrays = {name: pa.array(x[group]) for name, x in columns.items()}
            if "class_name" in schema.names:
                arrays["class_name"] = names.take(arrays["label"])
            for layer, rows in embeddings.rows.items():
                arrays[layer] = pa.FixedSizeListArray.from_arrays(
                    pa.array(np.asarray(rows[group], np.float32).ravel()),
                    rows.shape[1],
                )
            file.write_batch(pa.record_batch(arrays, schema=schema))


def read(path):
    """Reads all but the features, which stay on the disk.

    Args:
      path: of a file that `write` has written.

    Returns:
      the fields of embedding_files.Embeddings, in order.

    Raises:
      ValueError, KeyError, OSError: for another file.
    """
    file = pa.parquet.ParquetFile(path, memory_map=True)
    metadata = file.schema_arrow.metadata or {}
    about = json.loads(metadata[_METADATA.encode()])
    classes = about.pop("class_names")
    known = {"index", "name", "label"} & set(file.schema_arrow.names)
    table = file.read(columns=sorted(known))
    return (
        {layer: _ParquetRows(file, layer) for layer in about["layers"]},
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

    def __init__(self, file, layer):
        kind = file.schema_arrow.field(layer).type
        if not (
            pa.types.is_fixed_size_list(kind)
            and kind.value_type == pa.float32()
        ):
            raise ValueError(
                f"{layer} must be lists of float32 of one size; received {kind}"
            )
        self.shape = (file.metadata.num_rows, kind.list_size)
        self._file, self._layer = file, layer
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
            column = self._file.read_row_group(group, [self._layer]).column(0)
            values = column.combine_chunks().flatten().to_numpy()
            self._newest = (group, values.reshape(-1, self.shape[1]))
        return self._newest[1]
