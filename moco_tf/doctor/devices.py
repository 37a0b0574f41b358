"""Checks of the devices: their exchange, a resumed run, and a trial.

The exchange of a step is compared with NumPy; a small run that is stopped and
resumed, with one that is not; a trial times some steps of the run itself.
Nothing is written but temporary files.
"""

import math
import pathlib
import tempfile
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import plan
from moco_tf.data import sources
from moco_tf.doctor import table
from moco_tf.methods import shuffle
from moco_tf.models import inputs
from moco_tf.monitoring import progress
from moco_tf.training import checkpoints

_SIZE = 32  # pixels of the images of the resumed run
_PATCH = 8  # pixels, where the encoder sees patches
_ROWS = 8  # images of a replica
_CLOSE = 1e-3  # relative; sums in another order may differ by as much
# What counts or times the session, not the run.
_OF_SESSION = ("_train_counter", "save_counter", "OBJECT_GRAPH", "step_log")

_WARM_UP = 3  # steps of a trial that trace and fill buffers, and are not timed
_MAX_SECONDS = 60.0  # after which a trial begins no further step
_MAX_WAIT = 0.3  # share of the time; waiting longer for input is a warning


def check_gather(strategy, size):
    """The row about the collectives of a step, checked against NumPy.

    Args:
      strategy: tf.distribute.Strategy. size: int, pixels of an image's side.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return table.Row("gather", "one replica: nothing travels")
    rng = np.random.default_rng(0)
    order = rng.permutation(4 * replicas)
    rows = rng.standard_normal((4 * replicas, 5)).astype(np.float32)
    images = rng.integers(0, 256, (4 * replicas, size, size, 3), np.uint8)

    def exchange():  # all in one function, as in a step
        pictures = shuffle.gather_images(
            shuffle.this_replica(tf.constant(images))
        )
        part = shuffle.this_replica(tf.gather(tf.constant(rows), order))
        with tf.GradientTape() as tape:
            tape.watch(part)
            keys = shuffle.unshuffle(shuffle.all_gather(part), order)
            loss = tf.reduce_sum(keys * rows)
        # Every replica's loss holds every row once.
        gradient = tape.gradient(loss, part) / part
        context = tf.distribute.get_replica_context()
        number = tf.cast(context.replica_id_in_sync_group, tf.float32)
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, number)
        return pictures, keys, total, gradient

    same = True
    expected = (images, rows, replicas * (replicas - 1) / 2)
    for *values, gradient in zip(
        *(
            strategy.experimental_local_results(value)
            for value in _run(strategy, exchange)
        ),
        strict=True,
    ):
        for value, right in zip(values, expected, strict=True):
            same &= np.array_equal(value.numpy(), right)
        same &= np.allclose(gradient.numpy(), replicas)
    words = f"images, keys, a gradient and a sum over {replicas} replicas"
    if same:
        return table.Row("gather", f"{words}: as they must be")
    remedy = (
        "Try --cross_device_ops=one_device here and in `pretrain`, and check "
        "the driver."
    )
    return table.Row("gather", f"{words}: wrong", table.FAIL, remedy)


def _run(strategy, function):
    """The results of a function, compiled, of all replicas."""
    return tf.function(lambda: strategy.run(function))()


def check_resume(config, strategy):
    """The row about a small run that is saved, and goes on from there.

    Args:
      config: ConfigDict, whose recipe is taken. strategy: of the devices.

    Side effects: writes to a temporary folder.
    """
    config = small_config(config, strategy.num_replicas_in_sync)
    rng = np.random.default_rng(0)
    count = 2 * config.train.batch_size
    channels = inputs.CHANNELS[config.model.input]
    pixels = rng.integers(0, 256, (count, _SIZE, _SIZE, channels), np.uint8)
    labels = np.arange(count, dtype=np.int64) % 2
    source = sources.ArraySource(pixels, labels, None, "noise")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        method = _make(config, source, strategy)
        _train(method, config, source, 2)
        middle = checkpoints.save(method, folder, 2, {})
        _train(method, config, source, 4)
        end = checkpoints.save(method, folder, 2, {})
        method = _make(config, source, strategy)
        checkpoints.restore(method, middle)
        _train(method, config, source, 4)
        resumed = checkpoints.save(method, folder / "again", 1, {})
        largest = largest_difference(end, resumed)
    return resume_row(largest, bool(tf.config.list_logical_devices("GPU")))


def resume_row(largest, on_gpu):
    """The row for the largest relative difference to a run not stopped."""
    words = "4 steps at once, and 2 and 2 with a checkpoint between"
    if largest == 0:
        return table.Row("resume", f"{words}: the same bits")
    words += f": tensors differ by up to {largest:.1e} of their largest value"
    if on_gpu and largest <= _CLOSE:
        words += "; a GPU adds in another order each time"
        return table.Row("resume", words)
    remedy = "Do not trust resumed runs here: check memory and disk for faults."
    return table.Row("resume", words, table.FAIL, remedy)


def small_config(config, replicas):
    """The recipe of a configuration, on a tiny encoder and tiny batches."""
    small = config.copy_and_resolve_references()
    batch, sync_bn = _ROWS * replicas, config.model.sync_bn
    with small.unlocked():
        small.update_from_flattened_dict(
            {
                "model.backbone": "resnet18",
                "model.width": 0.125,
                "model.stem": "cifar",
                "model.bn_groups": 1 if sync_bn else 2 * replicas,
                "train.micro_batches": min(config.train.micro_batches, 2),
                "data.image_size": _SIZE,
                "data.small_size": _SIZE // 2,
                "model.patch": _PATCH,
                "train.batch_size": batch,
            }
        )
        if "queue_size" in small[small.method]:
            small[small.method].queue_size = 4 * batch
    return small


def _make(config, source, strategy):
    """The method of a configuration, with new weights."""
    return plan.make(config, strategy, source).make_method(strategy)


def _train(method, config, source, last):
    """Trains a method from its step on to another."""
    first = int(method.step.numpy())
    batches = plan.make_stream(config, source)
    iterator = iter(batches.distribute(method.distribute_strategy, first))
    step = method.make_train_function()
    for _ in range(first, last):
        step(iterator)


def largest_difference(left, right):
    """The largest difference between two checkpoints, relative.

    Args:
      left, right: paths of checkpoints of one model.

    Returns:
      float: of all tensors, the largest difference over the largest value;
      infinite if one is not finite.
    """
    with (
        checkpoints.reader(left) as first,
        checkpoints.reader(right) as second,
    ):
        changes = [
            _difference(*(r.get_tensor(name) for r in (first, second)))
            for name in first.get_variable_to_shape_map()
            if not any(word in name for word in _OF_SESSION)
        ]
    return max(changes, default=0.0)


def _difference(one, other):
    one, other = np.asarray(one, float), np.asarray(other, float)
    change = np.abs(one - other).max(initial=0.0)
    if not np.isfinite(change):
        return float("inf")
    return float(change / np.abs(one).max(initial=1e-30)) if change else 0.0


class Trial(NamedTuple):
    """The figures of some steps.

    Attributes:
      seconds: float, of a step. wait: float in 0..1, share of it that was spent
        waiting for input. loss: float, of the last step. steps: int, timed.
      peak: bytes of the fullest GPU at its peak; None on CPUs.
    """

    seconds: float
    wait: float
    loss: float
    steps: int
    peak: int | None


def run_trial(config, source, strategy, steps, clock=time.perf_counter):
    """Trains some steps on the real images.

    Args:
      config: ConfigDict. source: Source. strategy: tf.distribute.Strategy.
      steps: int, timed ones, at least 1; fewer when they are slow.
      clock: function that returns seconds.

    Returns:
      Trial.

    Side effects: those of Plan.make_method.
    """
    run = plan.make(config, strategy, source)
    method = run.make_method(strategy)
    iterator = iter(run.batches.distribute(strategy, 0))
    step = method.make_train_function()
    for _ in range(_WARM_UP):
        loss = float(step(iterator)["loss"])
    start, done = clock(), 0
    while done < steps and clock() - start < _MAX_SECONDS:
        loss = float(step(iterator)["loss"])
        done += 1
    seconds = (clock() - start) / done
    read = min(done, method.step_log.CAPACITY)
    log = method.step_log.read(_WARM_UP + done - read, _WARM_UP + done)
    wait = sum(log["input_wait"]) / (read * seconds)
    return Trial(
        seconds=seconds,
        wait=min(wait, 1.0),
        loss=loss,
        steps=done,
        peak=_peak(),
    )


def _peak():
    """Bytes of the fullest GPU at its peak; None without one."""
    names = [
        device.name.rpartition("/device:")[2]
        for device in tf.config.list_logical_devices("GPU")
    ]
    read = tf.config.experimental.get_memory_info
    return max((read(name)["peak"] for name in names), default=None)


def trial_row(config, count, trial):
    """The row of the table about a Trial, for a source of `count` images."""
    batch = config.train.batch_size
    *_, steps = plan.count_steps(config, count)
    if not math.isfinite(trial.loss):
        remedy = "Lower optimizer.learning_rate, and look at the images."
        words = (
            f"the loss was {trial.loss} within {trial.steps + _WARM_UP} steps"
        )
        return table.Row("time", words, table.FAIL, remedy)
    words = (
        f"{progress.format_duration(steps * trial.seconds)} for {steps} steps "
        f"of {trial.seconds:.3g} s ({batch / trial.seconds:.3g} images/s), "
        f"without kNN and checkpoints; {100 * trial.wait:.0f} % of it waiting "
        f"for input; measured on {trial.steps} steps"
    )
    if trial.peak is not None:
        words += f"; {progress.format_bytes(trial.peak)} on the fullest GPU"
    if trial.wait > _MAX_WAIT:
        remedy = (
            "The devices wait for images: resize the files to about twice "
            "data.image_size once, put them on a local disk, or use more "
            "cores (data.threads=0)."
        )
        return table.Row("time", words, table.WARN, remedy)
    return table.Row("time", words)
