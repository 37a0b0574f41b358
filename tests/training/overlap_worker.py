"""A step of two replicas and its input, looked at from outside.

    python -m tests.training.overlap_worker

prints a line of JSON. Logical CPU devices stand for GPUs. In a process of its
own, as devices are set once a process.
"""

import json
import types

import numpy as np
import tensorflow as tf

from moco_tf.data import sources, stream, views
from moco_tf.methods import method
from moco_tf.training import distribution
from tests.training import fakes

DEVICES = ("CPU:0", "CPU:1")


def copied_batches():
    """Devices of the batches of one replica, if CPU:1 were the only GPU."""
    pixels = np.zeros([4, 8, 8, 3], np.uint8)
    source = sources.ArraySource(pixels, np.zeros(4, int), None, "zeros")
    batches = stream.Stream(source, views.RECIPES["cifar"], 8, 2, threads=1)
    on_host = next(iter(batches.distribute(tf.distribute.get_strategy(), 0)))
    name = tf.config.list_logical_devices("CPU")[1].name
    stand_in = types.SimpleNamespace(name=name)
    listed = tf.config.list_logical_devices
    tf.config.list_logical_devices = lambda kind=None: [stand_in]
    dataset = batches.distribute(tf.distribute.get_strategy(), 0)
    copied = next(iter(dataset))
    tf.config.list_logical_devices = listed
    return {
        "kinds": [type(dataset).__name__, int(dataset._buffer_size)],
        "on_host": [value.device[-5:] for value in on_host.values()],
        "copied": [value.device[-5:] for value in copied.values()],
        "same": all(
            np.array_equal(on_host[key], copied[key].numpy()) for key in on_host
        ),
    }


def traced(strategy):
    """The graph of a step of a small method."""
    with strategy.scope():
        small = fakes.make_method(head="mlp")
    views_of_noise = np.zeros([2, 4, 4, 3], np.uint8)
    batch = {
        "query": views_of_noise,
        "key": views_of_noise,
        "index": np.arange(2),
        "order": np.arange(4),
        "valid": np.ones(2, bool),
    }
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    batches = strategy.distribute_datasets_from_function(lambda _: dataset)
    step = small.make_train_function()
    return step.get_concrete_function(iter(batches)).graph


def before(operation):
    """Names of all operations that one waits for."""
    names, rest = set(), [operation]
    while rest:
        operation = rest.pop()
        if operation.name not in names:
            names.add(operation.name)
            rest += [value.op for value in operation.inputs]
            rest += operation.control_inputs
    return names


def sums(strategy, bytes_per_pack):
    """The sums of gradients of replica 0, in the order of the graph.

    Returns:
      list of [number of values, how many other sums' values it waits for].
    """
    method._BYTES_PER_PACK = bytes_per_pack
    operations = traced(strategy).get_operations()
    reduced = [
        o
        for o in operations
        if o.type == "CollectiveReduceV2" and o.device.endswith("CPU:0")
    ]
    waits = []
    for operation in reduced:
        needed = before(operation)
        values = operation.inputs[0].shape.num_elements()
        others = [o.inputs[0].op.name in needed for o in reduced]
        waits.append([values, sum(others) - 1])
    return waits


def main():
    distribution.make_strategy("cpu:2")
    strategy = tf.distribute.MultiWorkerMirroredStrategy._from_local_devices(
        DEVICES
    )
    result = {
        "input": copied_batches(),
        "one_pack": sums(strategy, 10**9),
        "packs": sums(strategy, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
