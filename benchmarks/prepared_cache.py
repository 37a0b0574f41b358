"""When a prepared cache pays: the same views from it and from the files.

python benchmarks/prepared_cache.py --config.data.source=folder:photos

Prepares the source in a temporary folder (or --path), then alternates in one
process: the stream's two finished views of every image, normalised to float,
from both; and the images alone. The cache is in the system's memory; what the
disk must deliver where it is not is printed too.
"""

import os
import statistics
import tempfile
import time

import measure

from moco_tf.cli import quiet

DEFAULTS = {"train.batch_size": "64", "model.bn_groups": "1"}


def main():
    parser = measure.parser(
        "A prepared cache against decoding.", "moco_v2_imagenet"
    )
    parser.add_argument("--images", type=int, default=640, help="a round [640]")
    parser.add_argument("--rounds", type=int, default=7, help="[7]")
    parser.add_argument("--short_side", type=int, default=256, help="[256]")
    parser.add_argument("--path", default="", help="folder of the cache")
    options, config = measure.parse(parser, DEFAULTS)
    with quiet.imports():
        import finished_views

        from moco_tf import prepare
        from moco_tf.data import sources
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.path or os.path.join(temporary, "cache")
        start = time.perf_counter()
        about = prepare.prepare(config.data.source, folder, options.short_side)
        preparing = time.perf_counter() - start
        files = sources.open_source(config.data.source)
        cache = sources.open_source(f"prepared:{folder}")
        runs = {
            "files: views": finished_views.FinishedViews(
                config, files, options.images
            ),
            "cache: views": finished_views.FinishedViews(
                config, cache, options.images
            ),
            "files: images": Images(files, config, options.images),
            "cache: images": Images(cache, config, options.images),
        }
        for run in runs.values():
            run()  # traces
        seconds = measure.alternate(runs, options.rounds)
    report(seconds, options, config, about, preparing)


class Images:
    """Images alone, as many at a time; called for seconds."""

    def __init__(self, source, config, images):
        import tensorflow as tf

        def touch(record):
            # The sum looks at every pixel, so every one is read.
            return tf.reduce_sum(tf.cast(source.image(record), tf.int32))

        indices = tf.random.stateless_uniform(
            [images], [0, 1], 0, len(source), tf.int64
        )
        records = tf.data.Dataset.from_tensor_slices(indices).batch(64)
        records = records.map(source.records).unbatch()
        self._sums = records.map(
            touch, num_parallel_calls=config.data.threads
        ).batch(16)

    def __call__(self):
        start = time.perf_counter()
        for _ in self._sums:
            pass
        return time.perf_counter() - start


def report(seconds, options, config, about, preparing):
    """Prints rates, ratios, sizes, and when preparing has paid."""
    medians = measure.medians(seconds)
    print(
        f"{config.data.views} views at {config.data.image_size} px, "
        f"{options.cores or 'all'} cores, median of {options.rounds} rounds"
    )
    for name, median in medians.items():
        rates = sorted(options.images / s for s in seconds[name])
        print(
            f"  {name:<15}{options.images / median:>7.0f} images/s "
            f"({rates[0]:.0f} to {rates[-1]:.0f})"
        )
    for what in ("views", "images"):
        pairs = zip(
            seconds[f"files: {what}"], seconds[f"cache: {what}"], strict=True
        )
        ratios = sorted(files / cache for files, cache in pairs)
        print(
            f"{what} from the cache: {statistics.median(ratios):.2f} times the "
            f"rate from files, round by round ({ratios[0]:.2f} to "
            f"{ratios[-1]:.2f})"
        )
    images = about["images"]
    size = about["bytes"]["images.bin"]
    print(
        f"{size / images / 1e3:.0f} kB an image on disk at a short side of "
        f"{about['short_side']}, prepared at {images / preparing:.0f} images/s"
    )
    rate = options.images / medians["cache: views"]
    print(
        f"the disk must deliver {rate * size / images / 1e6:.0f} MB/s where "
        "the cache is not in memory"
    )
    saved = (medians["files: views"] - medians["cache: views"]) / options.images
    if saved > 0:
        epochs = preparing / images / saved
        print(f"preparing has paid after {epochs:.1f} epochs of input alone")


if __name__ == "__main__":
    main()
