"""When a prepared cache pays: its reads against decoding, and what it takes.

python benchmarks/prepared_cache.py --config.data.source=folder:photos

Prepares the source in a temporary folder (or --path), then alternates in one
process: images alone from the source and from the cache, on the stream's
number of threads; and the product's stream, two views, from both. "cold" drops
the cache's file from the system's memory before each round; it is left out
where the system has no such call.
"""

import os
import tempfile
import time

import measure

from moco_tf import quiet

DEFAULTS = {"train.batch_size": "64", "model.bn_groups": "1"}
WARM_UP = 3


def main():
    parser = measure.parser(
        "A prepared cache against decoding.", "moco_v2_imagenet"
    )
    parser.add_argument("--images", type=int, default=640, help="a round [640]")
    parser.add_argument("--rounds", type=int, default=5, help="[5]")
    parser.add_argument("--short_side", type=int, default=256, help="[256]")
    parser.add_argument("--path", default="", help="folder of the cache")
    options, config = measure.parse(parser, DEFAULTS)
    with quiet.imports():
        from moco_tf import prepare
        from moco_tf.data import sources
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.path or os.path.join(temporary, "cache")
        start = time.perf_counter()
        about = prepare.prepare(config.data.source, folder, options.short_side)
        preparing = time.perf_counter() - start
        opened = {
            "source": sources.open_source(config.data.source),
            "cache": sources.open_source(f"prepared:{folder}"),
        }
        pixels = os.path.join(folder, "images.bin")
        runs = {}
        for name, source in opened.items():
            runs[f"{name}: images"] = Images(source, config, options.images)
        if hasattr(os, "posix_fadvise"):
            runs["cache, cold: images"] = Images(
                opened["cache"], config, options.images, pixels
            )
        for name, source in opened.items():
            runs[f"{name}: views"] = Views(source, config, options.images)
        for run in runs.values():
            run()  # traces
        seconds = measure.alternate(runs, options.rounds)
    report(measure.medians(seconds), seconds, options, config, about, preparing)


class Images:
    """Whole images, one after the other; called for seconds."""

    def __init__(self, source, config, images, cold=""):
        self._source = source
        self._images = images
        self._threads = config.data.threads
        self._cold = cold

    def __call__(self):
        import tensorflow as tf

        if self._cold:
            drop(self._cold)
        count = len(self._source)
        random = tf.random.stateless_uniform(
            [self._images], [0, 1], 0, count, tf.int64
        )

        def touch(record):
            # The sum looks at every pixel, so every one is read.
            image = self._source.image(record)
            return tf.reduce_sum(tf.cast(image, tf.int32))

        records = tf.data.Dataset.from_tensor_slices(random)
        records = records.batch(64).map(self._source.records).unbatch()
        sums = records.map(touch, num_parallel_calls=self._threads).batch(16)
        start = time.perf_counter()
        for _ in sums:
            pass
        return time.perf_counter() - start


class Views:
    """The product's stream; called for seconds."""

    def __init__(self, source, config, images):
        from moco_tf import assembly

        self._stream = assembly.make_stream(config, source)
        self._steps = images // config.train.batch_size
        self._first = 0

    def __call__(self):
        batches = iter(self._stream.batches(1, self._first, 2**62))
        self._first += self._steps
        for _ in range(WARM_UP):
            next(batches)
        start = time.perf_counter()
        for _ in range(self._steps):
            next(batches)
        return time.perf_counter() - start


def drop(path):
    """Takes a file out of the system's memory, where no process holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def report(found, seconds, options, config, about, preparing):
    """Prints rates, sizes, and the epochs after which preparing has paid."""
    print(
        f"{config.data.views} views at {config.data.image_size} px, "
        f"{options.cores or 'all'} cores, median of {options.rounds} rounds"
    )
    for name, median in found.items():
        rates = sorted(options.images / s for s in seconds[name])
        print(
            f"  {name:<21}{options.images / median:>7.0f} images/s "
            f"({rates[0]:.0f} to {rates[-1]:.0f})"
        )
    images = about["images"]
    size = about["bytes"]["images.bin"]
    print(
        f"  size on disk {size / images / 1e3:.0f} kB an image, short side "
        f"{about['short_side']}; prepared at {images / preparing:.0f} images/s"
    )
    saved = (found["source: views"] - found["cache: views"]) / options.images
    print(
        f"  views from the cache are "
        f"{found['source: views'] / found['cache: views']:.2f} times as fast"
    )
    if saved > 0:
        epochs = preparing / images / saved
        print(f"  preparing has paid after {epochs:.1f} epochs of input alone")


if __name__ == "__main__":
    main()
