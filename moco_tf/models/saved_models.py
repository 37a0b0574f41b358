"""What is wrong with files of variables, SavedModels and .keras files.

Checkpoints and SavedModels have variables in PREFIX.index and PREFIX.data-*.
TensorFlow's errors seldom name the file that they are about.
"""

import hashlib
import os
import pathlib

import tensorflow as tf
from absl import logging

from moco_tf import paths, state_files

CARD = "model_card.json"  # beside a SavedModel that `export` has written
CHECKSUM = "saved_model_sha256"  # its entry for the file of the graph
_REMEDY = (
    "Export it again into a new version, with `moco-tf export` and the "
    "--workdir of its run, or bring back a copy of it."
)
_KERAS_REMEDY = "Save it again, or use the SavedModel of the same export."

# What TensorFlow raises for a file that is damaged or cut off.
DAMAGED = (IndexError, tf.errors.OpError)


def load(folder):
    """Loads a SavedModel.

    Args:
      folder: of it.

    Returns:
      what tf.saved_model.load returns.

    Raises:
      state_files.Damaged: naming the file, if it can be told which.
    """
    folder = pathlib.Path(folder)
    _check_sum(folder)
    verbosity = logging.get_verbosity()
    file = folder / "fingerprint.pb"
    damage = os.path.lexists(file) and state_files.look(file, may_be_empty=True)
    if os.path.lexists(file) and not damage:
        try:
            with paths.plain(folder) as plain:
                tf.saved_model.experimental.read_fingerprint(plain)
        except (OSError, RuntimeError, ValueError, *DAMAGED) as error:
            damage = f"is damaged: {first_line(error)}"
    if damage:
        state_files.warn(f"{file} {damage}; the model does not need it")
        logging.set_verbosity(logging.FATAL)  # TensorFlow shows a traceback
    try:
        with paths.plain(folder) as plain:
            return tf.saved_model.load(plain)
    except Exception as error:  # whatever the damage leads to
        graph, prefix = (
            folder / "saved_model.pb",
            folder / "variables/variables",
        )
        damages = [(graph, state_files.look(graph)), *damaged_files(prefix)]
        damages = [(file, damage) for file, damage in damages if damage]
        if not damages and isinstance(error, DAMAGED):
            damages = [culprit(prefix, first_line(error))]
        damages.append((graph, f"cannot be loaded: {first_line(error)}"))
        file, damage = damages[0]
        raise state_files.Damaged(file, damage, _REMEDY) from error
    finally:
        logging.set_verbosity(verbosity)


def _check_sum(folder):
    """Compares the graph's file with the checksum in the card of an export.

    Variables have checksums of their own, which TensorFlow compares.

    Raises:
      state_files.Damaged: if it is another.
    """
    try:
        expected = state_files.read_json(folder / CARD).get(CHECKSUM)
        actual = checksum(folder)
    except (ValueError, OSError):
        return  # of another program, or read and reported by who needs it
    if expected and actual != expected:
        words = "has changed since it was exported"
        raise state_files.Damaged(folder / "saved_model.pb", words, _REMEDY)


def checksum(folder):
    """Hex SHA-256 of the graph of the SavedModel in a folder."""
    with open(pathlib.Path(folder) / "saved_model.pb", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_keras(path):
    """Loads a .keras file, without running code that it brings.

    Args:
      path: of the file.

    Returns:
      a model of Keras.

    Raises:
      state_files.Damaged: if the file is not complete.
      ValueError: if it is not of Keras' own layers.
    """
    # Keras does not compare checksums.
    if damage := state_files.zip_damage(pathlib.Path(path)):
        raise state_files.Damaged(path, damage, _KERAS_REMEDY)
    try:
        with paths.plain(path) as plain:
            return tf.keras.models.load_model(
                plain, compile=False, safe_mode=True
            )
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            "A .keras file must be of Keras' own layers. Received "
            f"{str(path)!r} ({first_line(error)[:100]}). Save it as a "
            "SavedModel."
        ) from error
    except state_files.DAMAGED_ZIP as error:
        words = f"is no complete .keras file: {first_line(error)}"
        raise state_files.Damaged(path, words, _KERAS_REMEDY) from error


def first_line(error):
    """The first line of an error of TensorFlow or Keras, without its stop."""
    text = getattr(error, "message", None) or str(error) or repr(error)
    text = paths.without_link(text.strip())
    return text.splitlines()[0][:200].rstrip(".")


def damaged_files(prefix):
    """The files of a bundle that cannot be opened.

    Args:
      prefix: pathlib.Path, without the endings.

    Returns:
      list of (path, damage in words), the index first.
    """
    files = [(file, state_files.look(file)) for file in _files(prefix)]
    return [(file, damage) for file, damage in files if damage]


def culprit(prefix, reason):
    """The file that an error of reading is about, with the damage in words.

    Args:
      prefix: pathlib.Path, of files that can be opened.
      reason: text of TensorFlow's error.
    """
    index, data, *_ = _files(prefix)
    words = f"is damaged: {reason.rstrip('.')}"
    try:
        with paths.plain(prefix.parent) as plain:
            # Reads the index alone.
            tf.train.load_checkpoint(f"{plain}/{prefix.name}")
    except (ValueError, RuntimeError, *DAMAGED):
        return index, words
    return data, words


def _files(prefix):
    """Paths of the index and of one or more files of data."""
    prefix = pathlib.Path(prefix)
    data = sorted(prefix.parent.glob(f"{prefix.name}.data-*"))
    data = data or [prefix.with_name(f"{prefix.name}.data-00000-of-00001")]
    return [prefix.with_name(f"{prefix.name}.index"), *data]
