"""What replicas exchange in a step: counted in the graph, and by formula.

python benchmarks/collectives.py
python benchmarks/collectives.py --config=moco_cifar10 --batch_per_replica=64

Traces the product's train function with 2 and with 4 replicas (logical CPU
devices, each in a separate process), counts the collective operations and
their bytes, and compares them with the formula of docs/scaling.md. Exits 1
where they differ. Then prints what the formula gives for more replicas.
"""

import argparse
import json
import subprocess
import sys

from moco_tf import config as configs
from moco_tf import plan
from moco_tf.data import sources
from moco_tf.training import distribution

SCALARS = 86  # five figures, leave, two histograms of 40 bins
INDEX = 2  # floats that carry a sample's index beside its key


def collectives(graph):
    """Collectives of one replica in a traced step.

    Args:
      graph: tf.Graph of the train function.

    Returns:
      list of (kind "gather" or "reduce", bytes of the tensor of the replica).
    """
    seen = []
    for operation in graph.get_operations():
        if not operation.type.startswith("Collective"):
            continue
        if not operation.device.endswith("CPU:0"):
            continue
        tensor = operation.inputs[0]
        kind = "gather" if "Gather" in operation.type else "reduce"
        size = tensor.shape.num_elements() * tensor.dtype.size
        seen.append((kind, size))
    return seen


def expected(batch, dim, image_size, parameters, shuffle):
    """The formula: collectives of one replica in a step, as `collectives`.

    Args:
      batch: of a replica. dim: C. image_size: pixels. parameters: of the query
        encoder, trained. shuffle: "address" or "gather".
    """
    exchanged = []
    if shuffle == "gather":
        words = -(-(3 * image_size**2) // 8)  # uint8, eight in an int64
        exchanged += [("gather", batch * words * 8)]
    exchanged += [("gather", batch * (dim + INDEX) * 4)]
    return exchanged + [("reduce", parameters * 4), ("reduce", SCALARS * 4)]


def sent(exchanged, replicas):
    """Bytes that a replica sends in a step, in rings."""
    gathered = sum(size for kind, size in exchanged if kind == "gather")
    reduced = sum(size for kind, size in exchanged if kind == "reduce")
    return (replicas - 1) * gathered + 2 * (replicas - 1) / replicas * reduced


def count(options):
    """Traces a step with so many replicas; prints JSON."""
    strategy = distribution.make_strategy(f"cpu:{options.count}")
    texts = {
        "data.source": "shapes:test",
        "train.batch_size": str(options.count * options.batch_per_replica),
        "model.bn_groups": str(options.count),
        "moco.shuffle": options.shuffle,
    }
    config = configs.load(options.config, texts)
    plan.check(config, strategy.num_replicas_in_sync)
    source = sources.open_source(config.data.source)
    stream = plan.make_stream(config, source)
    method = plan.make_method(config, strategy, len(stream.source))
    step = method.make_train_function()
    batches = iter(stream.distribute(strategy, 0))
    counted = collectives(step.get_concrete_function(batches).graph)
    parameters = sum(v.shape.num_elements() for v in method.trained_variables())
    formula = expected(
        options.batch_per_replica,
        config.model.dim,
        config.data.image_size,
        parameters,
        options.shuffle,
    )
    print(
        json.dumps(
            {
                "counted": sorted(counted),
                "formula": sorted(formula),
                "parameters": parameters,
            }
        )
    )


def compare(options, shuffle):
    """Counts in separate processes; returns the formula's collectives."""
    for replicas in (2, 4):
        command = [sys.executable, __file__, f"--count={replicas}"]
        command += [f"--shuffle={shuffle}", f"--config={options.config}"]
        command += [f"--batch_per_replica={options.batch_per_replica}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"tracing {replicas} replicas failed")
        result = json.loads(done.stdout.splitlines()[-1])
        if result["counted"] != result["formula"]:
            sys.exit(f"{replicas} replicas, {shuffle}: {result}")
        print(
            f"{replicas} replicas, {shuffle}: {len(result['counted'])} "
            "collectives a step, "
            f"{sent(result['counted'], replicas) / 1e6:.2f} MB sent by "
            "each; the formula gives the same"
        )
    return result["formula"]


def main():
    parser = argparse.ArgumentParser(
        description="Collectives of a step.", allow_abbrev=False
    )
    parser.add_argument("--config", default="moco_v2_imagenet")
    parser.add_argument("--batch_per_replica", type=int, default=32)
    parser.add_argument("--shuffle", default="address")
    parser.add_argument("--count", type=int, help="trace only; prints JSON")
    options = parser.parse_args()
    if options.count:
        count(options)
        return
    rows = {s: compare(options, s) for s in ("address", "gather")}
    print("replicas  " + "".join(f"{s:>14}" for s in rows))
    for replicas in (2, 4, 8, 64, 512):
        sizes = [f"{sent(f, replicas) / 1e6:.1f} MB" for f in rows.values()]
        print(f"{replicas:>8}  " + "".join(f"{size:>14}" for size in sizes))


if __name__ == "__main__":
    main()
