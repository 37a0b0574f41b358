"""A run's folder: its lock, configuration, data and starts.

    lock               the process that writes here, while it does
    config.json        the configuration, the data's fingerprint, the command
    environment.json   versions, devices and command line of every start

metrics.csv, warnings.csv, unreadable.csv, checkpoints/ and tensorboard/ beside
them belong to who writes them.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import os
import pathlib
import platform
import sys
from importlib import metadata

import moco_tf
from moco_tf import config as configs
from moco_tf import filesystem

_PACKAGES = (
    "tensorflow",
    "keras",
    "tensorflow-addons",
    "keras-cv",
    "tensorflow-datasets",
    "numpy",
)

# What may differ when a run is resumed; train.epochs may grow with --extend.
_FREE_SECTIONS = ("log", "checkpoint", "knn")
_FREE_FIELDS = ("data.threads", "train.max_steps")
# Of an OSError: there is no room.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def hold(workdir):
    """Keeps other processes out of a workdir while its block runs.

    Args:
      workdir: path; made if missing.

    Raises:
      ValueError: if another process holds it, or nothing can be written there.
      OSError: if the block fails because the disk is full.

    Side effects: writes the file "lock", which names this process.
    """
    workdir = pathlib.Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # Without a buffer: closing after a full disk must not write.
        file = (workdir / "lock").open("a+b", buffering=0)
    except OSError as error:
        raise ValueError(
            "A workdir must be a folder that can be written to. Received "
            f"{str(workdir)!r}: {error.strerror}. Pass another folder, or "
            "change its owner, its rights or its mount."
        ) from error
    with file:
        if not filesystem.lock(file, workdir):
            file.seek(0)
            holder = file.read().decode() or "another process"
            raise ValueError(
                "Only one process at a time may write to a workdir. Received "
                f"{str(workdir)!r}, which {holder} holds. Wait until it has "
                "ended, or pass another folder."
            )
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
            yield
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise OSError(
                f"There is no room to write to {error.filename or workdir}: "
                f"{error.strerror}. The checkpoints of {workdir} are intact. "
                "Free space, then give the same command again to go on from "
                "the last one."
            ) from error
        finally:
            file.truncate(0)


def prepare(
    config, workdir, fingerprint, extend=False, command="pretrain", encoder=""
):
    """Makes the workdir, or checks that the run it holds may go on.

    Args:
      config: ConfigDict. workdir: path.
      fingerprint: of the source that is trained on (`Source.fingerprint`).
      extend: allows more epochs than before; prints both schedules.
      command: whose configuration it is, of config_schema.TABLES.
      encoder: identity of the encoder that a task evaluates; "" for
        pre-training.

    Raises:
      ValueError: if the run in the workdir was started otherwise.
    """
    workdir = pathlib.Path(workdir)
    if (workdir / "config.json").is_file():
        _check_resumable(config, workdir, fingerprint, extend, command)
        _check_encoder(workdir, encoder)
    elif (workdir / "checkpoints").is_dir():
        raise ValueError(
            "A workdir with checkpoints must hold their config.json. Received "
            f"{str(workdir)!r} without one. Pass another folder."
        )
    save(config, workdir, fingerprint, command, encoder)


def save(config, workdir, fingerprint="", command="pretrain", encoder=""):
    """Writes config.json, and this start's entry of environment.json."""
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    saved = {
        "moco_tf": moco_tf.__version__,
        "command": command,
        "data_fingerprint": fingerprint,
        "encoder": encoder,
        "config": config.to_dict(),
    }
    write_json(workdir / "config.json", saved)
    path = workdir / "environment.json"
    starts = read_json(path)["starts"] if path.is_file() else []
    write_json(path, {"starts": [*starts, describe()]})


def load_saved(workdir, command="pretrain"):
    """Returns the ConfigDict that `save` wrote, locked.

    Raises:
      ValueError: if there is none, of this command, or it is damaged.
    """
    path = pathlib.Path(workdir) / "config.json"
    saved = read_json(path)
    try:
        if saved.get("command", "pretrain") != command:
            raise ValueError(
                f"{path} must be of the command {command}. Received one of "
                f"{saved['command']}. Give another folder."
            )
        return configs.build(configs.flatten(saved["config"]), command)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} is not the config.json of a run: it has no configuration."
        ) from None


def difference(saved, new):
    """Lists what may not change on resume, as (field, saved, new).

    None stands for a field that one has not: it is of another method.
    """
    before, after = (
        configs.flatten(saved.to_dict()),
        configs.flatten(new.to_dict()),
    )
    return [
        (name, before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
        and name not in _FREE_FIELDS
        and name.split(".")[0] not in _FREE_SECTIONS
    ]


def identity(config, fingerprint):
    """A number that workers of one run have in common.

    Args:
      config: ConfigDict; data.threads and what is only logged may differ.
      fingerprint: of the source that is trained on.

    Returns:
      int below 2**60.
    """
    values = configs.flatten(config.to_dict())
    values = {
        name: value
        for name, value in values.items()
        if name != "data.threads" and not name.startswith("log.")
    }
    text = json.dumps([values, fingerprint, moco_tf.__version__])
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


def describe():
    """Versions, devices, command and time of this process, a dict."""
    import tensorflow as tf  # here: a configuration is checked without it

    now = datetime.datetime.now(datetime.UTC)
    return {
        "started": now.isoformat("T", "seconds"),
        "command": [sys.executable, *sys.argv],
        "directory": os.getcwd(),
        "moco_tf": moco_tf.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": [d.name for d in tf.config.list_logical_devices()],
    }


def _version(name):
    """The version of a package, or None: not all commands need all of them."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _check_encoder(workdir, encoder):
    """Refuses a task in a folder that holds one of another encoder."""
    before = read_json(workdir / "config.json").get("encoder", "")
    if before != encoder:
        raise ValueError(
            f"{workdir} was started with another encoder: {before[:16]!r} "
            f"then, {encoder[:16]!r} now. Pass the same --checkpoint, or "
            "another --output."
        )


def _check_resumable(config, workdir, fingerprint, extend, command):
    """Refuses to resume with another configuration or on other data."""
    saved = load_saved(workdir, command)
    changed = difference(saved, config)
    old, new = saved.train.epochs, config.train.epochs
    if extend and new > old:
        changed = [entry for entry in changed if entry[0] != "train.epochs"]
        print(f"Schedule until now: {_schedule(saved)}")
        print(f"Schedule from now:  {_schedule(config)}")
    if changed:
        lines = [f"  {name}: {was!r} -> {is_!r}" for name, was, is_ in changed]
        hint = "" if extend or new <= old else " (more epochs: add --extend)"
        raise ValueError(
            f"The run in {workdir} was started with another configuration:\n"
            + "\n".join(lines)
            + f"\nPass the first values, or another folder{hint}."
        )
    before = read_json(workdir / "config.json").get("data_fingerprint", "")
    if before and before != fingerprint:
        raise ValueError(
            f"The run in {workdir} was started on other data: its source has "
            "changed since (files added, removed or replaced). Restore it, or "
            "pass another folder."
        )


def _schedule(config):
    shape, schedule = config.schedule.name, config.schedule
    if shape == "step":
        shape += f", x{schedule.factor:g} at {schedule.milestones}"
    return (
        f"{shape}, from {configs.learning_rate(config):g}, over "
        f"{config.train.epochs} epochs"
    )


def read_json(path):
    """Reads a file; raises ValueError that names it if it cannot."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def write_json(path, value):
    """Writes a JSON file, complete or not at all."""
    with filesystem.atomic_file(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n")
