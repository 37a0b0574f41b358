"""Files of embeddings: features, and what they are of, as .npz or .parquet.

    .npz      one array a layer float32 [n, F]; index, labels int64 [n]; names,
              class_names text; metadata, JSON
    .parquet  one column a layer of fixed-size lists of float32; index, label,
              name, class_name; the JSON in the schema's metadata

Labels and class names are there if the source has them. Neither is read with
pickle, and the features of both are read from disk as they are asked for.
"""

import pathlib
import zipfile
from typing import Any, NamedTuple

import numpy as np

from moco_tf import whole
from moco_tf.evaluation import embedding_npz, embedding_parquet

_FORMATS = {".npz": embedding_npz, ".parquet": embedding_parquet}


class Embeddings(NamedTuple):
    """Features of images, in the order of their source."""

    rows: dict  # layer -> float32 [n, F]; slices of it are arrays
    index: np.ndarray  # int64 [n], place in the source
    names: Any  # sequence of str, of the images
    labels: np.ndarray | None  # int64 [n]
    class_names: list | None  # of str
    about: dict  # encoder and source, see embed.describe

    def class_of(self, row):
        """The class of a row, by name or by number, as text; None without."""
        if self.labels is None:
            return None
        label = int(self.labels[row])
        return self.class_names[label] if self.class_names else str(label)


def check_path(path):
    """Returns a pathlib.Path; refuses a name of another format."""
    path = pathlib.Path(path).expanduser()
    if path.suffix not in _FORMATS:
        raise ValueError(
            "A file of embeddings must be named .npz or .parquet. Received "
            f"{str(path)!r}."
        )
    return path


def write(path, embeddings):
    """Writes a file in the format of its name, all of it or nothing.

    Args:
      path: .npz or .parquet, replaced if it exists. embeddings: Embeddings.

    Raises:
      ValueError: for another format. OSError: if it cannot be written.

    Side effects: writes the file.
    """
    path = check_path(path)
    names, classes = embeddings.names, embeddings.class_names
    embeddings = embeddings._replace(
        names=[as_text(name) for name in names],
        class_names=classes and [as_text(name) for name in classes],
    )
    with whole.file(path) as part:
        _FORMATS[path.suffix].write(part, embeddings)


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
    if not path.is_file():
        raise ValueError(
            f"There is no file of embeddings {str(path)!r}. `moco-tf embed` "
            "writes one."
        )
    try:
        return Embeddings(*_FORMATS[path.suffix].read(path))
    except (
        TypeError,  # a bare array
        zipfile.BadZipFile,
        EOFError,
        KeyError,
        OSError,
        ValueError,  # pyarrow's errors are of this class too
    ) as error:
        raise ValueError(
            f"{str(path)!r} is not a whole file of embeddings: {error}. Write "
            "it again with `moco-tf embed`."
        ) from error


def as_text(name):
    """A name (str) as UTF-8 can hold it; "?" for bytes that are none."""
    return name.encode("utf-8", "replace").decode("utf-8")
