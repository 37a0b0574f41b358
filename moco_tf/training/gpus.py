"""The GPUs of this machine: those that TensorFlow drives, and why not others.

TensorFlow says nothing of a GPU that it cannot use and goes on with the CPU, a
hundred times slower. So a driver without a GPU is looked into here.
"""

import os
import pathlib
import re
import shutil
import subprocess
from importlib import metadata
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf import lane

# What CUDA 12 and TensorFlow's kernels are built for: compute capability 5.0 or
# 6.0 (Maxwell, Pascal) to 9.0 (Hopper). 10.0 and 12.0 (Blackwell) need others.
_OLDEST, _TOO_NEW = lane.OLDEST_GPU, (10, 0)
_OLDEST_DRIVER = "525.60.13"  # of CUDA 12 on Linux
_CPU = "or pass --devices=cpu"


class Gpus(NamedTuple):
    """The GPUs of this process.

    Attributes:
      usable: list of tf.config.PhysicalDevice.
      fault: str, in a line, why others are not, with the remedy; "": none are
        known.
    """

    usable: list[Any]
    fault: str


def examine(root="/"):
    """Finds the GPUs that can be trained on.

    GPUs that CUDA_VISIBLE_DEVICES hides are no fault.

    Args:
      root: folder that holds proc/ and dev/.

    Returns:
      Gpus.
    """
    listed = tf.config.list_physical_devices("GPU")
    if not listed:
        return Gpus([], _unseen(pathlib.Path(root)))
    known = [(gpu, *_details(gpu)) for gpu in listed]
    usable = [g for g, _, kind in known if _OLDEST <= kind < _TOO_NEW]
    if len(usable) == len(listed):
        return Gpus(usable, "")
    others = ", ".join(
        f"{gpu.name.rpartition(':')[2]} ({name}, compute capability "
        f"{kind[0]}.{kind[1]})"
        for gpu, name, kind in known
        if gpu not in usable
    )
    remedy = "Pass --devices=cpu"
    if usable:
        names = ",".join(_cuda_names(usable))
        remedy = f"Set CUDA_VISIBLE_DEVICES={names}, {_CPU}"
    build = tf.sysconfig.get_build_info()
    return Gpus(
        usable,
        f"TensorFlow {tf.__version__} with CUDA {build.get('cuda_version')} "
        f"drives GPUs of compute capability {_OLDEST[0]}.0 to 9.0. "
        f"Received GPU {others}. {remedy}.",
    )


def _cuda_names(chosen):
    """What CUDA calls some GPUs: TensorFlow counts those that are visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [word.strip() for word in visible.split(",") if word.strip()]
    numbers = [int(gpu.name.rpartition(":")[2]) for gpu in chosen]
    return [names[n] if n < len(names) else str(n) for n in numbers]


def _details(gpu):
    """Name and compute capability of a GPU; unknown, one that can be driven."""
    details = tf.config.experimental.get_device_details(gpu)
    kind = details.get("compute_capability") or _OLDEST
    return details.get("device_name", "a GPU"), tuple(kind)


def _unseen(root):
    """Why TensorFlow lists no GPU; "" where none is to be expected."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return ""
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    # A container or a job without GPUs sees the driver, and no device.
    if not list(root.glob("dev/nvidia[0-9]*")):
        return ""
    smi = query("name")
    if smi is not None and not smi[0] and "No devices" in smi[1]:
        return ""
    match = re.search(r"\d+\.\d+(?:\.\d+)?", text)
    driver = f"NVIDIA driver {match[0] if match else '?'}"
    if smi is not None and not smi[0]:
        return (
            f"TensorFlow must see the GPUs of the {driver}. It sees none, and "
            f"nvidia-smi says: {smi[1][:200]}. Install the driver anew, or "
            f"restart the machine, until nvidia-smi lists them; {_CPU}."
        )
    if lacking := lacking_wheels():
        return (
            f"TensorFlow must see the GPUs of the {driver}. It sees none: "
            f"{_join(lacking)}. Install them by launch/quickstart.sh --gpu, or "
            f"pip install --require-hashes -r {lane.LOCK}-gpu.txt; {_CPU}."
        )
    return (
        f"TensorFlow must see the GPUs of the {driver}. It sees none, and the "
        f"CUDA wheels are there. Unset LD_LIBRARY_PATH, and install a driver "
        f"of {_OLDEST_DRIVER} or newer; {_CPU}."
    )


def _join(faults):
    more = f" and {len(faults) - 2} more" if len(faults) > 2 else ""
    return ", ".join(faults[:2]) + more


def lacking_wheels():
    """The CUDA wheels of TensorFlow's extra that lack here, a list of str.

    A machine may have CUDA otherwise: look only where TensorFlow finds none.
    """
    lacking = []
    try:
        lines = metadata.requires("tensorflow") or []
    except metadata.PackageNotFoundError:  # a build of another name
        return []
    for line in lines:
        match = re.match(r"([\w-]+)([^;]*);.*and-cuda", line)
        if not match:
            continue
        # "==12.2.5.6" or "<13.0,>=12.5.3.2"
        name, wanted = match[1], re.sub("[ ()]", "", match[2])
        limits = re.findall(r"(==|>=|<)([\d.]+)", wanted)
        wanted = wanted.removeprefix("==")
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacking.append(f"{name} {wanted} is not installed")
            continue
        if not all(_holds(version, *limit) for limit in limits):
            lacking.append(f"{name} is {version} instead of {wanted}")
    return lacking


def _holds(version, sign, limit):
    """Whether a version is equal to, at least or below a limit."""
    numbers, bound = (
        tuple(map(int, re.findall(r"\d+", text))) for text in (version, limit)
    )
    if sign == "==":
        return numbers == bound
    return numbers >= bound if sign == ">=" else numbers < bound


def query(field, *words):
    """Asks nvidia-smi for a figure of each GPU.

    Args:
      field: str, as of --query-gpu. words: further ones.

    Returns:
      None without the program; else a list of str, empty when it failed, and
      the first line that it printed.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    form = "--format=csv,noheader,nounits"
    done = subprocess.run(
        [program, f"--query-gpu={field}", form, *words],
        capture_output=True,
        text=True,
    )
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    said = (lines or done.stderr.split("\n"))[0]
    if done.returncode or "No devices" in said:
        return [], said
    return lines, said


def take_tf32():
    """Whether a GPU of this process multiplies TensorFloat-32 (Ampere on)."""
    return any(kind >= (8, 0) for kind in _kinds())


def oldest_kind():
    """The lowest compute capability of this process's GPUs; None without."""
    return min(_kinds(), default=None)


def half_precision():
    """The 16 bits that all GPUs of this process multiply faster, or "".

    Tensor cores since 7.0 multiply float16, those since 8.0 bfloat16 too.
    """
    kind = oldest_kind()
    if kind is None or kind < (7, 0):
        return ""
    return "mixed_float16" if kind < (8, 0) else "mixed_bfloat16"


def _kinds():
    """The compute capability of each GPU of this process."""
    visible = tf.config.get_visible_devices("GPU")
    return [_details(gpu)[1] for gpu in visible]


class _Listed(NamedTuple):
    """A GPU of the machine, as nvidia-smi lists it."""

    index: str  # type: ignore[assignment]
    uuid: str
    name: str
    free: str  # MiB


def _list_all():
    """All GPUs of the machine, visible here or not; [] where it cannot say."""
    smi = query("index,uuid,name,memory.free")
    rows = [line.split(", ") for line in (smi[0] if smi else ())]
    return [_Listed(*row) for row in rows if len(row) == 4]


def _find(chosen, listed):
    """The rows of nvidia-smi about some GPUs; None where it is not certain.

    CUDA counts the fastest first where GPUs differ, and nvidia-smi by the bus.
    """
    alike = len({row.name for row in listed}) == 1
    ordered = alike or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    gpus = []
    for name in _cuda_names(chosen):
        if name.isdecimal():
            rows = [row for row in listed if ordered and row.index == name]
        else:  # CUDA takes the beginning of a UUID too
            rows = [row for row in listed if row.uuid.startswith(name)]
        if len(rows) != 1:
            return None
        gpus += rows
    return gpus


def free_bytes():
    """Bytes free on the GPU of this process that has the least, or None."""
    chosen = tf.config.get_visible_devices("GPU")
    listed = _list_all()
    rows = _find(chosen, listed)
    if rows is None:  # at least, of all of their kind
        kinds = {_details(gpu)[0] for gpu in chosen}
        rows = [row for row in listed if row.name in kinds]
    free = [int(row.free) for row in rows if row.free.isdecimal()]
    return min(free) * 2**20 if free else None


def identities(chosen):
    """Names of some GPUs that no other GPU anywhere has; [] if not certain.

    Args:
      chosen: list of tf.config.PhysicalDevice.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-"):
        return _cuda_names(chosen)  # parts of a GPU
    listed = _list_all()
    rows = _find(chosen, listed) if listed else None
    return [row.uuid for row in rows or ()]
