"""Features of images in memory: arrays, or images of PIL."""

import numpy as np

from moco_tf import counting
from moco_tf.data import host_decode
from moco_tf.evaluation import features

_AT_ONCE = 64  # images in memory


def encode(encoder, images, layer):
    """Features of images, float32 [n, F].

    Args:
      encoder: FrozenEncoder.
      images: uint8 [n, H, W, C], or a sequence of uint8 [H, W, C] or images of
        PIL, of any sizes.
      layer: "backbone" or "projection".

    Raises:
      ValueError: for an image of another type or shape, or none at all.
    """
    rows, at_once = [], features.batch_for(encoder, _AT_ONCE)
    with counting.counted(len(images), 0, "encoding") as bar:
        for first in range(0, len(images), at_once):
            views = [
                encoder.recipe.evaluate(
                    _pixels(image, encoder.channels), encoder.image_size
                )
                for image in images[first : first + at_once]
            ]
            batch = features.pad_batch(np.stack(views), at_once)
            rows.append(encoder.encode(batch)[layer].numpy()[: len(views)])
            bar.add(len(views))
    if not rows:
        raise ValueError(
            "There must be an image to embed. Received none. Give one or more."
        )
    return np.concatenate(rows)


def _of_pil(image):
    """The pixels of an image of PIL as those of its file, uint8 [H, W, 3].

    Raises:
      ValueError: for an image of 32 bits, whose range is not known.
    """
    if image.mode in host_decode.WITHOUT_SCALE:
        raise ValueError(
            "An image of PIL must have 8 or 16 bits, whose range is known. "
            f"Received mode {image.mode!r}, of 32. Give a uint8 array of 0 to "
            "255 in its place, or a folder of the files."
        )
    image.load()  # metadata may lie behind the pixels
    image = host_decode.turned_upright(image)
    if image.mode in host_decode.DEEP:  # the upper 8 bits, as of a file
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _pixels(image, channels):
    """An image as uint8 [H, W, C].

    Raises:
      ValueError: for another type or shape.
    """
    array = _of_pil(image) if hasattr(image, "convert") else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != channels:
        raise ValueError(
            f"An image in memory must be uint8 [H, W, {channels}], of 0 to "
            f"255, or one of PIL. Received {array.dtype} {list(array.shape)}. "
            "Multiply fractions by 255 and convert them, or give a folder."
        )
    return array
