"""Feature extraction against the encoder's own forward speed.

python benchmarks/extraction.py --source=folder:cifar10/test

The encoder of a configuration with random weights. In one process, rounds of
`features.extract_to_disk` (files, decoding, the evaluation view, encoding,
writing) alternate with as many forward passes on one batch in memory. Exits 1
if extraction runs below 0.9 of the forward speed (median of the rounds).
"""

import argparse
import statistics
import sys
import tempfile
import time

SHARE = 0.9


def main():
    parser = argparse.ArgumentParser(
        description="Feature extraction against forward passes.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="moco_cifar10")
    parser.add_argument("--source", required=True, help="of images")
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    from moco_tf import config as configs
    from moco_tf.cli import quiet

    quiet.prepare()
    config = configs.load(
        options.config,
        {
            "data.source": options.source,
            "train.precision": options.precision,
        },
    )
    with quiet.imports():
        import tensorflow as tf

        from moco_tf.data import sources
        from moco_tf.evaluation import features, frozen
    encoder = frozen.freeze(
        frozen.build_encoder(config), config, "random weights"
    )
    source = sources.open_source(options.source)
    size = encoder.image_size
    batch = tf.zeros([options.batch_size, size, size, 3], tf.uint8)
    encoder.encode(batch)  # traces
    batches = -(-len(source) // options.batch_size)
    ratios = []
    for number in range(options.rounds):
        start = time.perf_counter()
        for _ in range(batches):
            encoder.encode(batch)["backbone"].numpy()
        forward = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            features.extract_to_disk(
                encoder, source, folder, options.batch_size
            )
            total = time.perf_counter() - start
        ratios.append(forward / total)
        print(
            f"round {number + 1}: forward {len(source) / forward:.1f} images/s,"
            f" extraction {len(source) / total:.1f}, share {ratios[-1]:.2f}",
            flush=True,
        )
    share = statistics.median(ratios)
    print(
        f"{config.model.backbone}, {size} px, {options.precision}: {share:.2f} "
        f"of the forward speed (median; at least {SHARE:g})"
    )
    if share < SHARE:
        sys.exit("below the limit")


if __name__ == "__main__":
    main()
