"""What the decoder costs beside the platform's bare JPEG operation.

    python benchmarks/decoding.py --rounds=9

The first bytes say the format, sizes are checked and photographs turned
upright by their EXIF data, which Pillow reads. Alternates, in one process and
on one thread, both ways to decode the same photograph: without EXIF data,
upright and turned by it. Prints the ratio of the processor's time, of each pair
of rounds the median.
"""

import argparse
import io
import statistics
import time

import tensorflow as tf
from PIL import Image

from moco_tf.data import host_decode
from moco_tf.serving import comparison

_ORIENTATION = 0x0112


def files():
    """Encoded photographs by what their EXIF data say."""
    image = Image.open(io.BytesIO(comparison.photographs()[0]))
    encoded = {}
    for name, orientation in (("none", 0), ("upright", 1), ("turned", 6)):
        tags = Image.Exif()
        if orientation:
            tags[_ORIENTATION] = orientation
        buffer = io.BytesIO()
        options = {"exif": tags} if orientation else {}
        image.save(buffer, "JPEG", quality=90, **options)
        encoded[name] = buffer.getvalue()
    return encoded


def bare(contents):
    """The pixels as they are stored."""
    return tf.io.decode_jpeg(
        contents, channels=3, dct_method="INTEGER_ACCURATE"
    )


def seconds(read, contents, images):
    """Processor time of an image."""
    encoded = tf.constant(contents)
    # The pixels stay in the graph, as they do on their way to a view.
    dataset = tf.data.Dataset.range(images).map(
        lambda _: tf.shape(read(encoded))[0], num_parallel_calls=1
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.autotune.enabled = False
    rows = iter(dataset.with_options(options))
    next(rows)  # builds the graph
    start = time.process_time()
    for _ in rows:
        pass
    return (time.process_time() - start) / (images - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    for name, contents in files().items():
        pairs = [
            [
                seconds(x, contents, options.images)
                for x in (bare, host_decode.decode)
            ]
            for _ in range(options.rounds)
        ]
        ratio = statistics.median(ours / bare_one for bare_one, ours in pairs)
        least = min(bare_one for bare_one, _ in pairs)
        print(
            f"EXIF {name:<8} {ratio:.2f} of the bare operation "
            f"({1000 * least:.2f} ms)"
        )


if __name__ == "__main__":
    main()
