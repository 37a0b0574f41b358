"""Small image files for tests, and how the pipeline reads them."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image


def encode(image, form, **options):
    """Bytes of a PIL image."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def scene(mode="RGB", size=(9, 7)):
    """A small picture with a slope in every channel."""
    grid = np.add.outer(np.arange(size[1]) * 9, np.arange(size[0]) * 11)
    colour = np.stack([grid, 255 - grid, grid // 2], axis=-1)
    return Image.fromarray(colour.astype(np.uint8)).convert(mode)


def write(root, *names):
    """Writes a JPEG or PNG under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        form = "PNG" if name.endswith("png") else "JPEG"
        path.write_bytes(encode(scene(), form))


def names(source):
    return [source.name(i) for i in range(len(source))]


def read(source, index):
    """Reads one image the way the pipeline does: inside tf.data."""
    dataset = tf.data.Dataset.from_tensors([index]).map(source.records)
    return next(iter(dataset.unbatch().map(source.image))).numpy()
