"""A run so small that a test can afford it."""

import hashlib
import json
import pathlib
import signal
import subprocess
import sys

import numpy as np
import tensorflow as tf

from moco_tf import config as configs
from moco_tf.methods import online_probe
from moco_tf.training import checkpoints
from tests import forked, shallow

STEPS_PER_EPOCH = 6
FIELDS = {
    "model.width": 0.125,
    "train.batch_size": 8,
    "train.epochs": 2,
    "data.image_size": 16,
    "data.threads": 2,
    "model.bn_groups": 2,
    "model.dim": 16,
    "moco.queue_size": 37,
    "log.every_steps": 4,
    "log.tensorboard": False,
    "knn.bank": "",
    "knn.query": "",
    "knn.k": 5,
    "knn.every_epochs": 1,
    "knn.baseline": False,
    "knn.sample": 0,
}


def write_images(root, count=50):
    """Two class folders of noisy 20 x 20 PNG images, bright and dark."""
    rng = np.random.default_rng(0)
    for number in range(count):
        kind = ("bright", "dark")[number % 2]
        folder = pathlib.Path(root) / kind
        folder.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 60, (20, 20, 3), dtype=np.uint8)
        image = noise + np.uint8(150 if kind == "bright" else 20)
        png = tf.io.encode_png(image).numpy()
        (folder / f"{number:03d}.png").write_bytes(png)
    return root


def make_config(images, evaluated=False, **fields):
    """The CIFAR configuration, shrunk.

    Args:
      images: folder.
      evaluated: whether kNN measures the encoder after each epoch, which takes
        almost half of the time of so small a run.
      **fields: by name with __ for the dot.
    """
    config = configs.load("moco_cifar10").copy_and_resolve_references()
    spec = f"folder:{images}"
    values = FIELDS | {"data.source": spec}
    if evaluated:
        values |= {"knn.bank": spec, "knn.query": spec}
    values |= {name.replace("__", "."): fields[name] for name in fields}
    config.update_from_flattened_dict(values)
    return config


def command(images, workdir, *flags, **fields):
    """The same run as a command line, in a network of one block."""
    config = make_config(images, **fields)
    sections = ("data", "model", "moco", "train", "checkpoint", "knn", "log")
    values = {
        f"{section}.{name}": config[section][name]
        for section in sections
        for name in config[section]
    }
    return [
        sys.executable,
        "-m",
        shallow.__name__,
        "pretrain",
        "--config=moco_cifar10",
        f"--workdir={workdir}",
        *[f"--config.{name}={value}" for name, value in values.items()],
        *flags,
    ]


def run_until(images, workdir, ready, stop=signal.SIGKILL, **fields):
    """Starts the command line, waits until `ready()`, sends a signal.

    Returns:
      the exit status.
    """
    process = forked.Process(command(images, workdir, **fields))
    while process.poll() is None and not ready():
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(stop)
    return process.wait(60)


def state(workdir):
    """All tensors of a run's last checkpoint, dict name -> array."""
    path = checkpoints.latest(workdir)
    reader = tf.train.load_checkpoint(str(path / "state"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if "OBJECT_GRAPH" not in name
    }


def assert_same_bits(left, right):
    """The same tensors, bit by bit (waiting times and counters of Keras not).

    Args:
      left, right: dicts of `state`.
    """
    assert left.keys() == right.keys()
    for name, value in left.items():
        other = right[name]
        if "step_log" in name:  # the last column is the time waited
            value, other = value[:, :-1], other[:, :-1]
        if "_train_counter" not in name and "save_counter" not in name:
            np.testing.assert_array_equal(value, other, err_msg=name)


def without_probe(state):
    """A `state` as it is without an online probe, if there is one."""
    kept = {name: x for name, x in state.items() if "/probe/" not in name}
    if len(kept) < len(state):
        # Its figures stand before the time waited.
        columns = [-1 - len(online_probe.FIGURES), -2]
        for name in kept:
            if "step_log" in name:
                kept[name] = np.delete(kept[name], columns, axis=1)
    return kept


def step_of(workdir):
    """The step of a run's last checkpoint; 0 without one."""
    path = checkpoints.latest(workdir)
    return json.loads((path / "meta.json").read_text())["step"] if path else 0


def digest(folder):
    """Of the name, the content and the time of every file below a folder."""
    value = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).rglob("*")):
        value.update(str(path).encode())
        if path.is_file():
            value.update(str(path.stat().st_mtime_ns).encode())
            value.update(path.read_bytes())
    return value.hexdigest()
