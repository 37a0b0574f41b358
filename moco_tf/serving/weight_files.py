"""Files of weights that others made: which layout, and what is in them."""

from typing import NamedTuple

import numpy as np

from moco_tf.serving import pickle_objects, torch_reader, weight_names

LAYOUTS = ("moco", "torchvision", "detectron2")
_MOST_EPOCHS = 1_000_000


class WeightFile(NamedTuple):
    """The tensors of a file, by the names of weight_names.

    Attributes:
      layout: of LAYOUTS.
      query: dict name -> array in torch's layout, of the encoder.
      key: likewise of the key encoder; {}: none.
      queue: array [C, K], keys in columns; None: none.
      pointer: array [1], the next column to write; None: none.
      counts: {"query": dict name -> array, "key": ...} of BatchNorm counters.
      left_out: names that are not read.
      about: dict of the entry "epoch", if it is there.
      optimizer: of the file, as read; None: none.
      prefix: before the names of the encoder in the file.
    """

    layout: str
    query: dict
    key: dict
    queue: np.ndarray | None
    pointer: np.ndarray | None
    counts: dict
    left_out: tuple
    about: dict
    optimizer: object
    prefix: str

    def spell(self, name):
        """How the file spells the name of a tensor of the encoder."""
        if self.layout == "detectron2":
            return weight_names.to_detectron2(name)
        return self.prefix + name

    def spell_key(self, name):
        """How the file spells the name of a tensor of the key encoder."""
        start = self.prefix.removesuffix(weight_names.QUERY)
        return start + weight_names.KEY + name

    @property
    def is_whole(self):
        """Whether pre-training can go on: keys, their encoder, the place."""
        parts = (self.queue, self.pointer)
        return bool(self.key) and all(part is not None for part in parts)


def read(path):
    """Reads a file of weights and tells its layout by its names.

    Args:
      path: of a published MoCo checkpoint, a state dict of torchvision's
        ResNet, or MoCo's pickle for detectron2.

    Returns:
      WeightFile.

    Raises:
      ValueError: if the file cannot be read or is of another layout.
    """
    saved = torch_reader.read(path)
    if not isinstance(saved, dict):
        raise ValueError(
            f"{path} must hold a dict of tensors. Received a "
            f"{type(saved).__name__}."
        )
    about = {}
    if type(saved.get("epoch")) is int and 0 <= saved["epoch"] < _MOST_EPOCHS:
        about["epoch"] = saved["epoch"]
    if isinstance(saved.get("model"), dict) and "state_dict" not in saved:
        tensors = _tensors(saved["model"], path)
        if any(name.startswith("res2.") for name in tensors):
            return _of_detectron2(tensors, about)
    inner = saved.get("state_dict", saved)
    tensors = _tensors(inner if isinstance(inner, dict) else {}, path)
    prefix = _common(tensors, "module.")
    tensors = {name.removeprefix(prefix): v for name, v in tensors.items()}
    if any(name.startswith(weight_names.QUERY) for name in tensors):
        return _of_moco(tensors, about, saved.get("optimizer"), prefix)
    if any(name.startswith("layer1.") for name in tensors):
        return _of_torchvision(tensors, about, prefix)
    raise ValueError(
        f"{path} must hold the names of a MoCo checkpoint "
        "(module.encoder_q.conv1.weight), of torchvision's ResNet "
        "(layer1.0.conv1.weight) or of detectron2 (res2.0.conv1.weight). "
        f"Received {_some(list(tensors) or list(saved))}."
    )


def _of_moco(tensors, about, optimizer, prefix):
    query, key, other = {}, {}, {}
    for name, value in tensors.items():
        if name.startswith(weight_names.QUERY):
            query[name.removeprefix(weight_names.QUERY)] = value
        elif name.startswith(weight_names.KEY):
            key[name.removeprefix(weight_names.KEY)] = value
        else:
            other[name] = value
    query, query_counts = _split(query)
    key, key_counts = _split(key)
    queue, pointer = other.pop("queue", None), other.pop("queue_ptr", None)
    return WeightFile(
        "moco",
        query,
        key,
        queue,
        pointer,
        {"query": query_counts, "key": key_counts},
        tuple(prefix + name for name in other),
        about,
        optimizer,
        prefix + weight_names.QUERY,
    )


def _of_torchvision(tensors, about, prefix):
    query, counts = _split(tensors)
    # One linear layer classifies; only a head of two is MoCo's.
    classifier = ("fc.weight", "fc.bias")
    left_out = tuple(name for name in classifier if name in query)
    query = {name: v for name, v in query.items() if name not in classifier}
    return WeightFile(
        "torchvision",
        query,
        {},
        None,
        None,
        {"query": counts, "key": {}},
        left_out,
        about,
        None,
        prefix,
    )


def _of_detectron2(tensors, about):
    named = {weight_names.from_detectron2(n): v for n, v in tensors.items()}
    query, counts = _split(named)
    return WeightFile(
        "detectron2",
        query,
        {},
        None,
        None,
        {"query": counts, "key": {}},
        (),
        about,
        None,
        "",
    )


def _split(tensors):
    """Tensors, and the counters of BatchNorm."""
    end = f".{weight_names.COUNTER}"
    counts = {
        name: value
        for name, value in tensors.items()
        if name.endswith(end) and value.size == 1 and value.dtype.kind == "i"
    }
    return {n: v for n, v in tensors.items() if n not in counts}, counts


def _tensors(found, path):
    """The arrays of a dict; all its values must be arrays."""
    other = [
        name
        for name, value in found.items()
        if type(name) is not str
        or not name.isprintable()
        or not isinstance(value, np.ndarray)
    ]
    tensors = {n: v for n, v in found.items() if n not in other}
    if other and tensors:
        raise ValueError(
            f"{path} must hold tensors alone in its state dict. Received "
            f"other values at {_some(other)}."
        )
    return tensors


def _common(names, prefix):
    """The prefix if all names have it, else nothing."""
    return prefix if names and all(n.startswith(prefix) for n in names) else ""


def _some(names):
    shown = ", ".join(pickle_objects.printable(str(n))[:60] for n in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
