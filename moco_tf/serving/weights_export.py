"""Weights of a run, for programs of others (the `export-weights` command)."""

import collections
import pathlib

import numpy as np

from moco_tf.evaluation import restored
from moco_tf.models import encoder as encoders
from moco_tf.serving import (
    torch_writer,
    weight_files,
    weight_names,
    weight_state,
)
from moco_tf.training import checkpoints


def export_weights(workdir, checkpoint, path, layout):
    """Writes the weights of a run in a layout that others read.

    Args:
      workdir: of the run. checkpoint: "latest", "best", a step or a path.
      path: of the file to write; none may be there.
      layout: "moco": as the published code saves and resumes, with the queue
        and SGD's momentum if the checkpoint has them; "torchvision": the
        backbone's state dict; "detectron2": as MoCo's conversion writes it.

    Returns:
      list of the names of the tensors in the file.

    Raises:
      ValueError: before anything is written, for what a layout cannot hold.
      OSError: if the file cannot be written.

    Side effects: writes the file and prints what it holds; seeds the
    generators of Keras.
    """
    path = pathlib.Path(path)
    config = restored.load_config(workdir)
    _check(layout, config, path)
    source = restored.find_checkpoint(workdir, checkpoint)
    method = None
    whole = config.method == "moco" and weight_state.holds_queue(source)
    if layout == "moco" and whole:
        method = weight_state.restore_method(config, source)
        encoder = method.query_encoder
    else:
        encoder = restored.build_encoder(config)
        checkpoints.restore_query_encoder(encoder, source)
    meta = checkpoints.read_meta(source)
    query = _tensors(encoder, "query", meta, config)
    if layout == "moco":
        names = _write_moco(path, query, method, meta, config)
    else:
        names = _WRITERS[layout](path, query)
    print(
        f"exported    {source}\n"
        f"wrote       {path} ({layout}, {len(names)} tensors)\n"
        + "\n".join(f"note        {n}" for n in _notes(layout, config, method))
    )
    return names


def _check(layout, config, path):
    if layout not in weight_files.LAYOUTS:
        raise ValueError(
            f"layout must be one of {', '.join(weight_files.LAYOUTS)}. "
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
    tensors = weight_state.collect(encoder)
    # Two batches a step go through each encoder when both views are queries.
    both = config[config.method].get("symmetric", False)
    counts = meta["step"] * (2 if both else 1)
    if "imported" in meta:
        counts = meta["imported"]["counters"][side]
        if meta["imported"]["fresh_head"]:
            tensors = _backbone(tensors)
    return weight_names.with_counters(
        tensors, weight_state.counts_of(counts, tensors)
    )


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
    sides = {weight_names.QUERY: query}
    if method:
        sides[weight_names.KEY] = _tensors(
            method.key_encoder, "key", meta, config
        )
    for prefix, tensors in sides.items():
        for name, value in tensors.items():
            state[f"module.{prefix}{name}"] = value
    saved = {
        "epoch": int(meta.get("epoch", 0)),
        "arch": config.model.backbone,
        "state_dict": state,
    }
    if method and config.optimizer.name == "sgd":
        saved["optimizer"] = weight_state.torch_optimizer(method, config)
    torch_writer.write_torch(path, saved)
    return list(state)


def _write_torchvision(path, query):
    tensors = collections.OrderedDict(_backbone(query))
    torch_writer.write_torch(path, tensors)
    return list(tensors)


def _write_detectron2(path, query):
    model = {weight_names.to_detectron2(n): v for n, v in query.items()}
    torch_writer.write_pickle(
        path,
        {"model": model, "__author__": "MOCO", "matching_heuristics": True},
    )
    return list(model)


_WRITERS = {
    "torchvision": _write_torchvision,
    "detectron2": _write_detectron2,
}


def _notes(layout, config, method):
    """What the reader of a file must know of it."""
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
    if layout == "moco" and method and config.optimizer.name != "sgd":
        yield f"without the state of {config.optimizer.name}, only SGD's fits"
