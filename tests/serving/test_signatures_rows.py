import pytest
import tensorflow as tf
from PIL import Image

from moco_tf.serving import signatures
from tests.data import pictures


@pytest.fixture(name="read_rows", scope="module")
def _read_rows():
    return tf.function(
        lambda contents: signatures.decode_rows(
            contents, lambda image: image[:2, :2], 2
        ),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


def test_rows_keep_their_places_around_those_that_fail(read_rows):
    greys = [10, 20, 30, 40]
    files = [
        pictures.encode(Image.new("RGB", (3, 3), (grey,) * 3), form)
        for grey, form in zip(greys, ("BMP", "PNG", "GIF", "BMP"), strict=True)
    ]
    files.insert(1, b"not an image")
    files.insert(4, b"")
    images, valid = read_rows(tf.constant(files))
    assert valid.numpy().tolist() == [True, False, True, True, False, True]
    assert images[:, 1, 1, 0].numpy().tolist() == [10, 0, 20, 30, 0, 40]


@pytest.mark.parametrize("files", [[], [b"x"], [b"x", b"y"]])
def test_a_batch_without_an_image_is_read(read_rows, files):
    images, valid = read_rows(tf.constant(files, tf.string))
    assert images.shape == [len(files), 2, 2, 3]
    assert not images.numpy().any()
    assert valid.numpy().tolist() == [False] * len(files)
