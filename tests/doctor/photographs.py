"""Small pictures that do not look like one another, as files."""

import numpy as np
from PIL import Image


def picture(seed, size=(96, 72)):
    """A PIL image of smooth coloured noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def write(folder, count, first=0):
    """Writes 0000.jpg and so on; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        picture(number).save(folder / f"{number:04d}.jpg", quality=90)
    return folder
