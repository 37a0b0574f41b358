"""Images of one grey each and a frozen encoder whose features are theirs."""

import pathlib

import numpy as np
import tensorflow as tf

from moco_tf.data import views
from moco_tf.evaluation import frozen


def make_frozen(layers=("backbone", "projection"), identity="ab" * 32):
    """Backbone (x, 255 - x) of the grey x, projection (x, 1, 0)."""

    def encode(images):
        x = tf.cast(images[:, 0, 0, :1], tf.float32)
        rows = {
            "backbone": tf.concat([x, 255 - x], 1),
            "projection": tf.concat([x, tf.ones_like(x), tf.zeros_like(x)], 1),
        }
        return {layer: rows[layer] for layer in layers}

    return frozen.FrozenEncoder(
        encode=encode,
        layers=tuple(layers),
        image_size=8,
        recipe=views.RECIPES["cifar"],
        title="run/step-5",
        weights=[],
        identity=identity,
    )


def write_greys(root, greys):
    """Writes 8 x 8 PNG images, {name below the root: grey, None = damaged}."""
    for name, grey in greys.items():
        path = pathlib.Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = b"not an image"
        if grey is not None:
            image = np.full([8, 8, 3], grey, np.uint8)
            data = tf.io.encode_png(image).numpy()
        path.write_bytes(data)
    return f"folder:{root}"
