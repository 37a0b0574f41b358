"""Where the memory of a step goes, and what saves some of it.

python benchmarks/memory.py
python benchmarks/memory.py --config.train.precision=mixed_bfloat16

By default ResNet-50, 224 pixels, batch 32, 65,536 keys, float32. Each row is a
process of its own that takes two steps on noise; its peak is the largest
resident size (on the CPU). "start" is the size after the imports; what is
neither that nor state is activations, gradients and buffers.
"""

import json
import resource
import subprocess
import sys

import measure

from moco_tf.cli import quiet

DEFAULTS = {
    "train.batch_size": "32",
    "model.bn_groups": "4",
    "data.source": "shapes:train",  # not read
}
WAYS = {
    "whole batch": {},
    "2 micro-batches": {"train.micro_batches": 2},
    "4 micro-batches": {"train.micro_batches": 4},
    "recompute": {"model.recompute": True},
    "recompute, 4 micro-batches": {
        "train.micro_batches": 4,
        "model.recompute": True,
    },
}


def main():
    parser = measure.parser("Where the memory goes.", "moco_v2_imagenet")
    parser.add_argument("--way", default="", help="of one process; none = all")
    options, config = measure.parse(parser, DEFAULTS)
    if options.way:
        print(json.dumps(_one(config, options)))
        return
    print(
        f"{config.model.backbone}, {config.data.image_size} px, batch "
        f"{config.train.batch_size}, {config.moco.queue_size} keys, "
        f"{config.train.precision}"
    )
    header = ("", "GB peak", "start", "weights", "slots", "queue", "rest", "s")
    print(f"{header[0]:<28}" + "".join(f"{name:>9}" for name in header[1:]))
    for way in WAYS:
        words = [sys.executable, *sys.argv, f"--way={way}"]
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        row = "".join(f"{figures[name]:>9.2f}" for name in header[1:])
        print(f"{way:<28}{row}", flush=True)


def _one(config, options):
    with quiet.imports():
        from moco_tf import plan
        from moco_tf.training import distribution
    config.update_from_flattened_dict(WAYS[options.way])
    strategy = distribution.make_strategy(options.devices)
    batches = iter(measure.synthetic_batches(config, strategy))
    start = _peak()
    method = plan.make_method(config, strategy, config.train.batch_size)
    train = method.make_train_function()
    measure.time_steps(train, batches, 1)
    seconds = measure.time_steps(train, batches, 1)
    encoders = [method.query_encoder, method.key_encoder]
    figures = {
        "GB peak": _peak(),
        "start": start,
        "weights": _size(w for encoder in encoders for w in encoder.weights),
        "slots": _size(method.optimizer.variables),
        "queue": _size([method.queue.keys]),
        "s": seconds,
    }
    parts = ("start", "weights", "slots", "queue")
    figures["rest"] = figures["GB peak"] - sum(figures[name] for name in parts)
    return figures


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _size(variables):
    return sum(v.shape.num_elements() * v.dtype.size for v in variables) / 1e9


if __name__ == "__main__":
    main()
