"""The same files in training, evaluation and a served encoder."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.data import sources, stream, views
from moco_tf.evaluation import features
from moco_tf.serving import signatures
from tests.data import pictures

SIDE = 8
PLAIN = views.RECIPES["cifar"]
# As evaluation sees them: what differs is the way to the pixels.
RECIPE = PLAIN._replace(
    augment=lambda image, size, seed: PLAIN.evaluate(image, size)
)


def files():
    """Bytes of every kind that is read, by name."""
    size = (12, 9)
    contents_by_name = {
        f"{mode}.{form}".lower(): pictures.encode(
            pictures.scene(mode, size), form
        )
        for form, modes in {
            "JPEG": ("RGB", "L", "CMYK"),
            "PNG": ("RGB", "L", "P", "RGBA", "I;16"),
            "GIF": ("P", "L"),
            "BMP": ("RGB", "P", "RGBA"),
        }.items()
        for mode in modes
    }
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        contents = pictures.encode(
            pictures.scene("RGB", size), "JPEG", exif=tags
        )
        contents_by_name[f"turned_{orientation}.jpg"] = contents
    return contents_by_name


@pytest.fixture(name="source", scope="module")
def _source(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    for name, contents in files().items():
        (root / name).write_bytes(contents)
    return sources.open_source(f"folder:{root}")


@pytest.fixture(name="evaluated", scope="module")
def _evaluated(source):
    """uint8 [N, S, S, 3], in the source's order."""
    (batch,) = features.evaluation_batches(source, RECIPE, SIDE, len(source))
    assert batch[1].numpy().tolist() == list(range(len(source)))
    return batch[0].numpy()


def test_photographs_turned_by_a_camera_are_not_seen_as_stored(
    source, evaluated
):
    images = dict(zip(pictures.names(source), evaluated, strict=True))
    different = {images[f"turned_{n}.jpg"].tobytes() for n in range(1, 9)}
    assert len(different) == 8


def test_training_sees_what_evaluation_sees(source, evaluated):
    batches = stream.Stream(source, RECIPE, SIDE, len(source))
    (batch,) = batches.batches(1, 0, 1)
    assert batch["valid"].numpy().all()
    for name in ("query", "key"):
        np.testing.assert_array_equal(
            batch[name], evaluated[batch["index"].numpy()]
        )


def test_a_served_encoder_sees_what_evaluation_sees(
    source, evaluated, tmp_path
):
    images = tf.keras.Input([SIDE, SIDE, 3])
    pixels = tf.keras.Model(images, tf.keras.layers.Flatten()(images))
    served = signatures.ServedEncoder(pixels, RECIPE, SIDE)
    tf.saved_model.save(served, str(tmp_path), served.signatures())
    answer = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    contents = files()
    rows = answer(
        image_bytes=tf.constant([contents[x] for x in pictures.names(source)])
    )
    assert rows["valid"].numpy().all()
    expected = views.normalize(tf.constant(evaluated), RECIPE.mean, RECIPE.std)
    np.testing.assert_array_equal(
        rows["features"], tf.reshape(expected, [len(source), -1])
    )
