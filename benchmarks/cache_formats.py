"""What a cache of JPEGs costs and keeps, by short side and colours.

python benchmarks/cache_formats.py folder:photos

Of some images of a source: bytes, milliseconds of processor time to decode one,
and how far crops at 224 pixels (20 to 100 % of the area, as of MoCo's views)
are from those of the files: mean difference of a value in levels, and the
gradient that is left of the brightness. `raw` is a cache of pixels. Pillow
encodes: it writes the same JPEGs as `moco-tf prepare`.
"""

import argparse
import io
import time

import numpy as np
from PIL import Image

from moco_tf.cli import quiet

BILINEAR = Image.Resampling.BILINEAR
SIZE, CROPS = 224, 4
IMAGENET = 1_281_167  # images
CHROMA = ("raw", "4:4:4", "4:2:0")


def shrunk(image, short_side):
    width, height = image.size
    shortest = min(width, height)
    if shortest <= short_side:
        return image
    size = short_side * width // shortest, short_side * height // shortest
    return image.resize(size, BILINEAR)


def crop(image, box):
    """A view float [S, S, 3]; box: share of area, aspect, place in 0..1."""
    share, aspect, across, down = box
    width, height = image.size
    wide = min(width, (width * height * share * aspect) ** 0.5)
    high = min(height, (width * height * share / aspect) ** 0.5)
    left, top = across * (width - wide), down * (height - high)
    view = image.resize(
        (SIZE, SIZE), BILINEAR, box=(left, top, left + wide, top + high)
    )
    return np.asarray(view).astype(np.float32)


def gradient(view):
    """Mean step of the brightness between neighbours, levels."""
    return np.abs(np.diff(view @ [0.299, 0.587, 0.114], axis=1)).mean()


def decoded(contents, rounds=3):
    """The images of JPEGs, and the milliseconds of one, the best of rounds."""
    import tensorflow as tf

    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        images = [
            tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
            for data in contents
        ]
        best = min(best, time.process_time() - start)
    images = [Image.fromarray(image.numpy()) for image in images]
    return images, 1e3 * best / len(contents)


def encoded(image, chroma):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, subsampling=chroma)
    return file.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", help="of images, as folder:photos")
    parser.add_argument("--images", type=int, default=100, help="[100]")
    parser.add_argument(
        "--short_sides", default="256,288,320,400", help="[256,288,320,400]"
    )
    options = parser.parse_args()
    quiet.prepare()
    with quiet.imports():
        from moco_tf.data import sources, unreadable
    source = sources.open_source(options.source)
    chosen = sources.evenly_spaced(len(source), options.images)
    arrays = [unreadable.read(source, index)[0] for index in chosen]
    images = [Image.fromarray(x.numpy()) for x in arrays if x is not None]
    random = np.random.default_rng(0)
    shape = [len(images), CROPS]
    boxes = np.stack(
        [
            random.uniform(0.2, 1, shape),
            np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), shape)),
            random.uniform(size=shape),
            random.uniform(size=shape),
        ],
        axis=-1,
    )
    expected = [
        [crop(image, box) for box in rows]
        for image, rows in zip(images, boxes, strict=True)
    ]
    print("short side  stored  kB an image  ImageNet  decode  views  gradient")
    for short_side in map(int, options.short_sides.split(",")):
        small = [shrunk(image, short_side) for image in images]
        for chroma in CHROMA:
            stored, milliseconds = small, 0.0
            size = np.mean([3 * x.width * x.height for x in small])
            if chroma != "raw":
                contents = [encoded(image, chroma) for image in small]
                size = np.mean([len(data) for data in contents])
                stored, milliseconds = decoded(contents)
            far, left = [], []
            for image, rows, views in zip(stored, boxes, expected, strict=True):
                for box, view in zip(rows, views, strict=True):
                    other = crop(image, box)
                    far.append(np.abs(other - view).mean())
                    left.append(gradient(other) / gradient(view))
            print(
                f"{short_side:>10}{chroma:>8}{size / 1e3:>13.1f}"
                f"{size * IMAGENET / 1e9:>7.0f} GB{milliseconds:>5.2f} ms"
                f"{np.mean(far):>7.2f}{np.mean(left):>10.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
