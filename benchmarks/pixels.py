"""Compares what is decoded with Pillow, over made files of all kinds.

    python -m benchmarks.pixels          # the table of docs/data.md
    python -m benchmarks.pixels --list   # and what differs, file by file

The reference is Pillow: `ImageOps.exif_transpose`, then `convert("RGB")`.
Training, evaluation and the doctor read with `host_decode.decode`, exported
encoders with `decode.decode`. Exits 1 where they differ by more than ROUNDING,
but for the files of DIFFERENT.
"""

import argparse
import collections
import io
import sys
import warnings
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from benchmarks import made_bitmaps, made_jpegs, made_rasters
from moco_tf.data import decode, host_decode

READ = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")  # Pillow's names
ROUNDING = 1  # levels
DIFFERENT = {  # on purpose, in training: "row: name" -> why
    "BMP: 4 bits, 2 greys": "Pillow takes the pixels of a black and white "
    "palette for bits",
    "BMP: 8 bits, 2 greys": "as with 4 bits",
    "TIFF: whole numbers of 32 bits": "they have no scale; Pillow makes all "
    "above 255 white",
    "TIFF: real numbers": "they have no scale; Pillow makes all above 255 "
    "white",
    "JPEG, order of segments: behind a TEM marker": "Pillow refuses a marker "
    "without a meaning, libjpeg does not",
    "JPEG, colours: four inks, a short Adobe marker": "Pillow refuses a marker "
    "that is too short, libjpeg does not",
}


# When served, beside those that are refused there.
DIFFERENT_SERVED = {
    **DIFFERENT,
    "PNG, orientation: raw profile APP1": "Pillow refuses a text whose "
    "checksum is wrong, libpng leaves it out",
}


class Comparison(NamedTuple):
    """What came out for a file.

    Attributes:
      row, name: as of `cases`. expected, trained, served: uint8 [H, W, 3], or
        the error as text: of Pillow, of training, of exported encoders.
    """

    row: str
    name: str
    expected: np.ndarray | str
    trained: np.ndarray | str
    served: np.ndarray | str

    @property
    def difference(self):
        """The largest, levels, or what differs as text; 0: both refuse."""
        return difference(self.expected, self.trained)


def difference(expected, image):
    """The largest difference of two images, or what differs as text."""
    if isinstance(expected, str) and isinstance(image, str):
        return 0
    if isinstance(expected, str):
        return f"Pillow refuses it: {expected}"
    if isinstance(image, str):
        return f"refused: {image}"
    if expected.shape != image.shape:
        return f"shapes {expected.shape} and {image.shape}"
    return int(np.abs(expected.astype(int) - image).max())


def cases():
    """Yields (row of the table, name, contents) of all made files."""
    yield from made_jpegs.cases()
    for row, made in (
        ("PNG, colours and depths", made_rasters.png_colours),
        ("PNG, further chunks", made_rasters.png_chunks),
        ("PNG, orientation", made_rasters.png_oriented),
        ("GIF", made_rasters.gifs),
        ("BMP", made_bitmaps.bmps),
        ("TIFF", made_bitmaps.tiffs),
        ("WebP", made_bitmaps.webps),
    ):
        for name, contents in made():
            yield row, name, contents


def reference(contents):
    """What Pillow reads: uint8 [H, W, 3], or its error as text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(contents), formats=READ) as image:
                image.load()
                try:
                    image = ImageOps.exif_transpose(image)
                except Exception:  # no EXIF data; nothing is turned
                    image = image.copy()
                return np.asarray(upper_bits(image).convert("RGB"))
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def upper_bits(image):
    """A PIL image of 16 bits with the upper 8 alone.

    Deviation: Pillow's own conversion makes all above 255 white.
    """
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def compare():
    """Yields a Comparison of each made file."""
    trained, served = (_reader(x.decode) for x in (host_decode, decode))
    for row, name, contents in cases():
        yield Comparison(
            row, name, reference(contents), trained(contents), served(contents)
        )


def _reader(read):
    """A function: bytes -> uint8 [H, W, 3], or the error as text."""
    graph = tf.function(
        read, input_signature=[tf.TensorSpec([], tf.string)], autograph=False
    )

    def of(contents):
        try:
            return graph(contents).numpy()
        except tf.errors.OpError as error:
            return " ".join(error.message.split())

    return of


def table(comparisons):
    """Lines of the table, in Markdown.

    Args:
      comparisons: list of Comparison.
    """
    rows = collections.defaultdict(list)
    for comparison in comparisons:
        rows[comparison.row].append(comparison)
    yield "| files | made | read | largest difference | read when served |"
    yield "|---|---|---|---|---|"
    for row, group in rows.items():
        as_pillow = [
            x.difference for x in group if f"{row}: {x.name}" not in DIFFERENT
        ]
        read = sum(not isinstance(x.trained, str) for x in group)
        served = sum(not isinstance(x.served, str) for x in group)
        largest = max(as_pillow, key=lambda x: (isinstance(x, str), x))
        yield f"| {row} | {len(group)} | {read} | {largest} | {served} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    comparisons = list(compare())
    print("\n".join(table(comparisons)))
    wrong = False
    for x in comparisons:
        name, differs = f"{x.row}: {x.name}", x.difference
        on_purpose = name in DIFFERENT
        too_far = isinstance(differs, str) or differs > ROUNDING
        wrong |= too_far and not on_purpose
        if differs and (options.list or too_far):
            print(f"{name}: {differs}{' (on purpose)' * on_purpose}")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
