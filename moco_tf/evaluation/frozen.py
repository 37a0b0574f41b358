"""An encoder to judge, whatever it comes from: a run, or a SavedModel."""

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf import plan, workdirs
from moco_tf.data import views
from moco_tf.models import encoder as encoders
from moco_tf.training import checkpoints, distribution


def load_config(workdir):
    """Returns the configuration that a run saved in its workdir.

    Raises:
      ValueError: if the workdir holds no run.
    """
    if not (pathlib.Path(workdir) / "config.json").is_file():
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
      ValueError: if there is no such complete checkpoint, with those that
        there are.
    """
    complete = checkpoints.complete(workdir)
    steps = {str(step): path for step, path in complete}
    if checkpoint == "latest":
        path = checkpoints.latest(workdir)
    elif checkpoint == "best":
        path = checkpoints.best(workdir)
    elif str(checkpoint) in steps:
        path = steps[str(checkpoint)]
    else:
        path = pathlib.Path(checkpoint)
        path = path if (path / "meta.json").is_file() else None
    if path is None:
        held = ", ".join(steps) or "none"
        raise ValueError(
            'checkpoint must be "latest", "best", a step or the path of a '
            f"complete checkpoint. Received {str(checkpoint)!r}; steps in "
            f"{checkpoints.folder(workdir)}: {held}."
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


LAYERS = ("backbone", "projection")


class FrozenEncoder(NamedTuple):
    """An encoder in inference mode, with the images that it expects.

    Attributes:
      encode: uint8 [n, S, S, C] -> {layer: float32 [n, F]}.
      layers: names of what it returns, of LAYERS.
      image_size: S, pixels.
      recipe: views.Recipe, whose evaluation view and normalisation it expects.
      title: what it is, for messages.
      weights: variables that it reads.
      identity: hex digest of its weights and its preprocessing.
      encoder: encoder.Encoder; None for a SavedModel.
      config: of the run; None for a SavedModel.
      channels: C, of the images.
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


def open_frozen(
    workdir: str | pathlib.Path = "",
    checkpoint: str = "latest",
    saved_model: str | pathlib.Path = "",
    recipe: str = "",
    image_size: int = 0,
) -> FrozenEncoder:
    """Opens what one of the two paths names.

    Args:
      workdir: of a pre-training run.
      checkpoint: of the run: "latest", "best", a step or a path.
      saved_model: folder of a SavedModel, or a .keras file, that takes
        normalised float images [n, S, S, 3].
      recipe, image_size: of a SavedModel: the views that it was trained with
        and the side of its images; "" and 0: as it says itself, which an
        export does in its model_card.json.

    Returns:
      FrozenEncoder.

    Raises:
      ValueError: unless exactly one path is given and can be opened.
    """
    if bool(workdir) == bool(saved_model):
        raise ValueError(
            "One encoder must be named, by --workdir or by --saved_model. "
            f"Received workdir={workdir!r}, saved_model={saved_model!r}."
        )
    if saved_model:
        return _open_saved_model(saved_model, recipe, image_size)
    config = load_config(workdir)
    path = find_checkpoint(workdir, checkpoint)
    encoder = build_encoder(config)
    checkpoints.restore_query_encoder(encoder, path)
    return freeze(encoder, config, str(path))


def freeze(encoder, config, title):
    """A FrozenEncoder of an Encoder and the configuration of its run."""
    recipe = views.RECIPES[config.data.views]
    size = config.data.image_size

    @tf.function
    def encode(images):
        images = views.normalize(images, recipe.mean, recipe.std)
        backbone, projection = encoder.features(images)
        return {"backbone": backbone, "projection": projection}

    judged = FrozenEncoder(
        encode,
        LAYERS,
        size,
        recipe,
        title,
        encoder.weights,
        "",
        encoder,
        config,
        encoder.backbone.input_shape[-1],
    )
    return judged._replace(identity=digest(judged))


def digest(judged):
    """The identity of a FrozenEncoder, of its weights as they are now."""
    recipe = judged.recipe
    text = json.dumps([judged.image_size, recipe.mean, recipe.std])
    found = hashlib.sha256(text.encode())
    for weight in judged.weights:
        found.update(weight.numpy().tobytes())
    return found.hexdigest()


def _open_saved_model(path, recipe_name, image_size):
    """Wraps a model that others made: its one float image input is called."""
    path = pathlib.Path(path)
    if not (path / "saved_model.pb").is_file() and path.suffix != ".keras":
        raise ValueError(
            "--saved_model must be a folder with saved_model.pb or a .keras "
            f"file. Received {str(path)!r}."
        )
    told = read_preprocessing(path if path.is_dir() else path.parent)
    recipe_name = recipe_name or told.get("views", "")
    image_size = image_size or told.get("image_size", 0)
    if recipe_name not in views.RECIPES:
        raise ValueError(
            "Of a SavedModel the views must be told, for its normalisation: "
            f"one of {', '.join(views.RECIPES)}. Received "
            f"views={recipe_name!r}. Pass --views."
        )
    recipe = views.RECIPES[recipe_name]
    weights, call, form = _callable(path)
    side, channels = form[1], form[3] or 3
    size = image_size or side
    if not size or (side and side != size):
        raise ValueError(
            "The side of a SavedModel's images must be known. Received "
            f"image_size={image_size} for a model of {side or 'any size'}. "
            "Pass --image_size."
        )

    @tf.function
    def encode(images):
        images = views.normalize(images, recipe.mean, recipe.std)
        return {"backbone": tf.cast(call(images), tf.float32)}

    shape = encode(tf.zeros([1, size, size, channels], tf.uint8))
    shape = shape["backbone"].shape
    if shape.rank != 2:
        raise ValueError(
            "A model that is judged must return features [n, F]. Received an "
            f"output of shape {shape} from {str(path)!r}."
        )
    judged = FrozenEncoder(
        encode,
        LAYERS[:1],
        size,
        recipe,
        str(path),
        weights,
        "",
        channels=channels,
    )
    return judged._replace(identity=digest(judged))


def read_preprocessing(folder):
    """What the model card of an export in a folder says of its images.

    Args:
      folder: pathlib.Path.

    Returns:
      dict with "views" and "image_size"; {} without a card, or with one that
      another program wrote.
    """
    card = folder / "model_card.json"
    told = workdirs.read_json(card) if card.is_file() else {}
    told = told.get("preprocessing") if isinstance(told, dict) else {}
    return told if isinstance(told, dict) else {}


def _keras_model(path):
    """A .keras file of one image input, of Keras' own layers."""
    try:
        model = tf.keras.models.load_model(path, compile=False, safe_mode=True)
    except (TypeError, AttributeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:100]
        raise ValueError(
            "A .keras file that is judged must be of Keras' own layers. "
            f"Received {str(path)!r} ({reason}). Save it as a SavedModel."
        ) from error
    form = model.input_shape
    if not isinstance(form, tuple) or len(form) != 4:
        raise ValueError(
            "A .keras file that is judged must have one input [n, S, S, 3]. "
            f"Received {str(path)!r} with the input {form}."
        )
    return model


def _callable(path):
    """The weights, a function of float images, and their shape."""
    if path.suffix == ".keras":
        model = _keras_model(path)
        return (
            model.variables,
            lambda x: model(x, training=False),
            model.input_shape,
        )
    loaded = tf.saved_model.load(str(path))
    images = []
    for name, signature in loaded.signatures.items():
        inputs = signature.structured_input_signature[1]
        only = next(iter(inputs.values())) if len(inputs) == 1 else None
        if only is not None and only.dtype == tf.float32:
            if only.shape.rank == 4:
                images.append((name, signature, only))
    # One that hands out raw features comes before its normalised form.
    images.sort(key=lambda entry: entry[0] != "embed_tensors")
    if not images:
        raise ValueError(
            "A SavedModel that is judged must have a signature of one float32 "
            f"input [n, S, S, 3]. Received {str(path)!r} with the signatures "
            f"{', '.join(loaded.signatures) or 'none'}."
        )
    _, signature, only = images[0]

    # The loaded object owns the variables: it must live as long as the call.
    def call(batch, loaded=loaded):
        del loaded
        outputs = signature(**{only.name: batch})
        name = "features" if "features" in outputs else min(outputs)
        return outputs[name]

    return list(signature.variables), call, only.shape
