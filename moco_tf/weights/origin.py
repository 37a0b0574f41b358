"""Reads the weights that a run starts from: what `model.init` names.

RUN, RUN@best, RUN@1200    a workdir of ours, its latest or another checkpoint
FILE, FILE@entry=E,prefix=P    all that weight_files reads
MODEL.keras                a Keras model with the names of our layers
EXPORT/NAME/VERSION        a SavedModel that `moco-tf export` has written

Each becomes an Origin: arrays by the names of our variables. Nothing here
knows the encoder that they are for; moco_tf.weights.starting does.
"""

import hashlib
import json
import os
import re
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import paths, plan, records
from moco_tf.data import views
from moco_tf.evaluation import frozen
from moco_tf.models import keras_files, saved_models
from moco_tf.training import checkpoints
from moco_tf.weights import (
    conversion,
    layouts,
    other_files,
    pickle_reader,
    weight_files,
)

# Layers of heads.projection_head.
_HEAD = re.compile(r"(fc|fc\.\d|linear_\d|bn_\d)/\w+(#\d+)?")
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # ends a name in a checkpoint
_ENDINGS = ("latest", "best")
# Fields of a configuration that say which encoder it is.
FIELDS = ("backbone", "width", "stem", "input", "norm")


class LeftOut(NamedTuple):
    """A tensor that is there and not taken.

    Attributes:
      group: str, what it belongs to, in words. name: str, as it is there.
      shape: tuple of int.
    """

    group: str
    name: str
    shape: tuple


class Origin(NamedTuple):
    """Weights to start from.

    Arrays are in the layout of Keras, by the names of variables; those of a
    file may be no arrays, or of any shape.

    Attributes:
      text: of model.init. path: str, absolute. kind: str, in words.
      about: dict that JSON can hold: step, epoch and more, where known.
      backbone, head: dict name -> array; the head {} where there is none.
      parts: dict attribute of the method -> dict name -> array, of what the
        method trains behind the head.
      spelled: dict name -> how the file spells it, where it does otherwise.
      left_out: list of LeftOut.
      fields: dict of FIELDS, as far as they are known.
      recipe: views.Recipe that they were trained with, or None.
      notes: list of str, for the user.
    """

    text: str
    path: str
    kind: str
    about: dict
    backbone: dict
    head: dict
    parts: dict
    spelled: dict
    left_out: list
    fields: dict
    recipe: Any = None
    notes: tuple = ()

    def digest(self):
        """Hex digest of the tensors and their names."""
        sha256 = hashlib.sha256()
        parts = {"backbone": self.backbone, "head": self.head, **self.parts}
        for part, tensors in parts.items():
            for name, value in tensors.items():
                known = isinstance(value, np.ndarray)
                words = [part, name, np.shape(value) if known else "?"]
                sha256.update(json.dumps(words).encode())
                if known:
                    sha256.update(np.ascontiguousarray(value).tobytes())
        return sha256.hexdigest()


def named(part):
    """Variables by their names: of a model, a layer, or a list of those.

    Layers of two networks in one may have the same names: those of the second
    are followed by "#2".

    Returns:
      dict name -> variable, in the order of `weights`.
    """
    parts = part if isinstance(part, list | tuple) else [part]
    variables: dict = {}
    weights = (
        weight
        for each in parts
        for weight in (
            [each] if isinstance(each, tf.Variable) else each.weights
        )
    )
    for variable in weights:
        name = key = variable.name.partition(":")[0]
        number = 1
        while key in variables:
            number += 1
            key = f"{name}#{number}"
        variables[key] = variable
    return variables


def read(text: str, method: str) -> Origin:
    """Reads what model.init names.

    Args:
      text: of the field, not empty.
      method: name of the method that is to start. Of a run of the same method
        the parts that it trains behind the head are read too.

    Returns:
      Origin.

    Raises:
      ValueError: with the rule, the value received and the remedy.

    Side effects: may build the encoder of another run: seeds the generators of
      Keras, and sets TF32 as that run does.
    """
    path, ending = _split(text)
    if records.is_run(path):
        return _read_run(text, path, ending or "latest", method)
    if (path / "meta.json").is_file() and (path / "state.index").is_file():
        return _read_run(text, path.parent.parent, path, method)
    if (path / "saved_model.pb").is_file():
        return _read_saved_model(text, path)
    if path.is_dir():
        _refuse_folder(text, path)
    if path.suffix == ".keras":
        return _read_keras(text, path)
    return _read_file(text, path, ending)


def _split(text):
    """The path of a text, and what stands behind its last "@"."""
    path = paths.expand(text)
    if os.path.lexists(path):
        return path, ""
    start, at, ending = text.rpartition("@")
    before = paths.expand(start)
    if not at or not os.path.lexists(before):
        raise ValueError(
            "model.init must name a workdir, a file of weights, a .keras file "
            f"or a SavedModel. Received {text!r}, where nothing is. Pass "
            "--config.model.init=PATH, or --config.model.init= to start from "
            "random weights."
        )
    is_run = records.is_run(before)
    is_model = before.suffix == ".keras" or before.is_dir()
    if is_model and not is_run:
        raise ValueError(
            "What follows @ in model.init chooses a checkpoint of a workdir, "
            f"or one of the encoders of a file. Received {text!r}, and "
            f"{str(before)!r} is neither. Pass "
            f"--config.model.init={paths.quote(before)}."
        )
    return before, ending


def _refuse_folder(text, path):
    """Raises ValueError for a folder that is none of ours."""
    versions = [
        int(each.name)
        for each in path.iterdir()
        if each.name.isdecimal() and (each / "saved_model.pb").is_file()
    ]
    remedy = "Pass the --workdir of a run of pretrain, or one of its files."
    if files := other_files.inside(path):
        file = paths.quote(path / files[0])
        remedy = f"Pass one of its files: --config.model.init={file}."
    if versions:
        newest = paths.quote(path / str(max(versions)))
        remedy = f"Pass --config.model.init={newest}, the newest version there."
    raise ValueError(
        "A folder that model.init names must be a workdir, a checkpoint of "
        f"one, or a SavedModel. Received {text!r}. {remedy}"
    )


def _checkpoint(text, workdir, ending):
    """The folder of a run's checkpoint: "latest", "best" or a step."""
    steps = [str(step) for step, _ in checkpoints.complete(workdir)]
    best = checkpoints.best(workdir)
    known = [*steps, *(["best"] if best else [])]
    if ending not in (*known, "latest") or not steps:
        start = paths.quote(workdir)
        remedy = "Pass a workdir whose run has saved a checkpoint."
        if known:
            remedy = f"Pass --config.model.init={start}@{known[-1]}."
        raise ValueError(
            "model.init takes of a run its latest checkpoint, its best one or "
            f"one of its steps. Received {text!r}; the run has "
            f"{', '.join(known) or 'none'}. {remedy}"
        )
    return frozen.find_checkpoint(workdir, ending)


def _read_run(text, workdir, checkpoint, method):
    """The Origin of a run of ours."""
    config = frozen.load_config(workdir)
    if isinstance(checkpoint, str):
        checkpoint = _checkpoint(text, workdir, checkpoint)
    meta = checkpoints.read_meta(checkpoint)
    imported = meta.get("imported", {})
    behind: tuple[str, ...] = ()
    if config.method == method and "holds" not in meta:
        behind = plan.resolve_method(config)[0].BEHIND_HEAD
    if behind:
        trained = conversion.make_method(config)
        parts = {name: getattr(trained, name) for name in behind}
        encoder = trained.query_encoder
    else:
        parts = dict[str, Any]()
        encoder = frozen.build_encoder(config)
    checkpoints.restore_parts({"query_encoder": encoder, **parts}, checkpoint)
    has_head = not imported.get("fresh_head", False)
    with checkpoints.reader(checkpoint) as reader:
        shapes = reader.get_variable_to_shape_map()
    about = {
        "method": config.method,
        "checkpoint": checkpoint.name,
        "step": meta["step"],
        "epoch": meta.get("epoch"),
    }
    if imported:
        about["imported"] = imported.get("file")
    return Origin(
        text=text,
        path=os.path.abspath(workdir),
        kind=f"a run of {config.method}, step {meta['step']}",
        about=about,
        backbone=_values(encoder.backbone),
        head=_values(encoder.head) if has_head else {},
        parts={name: _values(part) for name, part in parts.items()},
        spelled={},
        left_out=list(_of_checkpoint(shapes, ("query_encoder", *parts))),
        fields={name: config.model[name] for name in FIELDS},
        recipe=views.RECIPES[config.data.views],
    )


def _of_checkpoint(shapes, taken):
    """Yields what a checkpoint holds beside the parts that are taken."""
    for name, shape in sorted(shapes.items()):
        place = name.removesuffix(_VALUE)
        parts = place.split("/")
        if place == name or parts[0] != "model" or parts[1] in taken:
            continue
        yield LeftOut(parts[1].replace("_", " "), place, tuple(shape))


def _values(part):
    return {name: v.numpy() for name, v in named(part).items()}


def _read_file(text, path, ending):
    """The Origin of a file of another program."""
    chosen = {}
    for word in ending.split(",") if ending else ():
        name, _, value = word.partition("=")
        if name not in ("entry", "prefix") or not value:
            raise ValueError(
                "What follows @ behind a file in model.init must be "
                "entry=KEYS, prefix=NAMES or both with a comma between. "
                f"Received {text!r}. Pass --config.model.init="
                f"{paths.quote(path)} to see the encoders that it has."
            )
        chosen[name] = value
    try:
        file = weight_files.read(path, **chosen)
    except ValueError as error:
        if "--prefix=" not in str(error):
            raise
        raise ValueError(
            f"{error}\nIn model.init they stand behind the file: "
            f"--config.model.init={paths.quote(path)}@entry=ENTRY,prefix=PREFIX"
        ) from error
    backbone: dict = {}
    head: dict = {}
    spelled: dict = {}
    for name, value in file.query.items():
        key = layouts.keras_name(name)
        spelled[key] = pickle_reader.printable(file.spell(name))
        is_array = isinstance(value, np.ndarray)
        part = head if name.startswith("fc.") else backbone
        part[key] = layouts.from_torch(value) if is_array else value
    kind = "a file of MoCo"
    if file.layout != "moco":
        kind = f"a file with {file.layout} names"
    return Origin(
        text=text,
        path=os.path.abspath(path),
        kind=kind,
        about={
            "layout": file.layout,
            "entry": pickle_reader.printable(file.chosen.entry),
            "prefix": pickle_reader.printable(file.chosen.prefix),
            **file.about,
        },
        backbone=backbone,
        head=head,
        parts={},
        spelled=spelled,
        left_out=list(_of_file(file)),
        fields=_fields(backbone),
        notes=tuple(_other_encoders(file)),
    )


def _of_file(file):
    """Yields what a WeightFile holds beside its query encoder."""
    for name, value in file.key.items():
        shape = np.shape(value) if isinstance(value, np.ndarray) else ()
        name = pickle_reader.printable(file.spell_key(name))
        yield LeftOut("the key encoder", name, shape)
    for name in ("queue", "pointer"):
        value = getattr(file, name)
        if value is not None:
            yield LeftOut("the queue", name, np.shape(value))
    for side, counts in file.counts.items():
        for name in counts:
            yield LeftOut("counters of BatchNorm", f"{side} {name}", ())
    for name, shape in file.rest:
        yield LeftOut(name.rpartition(".")[0] or name, name, shape)


def _other_encoders(file):
    """Notes of the encoders that were not taken."""
    for other in file.others[:5]:
        yield f"the file has another encoder: {other.flags}"


def _read_keras(text, path):
    """The Origin of a .keras file, ours or of the same names."""
    model = keras_files.load(path)
    kind = "a .keras file"
    return _of_model(text, path, kind, _values(model), path.parent, [])


def _read_saved_model(text, path):
    """The Origin of a SavedModel that `export` has written."""
    loaded = saved_models.load(path)
    variables = getattr(loaded, "variables", None) or []
    card = frozen.read_preprocessing(path)
    if not variables or not card:
        raise ValueError(
            "A SavedModel that model.init names must be one of `moco-tf "
            f"export`, with its model_card.json. Received {text!r}. Pass the "
            "workdir of its run, or a file of its weights."
        )

    with paths.plain(path) as plain:
        reader = tf.train.load_checkpoint(f"{plain}/variables/variables")
        shapes = reader.get_variable_to_shape_map()
    others = [
        LeftOut(name.partition("/")[0], name.removesuffix(_VALUE), tuple(shape))
        for name, shape in sorted(shapes.items())
        if name.endswith(_VALUE) and not name.startswith("variables/")
    ]
    values = _values(list(variables))
    return _of_model(text, path, "a SavedModel", values, path, others)


def _of_model(text, path, kind, values, folder, others):
    """The Origin of a model's variables, by their names."""
    ours = any(map(layouts.is_of_resnet, values))
    backbone: dict = {}
    head: dict = {}
    for name, value in values.items():
        if _HEAD.fullmatch(name):
            head[name] = value
        elif layouts.is_of_resnet(name) or not ours:
            backbone[name] = value
        else:
            others.append(LeftOut("other layers", name, value.shape))
    card = frozen.read_preprocessing(folder)
    return Origin(
        text=text,
        path=os.path.abspath(path),
        kind=kind,
        about={},
        backbone=backbone,
        head=head,
        parts={},
        spelled={},
        left_out=others,
        fields=_fields(backbone),
        recipe=views.RECIPES.get(card.get("views")),
    )


def _fields(backbone):
    """FIELDS of an encoder whose tensors are of a ResNet, or {}."""
    tensors = {
        layouts.torch_name(name): layouts.to_torch(value)
        for name, value in backbone.items()
        if isinstance(value, np.ndarray)
    }
    try:
        fields = layouts.architecture(tensors)
    except ValueError:
        return {}  # of no ResNet of ours: the tensors say the rest
    known = {
        name.partition(".")[2]: value
        for name, value in fields.items()
        if name.partition(".")[2] in FIELDS
    }
    norms = any("running_mean" in name for name in tensors)
    known["norm"] = "batch" if norms else "layer"
    channels = np.shape(backbone.get("conv1/kernel"))[2:3]
    if channels == (3,) and "conv1/kernel#2" not in backbone:
        known["input"] = "rgb"
    return known
