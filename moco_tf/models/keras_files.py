"""The .keras file: one from elsewhere is read without running what it names.

A .keras file is a zip of config.json (the layers), model.weights.h5 and
metadata.json. Keras 2 and tf-keras import any module and call any function
that config.json names, in spite of `safe_mode`, and HDF5 lets a weight be
stored in another file of the machine. So both are read here first, by readers
that build nothing, and Keras is given a copy that holds what they accepted.

Names of modules are those of Keras 2.15 in what `save` writes; tf-keras reads
them too.
"""

import inspect
import io
import json
import os
import pathlib
import tempfile
import zipfile
from typing import Any

import h5py
import tensorflow as tf

from moco_tf import paths, state_files
from moco_tf.models import saved_models

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_METADATA = "metadata.json"  # version and date, which nobody reads
_FUNCTIONAL = "keras.src.engine.functional"
_MODELS = ((_FUNCTIONAL, "Functional"), ("keras", "Sequential"))
# Layers that run what their configuration names or read files that it names:
# a Python function; vocabularies; feature columns, which have vocabularies.
_NOT_INERT = (
    *("Lambda", "StringLookup", "IntegerLookup", "TextVectorization"),
    "DenseFeatures",
)
# A function of TensorFlow called on a layer's output is a layer too, of this
# module. These only compute; tf.io.write_file, say, could be named as well.
_OPERATION = "keras.src.layers.core.tf_op_layer"
_ARITHMETIC = (
    *("__operators__.add", "math.add", "math.subtract", "math.multiply"),
    *("math.divide", "math.truediv", "math.maximum", "math.minimum"),
    *("math.negative", "math.square", "math.sqrt", "math.rsqrt", "math.exp"),
    *("math.sigmoid", "math.tanh", "math.l2_normalize", "math.reduce_mean"),
    *("nn.relu", "nn.relu6", "nn.silu", "nn.gelu", "nn.softmax", "cast"),
    *("reshape", "transpose", "concat", "identity"),
)
# Arguments that tf-keras has and Keras 2.15 has not. False is as it was before.
_LATER = ("optional", "robust_masking", "softmax_robust_masking")
_PARTS = ("initializers", "regularizers", "constraints")
_VALUES = ("__tensor__", "__numpy__", "__bytes__")  # constants, by their value
# Of the size of a member or array to what the file holds of it; below _SMALL,
# in bytes, it may be more.
_HIGHEST_RATIO, _SMALL = 100, 2**24
# The filters that HDF5 itself has: deflate, shuffle, fletcher32, szip, nbit,
# scaleoffset. Others are of plug-ins, which are libraries of code.
_STOCK_FILTERS = range(1, 7)
_REMEDY = "Save it again, or use the SavedModel of the same export."


class NotStock(ValueError):
    """A model or a file that is not of Keras' own layers alone."""


class Refused(Exception):
    """What a file has that is not accepted, in words."""


def load(path):
    """Loads a .keras file, without running code that it names.

    Args:
      path: of the file.

    Returns:
      keras.Model, not compiled.

    Raises:
      state_files.Damaged: if the file is not complete.
      NotStock: if it is not of Keras' own layers and of plain arrays.

    Side effects: writes a copy into a temporary folder, for the time of the
      call.
    """
    path = pathlib.Path(path)
    # Keras does not compare checksums.
    if damage := state_files.zip_damage(path):
        raise state_files.Damaged(path, damage, _REMEDY)
    try:
        described, weights = _accepted(path)
        return _load_copy(described, weights)
    except Refused as error:
        raise _not_stock(path, error) from error
    except (TypeError, AttributeError, KeyError) as error:
        raise _not_stock(path, saved_models.first_line(error)[:100]) from error
    except state_files.DAMAGED_ZIP as error:
        words = f"is no complete .keras file: {saved_models.first_line(error)}"
        raise state_files.Damaged(path, words, _REMEDY) from error


def _load_copy(described, weights):
    """Gives Keras a file of what was accepted, so that it reads no other."""
    with tempfile.TemporaryDirectory(prefix="moco_tf-") as folder:
        copied = os.path.join(folder, "model.keras")
        _write(copied, described, weights)
        with paths.plain(copied) as plain:
            return tf.keras.models.load_model(
                plain, compile=False, safe_mode=True
            )


def _not_stock(path, reason):
    return NotStock(
        "A .keras file must be of Keras' own layers. Received "
        f"{str(path)!r} ({reason}). Save it as a SavedModel."
    )


def save(model, path):
    """Saves a model as .keras, for Keras 2.15 and for tf-keras.

    Args:
      model: keras.Model of Keras' own layers.
      path: of the new file.

    Raises:
      NotStock: for a model that `load` would not open; nothing is left of it.
    """
    with paths.plain(path) as plain:
        model.save(plain)
    try:
        described, weights = _accepted(path)
    except Refused as error:
        os.unlink(path)
        raise _not_stock(path, error) from error
    with zipfile.ZipFile(path) as archive:
        metadata = archive.read(_METADATA)
    _write(path, described, weights, metadata)


def _accepted(path):
    """Reads a .keras file, and refuses what is not inert.

    Args:
      path: of a zip that is not damaged.

    Returns:
      described: the layers, as in config.json, with Keras 2.15's names of
        modules and without optimizers, losses and metrics.
      weights: bytes of the HDF5 file.

    Raises:
      Refused.
    """
    with zipfile.ZipFile(path) as archive:
        members = {part.filename: part for part in archive.infolist()}
        strange = sorted(set(members) - {_CONFIG, _WEIGHTS, _METADATA})
        if strange or not {_CONFIG, _WEIGHTS} <= set(members):
            listed = ", ".join(map(repr, strange[:3])) or "too little"
            raise Refused(f"it holds {listed} beside or in place of weights")
        for part in members.values():
            most = max(_HIGHEST_RATIO * part.compress_size, _SMALL)
            if part.file_size > most:
                raise Refused(f"{part.filename} is compressed beyond reason")
        text, weights = archive.read(_CONFIG), archive.read(_WEIGHTS)
    try:
        described = accept_config(json.loads(text))
    except RecursionError as error:
        raise Refused("its layers are nested beyond reason") from error
    except ValueError as error:  # no JSON, or no text
        raise Refused(f"{_CONFIG}: {error}") from error
    if not isinstance(described, dict) or not _is_model(described):
        raise Refused("it is no model of layers")
    check_weights(io.BytesIO(weights))
    return described, weights


def _write(path, described, weights, metadata=b"{}"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(_METADATA, metadata)
        archive.writestr(_CONFIG, json.dumps(described))
        archive.writestr(_WEIGHTS, weights)


def accept_config(described):
    """Copies the configuration of a model that is of Keras' own parts alone.

    Args:
      described: value of JSON.

    Returns:
      the same with Keras 2.15's names of modules and its arguments, and
      without the configuration of optimizers, losses and metrics.

    Raises:
      Refused: naming the first part that is of another kind.
    """
    if isinstance(described, list):
        return [accept_config(value) for value in described]
    if not isinstance(described, dict):
        return described
    described = {k: v for k, v in described.items() if k != "compile_config"}
    if "class_name" in described:
        described = _accept_part(described)
    elif "registered_name" in described:
        raise Refused("a registered name without a class")
    return {key: accept_config(value) for key, value in described.items()}


def _accept_part(described):
    """A copy of the configuration of one object, if Keras itself has it."""
    name, module = described["class_name"], described.get("module")
    if not isinstance(name, str):
        raise Refused(f"{name!r} as the name of a class")
    if name in _VALUES:
        if module or not isinstance(described.get("config"), dict):
            raise Refused(f"{name} of a module")
        return described
    if not isinstance(module, str):
        raise Refused(f"{name} of no module")
    stock = _stock_module(module)
    full = f"{module}.{name}"
    if name == "function":  # the config is its name
        full = f"{module}.{described.get('config')}"
        known = module == "builtins" and _is_activation(described.get("config"))
    elif (stock, name) == (_OPERATION, "TFOpLambda"):
        inner = described.get("config")
        known = isinstance(inner, dict) and inner.get("function") in _ARITHMETIC
        full = f"{name} of {inner}"[:80]
    else:
        known = is_stock(stock, name)
    registered = described.get("registered_name")
    if known and name != "function" and registered not in (None, name):
        full, known = f"{registered} registered by a program", False
    if not known:
        raise Refused(f"{full} is not one of them")
    inner = described.get("config")
    if isinstance(inner, dict):
        before = {k: v for k, v in inner.items() if k not in _LATER or v}
        described = {**described, "config": before}
    return {**described, "module": stock}


def _stock_module(module):
    """Keras 2.15's name of a module of any Keras 2."""
    if module.split(".")[0] == "tf_keras":
        module = module.removeprefix("tf_")
    if module in ("keras.engine.functional", "keras.models"):
        module = {"keras.models": "keras"}.get(module, _FUNCTIONAL)
    return module


def _is_model(described):
    return (described.get("module"), described.get("class_name")) in _MODELS


def is_stock(module, name):
    """Whether a class is Keras' own and reads and runs nothing."""
    if (module, name) in (
        *_MODELS,
        ("keras.layers.experimental", "SyncBatchNormalization"),
        ("keras.mixed_precision", "Policy"),
    ):
        return True
    if module == "keras.layers":
        part: Any = getattr(tf.keras.layers, name, None)
        known = inspect.isclass(part) and name not in _NOT_INERT
        return known and issubclass(part, tf.keras.layers.Layer)
    first, _, last = module.partition(".")
    if first == "keras" and last in _PARTS:
        return inspect.isclass(getattr(getattr(tf.keras, last), name, None))
    return False


def _is_activation(name):
    """Whether Keras has an activation of a name."""
    others = ("get", "serialize", "deserialize")
    if not isinstance(name, str) or name.startswith("_") or name in others:
        return False
    return inspect.isfunction(getattr(tf.keras.activations, name, None))


def check_weights(file):
    """Refuses weights that are not arrays of numbers within the file itself.

    Nothing of an array is read.

    Args:
      file: HDF5 file, open for reading.

    Raises:
      Refused: naming the first entry that is of another kind.
    """
    try:
        with h5py.File(file, "r") as root:
            _check_groups(root)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = saved_models.first_line(error)
        raise Refused(f"{_WEIGHTS} cannot be read: {reason}") from error


def _check_groups(root):
    """Refuses what is no array, in a group of HDF5 and in those within it."""
    groups, seen = [root], {h5py.h5o.get_info(root.id).addr}
    while groups:
        group = groups.pop()
        for name in group:
            where = f"{group.name}/{name}".replace("//", "/")
            if type(group.get(name, getlink=True)) is not h5py.HardLink:
                raise Refused(f"{where} in {_WEIGHTS} is a link")
            entry = group[name]
            address = h5py.h5o.get_info(entry.id).addr
            if address in seen:  # also a group within itself
                raise Refused(f"{where} in {_WEIGHTS} is there twice")
            seen.add(address)
            if isinstance(entry, h5py.Group):
                groups.append(entry)
            else:
                _check_array(entry, where)


def _check_array(entry, where):
    """Refuses an entry of HDF5 that is no array, or one of other files."""
    if not isinstance(entry, h5py.Dataset) or entry.dtype.kind not in "biufV":
        raise Refused(f"{where} in {_WEIGHTS} is no array of numbers")
    if entry.external or entry.is_virtual:
        raise Refused(f"{where} in {_WEIGHTS} is of another file")
    settings = entry.id.get_create_plist()
    for number in range(settings.get_nfilters()):
        if settings.get_filter(number)[0] not in _STOCK_FILTERS:
            raise Refused(f"{where} in {_WEIGHTS} needs a plug-in of HDF5")
    stored = max(entry.id.get_storage_size(), 1)
    if entry.nbytes > max(_HIGHEST_RATIO * stored, _SMALL):
        raise Refused(f"{where} in {_WEIGHTS} is larger than what is stored")
