"""An encoder by one word: a run, a file of weights, a model, a baseline.

    RUN  RUN@best  RUN@1200     a workdir, and which of its checkpoints
    FILE                        weights that `import-weights` reads
    MODEL                       a SavedModel, or a .keras file
    untrained  pixels           what any training has to be better than

Settings stand behind the name too, with commas: MODEL@views=v2,image_size=224,
FILE@prefix=teacher., untrained@config=moco_cifar10.
"""

import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf import config as configs
from moco_tf import naming, paths, records
from moco_tf.data import views
from moco_tf.evaluation import frozen
from moco_tf.serving import server
from moco_tf.weights import importing, other_files

UNTRAINED, PIXELS = "untrained", "pixels"
_PIXELS_SIDE = 32  # of the images whose pixels are features
_SETTINGS = {  # by kind
    "run": (),
    "model": ("views", "image_size"),
    "weights": ("entry", "prefix", "config", "views", "image_size"),
    UNTRAINED: ("config",),
    PIXELS: (),
}
# Flags of other commands that readers of these files advise.
_FLAGS = ("--views", "--image_size", "--entry", "--prefix", "--checkpoint")


class Named(NamedTuple):
    """An encoder that is named but not opened.

    Attributes:
      text: as it was typed.
      kind: "run", "model", "weights", UNTRAINED or PIXELS.
      path: pathlib.Path; empty for the last two.
      checkpoint: of a run: "latest", "best", a step or a path.
      settings: dict name -> text, of those behind the name.
    """

    text: str
    kind: str
    path: pathlib.Path
    checkpoint: str
    settings: dict


def parse(text):
    """Reads the name of an encoder, and looks what kind it is of.

    Args:
      text: str, as in the head of this module.

    Returns:
      Named.

    Raises:
      ValueError: for what does not exist, is no encoder, or has settings that
        its kind does not have.
    """
    text = os.fspath(text)
    place, behind = text, ""
    # A name may hold the sign itself.
    if text not in _SETTINGS and not os.path.lexists(paths.expand(text)):
        place, _, behind = text.rpartition("@")
        place, behind = (place, behind) if place else (text, "")
    kind = _kind(place, text)
    settings: dict[str, str] = {}
    checkpoint = "latest"
    if kind == "run" and behind and "=" not in behind:
        checkpoint, behind = behind, ""
    for part in filter(None, behind.split(",")):
        name, equals, value = part.partition("=")
        if not equals or name not in _SETTINGS[kind]:
            known = ", ".join(f"{x}=..." for x in _SETTINGS[kind]) or "nothing"
            if kind == "run":
                known = "best, latest or a step"
            raise ValueError(
                f"Behind the name of an encoder of this kind ({kind}) may "
                f"stand {known}. Received {part!r} in {text!r}. Write it "
                f"without: {place}"
            )
        settings[name] = value
    is_file = kind in ("run", "model", "weights")
    path = paths.expand(place) if is_file else pathlib.Path()
    return Named(text, kind, path, checkpoint, settings)


def _kind(place, text):
    """The kind of what a path, or the name of a baseline, leads to."""
    if place in (UNTRAINED, PIXELS):
        return place
    path = paths.expand(place)
    if path.is_dir():
        if records.is_run(path):
            return "run"
        models = [path, *(x for x in path.iterdir() if x.name.isdecimal())]
        if any((x / "saved_model.pb").is_file() for x in models):
            return "model"
        if other_files.inside(path):
            return "weights"  # which says that one of its files is meant
    elif path.is_file():
        return "model" if path.suffix == ".keras" else "weights"
    near = naming.nearest(place, (UNTRAINED, PIXELS))
    remedy = f"Did you mean {near!r}?" if near else "Give one that exists."
    raise ValueError(
        "An encoder is the workdir of a run (RUN, RUN@best, RUN@1200), a file "
        "of weights that import-weights reads, a SavedModel, a .keras file, "
        f"{UNTRAINED!r} or {PIXELS!r}. Received {text!r}, which is none of "
        f"these. {remedy}"
    )


def open_encoder(named, config=None, channels=3):
    """Opens an encoder, without its head.

    Args:
      named: Named.
      config: ConfigDict of a pre-training, whose network `untrained` is; None:
        `untrained` has to name one.
      channels: of the images, for `pixels`.

    Returns:
      frozen.FrozenEncoder of backbone features alone.

    Raises:
      ValueError: for what cannot be opened.

    Side effects: may seed the generators of Python, NumPy and TensorFlow.
    """
    try:
        return _OPENERS[named.kind](named, config, channels)
    except ValueError as error:
        text = str(error)
        if not any(flag in text for flag in _FLAGS):
            raise
        example = {
            "run": "@1200 for a --checkpoint",
            "model": "@views=v2,image_size=224 for --views and --image_size",
        }.get(named.kind, "@entry=...,prefix=... for --entry and --prefix")
        raise ValueError(
            f"{text} Where several encoders are named, what is said here of "
            f"flags stands behind the name: {named.path}{example}."
        ) from error


def _open_run(named, config, channels):
    del config, channels
    opened = frozen.open_frozen(named.path, named.checkpoint)
    return frozen.backbone_of(opened)


def _open_model(named, config, channels):
    del config, channels
    path = named.path
    if path.suffix != ".keras":
        path, _ = server.newest_version(path)
    return frozen.open_frozen(
        saved_model=path,
        recipe=named.settings.get("views", ""),
        image_size=_whole(named, "image_size"),
    )


def _open_weights(named, config, channels):
    del config, channels
    settings = named.settings
    overrides = {
        f"data.{name}": settings[name]
        for name in ("views", "image_size")
        if name in settings
    }
    encoder, config = importing.read_encoder(
        named.path,
        settings.get("entry", ""),
        settings.get("prefix", ""),
        settings.get("config", ""),
        overrides,
    )
    opened = frozen.freeze(encoder, config, str(named.path))
    # The configuration is a guess at the file's, of which no run was.
    return frozen.backbone_of(opened)


def _open_untrained(named, config, channels):
    del channels
    if name := named.settings.get("config", ""):
        config = configs.load(name)
    if config is None:
        raise ValueError(
            f"{UNTRAINED!r} is the network of another encoder that is named, "
            "with random weights; a SavedModel or .keras file does not say "
            f"how it is built. Received {named.text!r} beside none that does. "
            f"Name a configuration: {UNTRAINED}@config=moco_cifar10"
        )
    random = frozen.build_encoder(config)
    return frozen.backbone_of(frozen.freeze(random, config, UNTRAINED))


def _open_pixels(named, config, channels):
    """The normalised pixels of a small image as its features."""
    del named, config
    recipe = views.RECIPES["cifar"]

    @tf.function
    def encode(images):
        images = views.normalize(images, recipe.mean, recipe.std)
        size = _PIXELS_SIDE * _PIXELS_SIDE * channels
        return {frozen.LAYERS[0]: tf.reshape(images, [-1, size])}

    about = f"{PIXELS} {_PIXELS_SIDE} {channels} {recipe.mean} {recipe.std}"
    return frozen.FrozenEncoder(
        encode=encode,
        layers=frozen.LAYERS[:1],
        image_size=_PIXELS_SIDE,
        recipe=recipe,
        title=PIXELS,
        weights=[],
        identity=hashlib.sha256(about.encode()).hexdigest(),
        channels=channels,
    )


_OPENERS: dict[str, Any] = {
    "run": _open_run,
    "model": _open_model,
    "weights": _open_weights,
    UNTRAINED: _open_untrained,
    PIXELS: _open_pixels,
}


def _whole(named, name):
    """A setting that is a whole number; 0 where it is not given."""
    text = named.settings.get(name, "0")
    if not text.isdecimal():
        raise ValueError(
            f"{name} behind the name of an encoder must be a whole number. "
            f"Received {text!r} in {named.text!r}. Write, for instance, "
            f"{name}=224."
        )
    return int(text)
