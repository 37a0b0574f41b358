"""The product's step and a step in torch, in turn on the same cores.

python benchmarks/torch_comparison.py --torch_path=DIR
python benchmarks/torch_comparison.py --torch_path=DIR --cases --rounds=3

DIR is a folder that holds torch (pip install --target=DIR torch==2.13.0, in
an environment of its own); --torch_python names another interpreter that has
it. By default ResNet-50, 224 pixels, batch 16, 65,536 keys, float32; --cases
goes through this, the same in bfloat16, and CIFAR's ResNet-18 with batch 256 in
bfloat16. Both train on noise in memory; one process rests while the other runs.
Ratios are by the clock and by the processor's time. Torch's threads spin while
they wait for one another, so on a busy machine its processor time is too long.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time

import measure

from moco_tf.cli import quiet

DEFAULTS = {
    "train.batch_size": "16",
    "model.bn_groups": "1",
    "data.source": "shapes:train",  # not read
}
HALF = "--config.train.precision=mixed_bfloat16"
CASES = (
    [],
    [HALF],
    ["--config=moco_cifar10", "--config.train.batch_size=256", HALF],
)
SCRIPT = pathlib.Path(__file__).with_name("torch_step.py")


class TorchSteps:
    """A process that runs torch's steps on demand.

    Attributes:
      processor: list of float, seconds of that process.
    """

    def __init__(self, config, options):
        """Starts it with the sizes of a configuration."""
        self.processor = []
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
        seconds, processor = self._process.stdout.readline().split()
        self.processor.append(float(processor))
        return float(seconds)

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
    parser.add_argument("--cases", action="store_true", help="three cases")
    if "--cases" in sys.argv:
        words = [word for word in sys.argv if word != "--cases"]
        for case in CASES:
            subprocess.run([sys.executable, *words, *case], check=True)
        return
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
    processor = []

    def our_seconds():
        begun = time.process_time()
        seconds = measure.time_steps(train, batches, options.steps)
        processor.append(time.process_time() - begun)
        return seconds

    runs = {
        "torch": lambda: other.seconds(options.steps),
        "moco_tf": our_seconds,
    }
    for run in runs.values():
        run()
    seconds = measure.alternate(runs, options.rounds)
    other.close()
    for name, median in measure.medians(seconds).items():
        print(f"{name:<8}{median / options.steps:8.3f} s a step (median)")
    print(
        f"{config.model.backbone}, {config.data.image_size} px, batch "
        f"{config.train.batch_size}, {config.model.bn_groups} groups, "
        f"{config.train.precision}:"
    )
    _compare("by the clock", seconds["torch"], seconds["moco_tf"])
    _compare("by processor time", other.processor[1:], processor[1:])


def _compare(clock, theirs, ours):
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    print(
        f"torch takes {statistics.median(ratios):.2f} times as long {clock} "
        f"(rounds {min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
