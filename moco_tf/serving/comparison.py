"""Compares an exported encoder with that of its run, on photographs."""

import importlib.resources
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf.data import decode, shapes, views
from moco_tf.models import keras_files, saved_models
from moco_tf.serving import signatures

LIMIT = 1e-4  # of the largest feature
# Of a run in another precision: about what bfloat16 leaves of a direction.
SMALLEST_COSINE = 0.99


class Difference(NamedTuple):
    """The differences of two sets of features."""

    form: str
    largest: float  # difference of two values
    relative: float  # the same, as a share of the largest feature
    cosine: float  # smallest of a row

    def __str__(self):
        return (
            f"{self.form:<16} max difference {self.largest:.2e} "
            f"({self.relative:.1e} of the largest), cosine {self.cosine:.7f}"
        )


def compare(form, rows, expected):
    """Compares float [n, F] rows with those expected.

    Returns:
      Difference.
    """
    rows, expected = np.asarray(rows), np.asarray(expected)
    rows, expected = rows.astype(np.float64), expected.astype(np.float64)
    largest = np.abs(rows - expected).max()
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (rows * expected).sum(axis=1) / np.maximum(lengths, 1e-30)
    scale = max(np.abs(expected).max(), 1e-30)
    return Difference(
        form, float(largest), float(largest / scale), float(cosine.min())
    )


def photographs():
    """Encoded images of several sizes: two photographs, three scenes.

    Returns:
      list of bytes, JPEG and PNG.
    """
    folder = importlib.resources.files("sklearn.datasets") / "images"
    photos = [
        (folder / name).read_bytes() for name in ("china.jpg", "flower.jpg")
    ]
    scenes = shapes.render("test", np.arange(3))
    return photos + [tf.io.encode_png(scene).numpy() for scene in scenes]


def inputs_of_photographs(count):
    """The photographs as an encoder of one or two files takes them.

    Args:
      count: int, files of an image; a second one is the first's negative.

    Returns:
      files: dict of lists of bytes, by input of a signature.
      images: list of uint8 [H, W, 3 count].
    """
    first, second = signatures.FILE_INPUTS
    files = {first: photographs()}
    images = [decode.decode(contents) for contents in photographs()]
    if count == 2:
        negatives = [255 - image for image in images]
        files[second] = [tf.io.encode_png(image).numpy() for image in negatives]
        images = [
            tf.concat(both, axis=-1)
            for both in zip(images, negatives, strict=True)
        ]
    return files, images


def check_export(folder, served, encoder):
    """Loads an export and compares its features with those of the run.

    Args:
      folder: of a SavedModel, with or without encoder.keras.
      served: signatures.ServedEncoder that was saved there.
      encoder: frozen.FrozenEncoder of the run.

    Returns:
      list of Difference.

    Raises:
      FloatingPointError: if the export does not give the run's features.
    """
    folder = pathlib.Path(folder)
    recipe, precision = encoder.recipe, encoder.config.train.precision
    files, decoded = inputs_of_photographs(encoder.channels // 3)
    pixels = tf.stack([recipe.evaluate(x, encoder.image_size) for x in decoded])
    tensors = views.normalize(pixels, recipe.mean, recipe.std)
    expected = encoder.encode(pixels)["backbone"]
    differences = []
    if precision != "float32":
        trained, expected = expected, served(tensors)
        differences.append(compare(f"in {precision}", trained, expected))
        _check(differences[-1].cosine >= SMALLEST_COSINE, folder, differences)
    loaded = saved_models.load(folder)
    rows = _embed_by_signatures(loaded.signatures, files, decoded[0], tensors)
    if (folder / "encoder.keras").is_file():
        model = keras_files.load(folder / "encoder.keras")
        rows["encoder.keras"] = model(tensors, training=False)
    for form, values in rows.items():
        differences.append(compare(form, values, expected[: len(values)]))
        _check(differences[-1].relative <= LIMIT, folder, differences)
    _check_classes(loaded.signatures, served, files, expected)
    return differences


def _embed_by_signatures(signatures, files, image, tensors):
    """Features of the same images by each signature that embeds them."""
    answer = signatures["serving_default"](
        **{
            name: tf.constant([*column, b"not an image"])
            for name, column in files.items()
        }
    )
    read = answer["valid"].numpy().tolist()
    if read != [True] * len(tensors) + [False] or tf.reduce_any(
        answer["features"][-1] != 0
    ):
        raise FloatingPointError(
            "The exported encoder must read images and give zeros for what is "
            f"none. Received valid={read}."
        )
    return {
        "serving_default": answer["features"][:-1],
        "embed_images": signatures["embed_images"](images=image[tf.newaxis])[
            "features"
        ],
        "embed_tensors": signatures["embed_tensors"](images=tensors)[
            "features"
        ],
    }


def _check_classes(signatures, served, files, expected):
    """Compares the answers of `classify` and `neighbours`, if it has them."""
    unit = tf.math.l2_normalize(expected, axis=1, epsilon=1e-24)
    parts = {
        "classify": (served.head, expected, "probabilities"),
        "neighbours": (served.bank, unit, "scores"),
    }
    for form, (part, rows, name) in parts.items():
        if part is None:
            continue
        inputs = {key: tf.constant(column) for key, column in files.items()}
        values = signatures[form](**inputs)[name]
        expected_values = part(rows)[1].numpy()
        if not np.allclose(values, expected_values, rtol=1e-2, atol=1e-3):
            raise FloatingPointError(
                f"The exported {form} must give what its parts give. Received "
                f"{values.numpy()} in place of {expected_values}."
            )


def _check(near_enough, folder, differences):
    if not near_enough:
        raise FloatingPointError(
            "The exported encoder must give the run's features: to "
            f"{LIMIT:g} of the largest in float32, and with cosines above "
            f"{SMALLEST_COSINE} to those of another precision. Received from "
            f"{str(folder)!r}:\n" + "\n".join(map(str, differences))
        )
