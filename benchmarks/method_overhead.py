"""What a method costs beside its encoders' forward and backward passes.

python benchmarks/method_overhead.py
python benchmarks/method_overhead.py --config.model.backbone=resnet18 \\
    --config.data.image_size=64 --config.train.batch_size=8 \\
    --config.moco.queue_size=4096 --steps=5        # quick

By default ResNet-50, 224 pixels, batch 32 in one BatchNorm group, 65,536 keys,
float32; --config=simclr_imagenet and others for other methods. The whole
compiled train function and its encoders' passes alone run on the same batch in
memory and alternate in one process. The difference is momentum, shuffle,
predictor, logits, optimiser, queue or bank.
"""

import statistics

import measure

from moco_tf.cli import quiet

DEFAULTS = {
    "train.batch_size": "32",
    "model.bn_groups": "1",
    "data.source": "shapes:train",  # not read
}


def main():
    parser = measure.parser(
        "What a method costs beside its encoders.", "moco_v2_imagenet"
    )
    parser.add_argument("--steps", type=int, default=1, help="a round [1]")
    parser.add_argument("--rounds", type=int, default=5, help="[5]")
    options, config = measure.parse(parser, DEFAULTS)

    with quiet.imports():
        from moco_tf import plan
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(options.devices)
    try:
        plan.check(config, strategy.num_replicas_in_sync)
    except ValueError as error:
        parser.error(str(error))
    batches = iter(measure.synthetic_batches(config, strategy))

    def stepper(method):
        train = method.make_train_function()
        return lambda: measure.time_steps(train, batches, options.steps)

    images = config.train.batch_size
    runs = {
        "encoders": stepper(stripped_method(config, strategy)),
        "whole step": stepper(plan.make_method(config, strategy, images)),
    }
    print(
        f"{config.model.backbone}, {config.data.image_size} px, batch "
        f"{config.train.batch_size}, {config.method}, "
        f"{config.train.precision}, {options.cores or 'all'} cores, "
        f"{options.steps} steps a round"
    )
    for run in runs.values():
        run()  # compiles
        run()
    seconds = measure.alternate(runs, options.rounds)
    medians = measure.medians(seconds)
    for name, median in medians.items():
        print(f"{name:<11}{median / options.steps:>8.3f} s a step (median)")
    pairs = zip(seconds["whole step"], seconds["encoders"], strict=True)
    rounds = [100 * (whole / part - 1) for whole, part in pairs]
    overhead = 100 * (medians["whole step"] / medians["encoders"] - 1)
    print(
        f"overhead {overhead:.1f} % of the encoders' time (rounds: median "
        f"{statistics.median(rounds):.1f} %, {min(rounds):.1f} to "
        f"{max(rounds):.1f} %)"
    )


def stripped_method(config, strategy):
    """The method of a configuration, stripped to its encoders' passes."""
    import encoders_only

    from moco_tf import plan

    method = plan.make_method(config, strategy, config.train.batch_size)
    encoders_only.strip(method)
    return method


if __name__ == "__main__":
    main()
