"""Keras models whose features say what is known, and images of two classes."""

import numpy as np
import tensorflow as tf

SIDE = 16


def model(kind):
    """A keras.Model of normalised images [n, 16, 16, 3].

    Args:
      kind: "bright": features of how bright an image is. "blind": features
        that brightness does not change.
    """
    layers = tf.keras.layers
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 4))
    if kind == "blind":
        kernel -= kernel.mean(axis=(0, 1), keepdims=True)
    images = tf.keras.Input([SIDE, SIDE, 3])
    x = layers.Conv2D(4, 3, use_bias=False, activation="relu")(images)
    made = tf.keras.Model(images, layers.GlobalAveragePooling2D()(x))
    made.layers[1].set_weights([kernel.astype(np.float32)])
    return made


def save(folder, kind, name=""):
    """Writes FOLDER/NAME.keras and returns its path."""
    path = folder / f"{name or kind}.keras"
    model(kind).save(path)
    return path


def save_signature(folder, kind):
    """Writes a SavedModel of one signature and returns its path."""
    module = tf.Module()
    module.model = model(kind)
    spec = tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, "images")

    @tf.function(input_signature=[spec])
    def embed(images):
        return {"features": module.model(images, training=False)}

    path = folder / f"{kind}-saved"
    tf.saved_model.save(module, str(path), signatures={"embed": embed})
    return path
