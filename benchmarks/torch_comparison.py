"""The product's step and a step in torch, in turn on the same cores.

python benchmarks/torch_comparison.py --torch_path=DIR
python benchmarks/torch_comparison.py --torch_path=DIR \\
    --config.train.precision=mixed_bfloat16
python benchmarks/torch_comparison.py --torch_path=DIR --config=moco_cifar10 \\
    --config.train.batch_size=256 --config.train.precision=mixed_bfloat16

DIR is a folder that holds torch (pip install --target=DIR torch==2.13.0, in
an environment of its own); --torch_python names another interpreter that has
it. By default ResNet-50, 224 pixels, batch 16, 65,536 keys, float32. Both
train on noise in memory; one process rests while the other runs.
"""

import os
import pathlib
import statistics
import subprocess
import sys

import measure

from moco_tf.cli import quiet

DEFAULTS = {
    "train.batch_size": "16",
    "model.bn_groups": "1",
    "data.source": "shapes:train",  # not read
}
SCRIPT = pathlib.Path(__file__).with_name("torch_step.py")


class TorchSteps:
    """A process that runs torch's steps on demand."""

    def __init__(self, config, options):
        """Starts it with the sizes of a configuration."""
        words = {
            "depth": config.model.backbone.removeprefix("resnet"),
            "stem": config.model.stem,
            "size": config.data.image_size,
            "batch": config.train.batch_size,
            "keys": config.moco.queue_size,
            "dim": config.model.dim,
            "precision": config.train.precision,
            "threads": options.cores or os.cpu_count(),
        }
        environment = dict(os.environ)
        if options.torch_path:
            environment["PYTHONPATH"] = options.torch_path
        self._process = subprocess.Popen(
            [
                options.torch_python,
                str(SCRIPT),
                *[f"--{name}={value}" for name, value in words.items()],
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout.readline().strip() != "ready":
            sys.exit("torch did not start: see --torch_path, --torch_python")

    def seconds(self, steps):
        """Seconds of some steps."""
        print(steps, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)


def main():
    parser = measure.parser(
        "The product's step and torch's.", "moco_v2_imagenet"
    )
    parser.add_argument("--steps", type=int, default=2, help="a round [2]")
    parser.add_argument("--rounds", type=int, default=5, help="[5]")
    parser.add_argument("--torch_path", default="", help="folder with torch")
    parser.add_argument("--torch_python", default=sys.executable)
    options, config = measure.parse(parser, DEFAULTS)
    with quiet.imports():
        from moco_tf import plan
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(options.devices)
    try:
        plan.check(config, strategy.num_replicas_in_sync)
    except ValueError as error:
        parser.error(str(error))
    other = TorchSteps(config, options)
    batches = iter(measure.synthetic_batches(config, strategy))
    method = plan.make_method(config, strategy, config.train.batch_size)
    train = method.make_train_function()
    runs = {
        "torch": lambda: other.seconds(options.steps),
        "moco_tf": lambda: measure.time_steps(train, batches, options.steps),
    }
    for run in runs.values():
        run()
    seconds = measure.alternate(runs, options.rounds)
    other.close()
    for name, median in measure.medians(seconds).items():
        print(f"{name:<8}{median / options.steps:8.3f} s a step (median)")
    ratios = [
        theirs / ours
        for theirs, ours in zip(
            seconds["torch"], seconds["moco_tf"], strict=True
        )
    ]
    print(
        f"{config.model.backbone}, {config.data.image_size} px, batch "
        f"{config.train.batch_size}, {config.train.precision}: torch takes "
        f"{statistics.median(ratios):.2f} times as long (rounds "
        f"{min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
