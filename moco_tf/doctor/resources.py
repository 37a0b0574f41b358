"""Whether memory and disk suffice: the need, predicted, and what is free.

Of the disk also whether the workdir can be written.
"""

import os
import pathlib
import re
import shutil
from typing import NamedTuple

from moco_tf import config as configs
from moco_tf import cores, counting, paths, plan
from moco_tf.data import views
from moco_tf.doctor import table
from moco_tf.models import cloning, inputs
from moco_tf.training import distribution, gpus

_EXTRA = 2  # checkpoints: best/, and the one that is being written

_FLOAT = 4  # bytes of a float32
# Float32 values that an optimiser keeps of each weight.
_SLOTS = {"sgd": 1, "lars": 1, "sgdw": 1, "lamb": 2, "adam": 2}
_PROCESS = 950_000_000  # bytes of Python, TensorFlow and the input on the host
# Times all activations, as measured on CPUs (benchmarks/estimates.py): not all
# live at once, but kernels have them in other layouts beside.
_AT_ONCE = 1.15
# What lives for a moment, times the largest output of a layer: the gradients of
# some layers, and the outputs of the key encoder.
_TRANSIENT = 4
# What a 3 x 3 convolution may want beside its input and output, by the way of
# Winograd: tiles of 6 x 6 in the place of 4 x 4, of each of the two.
_TILES = 2 * 36 / 16
_WORKSPACE = 2**32  # bytes that TensorFlow gives cuDNN at most, its default
# Share of the free memory that may be filled: measured runs took 0.8 to 1.1
# times the prediction.
_FILLED = 0.8
_LEAST = 0.8  # of the prediction: a run took no less
_PARTS = (2, 4, 8, 16, 32, 64)  # micro-batches that are tried


def disk_row(workdir, size, keep, usage=shutil.disk_usage):
    """The row of the table about the disk.

    Args:
      workdir: path, which need not exist; "" = none.
      size: bytes of a checkpoint. keep: int, checkpoints that stay.
      usage: function of a path that returns an object with `free`, bytes.
    """
    needed = (keep + _EXTRA) * size
    words = (
        f"{counting.format_bytes(needed)} for {keep + _EXTRA} checkpoints of "
        f"{counting.format_bytes(size)}"
    )
    if not workdir:
        remedy = "Pass --workdir to compare with its file system."
        return table.Row("disk", words, table.OK, remedy)
    folder = pathlib.Path(workdir).absolute()
    while not os.path.exists(folder):  # also of one that may not be searched
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return table.Row(
            "disk",
            f"{paths.shown(folder)} cannot be written to",
            table.FAIL,
            "Pass another --workdir, or grant permission on the folder.",
        )
    free = usage(folder).free
    words += f"; {counting.format_bytes(free)} free at {paths.shown(folder)}"
    remedy = "Free space, pass another --workdir, or lower checkpoint.keep."
    if free < needed:
        return table.Row("disk", words, table.FAIL, remedy)
    if free < 2 * needed:
        return table.Row("disk", words, table.WARN, remedy)
    return table.Row("disk", words)


class MemoryParts(dict):
    """Memory of one replica: bytes by part of the step.

    Attributes:
      largest: bytes of the largest output of a layer.
    """

    def __init__(self, parts=(), largest=None, **more):
        super().__init__(parts, **more)
        known = getattr(parts, "largest", 0)
        self.largest = known if largest is None else largest

    @property
    def total(self):
        """Bytes of all."""
        return sum(self.values())


class Forecast:
    """Predicts the memory of configurations on one machine.

    The graph of each network is built once: of another batch, another queue it
    is known what they take.
    """

    def __init__(self, images, kind, replicas, here, stored=0):
        """Of a source on devices.

        Args:
          images: int, N of the source. kind: "CPU" or "GPU", as of
            `memory_row`. replicas, here: int, of the run, of this machine.
          stored: bytes of images that lie in the host's memory.
        """
        self._images, self._kind, self._stored = images, kind, stored
        self._replicas, self._here = replicas, here
        self._networks = {}

    def parts(self, config):
        """The MemoryParts of a replica, on a GPU with cuDNN's."""
        key = _network_key(config)
        if key not in self._networks:
            self._networks[key] = _network(config)
        parts = predict_memory(
            config, self._replicas, self._images, self._networks[key]
        )
        return on_device(parts, self._kind)

    def __call__(self, config):
        """Bytes of a device that a step of a configuration needs, int."""
        parts = self.parts(config)
        return needed_of(parts, self._here, self._kind, self._stored)


class _Network(NamedTuple):
    """What a network takes: its weights, and its outputs for an image.

    Attributes:
      weights: int. outputs: bytes of each layer's, of one image.
    """

    weights: int
    outputs: list[int]


def _network_key(config):
    """What of a configuration the network depends on."""
    fields = configs.flatten(config.model.to_dict())
    for name in ("bn_groups", "sync_bn", "recompute"):
        del fields[name]
    size = config.data.image_size
    return size, config.train.precision, *sorted(fields.items())


def _network(config):
    """The _Network of a configuration, from its graph."""
    pixels = views.RECIPES[config.data.views]
    one_size = config.copy_and_resolve_references()
    one_size.data.small_views = 0  # so that the sizes of layers are known
    backbone, head = plan.make_parts(one_size, pixels.mean, pixels.std)
    model, patches = config.model, 1
    if model.input == "grid":
        side = inputs.patches_a_side(config.data.image_size, model.patch)
        patches = side**2
    return _Network(
        backbone.count_params() + head.count_params(),
        cloning.output_bytes(backbone, 1, patches) + cloning.output_bytes(head),
    )


def predict_memory(config, replicas, images, network=None):
    """Predicts the memory of a step, from the graph of the encoder.

    The backward pass needs the output of every layer of the query encoder; of
    the key encoder one after the other is computed and dropped.

    Args:
      config: ConfigDict. replicas: int. images: N of the source.
      network: _Network of it; None: it is built.

    Returns:
      MemoryParts: weights (both encoders and the gradient), optimiser,
      dictionary (with the logits), activations.
    """
    weights, outputs = network or _network(config)
    rows = config.train.batch_size // replicas
    encoded = rows // config.train.micro_batches  # at a time
    method, settings, run = plan.resolve_method(config, images)
    trained_views = method.trained_views(settings)
    # Small views: by their pixels.
    data = config.data
    trained_views += data.small_views * (data.small_size / data.image_size) ** 2
    kept = round(trained_views * sum(outputs) * encoded)
    largest = max(outputs) * encoded
    return MemoryParts(
        largest=largest,
        weights=3 * weights * _FLOAT,
        optimiser=_SLOTS[config.optimizer.name] * weights * _FLOAT,
        dictionary=method.dictionary_bytes(settings, run, rows),
        activations=kept + _TRANSIENT * largest,
    )


def on_device(parts, kind):
    """The parts as "CPU" or "GPU" has them.

    Args:
      parts: MemoryParts of a replica. kind: as of `memory_row`.
    """
    if kind == "GPU":
        return with_workspace(parts)
    activations = round(_AT_ONCE * parts["activations"])
    return MemoryParts(parts, activations=activations)


def with_workspace(parts):
    """The parts on a GPU, with what cuDNN works in while it convolves.

    It takes another algorithm where there is less, so this is no need of the
    run but of its speed.

    Args:
      parts: MemoryParts of a replica.
    """
    limit = os.environ.get("TF_CUDNN_WORKSPACE_LIMIT_IN_MB", "")
    most = int(limit) * 2**20 if limit.isdecimal() else _WORKSPACE
    return MemoryParts(
        parts, workspace=min(round(_TILES * parts.largest), most)
    )


def checkpoint_bytes(parts, config, images):
    """Bytes of one checkpoint: encoders, optimiser, keys; not the logits."""
    method, settings, run = plan.resolve_method(config, images)
    keys = method.dictionary_bytes(settings, run, 0)
    return parts["weights"] * 2 // 3 + parts["optimiser"] + keys


def memory_row(parts, config, replicas, kind, free, stored=0):
    """The row of the table about memory.

    Args:
      parts: MemoryParts of a replica. config: ConfigDict that they are of.
      replicas: int, of this machine.
      kind: "CPU": replicas share the memory, which also holds the process;
        "GPU": each replica has its memory.
      free: bytes, for one device; None = not known.
      stored: bytes of images that lie in the host's memory.
    """
    words = ", ".join(
        f"{name} {counting.format_bytes(count)}"
        for name, count in parts.items()
    )
    if kind == "CPU":
        words += f", process {counting.format_bytes(_PROCESS)}"
        if stored:
            words += f", images {counting.format_bytes(stored)}"
    needed = needed_of(parts, replicas, kind, stored)
    per_device = " a GPU" if kind == "GPU" else ""
    bound = config.model.recompute  # keeps less than is counted
    about = "at most" if bound else "about"
    words = (
        f"{about} {counting.format_bytes(needed)}{per_device} at the peak "
        f"({words})"
    )
    if free is None:
        words += "; the free memory is not known"
        remedy = "Compare with the memory of the GPU (nvidia-smi)."
        return table.Row("memory", words, table.OK, remedy)
    words += f"; {counting.format_bytes(free)} free"
    if fits(needed, free):
        return table.Row("memory", words)
    half = "train.precision=mixed_bfloat16, "
    if kind == "CPU" and cores.lack_kernels_for("mixed_bfloat16"):
        half = ""
    remedy = (
        "Lower train.batch_size, and the rate with it; or use "
        "train.micro_batches or model.recompute where the method takes them, "
        f"{half}or more devices."
    )
    verdict = table.WARN if bound or needed <= free else table.FAIL
    return table.Row("memory", words, verdict, remedy)


def require(config, strategy):
    """Refuses a run whose step the memory of the host cannot hold.

    The system ends a process that wants too much without a word. A GPU raises
    an error of its own, and recomputing keeps less than is predicted.

    Args:
      config: ConfigDict of a pre-training. strategy: of its devices.

    Raises:
      ValueError: naming micro-batches that fit, where the method takes them.
    """
    free = free_on_host()
    on_gpu = distribution.kind_of_devices() == "GPU"
    if on_gpu or free is None or config.model.recompute:
        return
    replicas = strategy.num_replicas_in_sync
    here = replicas // distribution.worker_count(strategy)
    plan.check(config, replicas)
    # Of a bank of all images, the part that a batch has: no more than all.
    forecast = Forecast(config.train.batch_size, "CPU", replicas, here)
    needed = forecast(config)
    if _LEAST * needed <= free:
        return
    words = (
        "A step must fit into the memory of this machine: the system ends what "
        f"takes more. Received {counting.format_bytes(free)} free for about "
        f"{counting.format_bytes(needed)}."
    )
    for parts in _PARTS:
        smaller = config.copy_and_resolve_references()
        smaller.train.micro_batches = parts
        try:
            plan.check(smaller, replicas)
        except ValueError:  # not this method, or not this batch
            continue
        if fits(forecast(smaller), free):
            raise ValueError(
                f"{words} Pass --config.train.micro_batches={parts}: the same "
                "step, in parts. Or leave --config out: what fits is chosen."
            )
    raise ValueError(
        f"{words} Lower train.batch_size, and the rate with it, or leave "
        "--config out: what fits is chosen."
    )


def fits(needed, free):
    """Whether so many bytes go into the free ones, with some room."""
    return needed <= _FILLED * free


def needed_of(parts, replicas, kind, stored=0):
    """Bytes that a step needs of a device: as of `memory_row`."""
    if kind == "CPU":
        return replicas * parts.total + _PROCESS + stored
    return parts.total


def free_here():
    """Bytes free on the fullest GPU, or on the host; None: not known."""
    on_gpu = distribution.kind_of_devices() == "GPU"
    return gpus.free_bytes() if on_gpu else free_on_host()


def free_on_host(root="/"):
    """Bytes that processes may still take: the system's, or the container's.

    Args:
      root: folder that holds proc/ and sys/.

    Returns:
      int, or None where the system does not say.
    """
    root = pathlib.Path(root)
    known = []
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:
        text = ""
    if match := re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M):
        known.append(1024 * int(match[1]))
    base = root / "sys/fs/cgroup"
    groups = cores.groups(root).get("memory", [])
    for group in {base, base / "memory", *groups}:
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
        ):
            try:
                pair = [(group / name).read_text() for name in (limit, used)]
                free = int(pair[0]) - int(pair[1])
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue
            known.append(free + _given_back(group / "memory.stat", cached))
    return max(0, min(known)) if known else None


def _given_back(stat, name):
    """Bytes of files in memory, counted as used, that a process may have.

    Args:
      stat: path of a container's memory.stat. name: of its line.
    """
    try:
        text = stat.read_text()
    except OSError:
        return 0
    match = re.search(rf"^{name} (\d+)$", text, re.M)
    return int(match[1]) if match else 0


def rows(config, strategy, source, free, workdir):
    """Rows about memory and disk.

    Args:
      config: ConfigDict. strategy: tf.distribute.Strategy of the run.
      source: Source, or None. free: bytes of memory, or None.
      workdir: of the planned run, or "".

    Returns:
      list of table.Row.
    """
    count = 0 if source is None else len(source)
    workers = distribution.worker_count(strategy)
    replicas = strategy.num_replicas_in_sync
    kind = distribution.kind_of_devices()
    parts = on_device(predict_memory(config, replicas, count), kind)
    size = checkpoint_bytes(parts, config, count)
    stored = getattr(source, "memory", 0)
    here = replicas // workers
    return [
        memory_row(parts, config, here, kind, free, stored),
        disk_row(workdir, size, config.checkpoint.keep),
    ]
