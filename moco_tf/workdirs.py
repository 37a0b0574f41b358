"""A run's folder: its lock, configuration, data and starts.

    lock               the process that writes here, while it does
    config.json        the configuration, the data's fingerprint, the command
    images.npz         the images that the run began with (data/listing.py)
    environment.json   versions, devices and command line of every start

metrics.csv, warnings.csv, unreadable.csv, checkpoints/ and tensorboard/ beside
them belong to who writes them.
"""

import contextlib
import csv
import datetime
import errno
import functools
import hashlib
import json
import os
import pathlib
import platform
import sys
from importlib import metadata
from typing import Any, NamedTuple

import ml_collections

import moco_tf
from moco_tf import config as configs
from moco_tf import filesystem, paths, resuming
from moco_tf.data import listing, specs

_PACKAGES = (
    "tensorflow",
    "keras",
    "tensorflow-addons",
    "keras-cv",
    "tensorflow-datasets",
    "numpy",
)

# Of an OSError: there is no room.
_ANY = "surrogateescape"  # names need not be text
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
    with contextlib.ExitStack() as stack:
        file = _open_lock(workdir, stack)
        locked = filesystem.lock(file, workdir)
        # A process whose start was refused has just removed this file.
        if not locked or not _is_file(file, workdir / "lock"):
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


def _open_lock(workdir, stack):
    """The file "lock", open, in a folder that is made if missing.

    Args:
      workdir: Path.
      stack: ExitStack that closes it. After an error it first removes what was
        made here: the lock while it is held, folders that have stayed empty.
    """

    def undo(action):
        stack.push(lambda kind, error, trace: kind and action())

    path = workdir / "lock"
    try:
        for folder in reversed([workdir, *workdir.parents]):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                undo(functools.partial(_remove_empty, folder))
        is_new = not path.exists()
        # Without a buffer: closing after a full disk must not write.
        file = stack.enter_context(path.open("a+b", buffering=0))
    except OSError as error:
        raise ValueError(
            "A workdir must be a folder that can be written to. Received "
            f"{str(workdir)!r}: {error.strerror}. Pass another folder, or "
            "change its owner, its rights or its mount."
        ) from error
    if is_new:
        undo(functools.partial(path.unlink, missing_ok=True))
    return file


def _is_file(file, path):
    """Whether an open file still is the one of a path."""
    return path.exists() and os.path.samestat(
        os.fstat(file.fileno()), path.stat()
    )


def _remove_empty(folder):
    """Removes a folder unless something was written to it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def prepare(
    config, workdir, fingerprint, extend=False, command="pretrain", encoder=""
):
    """Makes the workdir, or checks that the run it holds may go on.

    As `check`, then `save`.
    """
    check(config, workdir, fingerprint, extend, command, encoder)
    save(config, workdir, fingerprint, command, encoder)


def check(
    config, workdir, fingerprint, extend=False, command="pretrain", encoder=""
):
    """Checks that the run in a workdir may go on; changes nothing there.

    Args:
      config: ConfigDict. workdir: path.
      fingerprint: of the source that is trained on (`Source.fingerprint`), or
        of that of the run's first start, if it is a mended one.
      extend: allows more epochs than before, and other milestones; prints
        both schedules.
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


def save(
    config, workdir, fingerprint="", command="pretrain", encoder="", listings=()
):
    """Writes config.json, and this start's entry of environment.json.

    Args:
      config, workdir, fingerprint, command, encoder: as of `check`.
      listings: (name, Listing or None) of each source; a run keeps those of
        its first start.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    begun = (workdir / "config.json").is_file()
    for name, images in listings:
        path = workdir / f"{name}.npz"
        if images and not (begun and path.is_file()):
            listing.write(path, images)
    names = resuming.SOURCES[command]
    values = configs.flatten(config.to_dict())
    saved = {
        "moco_tf": moco_tf.__version__,
        "command": command,
        "data_fingerprint": fingerprint,
        "encoder": encoder,
        "workdir": os.path.abspath(workdir),
        # As they can be opened from any folder.
        "sources": {name: specs.absolute(values[name]) for name in names},
        "config": config.to_dict(),
    }
    write_json(workdir / "config.json", saved)
    path = workdir / "environment.json"
    starts = read_json(path)["starts"] if path.is_file() else []
    write_json(path, {"starts": [*starts, describe()]})


class RunData(NamedTuple):
    """The images of a run, in the order that it began with.

    Attributes:
      source: Source. fingerprint: of the first start.
      images: Listing, where the workdir lacks it and the source has one.
      difference: Difference from the first start; None where there is none,
        or this is the first start.
    """

    source: Any
    fingerprint: str
    images: listing.Listing | None = None
    difference: listing.Difference | None = None

    def describe(self, field: str = "data.source") -> str:
        """What differs from the first start, a warning; "" for nothing."""
        words = self.difference.describe() if self.difference else ""
        return words and (
            f"Warning: the images of {field} have changed since the run began: "
            f"{words}. It goes on with those, and the order, that it began "
            "with: removed ones are replaced by the next of the order, added "
            "ones are not used."
        )

    def identity(self) -> str:
        """What all workers have in common, wherever their images lie."""
        if self.difference:
            return self.fingerprint + self.difference.digest()
        return listing.digest(self.images) if self.images else self.fingerprint


def restore_source(
    source: Any,
    workdir: str | pathlib.Path,
    name: str = "images",
    field: str = "data.source",
    place: int = 0,
    labelled: bool = False,
) -> RunData:
    """Puts the images of a source in the order of the run in a workdir.

    Where the images lie does not matter. Of those that differ, the ones that
    are gone are replaced in the stream, and new ones are not used.

    Args:
      source: Source, as it was opened. workdir: path; it may hold no run yet.
      name: of the file of its Listing. field: that names the source.
      place: of its fingerprint in config.json, which has one for each source.
      labelled: whether labels are trained on; they must be the same then.

    Raises:
      ValueError: for images that truly differ, with numbers.
    """
    workdir, now = pathlib.Path(workdir), source.fingerprint()
    path = workdir / "config.json"
    saved = read_json(path) if path.is_file() else {}
    width = len(now)
    before = saved.get("data_fingerprint", "")[width * place :][:width]
    file = workdir / f"{name}.npz"
    if before not in ("", now) and not file.is_file():
        source = _as_earlier(source, before)
        now = source.fingerprint()
    if before in ("", now):
        is_listed = before and file.is_file()
        return RunData(source, now, None if is_listed else source.listing())
    listed = source.listing()
    was = saved.get("sources", {}).get(field, "")
    images = listing.read(file) if file.is_file() else None
    then = f"{len(images.names)} images then and " if images else ""
    numbers = f"{then}{len(source)} now"
    if listed is None or images is None:
        raise _other_images(workdir, field, was, numbers)
    differing = listing.compare(images, listed, source.marks)
    known_bad = _unreadable_names(workdir / "unreadable.csv")
    relabelled = labelled and differing.relabelled
    if relabelled or not differing.is_the_same_set(known_bad):
        if images.kind != listed.kind:
            numbers += ", files at one time and a cache at the other"
        numbers += f"; {differing.describe()}"
        raise _other_images(workdir, field, was, numbers)
    unlabelled = images.labels is not None and listed.labels is None
    moved = differing.gone.any() or differing.added or differing.reordered
    if moved or unlabelled:
        source = source.relisted(images, differing)
    return RunData(source, before, difference=differing)


def _as_earlier(source, fingerprint):
    """The source of a run whose version took files of fewer endings.

    Args:
      source: Source, as it is opened now. fingerprint: of the run's.
    """
    reopen = getattr(source, "earlier", None)
    try:
        earlier = reopen() if reopen else source
    except ValueError:  # without those files it cannot be opened
        return source
    return earlier if earlier.fingerprint() == fingerprint else source


def _other_images(workdir, field, was, numbers):
    """The error of a run that finds other images than it began with."""
    remedy = f" (--config.{field}={paths.quote(was)})" if was else ""
    return ValueError(
        f"The run in {workdir} was started on other data: {numbers}. A run "
        "goes on in any place of its images, and while at least half of them "
        f"are the same, of the same classes. Restore the first ones{remedy}, "
        "or give another folder for a new run."
    )


def _unreadable_names(path):
    """Names of images that a run could not read, a set of bytes."""
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8", errors=_ANY) as file:
        rows = list(csv.DictReader(file))
    names = [row.get("name") or "" for row in rows]
    return {name.encode("utf-8", _ANY) for name in names}


def locate(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    command: str = "pretrain",
) -> ml_collections.ConfigDict:
    """The configuration of a start, with sources that can be opened from here.

    A relative spec that the run in the workdir was given too, and that leads
    nowhere from the current folder, is what it was at the first start.

    Args:
      config: ConfigDict of the command; it is left as it is.

    Raises:
      ValueError: for the folder of another command, or a damaged config.json.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.is_file():
        return config
    load_saved(workdir, command)  # refuses what is damaged
    saved = read_json(path)
    given = configs.flatten(saved["config"])
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for name, spec in _noted_sources(saved, workdir, command).items():
            section, key = name.split(".")
            typed = config[section][key]
            if typed == given.get(name) and not specs.exists(typed):
                config[section][key] = spec
    return config


def _noted_sources(saved, workdir, command):
    """Where the sources of a run lie now, by field.

    Args:
      saved: dict of config.json. workdir: of it.
    """
    folders = saved.get("workdir", ""), os.path.abspath(workdir)
    given = configs.flatten(saved.get("config", {}))
    given = {n: given[n] for n in resuming.SOURCES[command] if n in given}
    noted = saved.get("sources")
    if noted is None:  # an earlier version noted the folder of each start
        path = pathlib.Path(workdir) / "environment.json"
        starts = read_json(path)["starts"] if path.is_file() else []
        folder = starts[-1].get("directory", "") if starts else ""
        noted = {n: specs.absolute(spec, folder) for n, spec in given.items()}
    return {
        name: specs.find(spec, noted.get(name, spec), folders)
        for name, spec in given.items()
    }


def load_saved(workdir, command="pretrain"):
    """Returns the ConfigDict that `save` wrote, locked.

    Its sources can be opened from any folder: relative paths were noted as
    absolute ones, and data that moved along with the workdir are found.

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
        values = configs.flatten(saved["config"])
        values |= _noted_sources(saved, path.parent, command)
        return configs.build(values, command)
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} is not the config.json of a run: it has no configuration."
        ) from None


def identity(config, fingerprint):
    """A number that workers of one run have in common.

    Args:
      config: ConfigDict (see resuming.shared).
      fingerprint: of the source that is trained on.

    Returns:
      int below 2**60.
    """
    text = json.dumps(
        [resuming.shared(config), fingerprint, moco_tf.__version__]
    )
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
    changed = resuming.difference(saved, config, command, extend)
    if changed:
        raise ValueError(
            f"The run in {workdir} was started with another configuration:\n"
            + resuming.explain(changed, command)
        )
    if words := resuming.describe_extension(saved, config):
        print(words)
    before = read_json(workdir / "config.json").get("data_fingerprint", "")
    if before and before != fingerprint:
        raise ValueError(
            f"The run in {workdir} was started on other data: its source has "
            "changed since (files added, removed or replaced). Restore it, or "
            "pass another folder."
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
