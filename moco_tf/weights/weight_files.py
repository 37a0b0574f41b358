"""Reads a file of weights: its encoder, and MoCo's queue if it has one."""

import pathlib
from typing import NamedTuple

import numpy as np

from moco_tf import file_kinds
from moco_tf.weights import (
    candidates,
    layouts,
    other_files,
    pickle_reader,
    safetensors_file,
    torch_file,
)
from moco_tf.weights.pickle_reader import (
    Inert,
    Unreadable,
    listed,
    printable,
)

_MAX_EPOCHS = 1_000_000
_CLASSIFIER = frozenset(("fc.weight", "fc.bias"))
_MLP = frozenset(("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"))
_COUNTER_END = f".{layouts.COUNTER}"


class WeightFile(NamedTuple):
    """The tensors of a file, by the names of torchvision's ResNet.

    Attributes:
      layout: "moco" of a query encoder that has a key encoder, or a style of
        spellings.
      query: dict name -> array in torch's layout, of the encoder. What is no
        array stands there as it is.
      key: likewise of the key encoder; {}: none.
      counts: {"query": dict name -> array, "key": ...} of BatchNorm counters.
      about: {"epoch": int}, or {} if the file does not say it.
      queue: array [C, K], keys in columns; None: none.
      pointer: array [1], the next column to write; None: none.
      left_out: names of tensors and objects that are not used.
      rest: (name, shape) of the tensors among them, each by itself.
      optimizer: its state dict, unchecked; None: none.
      chosen: Candidate of the query encoder. key_chosen: of the key encoder.
      others: list of Candidate, the encoders that were not taken.
    """

    layout: str
    query: dict
    key: dict
    counts: dict
    about: dict
    queue: np.ndarray | None
    pointer: np.ndarray | None
    left_out: tuple
    rest: tuple
    optimizer: object
    chosen: candidates.Candidate
    key_chosen: candidates.Candidate | None
    others: list

    def spell(self, name):
        """How the file spells the name of a tensor of the encoder."""
        return self.chosen.spell(name)

    def spell_key(self, name):
        """How the file spells the name of a tensor of the key encoder."""
        return self.key_chosen.spell(name) if self.key_chosen else name

    @property
    def can_resume(self):
        """Whether pre-training can go on: with key encoder, queue, heads."""
        has_queue = self.queue is not None and self.pointer is not None
        sides = (self.query, self.key)
        heads = all(any(n.startswith("fc.") for n in side) for side in sides)
        return has_queue and heads


def read(path, entry="", prefix=""):
    """Reads a file of weights, whose encoder its names show.

    Args:
      path: of a file of torch.save, a pickle of arrays, or safetensors.
      entry, prefix: which of several encoders: see candidates.choose.

    Returns:
      WeightFile.

    Raises:
      ValueError: if the file cannot be read, holds no ResNet, or several of
        which none is named.
    """
    saved, about = _saved(path)
    try:
        values = candidates.values_of(saved)
        encoders = candidates.find(values)
    except Unreadable as error:
        raise torch_file.refused(path, error) from error
    if not encoders:
        raise ValueError(_no_encoder(path, saved, values))
    try:
        chosen = candidates.choose(encoders, entry, prefix)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _file(saved, about, values, encoders, chosen)


def _saved(path):
    """What a file holds, and what it says of itself: {"epoch": int} or {}."""
    path = pathlib.Path(path)
    try:
        other_files.refuse_part(path)
        data = torch_file.mapped(path)
        kind = file_kinds.kind_of(bytes(data[: file_kinds.HEAD]))
        if kind == file_kinds.SAFETENSORS:
            return safetensors_file.read(path, data), {}
    except Unreadable as error:
        raise torch_file.refused(path, error) from error
    saved = torch_file.read(path)
    if not isinstance(saved, dict | list | tuple):
        raise ValueError(
            f"{path} must hold a dict of tensors. Received a "
            f"{pickle_reader.kind_of(saved)}."
        )
    epoch = saved.get("epoch") if isinstance(saved, dict) else None
    known = type(epoch) is int and 0 <= epoch < _MAX_EPOCHS
    return saved, {"epoch": epoch} if known else {}


def _file(saved, about, values, encoders, chosen):
    """The WeightFile of a chosen encoder."""
    key_chosen, queue, pointer = _moco_parts(encoders, chosen, values)
    is_moco = key_chosen is not None
    query, query_counts = _without_counters(chosen.spelled.tensors)
    query = _with_known_head(query, is_moco)
    key, key_counts = {}, {}
    if key_chosen is not None:
        key, key_counts = _without_counters(key_chosen.spelled.tensors)
        key = _with_known_head(key, is_moco)
    counters = [n for n in chosen.spelled.tensors if n.endswith(_COUNTER_END)]
    used = set(_full_names(chosen, (*query, *counters)))
    if key_chosen is not None:  # who imports says whether it is used
        used |= set(_full_names(key_chosen, key_chosen.spelled.tensors))
    if queue is not None and pointer is not None:
        used |= {_start(chosen) + name for name in ("queue", "queue_ptr")}
    others = [c for c in encoders if c is not chosen and c is not key_chosen]
    optimizer = saved.get("optimizer") if isinstance(saved, dict) else None
    return WeightFile(
        "moco" if is_moco else chosen.style,
        query,
        key,
        {"query": query_counts, "key": key_counts},
        about,
        queue=queue,
        pointer=pointer,
        left_out=tuple(_left_out(values, used, others, chosen)),
        rest=tuple(_rest(values, used)),
        optimizer=optimizer,
        chosen=chosen,
        key_chosen=key_chosen,
        others=others,
    )


def _moco_parts(encoders, chosen, values):
    """(Key encoder, queue, pointer) that belong to a query encoder, or None."""
    parts = chosen.root.split(".")
    if "encoder_q" not in parts:
        return None, None, None
    place = len(parts) - 1 - parts[::-1].index("encoder_q")
    parts[place] = "encoder_k"
    root = ".".join(parts)
    keys = [c for c in encoders if (c.root, c.style) == (root, chosen.style)]
    arrays = {
        ".".join(v.parts): v.value
        for v in values
        if v.key.endswith(("queue", "queue_ptr"))
        and isinstance(v.value, np.ndarray)
    }
    start = _start(chosen)
    queue, pointer = (arrays.get(start + n) for n in ("queue", "queue_ptr"))
    return keys[0] if keys else None, queue, pointer


def _start(chosen):
    """What stands before "encoder_q", and before "queue"."""
    return chosen.root.rpartition("encoder_q.")[0]


def _full_names(candidate, names):
    """Names with the keys that lead to their dictionary."""
    start = f"{candidate.entry}." if candidate.entry else ""
    return [start + candidate.spell(name) for name in names]


def _without_counters(tensors):
    """The tensors without BatchNorm's counters, and the counters.

    They change no feature, so one that is no whole number, as in an average of
    an encoder, is left out.
    """
    named = {n: v for n, v in tensors.items() if n.endswith(_COUNTER_END)}
    counts = {
        name: np.array(value)
        for name, value in named.items()
        if isinstance(value, np.ndarray | int)
        and np.size(value) == 1
        and np.array(value).dtype.kind in "iu"
    }
    return {n: v for n, v in tensors.items() if n not in named}, counts


def _with_known_head(tensors, is_moco):
    """Tensors without a head that MoCo does not have.

    A single linear layer is MoCo's in a file of MoCo alone; elsewhere it
    classifies. Two with more between them are the head of another method.
    """
    head = {name for name in tensors if name.startswith("fc.")}
    known = head <= _MLP or head <= _CLASSIFIER if is_moco else head == _MLP
    if known:
        return tensors
    return {name: v for name, v in tensors.items() if name not in head}


def _left_out(values, used, others, chosen):
    """Yields what is not used: tensors and objects, those far away counted."""
    owners = {
        name: f"the encoder {other.root.rstrip('.') or '.'}"
        for other in others
        for name in _full_names(other, other.spelled.tensors)
    }
    start = f"{chosen.entry}." if chosen.entry else ""
    counted: dict[str, list] = {}  # to the values
    for value in values:
        name = ".".join(value.parts)
        is_object = type(value.value) is Inert and not value.value.items
        is_tensor = isinstance(value.value, np.ndarray)
        if name in used or not (is_object or is_tensor):
            continue
        near = name.startswith(start) if start else not value.entry
        if near and name not in owners:
            kind = f" ({value.value.kind})" if is_object else ""
            yield printable(name.removeprefix(start)) + kind
        else:
            owner = owners.get(name) or printable(name.partition(".")[0])
            counted.setdefault(owner, []).append(value.value)
    for owner, group in counted.items():
        yield f"{owner} ({_counted(group)})"


def _rest(values, used):
    """Yields name and shape of each tensor that is not used."""
    for value in values:
        name = ".".join(value.parts)
        if name not in used and isinstance(value.value, np.ndarray):
            yield printable(name), value.value.shape


def _counted(group):
    """How many tensors and objects; the kind of one object alone."""
    objects = [value for value in group if type(value) is Inert]
    if len(objects) == len(group) == 1:
        return objects[0].kind
    numbers = {"tensors": len(group) - len(objects), "objects": len(objects)}
    return " and ".join(f"{n} {what}" for what, n in numbers.items() if n)


def _no_encoder(path, saved, values):
    """Says what a file has in place of an encoder."""
    if not isinstance(saved, dict):
        return (
            f"{path} must hold a dict of tensors. Received a "
            f"{type(saved).__name__}."
        )
    objects = [v for v in values if type(v.value) is Inert]
    names = [
        ".".join(v.parts) for v in values if isinstance(v.value, np.ndarray)
    ]
    text = (
        f"{path} must hold a ResNet: the names of a MoCo checkpoint "
        "(module.encoder_q.conv1.weight), of torchvision "
        "(layer1.0.conv1.weight), of detectron2 (res2.0.conv1.weight), of "
        "Hugging Face (encoder.stages.0.layers.0.layer.0.convolution.weight) "
        "or of a Sequential (4.0.conv1.weight), behind any prefix. Received "
        f"{listed(names or list(map(str, saved))) or 'an empty dict'}."
    )
    if objects and not names:
        kinds = listed(
            [f"{'.'.join(v.parts)} ({v.value.kind})" for v in objects]
        )
        text += (
            f" Objects are not read: {kinds}. Save the state_dict() of the "
            "model, not the model."
        )
    return text
