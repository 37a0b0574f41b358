"""A few steps of the run itself, timed; nothing is written."""

import math
import time
from typing import NamedTuple

import tensorflow as tf

from moco_tf import assembly, pretrain
from moco_tf.doctor import table
from moco_tf.methods import step_log
from moco_tf.monitoring import counter, progress

_FIRST = 3  # steps that trace, fill buffers, and say nothing about the speed
_LONGEST = 60.0  # seconds, after which no further step is begun
_WAIT = 0.3  # share of the time waited for input, above which it is too much


class Trial(NamedTuple):
    """What some steps showed.

    Attributes:
      seconds: float, of a step. wait: float in 0..1, share of it waited for
        input. loss: float, of the last step. steps: int, timed.
      peak: bytes of the fullest GPU at its peak; None on CPUs.
    """

    seconds: float
    wait: float
    loss: float
    steps: int
    peak: int | None


def run(config, source, strategy, steps, clock=time.perf_counter):
    """Trains some steps on the real images.

    Args:
      config: ConfigDict. source: Source. strategy: tf.distribute.Strategy.
      steps: int, timed ones, at least 1; fewer when they are slow.
      clock: function that returns seconds.

    Returns:
      Trial.

    Side effects: those of pretrain.make_method.
    """
    batches = assembly.make_stream(config, source)
    method = pretrain.make_method(config, strategy, len(source))
    iterator = iter(batches.distribute(strategy, 0))
    step = method.make_train_function()
    for _ in range(_FIRST):
        loss = float(step(iterator)["loss"])
    start, done = clock(), 0
    while done < steps and clock() - start < _LONGEST:
        loss = float(step(iterator)["loss"])
        done += 1
    seconds = (clock() - start) / done
    read = min(done, step_log.StepLog.CAPACITY)
    log = method.step_log.read(_FIRST + done - read, _FIRST + done)
    wait = sum(log["input_wait"]) / (read * seconds)
    return Trial(seconds, min(wait, 1.0), loss, done, _peak())


def _peak():
    names = [
        device.name.rpartition("/device:")[2]
        for device in tf.config.list_logical_devices("GPU")
    ]
    read = tf.config.experimental.get_memory_info
    return max((read(name)["peak"] for name in names), default=None)


def row(config, count, found):
    """The row of the table about a Trial, for N images."""
    batch = config.train.batch_size
    total = count // batch * config.train.epochs
    total = min(config.train.max_steps or total, total)
    if not math.isfinite(found.loss):
        remedy = "Lower optimizer.learning_rate, and look at the images."
        words = f"the loss was {found.loss} within {found.steps + _FIRST} steps"
        return table.Row("time", words, table.FAIL, remedy)
    words = (
        f"{progress.format_duration(total * found.seconds)} for {total} steps "
        f"of {found.seconds:.3g} s ({batch / found.seconds:.3g} images/s), "
        f"without kNN and checkpoints; {100 * found.wait:.0f} % of it waiting "
        f"for input; measured on {found.steps} steps"
    )
    if found.peak is not None:
        words += f"; {counter.format_bytes(found.peak)} on the fullest GPU"
    if found.wait > _WAIT:
        remedy = (
            "The devices wait for images: resize the files to about twice "
            "data.image_size once, put them on a local disk, or use more "
            "cores (data.threads=0)."
        )
        return table.Row("time", words, table.WARN, remedy)
    return table.Row("time", words)
