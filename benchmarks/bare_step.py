"""Images per second with input, against the same step on a batch in memory.

python benchmarks/bare_step.py --config.data.source=folder:cifar10/train
python benchmarks/bare_step.py --precision=mixed_bfloat16 --config.data...

Both run the product's compiled train function: "training" on the product's
stream, "bare step" on one batch that is repeated. "input" reads the stream
alone. They alternate in one process.
"""

import gc
import time

import measure

from moco_tf.cli import quiet

# After them a full or an empty prefetch buffer is as it will stay.
WARM_UP = 3
DEFAULTS = {"train.batch_size": "256"}


def main():
    parser = measure.parser(
        "Images per second with input, against the bare step.", "moco_cifar10"
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "mixed_bfloat16"),
        help="[float32]",
    )
    parser.add_argument("--steps", type=int, default=5, help="a round [5]")
    parser.add_argument("--rounds", type=int, default=4, help="[4]")
    options, config = measure.parse(parser, DEFAULTS)
    config.train.precision = options.precision

    with quiet.imports():
        from moco_tf import plan
        from moco_tf.data import sources
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(options.devices)
    try:
        plan.check(config, strategy.num_replicas_in_sync)
        source = sources.open_source(config.data.source)
    except ValueError as error:
        parser.error(str(error))
    stream = plan.make_stream(config, source)
    method = plan.make_method(config, strategy, len(stream.source))
    train = method.make_train_function()
    memory = iter(measure.synthetic_batches(config, strategy))

    def bare_step():
        measure.time_steps(train, memory, 1)
        return measure.time_steps(train, memory, options.steps)

    def training():
        # A stream of its own for each round: one that went on would fill its
        # buffers while the bare step runs, to the loss of that one.
        batches = iter(stream.distribute(strategy, int(method.step.numpy())))
        measure.time_steps(train, batches, WARM_UP)
        seconds = measure.time_steps(train, batches, options.steps)
        del batches
        gc.collect()
        return seconds

    def reading():
        batches = iter(stream.distribute(strategy, int(method.step.numpy())))
        for _ in range(WARM_UP):
            next(batches)
        start = time.perf_counter()
        for _ in range(options.steps):
            next(batches)
        return time.perf_counter() - start

    print(
        f"{options.config}: {config.model.backbone}, "
        f"{config.data.image_size} px, batch {config.train.batch_size}, "
        f"{options.precision}, {options.cores or 'all'} cores, "
        f"{options.steps} steps a round"
    )
    bare_step()  # compiles
    seconds = measure.alternate(
        {"bare step": bare_step, "input": reading, "training": training},
        options.rounds,
    )
    images = options.steps * config.train.batch_size
    medians = measure.medians(seconds)
    for name, median in medians.items():
        print(f"{name:<10}{images / median:>9.1f} images/s (median)")
    ratio = medians["bare step"] / medians["training"]
    print(f"training runs at {ratio:.3f} of the bare step's speed")
    in_turn = (medians["bare step"] + medians["input"]) / medians["training"]
    print(
        f"{in_turn:.3f} of what input and step reach on the same cores in turn"
    )


if __name__ == "__main__":
    main()
