"""What the replicas of a step exchange: compared with NumPy, and timed.

All of it runs in one function, as in a step, and several times: collectives
that overtake each other show only beside others. The numbers are whole, so
sums have no rounding, in any order.
"""

import statistics
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import plan
from moco_tf.data import views
from moco_tf.doctor import table
from moco_tf.methods import method, shuffle
from moco_tf.models import inputs
from moco_tf.training import distribution

_TIMES = 3  # exchanges with other values
_PERIOD = 61  # of the whole numbers that stand for a gradient
_LARGEST = 2**40  # index of a sample that travels beside its key
_ROUNDS = 5  # timings, of which the median counts
_PART = 3  # gradients are a large, a small and a middle tensor


class Load(NamedTuple):
    """Sizes of what a step exchanges.

    Attributes:
      rows: int, images of a replica. size: int, pixels of a side.
      channels: int. dim: int, floats of a key.
      weights: int, floats of a gradient.
    """

    rows: int
    size: int
    channels: int
    dim: int
    weights: int

    def describe(self):
        """The images of a replica in words."""
        return f"{self.rows} x {self.size} x {self.size} x {self.channels}"


def load_of(config, replicas):
    """The Load of a configuration's step on so many replicas."""
    recipe = views.RECIPES[config.data.views]
    parts = plan.make_parts(config, recipe.mean, recipe.std)
    shapes = [w.shape for part in parts for w in part.trainable_weights]
    return Load(
        rows=config.train.batch_size // replicas,
        size=config.data.image_size,
        channels=inputs.CHANNELS[config.model.input],
        dim=config.model.dim,
        weights=sum(shape.num_elements() for shape in shapes),
    )


def check_gather(strategy, load, way="cross_device_ops=auto"):
    """The row about the collectives of a step.

    Args:
      strategy: tf.distribute.Strategy. load: Load.
      way: the flag that chose how replicas exchange, without its dashes.

    Returns:
      table.Row.

    Raises:
      OpError: where TensorFlow cannot exchange at all.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return table.Row("gather", "one replica: nothing travels")
    step = _compiled(strategy, load)
    wrong: set[str] = set()
    for number in range(_TIMES):
        sent = _draw(load, replicas, number)
        results = step(_scatter(strategy, sent, load.rows), number)
        wrong |= _compare(strategy, results, sent, load.rows)
    words = (
        f"images ({load.describe()} of each), keys, their gradient and "
        f"{load.weights / 1e6:.3g} million summed weights over {replicas} "
        f"replicas, {_TIMES} times (--{way})"
    )
    if not wrong:
        return table.Row("gather", f"{words}: as they must be")
    words += f": wrong are {', '.join(sorted(wrong))}"
    return table.Row("gather", words, table.FAIL, remedy(strategy, way))


def remedy(strategy, way):
    """What to do where these replicas do not exchange, or wrongly."""
    if way.endswith(("one_device", "ring")):
        return (
            "Do not train on these devices together: check driver, memory and "
            "connections of each."
        )
    if distribution.worker_count(strategy) > 1:
        return (
            "Try --communication=ring here and in `pretrain`, and check "
            "network and driver."
        )
    return (
        "Try --cross_device_ops=one_device here and in `pretrain`, and check "
        "the driver."
    )


def _draw(load, replicas, seed):
    """What all replicas send, a dict of arrays of their rows."""
    rng = np.random.default_rng(seed)
    count = replicas * load.rows
    shape = (count, load.size, load.size, load.channels)
    return {
        "images": rng.integers(0, 256, shape, np.uint8),
        "keys": _whole(rng, (count, load.dim)),
        "samples": rng.integers(0, _LARGEST, count),
        "order": rng.permutation(count),
        "factors": _whole(rng, (count, load.dim)),
    }


def _whole(rng, shape):
    return rng.integers(-99, 100, shape).astype(np.float32)


def _scatter(strategy, sent, rows):
    """The part of each replica: its own rows; order and factors are of all."""

    def part(context):
        first = context.replica_id_in_sync_group * rows
        own = {
            name: value[first : first + rows] for name, value in sent.items()
        }
        own |= {name: sent[name] for name in ("order", "factors")}
        return {name: tf.constant(value) for name, value in own.items()}

    return strategy.experimental_distribute_values_from_function(part)


def _compiled(strategy, load):
    """A function of parts and a number: what each replica has afterwards."""

    def exchange(part, number):
        order = part["order"]
        dealt = shuffle.this_replica(order)
        images = shuffle.gather_images(part["images"], dealt)
        keys = part["keys"]
        with tf.GradientTape() as tape:
            tape.watch(keys)
            gathered, samples = shuffle.gather_keys(keys, part["samples"])
            slots = shuffle.unshuffle(gathered, order)
            loss = tf.reduce_sum(slots * part["factors"])
        context = tf.distribute.get_replica_context()
        return {
            "replica": tf.identity(context.replica_id_in_sync_group),
            "images": images,
            "keys": slots,
            "samples": samples,
            "gradient of keys": tape.gradient(loss, keys),
            "sum of weights": _error_of_sum(load.weights, number),
        }

    @tf.function(autograph=False)
    def step(parts, number):
        return strategy.run(exchange, args=(parts, number))

    return lambda parts, number: step(parts, tf.constant(number, tf.float32))


def _sum(gradients):
    """Sums over the replicas as a step does; called in a replica."""
    strategy = tf.distribute.get_strategy()
    if distribution.worker_count(strategy) > 1:
        return method.sum_in_packs(gradients)
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)


def _gradients(weights, factor):
    """Three tensors of so many floats, whole numbers times a factor."""
    sizes = [weights // _PART, 1, weights - weights // _PART - 1]
    return [
        factor * tf.cast(tf.range(size, dtype=tf.int64) % _PERIOD, tf.float32)
        for size in sizes
    ]


def _error_of_sum(weights, number):
    """The largest error of a sum over the replicas, a float32 scalar."""
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    replica = tf.cast(context.replica_id_in_sync_group, tf.float32)
    summed = _sum(_gradients(weights, replica + number + 1))
    total = replicas * (replicas + 1) / 2 + replicas * number
    pairs = zip(summed, _gradients(weights, total), strict=True)
    return tf.reduce_max(
        [
            tf.reduce_max(tf.abs(one - other), keepdims=True)
            for one, other in pairs
        ]
    )


def _compare(strategy, results, sent, rows):
    """Names of the results that are wrong at a replica of this process."""
    order, replicas = sent["order"], strategy.num_replicas_in_sync
    wrong = set()
    local = {
        name: strategy.experimental_local_results(value)
        for name, value in results.items()
    }
    numbers = [int(number) for number in local.pop("replica")]
    slots = np.empty_like(sent["keys"])
    slots[order] = sent["keys"]
    for place, replica in enumerate(numbers):
        own = slice(replica * rows, (replica + 1) * rows)
        expected = {
            "images": sent["images"][order[own]],
            "keys": slots,
            "samples": sent["samples"],
            # Every replica's loss has every row.
            "gradient of keys": replicas * sent["factors"][order[own]],
            "sum of weights": np.float32(0),
        }
        wrong |= {
            name
            for name, right in expected.items()
            if not np.array_equal(local[name][place].numpy(), right)
        }
    return wrong


def measure(strategy, load, clock=time.perf_counter):
    """Times the collectives of a step, one kind at a time.

    Args:
      strategy: of two replicas or more. load: Load.
      clock: function that returns seconds.

    Returns:
      dict "images", "keys", "gradient" -> dict of `bytes` that a replica
      contributes, and `seconds`, the median of some.
    """
    shape = [load.rows, load.size, load.size, load.channels]
    tensors = {
        "images": (tf.zeros(shape, tf.uint8), shuffle.gather_images),
        "keys": (tf.zeros([load.rows, load.dim]), shuffle.all_gather),
        "gradient": (tf.zeros([load.weights]), lambda value: _sum([value])[0]),
    }
    figures = {}
    for name, (tensor, exchange) in tensors.items():

        def once(tensor=tensor, exchange=exchange):
            rows = tf.identity(exchange(tf.identity(tensor)))
            # A number comes back: the host waits for it, not for all rows.
            return tf.cast(tf.reshape(rows, [-1])[0], tf.float32)

        run = tf.function(lambda once=once: strategy.run(once), autograph=False)
        seconds = []
        for _ in range(_ROUNDS + 1):
            start = clock()
            for value in strategy.experimental_local_results(run()):
                float(value)
            seconds.append(clock() - start)
        figures[name] = {
            "bytes": tensor.shape.num_elements() * tensor.dtype.size,
            "seconds": statistics.median(seconds[1:]),  # the first compiles
        }
    return figures
