"""Checks of the devices by small runs of the recipe, and a trial of it.

Two steps on the devices are compared with two on the CPU, by the plainest way;
a run that is stopped and resumed, with one that is not; a trial times some
steps of the run itself. Nothing is written but temporary files.
"""

import math
import pathlib
import tempfile
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import cores, counting, plan
from moco_tf.data import sources
from moco_tf.doctor import table
from moco_tf.models import inputs
from moco_tf.training import checkpoints, distribution, gpus

_SIZE = 32  # pixels of the images of the resumed run
_PATCH = 8  # pixels, where the encoder sees patches
_ROWS = 8  # images of a replica
_CLOSE = 1e-3  # relative; sums in another order may differ by as much
# What two steps may deviate from the CPU's: the losses, and the changes of the
# weights. Relative; wide, since BatchNorm over 4 images makes much of rounding.
LIMITS = {
    "float32": (1e-3, 3e-2),
    "tf32": (1e-2, 0.3),
    "mixed_bfloat16": (5e-2, 0.6),
    "mixed_float16": (1e-2, 0.3),
}
# What counts or times the session, not the run.
_OF_SESSION = ("_train_counter", "save_counter", "OBJECT_GRAPH", "step_log")

WARM_UP = 3  # steps of a trial that trace and fill buffers, and are not timed
_MAX_SECONDS = 60.0  # after which a trial begins no further step
_MAX_WAIT = 0.3  # share of the time; waiting longer for input is a warning


class Figures(NamedTuple):
    """The first two steps of a small run.

    Attributes:
      losses: list of float. weights: list of arrays, of the query encoder
        afterwards.
    """

    losses: list[float]
    weights: list[np.ndarray]


def devices_row(strategy, fault):
    """The row that lists replicas, devices and cores.

    Args:
      strategy: tf.distribute.Strategy.
      fault: str, why GPUs that are there are not used, and the remedy; or "".
    """
    names = [d.name for d in tf.config.list_logical_devices()]
    shown = ", ".join(name.rpartition("/device:")[2] for name in names)
    words = (
        f"{strategy.num_replicas_in_sync} replica(s); TensorFlow sees {shown}"
    )
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        words += f"; {details.get('device_name', gpu.name)}"
    count = cores.count()
    words += f"; {count} core{'s' if count > 1 else ''}"
    if fault:
        return table.Row("devices", words, table.FAIL, fault)
    return table.Row("devices", words)


def check_small_run(config, strategy, deterministic=False):
    """The rows "numbers" and "resume", about a small run of the recipe.

    Args:
      config: ConfigDict, whose recipe is taken. strategy: of the devices.
      deterministic: bool, whether sums come in a fixed order.

    Returns:
      list of table.Row.

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
        method, batches = _make(config, source, strategy)
        first = [variable.numpy() for variable in method.variables]
        start = [w.numpy() for w in method.query_encoder.trainable_weights]
        figures = _two_steps(method, batches)
        middle = checkpoints.save(method, folder, 2, {})
        _train(method, batches, 4)
        end = checkpoints.save(method, folder, 2, {})
        method, batches = _make(config, source, strategy)
        checkpoints.restore(method, middle)
        _train(method, batches, 4)
        resumed = checkpoints.save(method, folder / "again", 1, {})
        largest = largest_difference(end, resumed)
    plain = _on_the_cpu(config, source, first)
    on_gpu = distribution.kind_of_devices() == "GPU"
    precision = config.train.precision
    if config.train.tf32 and gpus.take_tf32() and precision == "float32":
        precision = "tf32"
    return [
        numbers_row(figures, plain, start, precision),
        resume_row(largest, on_gpu and not deterministic),
    ]


def _on_the_cpu(config, source, first):
    """The Figures of one replica on the CPU, in float32 and without XLA.

    Args:
      config: ConfigDict of the small run. source: Source.
      first: values of all variables of the method before the first step.
    """
    plain = config.copy_and_resolve_references()
    plain.train.precision, plain.train.tf32 = "float32", False
    plain.train.jit_compile = False
    one = tf.distribute.get_strategy()
    with tf.device("/CPU:0"):
        method, batches = _make(plain, source, one)
        for variable, value in zip(method.variables, first, strict=True):
            variable.assign(value)
        figures = _two_steps(method, batches)
    distribution.set_precision(config.train.tf32)
    return figures


def _two_steps(method, batches):
    """Trains a method for two steps; its Figures."""
    losses = _train(method, batches, 2)
    weights = method.query_encoder.trainable_weights
    return Figures(losses, [weight.numpy() for weight in weights])


def numbers_row(figures, plain, start, precision):
    """The row that compares two steps with the same on the CPU.

    Args:
      figures, plain: Figures of the devices, and of the CPU.
      start: list of arrays, the weights before. precision: key of LIMITS.
    """
    losses = np.asarray(figures.losses) / np.asarray(plain.losses) - 1
    difference = _norm(figures.weights, plain.weights)
    moved = _norm(start, plain.weights)
    deviations = (float(np.abs(losses).max()), difference / max(moved, 1e-30))
    words = (
        f"2 steps as one replica makes them on the CPU in float32: losses "
        f"differ by {deviations[0]:.1e}, the changes of the weights by "
        f"{deviations[1]:.1e} ({precision})"
    )
    limits = LIMITS[precision]
    if all(d <= m for d, m in zip(deviations, limits, strict=True)):
        return table.Row("numbers", words)
    words += f"; {limits[0]:g} and {limits[1]:g} are allowed"
    remedy = (
        "Do not train so. See which of train.jit_compile=false, "
        "train.precision=float32 and --devices=gpu:1 mends it, and check the "
        "driver."
    )
    return table.Row("numbers", words, table.FAIL, remedy)


def _norm(left, right):
    """The length of the difference of two lists of arrays, a float."""
    squares = (
        np.square(one.astype(np.float64) - other).sum()
        for one, other in zip(left, right, strict=True)
    )
    return float(np.sqrt(sum(squares)))


def resume_row(largest, unordered):
    """The row for the largest relative difference to a run not stopped.

    Args:
      largest: float. unordered: bool, whether sums come in no fixed order.
    """
    words = "4 steps at once, and 2 and 2 with a checkpoint between"
    if largest == 0:
        return table.Row("resume", f"{words}: the same bits")
    words += f": tensors differ by up to {largest:.1e} of their largest value"
    if unordered and largest <= _CLOSE:
        words += (
            "; a GPU adds in another order each time, not with --deterministic"
        )
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
        if "rows" in small[small.method]:  # of a grid of patches
            least = inputs.patches_a_side(_SIZE, _PATCH) - 1
            small[small.method].rows = min(small[small.method].rows, least)
        if "queue_size" in small[small.method]:
            small[small.method].queue_size = 4 * batch
    return small


def _make(config, source, strategy):
    """The method of a configuration, with new weights, and its Stream."""
    run = plan.make(config, strategy, source)
    return run.make_method(strategy), run.batches


def _train(method, batches, last):
    """Trains a method from its step on to another; returns the losses."""
    first = int(method.step.numpy())
    iterator = iter(batches.distribute(method.distribute_strategy, first))
    step = method.make_train_function()
    return [float(step(iterator)["loss"]) for _ in range(first, last)]


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


def run_trial(
    config,
    source,
    strategy,
    steps,
    clock=time.perf_counter,
    done=lambda: None,
):
    """Trains some steps on the real images.

    Args:
      config: ConfigDict. source: Source. strategy: tf.distribute.Strategy.
      steps: int, timed ones, at least 1; fewer when they are slow.
      clock: function that returns seconds.
      done: function, called after each step.

    Returns:
      Trial.

    Side effects: those of Plan.make_method.
    """
    run = plan.make(config, strategy, source)
    method = run.make_method(strategy)
    iterator = iter(run.batches.distribute(strategy, 0))
    step = method.make_train_function()
    for _ in range(WARM_UP):
        loss = float(step(iterator)["loss"])
        done()
    start, timed = clock(), 0
    while timed < steps and clock() - start < _MAX_SECONDS:
        loss = float(step(iterator)["loss"])
        timed += 1
        done()
    seconds = (clock() - start) / timed
    read = min(timed, method.step_log.CAPACITY)
    log = method.step_log.read(WARM_UP + timed - read, WARM_UP + timed)
    wait = sum(log["input_wait"]) / (read * seconds)
    return Trial(
        seconds=seconds,
        wait=min(wait, 1.0),
        loss=loss,
        steps=timed,
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
            f"the loss was {trial.loss} within {trial.steps + WARM_UP} steps"
        )
        return table.Row("time", words, table.FAIL, remedy)
    words = (
        f"{counting.format_duration(steps * trial.seconds)} for {steps} steps "
        f"of {trial.seconds:.3g} s ({batch / trial.seconds:.3g} images/s), "
        f"without kNN and checkpoints; {100 * trial.wait:.0f} % of it waiting "
        f"for input; measured on {trial.steps} steps"
    )
    if trial.peak is not None:
        words += f"; {counting.format_bytes(trial.peak)} on the fullest GPU"
    if trial.wait > _MAX_WAIT:
        remedy = (
            "The devices wait for images: decode them once (`moco-tf prepare`; "
            "`moco-tf benchmark` says whether and how), put them on a local "
            "disk, or use more cores (data.threads=0)."
        )
        if config.data.source.startswith("prepared:"):
            remedy = (
                "The devices wait for views: use more cores (data.threads=0). "
                "`moco-tf benchmark` says how many."
            )
        return table.Row("time", words, table.WARN, remedy)
    return table.Row("time", words)
