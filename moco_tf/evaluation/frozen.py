"""A frozen encoder, from a checkpoint of a run or from a SavedModel.

`open_frozen` gives both in one form, so that no command asks where its encoder
comes from. `find_checkpoint`, `load_config` and `build_encoder` are for those
that need a run's encoder itself.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf import paths, plan, state_files, workdirs
from moco_tf.data import views
from moco_tf.models import encoder as encoders
from moco_tf.models import keras_files, saved_models
from moco_tf.training import checkpoints, distribution

LAYERS = ("backbone", "projection")


class FrozenEncoder(NamedTuple):
    """An encoder in inference mode, with the images that it expects.

    Attributes:
      encode: function, uint8 [n, S, S, C] -> {layer: float32 [n, F]}.
      layers: names of the features that `encode` returns, of LAYERS.
      image_size: S, pixels.
      recipe: views.Recipe, whose evaluation view and normalisation it expects.
      title: path of the checkpoint or model, for messages.
      weights: variables that `encode` reads.
      identity: hex digest of the weights, the preprocessing and the graph.
      encoder: encoder.Encoder; None for a SavedModel.
      config: ConfigDict of the run; None for a SavedModel.
      channels: C, of the images.
      graph: hex digest of the graph of a model that is of no run, else "": the
        weights and the size of the images do not tell which one it is.
    """

    encode: Callable
    layers: tuple[str, ...]
    image_size: int
    recipe: views.Recipe
    title: str
    weights: list
    identity: str
    encoder: tf.keras.Model | None = None
    config: Any = None
    channels: int = 3
    graph: str = ""


def open_frozen(
    workdir: str | pathlib.Path = "",
    checkpoint: str = "latest",
    saved_model: str | pathlib.Path = "",
    recipe: str = "",
    image_size: int = 0,
) -> FrozenEncoder:
    """Opens the encoder of a run or of a SavedModel.

    Args:
      workdir: of a pre-training run.
      checkpoint: of the run: "latest", "best", a step or a path.
      saved_model: folder of a SavedModel, or a .keras file, that takes
        normalised float images [n, S, S, 3].
      recipe, image_size: of a SavedModel: name of the views that it was trained
        with, and side of its images, pixels; "" and 0: as in the
        model_card.json beside it, which an export has.

    Returns:
      FrozenEncoder.

    Raises:
      ValueError: unless one of the two paths is given and can be opened.
    """
    if bool(workdir) == bool(saved_model):
        raise ValueError(
            "One encoder must be named, by --workdir or by --saved_model. "
            f"Received workdir={workdir!r}, saved_model={saved_model!r}."
        )
    if saved_model:
        return _open_saved_model(saved_model, recipe, image_size)
    workdir = paths.expand(workdir)
    config = load_config(workdir)
    path = find_checkpoint(workdir, checkpoint)
    encoder = build_encoder(config)
    checkpoints.restore_query_encoder(encoder, path)
    return freeze(encoder, config, str(path))


def freeze(encoder, config, title):
    """Freezes an Encoder, with its weights as they are now.

    Args:
      encoder: encoder.Encoder. config: ConfigDict of its run.
      title: str, for messages.

    Returns:
      FrozenEncoder.
    """
    recipe = views.RECIPES[config.data.views]
    size = config.data.image_size

    @tf.function
    def encode(images):
        images = views.normalize(images, recipe.mean, recipe.std)
        backbone, projection = encoder.features(images)
        return {"backbone": backbone, "projection": projection}

    frozen = FrozenEncoder(
        encode=encode,
        layers=LAYERS,
        image_size=size,
        recipe=recipe,
        title=title,
        weights=encoder.weights,
        identity="",
        encoder=encoder,
        config=config,
        channels=encoder.backbone.input_shape[-1],
    )
    return frozen._replace(identity=digest(frozen))


def backbone_of(frozen):
    """The same encoder without its head, FrozenEncoder.

    Two encoders of one backbone have the same features and the same identity,
    whatever their heads are.
    """
    if frozen.encoder is None:  # a SavedModel has none
        return frozen
    backbone, recipe = frozen.encoder.backbone, frozen.recipe

    @tf.function
    def encode(images):
        images = views.normalize(images, recipe.mean, recipe.std)
        rows = encoders.call_as_keras(backbone, images, training=False)
        return {LAYERS[0]: tf.cast(rows, tf.float32)}

    alone = frozen._replace(
        encode=encode, layers=LAYERS[:1], weights=backbone.weights
    )
    return alone._replace(identity=digest(alone))


def digest(frozen):
    """Computes the identity of a FrozenEncoder from its weights as of now."""
    recipe = frozen.recipe
    about = [frozen.image_size, recipe.mean, recipe.std]
    text = json.dumps([*about, frozen.graph] if frozen.graph else about)
    sha256 = hashlib.sha256(text.encode())
    for weight in frozen.weights:
        sha256.update(weight.numpy().tobytes())
    return sha256.hexdigest()


def load_config(workdir):
    """Returns the configuration that a run saved in its workdir.

    Raises:
      ValueError: if the workdir holds no run.
    """
    if not os.path.lexists(pathlib.Path(workdir) / "config.json"):
        raise ValueError(
            "A workdir must hold the config.json of a pre-training run. "
            f"Received {str(workdir)!r} without one. Give the --workdir of "
            "the `pretrain` command."
        )
    return workdirs.load_saved(workdir)


def find_checkpoint(workdir, checkpoint):
    """Returns the folder of a run's checkpoint.

    Args:
      workdir: of the run.
      checkpoint: "latest", "best", a step such as "1200", or a path.

    Raises:
      ValueError: if there is no such complete checkpoint; names those that
        the run has.

    Side effects: warns of later checkpoints that "latest" passes over.
    """
    complete = checkpoints.complete(workdir)
    steps = {str(step): path for step, path in complete}
    if checkpoint == "latest":
        path = checkpoints.latest(workdir)
        for _, torn in checkpoints.without_meta(workdir):
            if path and torn.name > path.name:
                state_files.warn(
                    f"{torn} has no meta.json and is passed over: {path.name} "
                    "is taken as the latest"
                )
    elif checkpoint == "best":
        path = checkpoints.best(workdir)
    elif str(checkpoint) in steps:
        path = steps[str(checkpoint)]
    else:
        path = paths.expand(checkpoint)
        path = path if (path / "meta.json").is_file() else None
    if path is None:
        torn = checkpoints.folder(workdir) / "best"
        if checkpoint != "best":
            torn = pathlib.Path(checkpoint)
            for step, folder in checkpoints.without_meta(workdir):
                torn = folder if str(step) == str(checkpoint) else torn
        if os.path.lexists(torn / "state.index"):
            checkpoints.read_meta(torn)  # says what is wrong with it
        existing = ", ".join(steps) or "none"
        remedy = "Give the --workdir of a run that has saved one."
        if steps:
            remedy = f"Pass --checkpoint={existing.rpartition(' ')[2]}."
        raise ValueError(
            'checkpoint must be "latest", "best", a step or the path of a '
            f"complete checkpoint. Received {str(checkpoint)!r}; steps in "
            f"{checkpoints.folder(workdir)}: {existing}. {remedy}"
        )
    return path


def build_encoder(config):
    """Builds an encoder as configured, with random weights fixed by the seed.

    Side effects: seeds Python's, NumPy's and TensorFlow's generators; sets TF32
    as configured.
    """
    distribution.set_precision(config.train.tf32)
    tf.keras.utils.set_random_seed(config.seed)
    recipe = views.RECIPES[config.data.views]
    # One BatchNorm group: inference uses the moving statistics only.
    parts = plan.make_parts(config, recipe.mean, recipe.std)
    return encoders.Encoder(*parts)


def _open_saved_model(path, recipe_name, image_size):
    """Freezes a model of another program, which takes float images."""
    path = paths.expand(path)
    if not (path / "saved_model.pb").is_file() and path.suffix != ".keras":
        raise ValueError(
            "--saved_model must be a folder with saved_model.pb or a .keras "
            f"file. Received {str(path)!r}."
        )
    card = read_preprocessing(path if path.is_dir() else path.parent)
    recipe_name = recipe_name or card.get("views", "")
    image_size = image_size or card.get("image_size", 0)
    if recipe_name not in views.RECIPES:
        raise ValueError(
            "The views of a SavedModel must be known, for its normalisation: "
            f"one of {', '.join(views.RECIPES)}. Received "
            f"views={recipe_name!r} for {str(path)!r}, and there is no "
            "model_card.json beside it, as an export has. Pass one of them by "
            "--views."
        )
    recipe = views.RECIPES[recipe_name]
    weights, call, input_shape, graph = _load_model(path)
    side, channels = input_shape[1], input_shape[3] or 3
    size = image_size or side
    if not size or (side and side != size):
        raise ValueError(
            "The side of a SavedModel's images must be known. Received "
            f"image_size={image_size} for a model of {side or 'any size'}. "
            f"Pass --image_size={side or 'PIXELS'}."
        )

    @tf.function
    def encode(images):
        images = views.normalize(images, recipe.mean, recipe.std)
        return {"backbone": tf.cast(call(images), tf.float32)}

    shape = encode(tf.zeros([1, size, size, channels], tf.uint8))
    shape = shape["backbone"].shape
    if shape.rank != 2:
        raise ValueError(
            "A model to be evaluated must return features [n, F]. Received an "
            f"output of shape {shape} from {str(path)!r}. Save it with a "
            "pooling layer at its end."
        )
    frozen = FrozenEncoder(
        encode=encode,
        layers=LAYERS[:1],
        image_size=size,
        recipe=recipe,
        title=str(path),
        weights=weights,
        identity="",
        channels=channels,
        graph=graph,
    )
    return frozen._replace(identity=digest(frozen))


def read_preprocessing(folder):
    """Reads the preprocessing of an export from its model card.

    Args:
      folder: pathlib.Path, of the export.

    Returns:
      dict with "views" and "image_size"; {} without a card, or with one that
      another program wrote.
    """
    path = folder / "model_card.json"
    if not os.path.lexists(path):
        return {}
    remedy = (
        "The model is another file. Copy the card from where it was exported; "
        "or move it away, and pass --views and --image_size."
    )
    try:
        values = state_files.read_json(path, remedy).get("preprocessing")
    except state_files.OtherKind:
        return {}  # of another program
    return values if isinstance(values, dict) else {}


def _keras_model(path):
    """Loads a .keras file that has one image input and Keras' own layers."""
    model = keras_files.load(path)
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(
            "A .keras file to be evaluated must have one input [n, S, S, 3]. "
            f"Received {str(path)!r} with the input {shape}."
        )
    return model


def _architecture(model):
    """Hex SHA-256 of the layers of a Keras model, the same in both lanes."""

    def without_versions(entries):
        return {
            name: value
            for name, value in entries.items()
            if name not in ("keras_version", "backend", "module")
        }

    layers = json.loads(model.to_json(), object_hook=without_versions)
    text = json.dumps(layers, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _load_model(path):
    """Loads a .keras file or a SavedModel.

    Returns:
      weights: variables.
      call: function, float32 [n, S, S, C] -> its output, in inference mode.
      input_shape: (n, S, S, C), None where any number will do.
      graph: hex SHA-256 of what computes.
    """
    if path.suffix == ".keras":
        model = _keras_model(path)
        return (
            model.variables,
            lambda x: model(x, training=False),
            model.input_shape,
            _architecture(model),
        )
    loaded = saved_models.load(path)
    candidates = []
    for name, signature in loaded.signatures.items():
        inputs = signature.structured_input_signature[1]
        images = next(iter(inputs.values())) if len(inputs) == 1 else None
        if images is not None and images.dtype == tf.float32:
            if images.shape.rank == 4:
                candidates.append((name, signature, images))
    # An export's signature of raw features comes before normalised ones.
    candidates.sort(key=lambda entry: entry[0] != "embed_tensors")
    if not candidates:
        raise ValueError(
            "A SavedModel to be evaluated must have a signature of one float32 "
            f"input [n, S, S, 3]. Received {str(path)!r} with the signatures "
            f"{', '.join(loaded.signatures) or 'none'}."
        )
    name, signature, images = candidates[0]

    # The loaded object owns the variables: it must live as long as the call.
    def call(batch, loaded=loaded):
        del loaded
        outputs = signature(**{images.name: batch})
        return outputs["features" if "features" in outputs else min(outputs)]

    graph = f"{saved_models.checksum(path)} {name}"
    graph = hashlib.sha256(graph.encode()).hexdigest()
    return list(signature.variables), call, images.shape, graph
