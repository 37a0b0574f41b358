"""What watching a run costs: TensorBoard, metrics, health, similarities.

python benchmarks/monitoring_cost.py
python benchmarks/monitoring_cost.py --config.train.max_steps=624

On the host: the quickstart runs with its defaults, and the time inside the
writers and the readers of the queue is counted, as a share of the time of its
steps (kNN and checkpoints left out on both sides). In the step: it alternates
with a step that computes no similarities. Exits 1 above 1 % on the host.
"""

import functools
import statistics
import sys
import tempfile
import time

import measure

from moco_tf.cli import quiet

DEFAULTS = {"train.max_steps": "312"}
LIMIT = 1.0  # percent


class Clock:
    """Seconds spent inside functions that it has wrapped, by name."""

    def __init__(self):
        self.seconds = {}
        self._inside = False

    def wrap(self, owner, name, label):
        """Counts the time of a method; calls within others count once."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments, **named):
            if self._inside:
                return function(*arguments, **named)
            self._inside, start = True, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self._inside = False
                spent = time.perf_counter() - start
                self.seconds[label] = self.seconds.get(label, 0.0) + spent

        setattr(owner, name, timed)


def wrapped():
    """A Clock around everything that watches."""
    from moco_tf.evaluation import diagnostics
    from moco_tf.monitoring import health, metrics_csv, tensorboard
    from moco_tf.reporting import board

    clock = Clock()
    for owner, label, names in (
        (
            board.Board,
            "pictures, histograms",
            "on_start histograms on_epoch on_end",
        ),
        (tensorboard.EventWriter, "scalars", "write __init__"),
        (metrics_csv.MetricsFile, "metrics.csv", "append"),
        (diagnostics.Inspector, "queue and drift", "__call__"),
        (diagnostics.Pace, "key encoder's pace", "begin end"),
        (health.Watch, "warnings", "start report epoch pace"),
    ):
        for name in names.split():
            clock.wrap(owner, name, label)
    return clock


def main():
    parser = measure.parser("What watching a run costs.", "quickstart")
    parser.add_argument("--steps", type=int, default=10, help="a round [10]")
    parser.add_argument("--rounds", type=int, default=10, help="[10]")
    options, config = measure.parse(parser, DEFAULTS)
    with quiet.imports():
        from moco_tf.training import distribution
    strategy = distribution.make_strategy(options.devices)
    share = host(config, strategy)
    step(config, strategy, options)
    if share > LIMIT:
        sys.exit(f"more than {LIMIT:g} % on the host")


def host(config, strategy):
    """Prints and returns the percent of a run's time that watching took."""
    from moco_tf import pretrain
    from moco_tf.monitoring import metrics_csv

    clock = wrapped()
    with tempfile.TemporaryDirectory() as folder:
        pretrain.pretrain(config, folder, strategy)
        rows = metrics_csv.read(f"{folder}/metrics.csv")
    batch = config.train.batch_size
    rates = [
        (row["steps"] * batch, row["images_per_second"])
        for row in rows
        if row["images_per_second"]
    ]
    total = sum(images / rate for images, rate in rates)
    steps = sum(row["steps"] for row in rows)
    total *= steps * batch / sum(images for images, _ in rates)
    for label, seconds in clock.seconds.items():
        print(
            f"{label:<22}{1e3 * seconds:8.1f} ms{100 * seconds / total:8.3f} %"
        )
    spent = sum(clock.seconds.values())
    share = 100 * spent / total
    print(f"{'all on the host':<22}{1e3 * spent:8.1f} ms{share:8.3f} %")
    print(f"of {total:.1f} s of {steps} steps")
    return share


def step(config, strategy, options):
    """Prints what similarities and histograms cost in a step."""
    from moco_tf import plan
    from moco_tf.methods import losses

    batches = iter(measure.synthetic_batches(config, strategy))
    real = losses.similarities

    def none(logits, temperature):
        return {
            name: 0.0 * values
            for name, values in real(logits[:1, :2], temperature).items()
        }

    def stepper(function):
        images = config.train.batch_size
        train = plan.make_method(config, strategy, images)
        train = train.make_train_function()
        losses.similarities = function
        measure.time_steps(train, batches, 3)  # compiles
        losses.similarities = real
        return lambda: measure.time_steps(train, batches, options.steps)

    runs = {"with": stepper(real), "without": stepper(none)}
    seconds = measure.alternate(runs, options.rounds)
    pairs = zip(seconds["with"], seconds["without"], strict=True)
    rounds = [100 * (whole / part - 1) for whole, part in pairs]
    print(
        f"similarities and histograms: {statistics.median(rounds):.2f} % of a "
        f"step (rounds {min(rounds):.2f} to {max(rounds):.2f} %)"
    )


if __name__ == "__main__":
    main()
