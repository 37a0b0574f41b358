"""Devices: from the user's word to a tf.distribute strategy."""

import re

import tensorflow as tf

_FORMS = "auto, cpu, cpu:N, gpu or gpu:N (N: a positive number of replicas)"


def parse_devices(devices):
    """Splits "gpu:2" into ("gpu", 2); a count that is not given is None.

    Raises:
      ValueError: for any other form.
    """
    match = re.fullmatch(r"(auto|(?:cpu|gpu)(?::([1-9]\d*))?)", devices)
    if not match:
        raise ValueError(
            f"devices must be {_FORMS}. Received devices={devices!r}."
        )
    kind = match[1].split(":")[0]
    return kind, int(match[2]) if match[2] else None


def make_strategy(devices="auto"):
    """Makes the strategy of a run; call it once, before any TensorFlow op.

    One device gets TensorFlow's default strategy, so nothing is mirrored.
    With "cpu" and "cpu:N" GPUs are hidden from this process.

    Args:
      devices: "auto" (all GPUs; without a GPU one CPU), "cpu", "cpu:N" (N
        logical CPU devices, one replica each), "gpu" (all) or "gpu:N".

    Returns:
      tf.distribute.Strategy.

    Raises:
      ValueError: for another form, GPUs that are not there, or a process
        whose devices are already in use in another layout.
    """
    kind, count = parse_devices(devices)
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "auto":
        kind = "gpu" if gpus else "cpu"
    try:
        if kind == "cpu":
            return _cpu_strategy(count or 1)
        return _gpu_strategy(gpus, count or max(len(gpus), 1))
    except RuntimeError as error:  # TensorFlow: the devices are initialised.
        raise ValueError(
            "Devices can be set up only before TensorFlow's first operation. "
            f"Received devices={devices!r} after it: start a new process."
        ) from error


def _cpu_strategy(count):
    """N logical devices of the one CPU, mirrored if there are several."""
    if tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")
    if count == 1:
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    layout = tf.config.get_logical_device_configuration(cpu) or []
    if len(layout) != count:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])


def _gpu_strategy(gpus, count):
    """The first `count` GPUs, mirrored if there are several."""
    if len(gpus) < count:
        raise ValueError(
            f"devices asks for {count} GPU(s). TensorFlow sees {len(gpus)}: "
            "check the driver and the CUDA wheels (tensorflow[and-cuda]), or "
            "pass --devices=cpu."
        )
    if tf.config.get_visible_devices("GPU") != gpus[:count]:
        tf.config.set_visible_devices(gpus[:count], "GPU")
    for gpu in gpus[:count]:
        # Else TensorFlow takes all memory of the GPU at its first operation.
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)
    if count == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(count)])


def set_precision(tf32=False):
    """Chooses what a float32 product means on recent NVIDIA GPUs.

    Args:
      tf32: False: 24-bit mantissas, as the name says. True: TensorFloat-32,
        10-bit mantissas, faster. A process-wide setting of TensorFlow, whose
        own default is True.
    """
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
