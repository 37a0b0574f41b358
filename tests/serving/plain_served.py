"""A served encoder whose features are the mean colour, for hand arithmetic."""

import numpy as np
import tensorflow as tf

from moco_tf.data import views
from moco_tf.models import batch_norm
from moco_tf.serving import labelling, signatures
from tests.data import pictures

SIDE = 8
RECIPE = views.RECIPES["cifar"]

# Three classes: the logits are twice, once and minus the first channel.
HEAD = labelling.LinearHead(
    np.array([[2, 1, -1], [0, 0, 0], [0, 0, 0]], np.float32),
    np.zeros(3, np.float32),
    ["light", "middling", "dark"],
)
BANK_ROWS = np.array(
    [[1, 0, 0], [0, 2, 0], [0, 0, 3], [1, 1, 1], [-1, 0, 0]], np.float32
)
BANK_LABELS = np.array([0, 1, 1, 0, 2])
BANK_K, BANK_TEMPERATURE = 3, 0.5


def bank():
    return labelling.FeatureBank(
        BANK_ROWS, BANK_LABELS, ["a", "b", "c"], BANK_K, BANK_TEMPERATURE
    )


def make():
    """ServedEncoder of 8-pixel images, with a head and a bank."""
    images = tf.keras.Input([SIDE, SIDE, 3])
    rows = tf.keras.layers.GlobalAveragePooling2D()(images)
    # Neutral until it is trained: mean 0, variance 1 and an epsilon of 1e-5.
    rows = batch_norm.BatchNorm(name="bn")(rows)
    backbone = tf.keras.Model(images, rows)
    return signatures.ServedEncoder(backbone, RECIPE, SIDE, HEAD, bank())


def features(pixels):
    """What it gives for uint8 images [n, 8, 8, 3], in NumPy."""
    means = np.asarray(pixels, np.float64).mean(axis=(1, 2)) / 255
    return (means - RECIPE.mean) / RECIPE.std / np.sqrt(1 + 1e-5)


def colour(value, form="PNG", size=(SIDE, SIDE)):
    """Bytes of an image of one colour."""
    return pictures.encode(pictures.Image.new("RGB", size, value), form)


def save(path):
    """Saves it as a SavedModel; returns the path as text."""
    served = make()
    tf.saved_model.save(served, str(path), served.signatures())
    return str(path)
