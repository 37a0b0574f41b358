"""When a prepared cache pays: the same views from it and from the files.

python benchmarks/prepared_cache.py --config.data.source=folder:photos

Prepares the source in a temporary folder (or --path) as pixels and as JPEGs,
then alternates in one process: the stream's two finished views of every image,
normalised to float, from the files and from both caches; and the images alone.
The caches are in the system's memory; what the disk must deliver where they are
not is printed too.
"""

import os
import statistics
import tempfile
import time

import measure

from moco_tf.cli import quiet

DEFAULTS = {"train.batch_size": "64", "model.bn_groups": "1"}
IMAGENET = 1_281_167  # images


def main():
    parser = measure.parser(
        "Prepared caches against decoding.", "moco_v2_imagenet"
    )
    parser.add_argument("--images", type=int, default=640, help="a round [640]")
    parser.add_argument("--rounds", type=int, default=7, help="[7]")
    parser.add_argument(
        "--short_side", type=int, default=0, help="0 = of the format [0]"
    )
    parser.add_argument("--path", default="", help="folder of the caches")
    options, config = measure.parse(parser, DEFAULTS)
    with quiet.imports():
        import finished_views

        from moco_tf import prepare
        from moco_tf.data import sources, stored_images
    caches = {}
    with tempfile.TemporaryDirectory() as temporary:
        opened = {"files": sources.open_source(config.data.source)}
        for name in stored_images.FORMS:
            folder = os.path.join(options.path or temporary, name)
            start = time.perf_counter()
            about = prepare.prepare(
                *(config.data.source, folder, options.short_side),
                stored_as=name,
            )
            caches[name] = about, time.perf_counter() - start
            opened[name] = sources.open_source(f"prepared:{folder}")
        runs = {}
        for name, source in opened.items():
            runs[f"{name}: views"] = finished_views.FinishedViews(
                config, source, options.images
            )
            runs[f"{name}: images"] = Images(source, config, options.images)
        for run in runs.values():
            run()  # traces
        seconds = measure.alternate(runs, options.rounds)
    report(seconds, options, config, caches)


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


def report(seconds, options, config, caches):
    """Prints rates, ratios, sizes, and when preparing has paid.

    Args:
      seconds: dict of `measure.alternate`. options, config: of the command.
      caches: dict name -> about.json and the seconds of preparing.
    """
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
    for name, (about, preparing) in caches.items():
        print(f"{name}, short side {about['short_side']}:")
        for what in ("views", "images"):
            pairs = zip(
                seconds[f"files: {what}"],
                seconds[f"{name}: {what}"],
                strict=True,
            )
            ratios = sorted(files / cache for files, cache in pairs)
            print(
                f"  {what}: {statistics.median(ratios):.2f} times the rate "
                f"from files, round by round ({ratios[0]:.2f} to "
                f"{ratios[-1]:.2f})"
            )
        images = about["images"]
        size = about["bytes"]["images.bin"] / images
        rate = options.images / medians[f"{name}: views"]
        print(
            f"  {size / 1e3:.1f} kB an image: {size * IMAGENET / 1e9:.0f} GB "
            f"of ImageNet; prepared at {images / preparing:.0f} images/s\n"
            f"  the disk must deliver {rate * size / 1e6:.0f} MB/s where the "
            "cache is not in memory"
        )
        saved = medians["files: views"] - medians[f"{name}: views"]
        if saved > 0:
            epochs = preparing / images / (saved / options.images)
            print(
                f"  preparing has paid after {epochs:.1f} epochs of input alone"
            )


if __name__ == "__main__":
    main()
