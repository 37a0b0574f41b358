"""Measures a configuration: input, step, both, and where the time goes."""

import json
import math
import os
import pathlib
import resource
import statistics
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import cores, counting, input_cost, plan
from moco_tf.data import stream, views
from moco_tf.models import inputs
from moco_tf.training import distribution, gpus

_WARM_UP = 3  # after it, a full or an empty buffer is as it will stay
_READS = 8  # at least, so that what lies in buffers matters little
_CEILING_SECONDS = 0.5
_NEAR = 1.1  # within it, neither waits for the other
_READING = 0.01  # of a run's time that reports may take on a GPU
# Tensor cores since 7.0 multiply float16, those since 8.0 bfloat16 too.
_FLOAT16, _BFLOAT16 = (7, 0), (8, 0)


class Machine(NamedTuple):
    """What the remedies of a bottleneck depend on.

    Attributes:
      gpu: compute capability of the oldest GPU in use, a pair of int; None: the
        step runs on the cores that the input runs on.
      replicas: int, of the strategy.
      cores: int, that this process may use.
      own_launches: bool, whether each GPU has host threads of its own.
      bfloat16: bool, whether the cores multiply bfloat16.
    """

    gpu: tuple[int, int] | None = None
    replicas: int = 1
    cores: int = 1
    own_launches: bool = False
    bfloat16: bool = False


def benchmark(config, strategy, steps=10, rounds=3, path="", gpu_rate=0):
    """Measures input, step and both in turn, and prints a table.

    Args:
      config: ConfigDict of a pre-training; without data.source the step alone
        is measured.
      strategy: tf.distribute.Strategy.
      steps: int, of a round. rounds: int; medians are reported.
      path: of a JSON file of the same figures; "": none.
      gpu_rate: int, images/s of GPUs elsewhere, whose cores are to be counted;
        0: of those here, if there are any.

    Returns:
      dict of the figures, units in their names.

    Raises:
      ValueError: for a configuration or data that cannot be trained on.
    """
    with counting.Elapsed("measuring"):
        figures = measure(config, strategy, steps, rounds, gpu_rate)
    _print(figures)
    if path:
        pathlib.Path(path).write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def measure(config, strategy, steps, rounds, gpu_rate=0):
    """As `benchmark`, without a word."""
    if min(steps, rounds) < 1:
        raise ValueError(
            "steps and rounds must be at least 1. Received "
            f"steps={steps}, rounds={rounds}."
        )
    has_input = bool(config.data.source)
    config = config.copy_and_resolve_references().unlock()
    if not has_input:
        config.data.source = "shapes:train"  # checked, not read
    plan.check(config, strategy.num_replicas_in_sync)
    batches: Any = None
    if has_input:
        source = plan.open_source(config, config.data.source)
        batches = plan.make_stream(config, source)
    method = plan.make_method(config, strategy, config.train.batch_size)
    train = method.make_train_function()
    memory = iter(noise(config, strategy))
    runs = {"step": lambda: _train(train, memory, steps)}
    if has_input:
        reads = max(steps, _READS)
        runs["input"] = lambda: (
            _read(_open(batches, strategy), reads) * steps / reads
        )
        runs["both"] = lambda: _train(train, _open(batches, strategy), steps)
    machine = find_machine(strategy)
    if machine.gpu:
        runs["reported"] = lambda: _train(train, memory, steps, read=1)
    for run in runs.values():
        run()  # compiles
    images = steps * config.train.batch_size
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run() / images)
    figures = _figures(config, method, machine, seconds)
    figures["workers"] = distribution.worker_count(strategy)
    operations = _count(config, strategy, train, memory)
    figures["flops_per_image"] = operations / config.train.batch_size
    figures |= ceiling(config.train.precision)
    rates = {name: figures[f"{name}_images_per_second"] for name in runs}
    cache = None
    if has_input:
        parts = stages(config, batches.source, reads)
        figures["stages_ms_per_image"] = parts
        cache = input_cost.cache_for(config, batches.source, parts)
        gpu_rate = gpu_rate or (rates["step"] if machine.gpu else 0)
        used = min(config.data.threads or machine.cores, machine.cores)
        figures |= input_cost.needs(rates["input"], used, gpu_rate, cache)
    figures["verdict"] = verdict(config, rates, machine, cache)
    return figures


def noise(config, strategy):
    """One batch of noise of the stream's form, repeated without end."""
    size, batch = config.data.image_size, config.train.batch_size
    rows = batch // strategy.num_replicas_in_sync
    random = np.random.default_rng(0)
    channels = inputs.CHANNELS[config.model.input]
    pictures = random.integers(
        0, 256, [2, rows, size, size, channels], np.uint8
    )
    batch_of_noise = {
        "query": pictures[0],
        "key": pictures[1],
        "index": np.arange(rows, dtype=np.int64),
        "order": random.permutation(batch),
        "valid": np.ones(rows, bool),
    }
    recipe = views.recipe(config.data.views, config.data.strength)
    parts = dict(zip(("query", "key"), recipe.both, strict=True))
    data = config.data
    if data.small_views:
        shape = [rows, data.small_views, data.small_size, data.small_size, 3]
        batch_of_noise["small"] = random.integers(0, 256, shape, np.uint8)
        parts["small"] = recipe.small(*shape[1:3], data.small_scale).parts
    if data.augment_on == "device":
        for name, augment in parts.items():
            shape = batch_of_noise[name].shape[:-3]
            count = int(np.prod(shape))
            choices = augment.choose(tf.constant([0, 0], tf.int64), count)
            distortions = augment.distortions(choices).numpy()
            batch_of_noise[f"{name}_distortion"] = distortions.reshape(
                *shape, -1
            )
    return stream.distributed(
        strategy,
        lambda _: tf.data.Dataset.from_tensors(batch_of_noise).repeat(),
    )


def stages(config, source, steps):
    """Milliseconds an image by stage: the stream without it, against with it.

    Of the two large views alone.

    Returns:
      dict stage -> float, in the order of the work; {} for images of two
      files, whose views are cropped and no more.
    """
    if source.channels != 3:
        return {}
    config = config.copy_and_resolve_references()
    config.data.small_views = 0
    recipe = views.recipe(config.data.views, config.data.strength)

    def decoded(image, size, seed):
        del seed
        return tf.broadcast_to(image[0, 0], [size, size, image.shape[-1]])

    def without(*operations):
        off = dict.fromkeys([*operations, "solarize"], 0.0)
        return [augment._replace(**off) for augment in recipe.both]

    steps_of = {
        "read and decode": (decoded, decoded),
        "two crops": without("jitter", "gray", "blur"),
        "grey": without("jitter", "blur"),
        "jitter": without("blur"),
        "blur": recipe.both,
    }
    plain = config.copy_and_resolve_references()
    plain.data.augment_on = "host"
    figures, before = {}, 0.0
    for name, both in steps_of.items():
        batches = plan.make_stream(plain, source)
        batches.use(*both)
        opened = _open(batches, tf.distribute.get_strategy())
        seconds = _read(opened, steps)
        total = 1e3 * seconds / (steps * plain.train.batch_size)
        figures[name], before = total - before, total
    return figures


def ceiling(precision):
    """FLOP/s of a large matrix product and a 3 x 3 convolution here."""
    dtype = tf.float32 if precision == "float32" else precision[6:]
    side, images, at_once = 1024, 8, 1
    if tf.config.list_logical_devices("GPU"):
        # It computes those in less time than it takes to start them.
        side, images, at_once = 8192, 256, 16
    left, right = tf.cast(tf.random.normal([2, side, side]), dtype)
    rows = tf.cast(tf.random.normal([images, 28, 28, 256]), dtype)
    kernel = tf.cast(tf.random.normal([3, 3, 256, 256]), dtype)

    @tf.function
    def product():
        return tf.reduce_sum(tf.matmul(left, right))

    @tf.function
    def convolution():
        return tf.reduce_sum(tf.nn.conv2d(rows, kernel, 1, "SAME"))

    figures = {}
    for name, run in (("product", product), ("convolution", convolution)):
        operations = count_flops(run.get_concrete_function().graph)
        rate = runs_per_second(run, at_once)
        figures[f"{name}_flops_per_second"] = operations * rate
    return figures


def runs_per_second(run, at_once, clock=time.perf_counter):
    """How often a device computes a function in a second.

    Args:
      run: function that returns a scalar, which may not be computed yet.
      at_once: int, runs that are started before one is waited for.
      clock: function that returns seconds.
    """
    float(run())
    count, start = 0, clock()
    while clock() - start < _CEILING_SECONDS:
        for _ in range(at_once):
            result = run()
        float(result)  # waits for all of them
        count += at_once
    return count / (clock() - start)


def _open(batches, strategy):
    opened = iter(batches.distribute(strategy, 0))
    for _ in range(_WARM_UP):
        next(opened)
    return opened


def _read(batches, steps):
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return time.perf_counter() - start


def _train(train, batches, steps, read=0):
    """Seconds of so many steps; `read`: after how many a figure is read."""
    start = time.perf_counter()
    for number in range(1, steps + 1):
        metrics = train(batches)
        if number == steps or (read and number % read == 0):
            float(metrics["loss"])  # waits for the device
    return time.perf_counter() - start


def find_machine(strategy):
    """The Machine of this process, whose devices are chosen."""
    return Machine(
        gpu=gpus.oldest_kind(),
        replicas=strategy.num_replicas_in_sync,
        cores=cores.count(),
        own_launches=os.environ.get("TF_GPU_THREAD_MODE") == "gpu_private",
        bfloat16=cores.multiply_bfloat16(),
    )


def _count(config, strategy, train, memory):
    """Operations of a step; of one without loops where it has some."""
    plain = config.copy_and_resolve_references()
    plain.train.micro_batches, plain.train.jit_compile = 1, False
    plain.model.recompute = False
    if plain != config:
        memory = iter(noise(plain, strategy))
        method = plan.make_method(plain, strategy, plain.train.batch_size)
        train = method.make_train_function()
    return count_flops(train.get_concrete_function(memory).graph)


def _figures(config, method, machine, seconds):
    figures = {
        f"{name}_images_per_second": 1 / statistics.median(times)
        for name, times in seconds.items()
    }
    figures["shared_cores"] = not machine.gpu
    figures["cores"] = machine.cores
    if "both" in seconds:
        alone = statistics.median(seconds["step"])
        both = statistics.median(seconds["both"])
        figures["input_wait_share"] = max(0.0, 1 - alone / both)
        if not machine.gpu:
            reading = statistics.median(seconds["input"])
            figures["both_of_what_the_cores_allow"] = (alone + reading) / both
    data = config.data
    pixels = (1 + method.KEY_VIEWS) * data.image_size**2
    pixels += data.small_views * data.small_size**2
    channels = inputs.CHANNELS[config.model.input]
    figures["input_bytes_per_image"] = channels * pixels
    figures["state_bytes"] = sum(
        variable.shape.num_elements() * variable.dtype.size
        for variable in [*method.variables, *method.optimizer.variables]
    )
    if machine.gpu:
        names = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
        memory = [tf.config.experimental.get_memory_info(x) for x in names]
        peaks = [entry["peak"] for entry in memory]
        figures["peak_memory_bytes"] = max(peaks, default=0)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        figures["peak_memory_bytes"] = 1024 * peak
    figures["replicas"] = machine.replicas
    return figures


def _print(figures):
    for name in ("input", "step", "both", "reported"):
        rate = figures.get(f"{name}_images_per_second")
        if rate is not None:
            print(f"{name:<12}{rate:>9.1f} images/s")
    if "input_wait_share" in figures:
        print(
            f"{'wait':<12}{100 * figures['input_wait_share']:>9.1f} % of both"
        )
    if "both_of_what_the_cores_allow" in figures:
        share = figures["both_of_what_the_cores_allow"]
        print(f"{'both':<12}{share:>9.2f} of 1 / (1 / input + 1 / step)")
    rate = figures["step_images_per_second"] * figures["flops_per_image"]
    print(
        f"{'arithmetic':<12}{figures['flops_per_image'] / 1e9:>9.2f} GFLOP an "
        f"image, {rate / 1e9:.0f} GFLOP/s; ceiling "
        f"{figures['convolution_flops_per_second'] / 1e9:.0f} (convolution), "
        f"{figures['product_flops_per_second'] / 1e9:.0f} (matrix product)"
    )
    print(
        f"{'memory':<12}{figures['peak_memory_bytes'] / 1e9:>9.2f} GB peak, "
        f"{figures['state_bytes'] / 1e9:.2f} GB of it state; "
        f"{figures['input_bytes_per_image'] / 1e3:.0f} kB of views an image"
    )
    print(f"{'cores':<12}{figures['cores']:>9} that this process may use")
    for name, milliseconds in figures.get("stages_ms_per_image", {}).items():
        print(f"{'stage':<12}{milliseconds:>9.2f} ms an image: {name}")
    print(input_cost.describe(figures), end="")
    print(figures["verdict"])


def verdict(config, rates, machine, cache=None):
    """Names the bottleneck, and what would widen it here.

    Args:
      config: ConfigDict of a pre-training.
      rates: dict of images/s: "step" alone; "input" alone and "both" together
        where there is an input; on GPUs "reported", a step whose figures are
        read before the next one.
      machine: Machine. cache: input_cost.Cache that would help, or None.

    Returns:
      str.
    """
    if "input" not in rates:
        words = (
            f"step alone: {rates['step']:.0f} images/s; give a source by "
            "--config.data.source"
        )
        return words + _more(_for_host(config, rates, machine))
    ratio = rates["step"] / rates["input"]
    if ratio > _NEAR:
        return (
            f"input-bound: {ratio:.1f}x more input would be used; try "
            + _join(_for_input(config, ratio, machine, cache))
            + _more(_for_host(config, rates, machine))
        )
    host = _more(_for_host(config, rates, machine))
    if ratio > 1 / _NEAR:
        return f"balanced: input and step take the same time{host}"
    return (
        f"step-bound: the input is {1 / ratio:.1f}x faster than the step; try "
        + _join(_for_step(config, machine))
        + host
    )


def _for_input(config, ratio, machine, cache):
    """What would make the input faster, the most useful first."""
    if cache:
        yield f"a cache ({cache.command}; about {cache.gain:.1f}x)"
    pairs = config.model.input == "pair"  # whose views crop, on the host
    if config.data.augment_on == "host" and machine.gpu and not pairs:
        yield "--config.data.augment_on=device"
    if 0 < config.data.threads < machine.cores:
        yield "--config.data.threads=0"
    if machine.gpu is None:
        yield "more cores"
        return
    more = math.ceil(ratio * (config.data.threads or machine.cores))
    if more > machine.cores:
        yield f"about {more} cores instead of {machine.cores}"


def _for_step(config, machine):
    """What would make the step faster, the most useful first."""
    train, model = config.train, config.model
    if train.precision == "float32":
        fast = machine.gpu >= _BFLOAT16 if machine.gpu else machine.bfloat16
        if fast:
            yield "--config.train.precision=mixed_bfloat16"
        elif machine.gpu and machine.gpu >= _FLOAT16:
            yield "--config.train.precision=mixed_float16"
        if machine.gpu and machine.gpu >= _BFLOAT16 and not train.tf32:
            yield "--config.train.tf32=true"
    if machine.gpu and not train.jit_compile:
        if not (model.sync_bn and machine.replicas > 1):
            yield "--config.train.jit_compile=true" + _groups(config, machine)
    if not machine.gpu and train.jit_compile:
        yield "--config.train.jit_compile=false"
    if model.recompute:
        yield "--config.model.recompute=false"
    if train.micro_batches > 1:
        yield "fewer train.micro_batches"
    yield "more devices"


def _groups(config, machine):
    """What XLA also spares where a replica has several BatchNorm groups."""
    parts = machine.replicas * config.train.micro_batches
    groups = config.model.bn_groups // parts
    if config.model.norm != "batch" or groups < 2:
        return ""
    return f" (else {groups} BatchNorm groups are {groups} calls a layer)"


def _for_host(config, rates, machine):
    """What keeps the host from holding up a GPU."""
    if not machine.gpu:
        return
    # Seconds an image that a report costs, since the GPU waits meanwhile.
    pause = 1 / rates["reported"] - 1 / rates["step"]
    steps = math.ceil(pause * rates["step"] / _READING)
    if steps > config.log.every_steps:
        yield f"--config.log.every_steps={min(steps, 1024)}"
    alone = min(rates["step"], rates.get("input", math.inf))
    if rates.get("both", alone) * _NEAR < alone and not machine.own_launches:
        yield "TF_GPU_THREAD_MODE=gpu_private in the environment"


def _more(remedies):
    """Remedies that help besides, with what they are for; or nothing."""
    words = _join(remedies)
    return words and f"; that the host holds up the GPU less, try {words}"


def _join(remedies):
    return " or ".join(remedies)


_CONVOLUTIONS = {
    # operation -> inputs or output that hold (what slides, the filter)
    "Conv2D": lambda op: (op.outputs[0], op.inputs[1]),
    "Conv2DBackpropInput": lambda op: (op.inputs[2], op.inputs[1]),
    "Conv2DBackpropFilter": lambda op: (op.inputs[2], op.outputs[0]),
}


def count_flops(graph):
    """Multiplications and additions of convolutions and matrix products.

    A multiplication with an addition counts as two. All else of an encoder is
    below a hundredth of it.

    Args:
      graph: FuncGraph of static shapes, without loops.

    Returns:
      int.

    Raises:
      ValueError: for an operation whose shapes are not known.
    """
    return sum(_flops_of(op) for op in graph.get_operations())


def _flops_of(op):
    if op.type in _CONVOLUTIONS:
        image, kernel = _CONVOLUTIONS[op.type](op)
        height, width, channels, _ = _known(op, kernel)
        return 2 * math.prod(_known(op, image)) * height * width * channels
    if op.type == "DepthwiseConv2dNative":
        height, width, _, _ = _known(op, op.inputs[1])
        return 2 * math.prod(_known(op, op.outputs[0])) * height * width
    if op.type == "MatMul":
        inner = _known(op, op.inputs[0])[0 if op.get_attr("transpose_a") else 1]
        return 2 * math.prod(_known(op, op.outputs[0])) * inner
    if op.type.startswith("BatchMatMul"):
        inner = _known(op, op.inputs[0])[-2 if op.get_attr("adj_x") else -1]
        return 2 * math.prod(_known(op, op.outputs[0])) * inner
    return 0


def _known(op, tensor):
    if not tensor.shape.is_fully_defined():
        raise ValueError(
            "Operations can be counted where all shapes are known. Received "
            f"{tensor.shape} at {op.name} ({op.type})."
        )
    return tensor.shape.as_list()
