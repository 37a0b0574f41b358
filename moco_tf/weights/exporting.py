"""Writes weights of a run for other programs (`export-weights`).

Files are written that torch.load, safetensors and detectron2 read, without
torch. Their bytes are a function of the values alone: dates in the archive are
fixed.
"""

import collections
import pickle
import struct
import zipfile

import numpy as np

from moco_tf import filesystem, paths
from moco_tf.evaluation import frozen
from moco_tf.models import encoder as encoders
from moco_tf.training import checkpoints
from moco_tf.weights import (
    conversion,
    layouts,
    safetensors_file,
    torch_tensors,
)

_ALIGNMENT = 64  # bytes, of each storage in the file; as torch writes them
_PADDING = 0x4246  # "FB": the id of the extra field that torch pads with
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # of a ZIP archive
_STORAGE_NAMES = {dtype: name for name, dtype in torch_tensors.STORAGES.items()}


def export_weights(workdir, checkpoint, path, layout):
    """Writes the weights of a run in a layout that others read.

    Args:
      workdir: of the run. checkpoint: "latest", "best", a step or a path.
      path: of the file to write; none may be there. One that ends in
        .safetensors is of that format, which holds tensors alone.
      layout: "moco": as the published code saves and resumes, with the queue
        and SGD's momentum if the checkpoint has them; "torchvision": the
        backbone's state dict; "detectron2": as MoCo's conversion writes it.

    Returns:
      list of the names of the tensors in the file.

    Raises:
      ValueError: before anything is written, for what a layout cannot hold.
      OSError: if the file cannot be written.

    Side effects: writes the file and prints how many tensors it has; seeds the
    generators of Keras.
    """
    path = paths.expand(path)
    config = frozen.load_config(workdir)
    _check(layout, config, path)
    source = frozen.find_checkpoint(workdir, checkpoint)
    method = None
    has_queue = config.method == "moco" and conversion.holds_queue(source)
    if layout == "moco" and has_queue:
        method = conversion.restore_method(config, source)
        encoder = method.query_encoder
    else:
        encoder = frozen.build_encoder(config)
        checkpoints.restore_query_encoder(encoder, source)
    meta = checkpoints.read_meta(source)
    query = _tensors(encoder, "query", meta, config)
    if layout == "moco":
        names = _write_moco(path, query, method, meta, config)
    elif layout == "torchvision":
        names = _write_torchvision(path, query)
    else:
        names = _write_detectron2(path, query)
    notes = _notes(layout, config, method, _is_safetensors(path))
    print(
        f"exported    {paths.shown(source)}\n"
        f"wrote       {paths.shown(path)} ({layout}, {len(names)} tensors)\n"
        + "\n".join(f"note        {note}" for note in notes)
    )
    return names


def _is_safetensors(path):
    return path.suffix.lower() == ".safetensors"


def _check(layout, config, path):
    if layout not in layouts.LAYOUTS:
        raise ValueError(
            f"layout must be one of {', '.join(layouts.LAYOUTS)}. "
            f"Received {layout!r}."
        )
    model = config.model
    if (model.input, model.norm) != ("rgb", "batch"):
        raise ValueError(
            "Published formats hold ResNets with BatchNorm that see the whole "
            f"image. Received a run with model.input={model.input}, "
            f"model.norm={model.norm}. Use `export` for a SavedModel of it."
        )
    if model.backbone not in encoders.RESNETS:
        raise ValueError(
            f"The layout {layout} holds ResNets of torchvision's form: "
            f"{', '.join(encoders.RESNETS)}. Received a run with the backbone "
            f"{model.backbone!r}. Use `export` for a SavedModel of it."
        )
    if layout == "detectron2" and model.stem != "imagenet":
        raise ValueError(
            "The layout detectron2 holds the 7x7 stem alone: its ResNets have "
            f"no other. Received a run with the stem {model.stem!r}. Export "
            "it as torchvision."
        )
    if layout == "detectron2" and _is_safetensors(path):
        raise ValueError(
            "detectron2 reads pickles, not safetensors. Received "
            f"{str(path)!r}. Give a path that ends in .pkl, or another layout."
        )
    if layout == "moco" and model.head not in ("fc", "mlp"):
        raise ValueError(
            "The layout moco holds the heads fc and mlp. Received a run with "
            f"the head {model.head!r}. Pass --layout=torchvision for its "
            "backbone."
        )
    if path.exists():
        raise ValueError(
            f"Weights are written to a new file. Received {path}, which is "
            "there. Remove it or give another."
        )


def _tensors(encoder, side, meta, config):
    """Tensors with the counters of BatchNorm, by torchvision's names."""
    tensors = conversion.collect(encoder)
    counts = meta["step"] * conversion.batches_per_step(config)
    if "imported" in meta:
        counts = meta["imported"]["counters"][side]
        if meta["imported"]["fresh_head"]:
            tensors = _backbone(tensors)
    counts = conversion.expand_counts(counts, tensors)
    return layouts.with_counters(tensors, counts)


def backbone_tensors(encoder, config, meta):
    """The tensors of a backbone by torchvision's names and in its layout.

    Args:
      encoder: Encoder with one of our ResNets. config: ConfigDict of its run.
      meta: dict of its checkpoint.

    Returns:
      dict name -> array: float32, and int64 of the counters of BatchNorm.
    """
    return _backbone(_tensors(encoder, "query", meta, config))


def _backbone(tensors):
    return {n: v for n, v in tensors.items() if not n.startswith("fc.")}


def _write_moco(path, query, method, meta, config):
    """Writes what the published code saves after an epoch."""
    state = collections.OrderedDict()
    if method:
        keys = method.queue.keys.numpy()
        state["module.queue"] = np.ascontiguousarray(keys.T)
        state["module.queue_ptr"] = np.array(
            [method.queue.pointer.numpy()], np.int64
        )
    sides = {layouts.QUERY: query}
    if method:
        sides[layouts.KEY] = _tensors(method.key_encoder, "key", meta, config)
    for prefix, tensors in sides.items():
        for name, value in tensors.items():
            state[f"module.{prefix}{name}"] = value
    if _is_safetensors(path):
        safetensors_file.write(path, state)
        return list(state)
    saved = {
        "epoch": int(meta.get("epoch", 0)),
        "arch": config.model.backbone,
        "state_dict": state,
    }
    if method and config.optimizer.name == "sgd":
        saved["optimizer"] = conversion.torch_optimizer(method, config)
    write_torch(path, saved)
    return list(state)


def _write_torchvision(path, query):
    tensors = collections.OrderedDict(_backbone(query))
    if _is_safetensors(path):
        safetensors_file.write(path, tensors)
    else:
        write_torch(path, tensors)
    return list(tensors)


def _write_detectron2(path, query):
    model = {layouts.to_detectron2(n): v for n, v in query.items()}
    write_pickle(
        path,
        {"model": model, "__author__": "MOCO", "matching_heuristics": True},
    )
    return list(model)


def _notes(layout, config, method, tensors_alone):
    """Yields lines on how a file differs from what its layout may hold."""
    model = config.model
    if model.width != 1 or model.stem != "imagenet":
        yield (
            f"a ResNet of width {model.width:g} with the {model.stem} stem: "
            "load it into a model of that form"
        )
    if layout == "torchvision":
        yield "without the projection head, which torchvision has no place for"
    if layout == "moco" and method is None:
        yield "without key encoder and queue, which the checkpoint has not"
    if layout == "moco" and tensors_alone:
        yield "without the epoch and the optimiser's state: give .pth for them"
    elif layout == "moco" and method and config.optimizer.name != "sgd":
        yield f"without the state of {config.optimizer.name}, only SGD's fits"


def write_torch(path, value):
    """Writes a file in torch's zip layout.

    Args:
      path: of the file; its folder is made. It appears complete or not at all.
      value: dict, OrderedDict, list, tuple, str, int, float, bool or None, and
        arrays of the types in torch_tensors.STORAGES, which become tensors.

    Raises:
      ValueError: for a value of another type.
      OSError: if the file cannot be written.
    """
    emitter = _Emitter()
    body = emitter.pickle(value)
    with (
        filesystem.atomic_file(path) as part,
        zipfile.ZipFile(part, "w") as archive,
    ):
        _store(archive, "archive/data.pkl", body)
        _store(archive, "archive/byteorder", b"little")
        for number, array in enumerate(emitter.storages):
            data = array.astype(array.dtype.newbyteorder("<"), copy=False)
            _store(archive, f"archive/data/{number}", data.tobytes())
        _store(archive, "archive/version", b"3\n")


def write_pickle(path, value):
    """Writes a plain pickle, as pickle.dump of Python 3.8 to 3.13 does.

    Args:
      path: of the file; its folder is made. It appears complete or not at all.
      value: containers of text, numbers and arrays.

    Raises:
      OSError: if the file cannot be written.
    """
    with filesystem.atomic_file(path) as part, open(part, "wb") as file:
        pickle.dump(value, file, protocol=4)


def _store(archive, name, data):
    """Adds a member whose data begin at a multiple of the alignment."""
    info = zipfile.ZipInfo(name, _EARLIEST)
    start = archive.fp.tell() + 30 + len(name) + 4
    padding = -start % _ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
    archive.writestr(info, data)


class _Emitter:
    """Pickles values in protocol 2, tensors by what torch rebuilds them with.

    Attributes:
      storages: arrays in the order of their keys.
    """

    def __init__(self):
        self.storages = []

    def pickle(self, value):
        return b"\x80\x02" + self._emit(value) + b"."

    def _emit(self, value):
        kind = type(value)
        if isinstance(value, np.ndarray):
            return self._tensor(value)
        if kind is dict or kind is collections.OrderedDict:
            empty = b"}"
            if kind is collections.OrderedDict:
                empty = b"ccollections\nOrderedDict\n)R"
            pairs = [part for pair in value.items() for part in pair]
            return empty + b"(" + b"".join(map(self._emit, pairs)) + b"u"
        if kind is list:
            return b"](" + b"".join(map(self._emit, value)) + b"e"
        if kind is tuple:
            return b"(" + b"".join(map(self._emit, value)) + b"t"
        return _emit_plain(value)

    def _tensor(self, array):
        name = _STORAGE_NAMES.get(array.dtype)
        if name is None:
            raise ValueError(
                "Tensors of torch files have one of the types "
                f"{', '.join(map(str, _STORAGE_NAMES))}. Received "
                f"{array.dtype}."
            )
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = str(len(self.storages))
        self.storages.append(array)
        strides = tuple(step // array.itemsize for step in array.strides)
        return b"".join(
            [
                b"ctorch._utils\n_rebuild_tensor_v2\n((",
                _emit_plain("storage"),
                f"ctorch\n{name}\n".encode(),
                *map(_emit_plain, (key, "cpu", array.size)),
                b"tQ",
                _emit_plain(0),
                self._emit(array.shape),
                self._emit(strides),
                _emit_plain(False),  # takes no gradient
                b"ccollections\nOrderedDict\n)RtR",  # no hooks
            ]
        )


def _emit_plain(value):
    kind = type(value)
    if value is None:
        return b"N"
    if kind is bool:
        return b"\x88" if value else b"\x89"
    if kind is int:
        size = value.bit_length() // 8 + 1
        return (
            b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=1)
        )
    if kind is float:
        return b"G" + struct.pack(">d", value)
    if kind is str:
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    raise ValueError(
        "A torch file is written of arrays, numbers, text and containers. "
        f"Received a value of type {kind.__name__}."
    )
