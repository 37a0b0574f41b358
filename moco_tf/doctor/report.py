"""A file about a machine that its user can send to others.

It holds versions, devices, proofs, the time of collectives and a benchmark of
five configurations on noise: what is of use for somebody who has no such
machine. It holds no path, name of a host or of a user, address, identity of a
device, or variable of the environment that is not in a list here.
"""

import gc
import getpass
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
from importlib import metadata

import tensorflow as tf

import moco_tf
from moco_tf import benchmark, cores, counting, lane, plan
from moco_tf import config as configs
from moco_tf.doctor import resources, table
from moco_tf.training import distribution, gpus

FORMAT = 1
HOLDS = (
    "Written by moco-tf doctor --report. Holds versions, devices, proofs, the "
    "time of collectives, and benchmarks on noise. No paths, host or user "
    "names, addresses, identities of devices; of the environment the variables "
    "below."
)
# Rows of the table that are about the machine, and not about images.
_CHECKS = (
    *("configuration", "devices", "reference", "gather", "numbers", "resume"),
    *("workers", "memory", "time", "not proved"),
)
_VARIABLES = (
    *("CUDA_DEVICE_ORDER", "CUDA_CACHE_MAXSIZE", "NCCL_ALGO", "NCCL_PROTO"),
    *("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE"),
    *("NCCL_IB_DISABLE", "NCCL_MAX_NCHANNELS", "TF_CUDNN_USE_AUTOTUNE"),
    *("TF_CUDNN_WORKSPACE_LIMIT_IN_MB", "TF_DETERMINISTIC_OPS"),
    *("TF_ENABLE_ONEDNN_OPTS", "TF_FORCE_GPU_ALLOW_GROWTH"),
    *("TF_GPU_ALLOCATOR", "TF_GPU_THREAD_COUNT", "TF_GPU_THREAD_MODE"),
    *("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_XLA_FLAGS"),
    *("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS"),
)
_SET_OR_NOT = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "TF_CONFIG")
_SMI = (
    *("name", "driver_version", "memory.total", "power.limit"),
    *("pcie.link.gen.max", "pcie.link.width.max", "mig.mode.current"),
    *("ecc.mode.current", "clocks.max.sm"),
)
_PACKAGES = (
    *("tensorflow", "keras", "tf-keras", "numpy", "protobuf"),
    "tensorflow-addons",
)
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b")
_PATH = re.compile(r"(?<![\w.])~?/[^\s:;,'\")]*[^\s:;,'\").]")

_COLUMN = 2 + max(map(len, _CHECKS))
_STEPS, _ROUNDS = 10, 3
_IMAGES = 10**6  # of a source, where that matters to a step
# Images of a replica, the first that the memory holds; 32 as published.
_BATCHES = (256, 128, 64, 32, 16)
# On CPUs the same five, small: that the file can be written is what they show.
_SMALL = {
    "model.backbone": "resnet18",
    "model.width": 0.125,
    "data.image_size": 32,
    "moco.queue_size": 1024,
}
_SMALL_BATCH = 8


def standard_configurations(kind, half="mixed_bfloat16"):
    """The five that every report times.

    Args:
      kind: "GPU", or "CPU": the same, small. half: str, the precision of two
        bytes that the devices are made for.

    Returns:
      dict name -> ConfigDict of one replica, without a source.
    """
    precise = {"train.precision": "float32", "train.tf32": False}
    two_bytes = {"train.precision": half}
    chosen = {
        "moco_v2_imagenet, float32": precise,
        "moco_v2_imagenet, tf32": precise | {"train.tf32": True},
        f"moco_v2_imagenet, {half}": two_bytes,
        f"moco_v2_imagenet, {half}, jit": (
            two_bytes | {"train.jit_compile": True}
        ),
        f"moco_cifar10, {half}": two_bytes,
    }
    made = {}
    for name, fields in chosen.items():
        config = configs.load(name.partition(",")[0])
        config = config.copy_and_resolve_references()
        fields = {"data.source": ""} | fields
        config.update_from_flattened_dict(fields)
        if kind == "CPU":
            config.update_from_flattened_dict(_SMALL)
        made[name] = config
    return made


def with_batch(config, rows, replicas):
    """A configuration with so many images a replica, in groups of 32 at most.

    The queue becomes a multiple of the batch, as the published code has it.
    """
    config = config.copy_and_resolve_references()
    batch = rows * replicas
    queue = max(1, config.moco.queue_size // batch) * batch
    config.train.batch_size = batch
    config.model.bn_groups = max(1, rows // 32) * replicas
    config.moco.queue_size = queue
    return config


def choose_rows(config, replicas, kind, free):
    """The most images of a replica that the free memory holds, by forecast."""
    if kind == "CPU":
        return _SMALL_BATCH
    forecast = resources.Forecast(_IMAGES, kind, replicas, replicas)
    for rows in _BATCHES:
        taken = with_batch(config, rows, replicas)
        if free and resources.fits(forecast(taken), free):
            return rows
    return _BATCHES[-1]


def fitted(config, strategy, free):
    """A configuration with a batch that these replicas can train on.

    Args:
      config: ConfigDict. strategy: tf.distribute.Strategy.
      free: bytes of the fullest device, or None.

    Returns:
      `config` itself where it can be, else one with another batch.
    """
    kind, replicas = (
        distribution.kind_of_devices(),
        strategy.num_replicas_in_sync,
    )
    here = replicas // distribution.worker_count(strategy)
    try:
        plan.check(config, replicas)
        forecast = resources.Forecast(_IMAGES, kind, replicas, here)
        if free and resources.fits(forecast(config), free):
            return config
    except ValueError:  # a batch that the replicas cannot divide
        pass
    return with_batch(
        config, choose_rows(config, replicas, kind, free), replicas
    )


def run_benchmarks(strategy, free, steps=_STEPS, rounds=_ROUNDS):
    """Times the five standard configurations, on noise.

    Args:
      strategy: tf.distribute.Strategy of one process.
      free: bytes of the fullest device, or None. steps, rounds: int.

    Yields:
      before each one, a str that says what begins; after it a dict: name,
      images of a replica, and figures or "failed".

    Side effects: prints; leaves TensorFloat-32 as the last one has it.
    """
    kind = distribution.kind_of_devices()
    replicas = strategy.num_replicas_in_sync
    newer = kind == "CPU" or gpus.take_tf32()
    half = "mixed_bfloat16" if newer else "mixed_float16"
    for name, config in standard_configurations(kind, half).items():
        rows = choose_rows(config, replicas, kind, free)
        yield f"timing {name}, {rows} images a replica"
        entry = {"name": name, "rows": rows, "small": kind == "CPU"}
        try:
            taken = with_batch(config, rows, replicas)
            figures = benchmark.measure(taken, strategy, steps, rounds)
            figures.pop("verdict", None)  # of an input that is not there
            if kind == "CPU":  # the peak of all that the process has done
                figures.pop("peak_memory_bytes", None)
            entry["figures"] = figures
        except (tf.errors.OpError, ValueError) as error:
            entry["failed"] = f"{type(error).__name__}: {error}"[:500]
        yield entry
        _forget()


def _forget():
    """Frees what the last one had, and its peak of memory."""
    tf.keras.backend.clear_session()
    gc.collect()
    for gpu in tf.config.list_logical_devices("GPU"):
        tf.config.experimental.reset_memory_stats(gpu.name)


class Draft:
    """The report as far as it is known, written again with all that is new.

    A driver that ends the process, or a wait without end, leaves the file with
    what was found before it, and with the name of what was being done.

    Attributes:
      request: examination.Request.
      rows: list of table.Row, of which those about the machine are taken.
      collectives: dict, of exchange.measure.
      benchmarks: list of dict, of run_benchmarks.
    """

    def __init__(self, request, strategy):
        """Nothing is known yet, and nothing written.

        Args:
          request: examination.Request. strategy: tf.distribute.Strategy.
        """
        self.rows: list[table.Row] = []
        self.collectives: dict[str, dict] = {}
        self.benchmarks: list[dict] = []
        self.request, self._strategy = request, strategy
        self._machine = machine()

    def save(self, activity=""):
        """Writes one JSON file, which begins with its text.

        Args:
          activity: str, what begins now, in words; "": all is done.

        Raises:
          OSError: if it cannot be written.
        """
        # Before they are broken into lines, which may break a name too.
        checks = [
            table.Row(*scrub(row)) for row in self.rows if row.check in _CHECKS
        ]
        keys = ("check", "verdict", "finding", "remedy")
        request, strategy = self.request, self._strategy
        command = {
            "configuration": request.name,
            "exchange": request.exchange,
            "deterministic": request.deterministic,
            "replicas": strategy.num_replicas_in_sync,
            "workers": distribution.worker_count(strategy),
            "devices": distribution.kind_of_devices(),
            "fields": _fields(request.config),
        }
        _save(
            request.report,
            _text(checks, self.collectives, self.benchmarks, activity),
            self._machine,
            unfinished=activity,
            command=command,
            checks=[{key: getattr(row, key) for key in keys} for row in checks],
            collectives=self.collectives,
            benchmarks=self.benchmarks,
        )


def write_refusal(path, reason):
    """Writes the report of a machine whose devices cannot be had.

    Args:
      path: file. reason: str, why, with the remedy.

    Raises:
      OSError: if it cannot be written.
    """
    _save(path, [reason], machine())


def _save(path, text, machine_, **parts):
    """Writes the file: its text, what the machine is, and some parts."""
    value = {
        "format": FORMAT,
        "holds": HOLDS,
        "text": text,
        "machine": machine_,
        "environment": environment(os.environ),
        **parts,
    }
    # Some versions look like addresses.
    value = scrub(value) | {"versions": versions()}
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _fields(config):
    """The fields that are numbers or names of ours: no text of the user's."""
    named = ("method", "model.backbone", "model.head", "train.precision")
    return {
        name: value
        for name, value in configs.flatten(config.to_dict()).items()
        if isinstance(value, bool | int | float) or name in named
    }


def _text(checks, collectives, benchmarks, activity):
    """The report for people, a list of lines."""
    lines = table.format_rows(checks, 100).splitlines() if checks else []
    if activity:
        lines.append(_line("unfinished", f"begun, and not ended: {activity}"))
    for name, entry in collectives.items():
        rate = entry["bytes"] / entry["seconds"] / 1e9
        words = f"{entry['bytes']} bytes of a replica in "
        words += f"{1e3 * entry['seconds']:.3g} ms ({rate:.3g} GB/s)"
        lines.append(_line("collective", f"{name}: {words}"))
    return lines + [_line("benchmark", describe(b)) for b in benchmarks]


def describe(entry):
    """An entry of run_benchmarks in a line."""
    words = entry.get("failed", "").split("\n")[0]
    if "figures" in entry:
        rate = entry["figures"]["step_images_per_second"]
        words = f"{rate:.4g} images/s"
        if peak := entry["figures"].get("peak_memory_bytes"):
            words += f", {counting.format_bytes(peak)} at the peak"
    small = ", small" if entry["small"] else ""
    return f"{entry['name']}, {entry['rows']} a replica{small}: {words}"


def _line(name, words):
    """A line of the text, in the columns of the table."""
    return f"{name:<{_COLUMN}}{words}"


def versions():
    """Versions of what takes part, a dict of str."""
    named = {
        "moco-tf": moco_tf.__version__,
        "moco-tf sources": digest(pathlib.Path(moco_tf.__file__).parent),
        "lane": lane.NAME,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
    }
    for distributed in metadata.distributions():
        name = (distributed.name or "").lower()
        if name in _PACKAGES or name.startswith(("nvidia-", "keras-cv")):
            named[name] = distributed.version
    build = tf.sysconfig.get_build_info()
    for name in ("cuda_version", "cudnn_version", "cuda_compute_capabilities"):
        if name in build:
            named[f"built for {name}"] = str(build[name])
    return dict(sorted(named.items()))


def digest(folder):
    """Of the sources in a folder, wherever it is: versions are of many states.

    Args:
      folder: Path.

    Returns:
      str, 12 digits of a SHA-256.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder).as_posix()
        total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()[:12]


def machine():
    """What the machine has, a dict."""
    smi = gpus.query(",".join(_SMI))
    cards = [
        dict(zip(_SMI, line.split(", "), strict=False))
        for line in (smi[0] if smi else ())
    ]
    return {
        "processor": _processor(),
        "cores": cores.of_machine(),
        "cores of this process": cores.count(),
        "free memory": resources.free_on_host(),
        "gpus": cards,
        "gpus seen by TensorFlow": [
            {
                key: str(value)
                for key, value in tf.config.experimental.get_device_details(
                    gpu
                ).items()
            }
            for gpu in tf.config.list_physical_devices("GPU")
        ],
        "connections": _connections(),
    }


def _processor(path="/proc/cpuinfo"):
    """The model of the processor; "" where it is not known."""
    try:
        text = pathlib.Path(path).read_text()
    except OSError:
        return ""
    match = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    return match[1] if match else ""


def _connections():
    """How the GPUs are connected, as nvidia-smi shows it, a list of lines."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    done = subprocess.run(
        [program, "topo", "-m"], capture_output=True, text=True
    )
    # In colours and underlined, for a terminal.
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()[:40]


def environment(variables):
    """The variables that matter here, a dict of str.

    Args:
      variables: dict of str, as os.environ.
    """
    chosen = {name: variables[name] for name in _VARIABLES if name in variables}
    hidden = {name: "is set" for name in _SET_OR_NOT if variables.get(name)}
    return chosen | hidden


def scrub(value):
    """A value for JSON without paths, addresses, and names of host and user."""
    if isinstance(value, dict):
        return {key: scrub(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(entry) for entry in value]
    if not isinstance(value, str):
        return value
    for folder in (pathlib.Path.home(), pathlib.Path.cwd()):
        if len(folder.parts) > 1:  # which may have blanks
            value = value.replace(str(folder), "/PATH")
    text = _ADDRESS.sub("ADDRESS", _PATH.sub("PATH", value))
    for name, word in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text)
    return text


def _names():
    """Names that a report must not have, each with what stands for it."""
    host = socket.gethostname()
    names = {host: "HOST", host.partition(".")[0]: "HOST"}
    for other in re.findall(r'"([^":]+):\d+"', os.environ.get("TF_CONFIG", "")):
        names[other] = "HOST"
    try:
        names[getpass.getuser()] = "USER"
    except (OSError, KeyError):  # a user without an entry
        names.pop("", None)
    return [(name, word) for name, word in names.items() if len(name) > 2]
