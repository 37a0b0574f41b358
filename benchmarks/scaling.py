"""Step time against replicas and workers, the same batch on the same cores.

python benchmarks/scaling.py
python benchmarks/scaling.py --config=moco_cifar10 --batch=64 --rounds=3

All layouts share the cores of this machine and the same global batch, so the
ideal is the time of one replica: what a layout takes more is the cost of the
strategy, of smaller batches and of the exchange. Each layout has processes of
its own; layouts take turns. "plain" is what the product does on one device,
"mirrored" the same step under MirroredStrategy with that one replica.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time

from moco_tf import config as configs
from moco_tf.cli import quiet

# Name: workers, replicas of each.
LAYOUTS = {
    "plain": (1, 1),
    "mirrored": (1, 1),
    "1 x 2": (1, 2),
    "1 x 4": (1, 4),
    "2 x 1": (2, 1),
    "4 x 1": (4, 1),
}
WARM_UP = 3


def child(options):
    """Times steps in this process; worker 0 prints the median in seconds."""
    quiet.prepare()
    with quiet.imports():
        import tensorflow as tf

        from moco_tf import plan
        from moco_tf.cluster import membership
        from moco_tf.data import sources
        from moco_tf.training import distribution
    workers, replicas = LAYOUTS[options.layout]
    if options.layout == "mirrored":
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    elif workers > 1:
        cluster = membership.find({}, options.workers, options.worker_index)
        strategy = distribution.make_strategy("cpu", cluster)
    else:
        strategy = distribution.make_strategy(f"cpu:{replicas}")
    texts = {
        "data.source": "shapes:train",
        "train.batch_size": str(options.batch),
        "model.bn_groups": "4",
        "data.threads": str(max(1, os.cpu_count() // workers)),
    }
    config = configs.load(options.config, texts)
    plan.check(config, strategy.num_replicas_in_sync)
    source = sources.open_source(config.data.source)
    stream = plan.make_stream(config, source, strategy)
    method = plan.make_method(config, strategy, len(stream.source))
    step = method.make_train_function()
    batches = iter(stream.distribute(strategy, 0))
    seconds = []
    for _ in range(WARM_UP + options.steps):
        start = time.perf_counter()
        float(step(batches)["loss"])
        seconds.append(time.perf_counter() - start)
    distribution.wait_for_all(strategy)
    print(statistics.median(seconds[WARM_UP:]))


def measure(options, layout):
    """Runs a layout in processes of its own; returns seconds a step."""
    workers, _ = LAYOUTS[layout]
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    ports = [s.getsockname()[1] for s in sockets]
    for opened in sockets:
        opened.close()
    command = [sys.executable, __file__, f"--layout={layout}"]
    command += [f"--config={options.config}", f"--batch={options.batch}"]
    command += [f"--steps={options.steps}"]
    if workers > 1:
        names = ",".join(f"127.0.0.1:{port}" for port in ports)
        command += [f"--workers={names}"]
    processes = [
        subprocess.Popen(
            [*command, f"--worker_index={index}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(workers)
    ]
    texts = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"{layout} failed")
    return float(texts[0].splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description="Step time against replicas and workers.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", default="quickstart", help="[quickstart]")
    parser.add_argument("--batch", type=int, default=128, help="global [128]")
    parser.add_argument("--steps", type=int, default=40, help="a round [40]")
    parser.add_argument("--rounds", type=int, default=2, help="[2]")
    for name in ("--layout", "--workers", "--worker_index"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.layout:
        child(options)
        return
    rounds_of = {layout: [] for layout in LAYOUTS}
    for number in range(options.rounds):
        for layout, seconds in rounds_of.items():
            seconds.append(measure(options, layout))
            print(
                f"round {number + 1}  {layout:<9}{seconds[-1]:>8.3f} s a step"
            )
    plain = statistics.median(rounds_of["plain"])
    print(f"\n{options.config}, batch {options.batch}, {os.cpu_count()} cores")
    print("workers x replicas  s a step  of plain")
    for layout, seconds in rounds_of.items():
        median = statistics.median(seconds)
        print(f"{layout:<18}{median:>10.3f}{median / plain:>10.2f}")


if __name__ == "__main__":
    main()
