"""Small caches for tests, and their images."""

import io
import os

import numpy as np
from PIL import Image

from moco_tf import prepare


def write_pictures(root, count=6, size=(12, 9), seed=0):
    """Writes root/{a, b}/NUMBER.png, noise of (width, height) pixels.

    Returns:
      list of uint8 [H, W, 3], in the order of the folder source.
    """
    random = np.random.default_rng(seed)
    images = []
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(count // 2):
            pixels = random.integers(0, 256, [size[1], size[0], 3], np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
            images.append(pixels)
    return images


def make(images, cache, short_side=256, **options):
    """Prepares a folder of images; returns about.json."""
    return prepare.prepare(
        f"folder:{images}", str(cache), short_side, io.StringIO(), **options
    )


def contents(folder):
    """Bytes of all files of a folder by their names."""
    return {
        entry.name: (folder / entry.name).read_bytes()
        for entry in os.scandir(folder)
    }


def flip(path, position):
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
