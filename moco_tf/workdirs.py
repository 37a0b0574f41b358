"""A run's folder: its lock, configuration, data and starts.

    lock               the process that writes here, while it does
    config.json        the configuration, the data's fingerprint, the command
    preset.py          the configuration as a preset file, where it was chosen
    init.json          where the first weights came from (weights/starting.py)
    images.npz         the images that the run began with (data/listing.py)
    environment.json   versions, devices and command line of every start
    log.txt            what every start printed (monitoring/printed.py);
    log.worker-1.txt   the same of another worker than the first

metrics.csv, knn_baseline.json, warnings.csv, unreadable.csv, checkpoints/ and
tensorboard/ beside them belong to who writes them.
"""

import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import platform
import sys
from typing import Any, NamedTuple

import ml_collections

import moco_tf
from moco_tf import config as configs
from moco_tf import (
    cores,
    filesystem,
    lane,
    paths,
    records,
    resuming,
    state_files,
)
from moco_tf.data import listing, specs
from moco_tf.monitoring import printed

_RESULT = "result.json"  # of a task
_ANY = "surrogateescape"  # names need not be text
# How images are stored, by the marks of their Listing.
_STORED = {
    "bytes": "files",
    "crc32": "a raw cache",
    "farmhash64": "a cache of JPEGs",
}


@contextlib.contextmanager
def hold(workdir):
    """Keeps other processes out of a workdir while its block runs.

    Args:
      workdir: path; made if missing.

    Raises:
      ValueError: if another process holds it, or nothing can be written there.
      OSError: if the block fails because the disk is full.

    Side effects: writes the file "lock", which names this process; of a run
    that is there, the log goes on from here.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / "lock"
    made: list[pathlib.Path] = []
    with contextlib.ExitStack() as stack:
        # After the file is closed: before, a network folder is not empty.
        stack.push(lambda kind, *_: kind and _remove_empty(made))
        file, is_new = _open_lock(path, made, stack)
        locked = filesystem.lock(file, workdir)
        # A process whose start has failed has just removed this file.
        if not locked or not _is_file(file, path):
            made.clear()  # the other process is in them now
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            raise ValueError(
                "Only one process at a time may write to a workdir. Received "
                f"{str(workdir)!r}, which {holder} holds. Wait until it has "
                "ended, or pass another folder."
            )
        if is_new:  # not before it is locked: another may have been quicker
            stack.push(lambda kind, *_: kind and path.unlink(missing_ok=True))
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
            if is_begun(workdir):  # a start that fails now is one of its starts
                printed.keep(workdir)
            yield
        except OSError as error:
            if error.errno not in filesystem.DISK_FULL:
                raise
            raise OSError(
                f"There is no room to write to {error.filename or workdir}: "
                f"{error.strerror}. The checkpoints of {workdir} are intact. "
                "Free space, then give the same command again to go on from "
                "the last one."
            ) from error
        finally:
            file.truncate(0)


def is_begun(workdir):
    """Whether there is a run in a workdir, or a task in its folder."""
    return os.path.lexists(os.path.join(workdir, "config.json"))


def _open_lock(path, made, stack):
    """Opens the file "lock" in a workdir that is made if missing.

    Args:
      path: of the file. made: list, which gets the folders that are made here.
      stack: ExitStack that closes the file.

    Returns:
      the file; bool, whether there was none.
    """
    workdir = path.parent
    try:
        for folder in reversed([workdir, *workdir.parents]):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                made.append(folder)
        is_new = not os.path.lexists(path)
        damage = "" if is_new else state_files.look(path, may_be_empty=True)
        if damage:
            remedy = "Move it away: nothing of the run is in it."
            raise state_files.Damaged(path, damage, remedy)
        # Without a buffer: closing after a full disk must not write.
        file = stack.enter_context(path.open("a+b", buffering=0))
    except OSError as error:
        raise ValueError(
            "A workdir must be a folder that can be written to. Received "
            f"{str(workdir)!r}: {error.strerror}. Pass another folder, or "
            "change its owner, its rights or its mount."
        ) from error
    return file, is_new


def _is_file(file, path):
    """Whether an open file still is the one of a path."""
    return path.exists() and os.path.samestat(
        os.fstat(file.fileno()), path.stat()
    )


def _remove_empty(folders):
    """Removes folders, the last first, unless something was written there."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()


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
    if is_begun(workdir):
        _check_resumable(config, workdir, fingerprint, extend, command)
        _check_encoder(workdir, encoder)
    elif any(os.path.lexists(workdir / x) for x in ("checkpoints", _RESULT)):
        raise ValueError(
            "A workdir with checkpoints or a result must hold their "
            "config.json. Received "
            f"{str(workdir)!r} without one. {records.way_back(workdir)}"
        )


def save(
    config,
    workdir,
    fingerprint="",
    command="pretrain",
    encoder="",
    listings=(),
    preset="",
):
    """Writes config.json, and this start's entry of environment.json.

    Args:
      config, workdir, fingerprint, command, encoder: as of `check`.
      listings: (name, Listing or None) of each source; a run keeps those of
        its first start.
      preset: text of preset.py, of a configuration that was chosen; "": none.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    for name, images in listings:
        path = workdir / f"{name}.npz"
        if images:  # none where the file has them
            if os.path.lexists(path):
                other = state_files.set_aside(path)
                state_files.warn(
                    f"{path} lists no images; it is kept as {other}, and those "
                    "of this start are listed anew"
                )
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
        "chosen": records.keep_preset(workdir, preset),
        "config": config.to_dict(),
    }
    path = workdir / "environment.json"
    try:
        starts = records.read_starts(workdir)
    except state_files.Damaged as error:
        starts, other = [], state_files.set_aside(path)
        state_files.warn(f"{error} It is kept as {other}; a new one begins")
    state_files.write_json(workdir / "config.json", saved, with_format=True)
    start = describe() | resuming.form_of_views(values)
    words = resuming.other_bits(starts[-1], start) if starts else []
    starts = {"starts": [*starts, start]}
    state_files.write_json(path, starts, with_format=True)
    printed.keep(workdir)
    for sentence in words:
        print(f"Warning: {sentence}")


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
    saved = records.read_saved(workdir) if is_begun(workdir) else {}
    width = len(now)
    before = saved.get("data_fingerprint", "")[width * place :][:width]
    file = workdir / f"{name}.npz"
    if before not in ("", now) and not file.is_file():
        source = _as_earlier(source, before)
        now = source.fingerprint()
    if before in ("", now):
        is_listed = before and _is_listing(file)
        return RunData(source, now, None if is_listed else source.listing())
    listed = source.listing()
    was = saved.get("sources", {}).get(field, "")
    images = _read_listing(file, was) if os.path.lexists(file) else None
    then = f"{len(images.names)} images then and " if images else ""
    numbers = f"{then}{len(source)} now"
    if listed is None or images is None:
        raise _other_images(workdir, field, was, numbers)
    differing = listing.compare(images, listed, source.marks)
    known_bad = _unreadable_names(workdir / "unreadable.csv")
    relabelled = labelled and differing.relabelled
    if relabelled or not differing.is_the_same_set(known_bad):
        if images.kind != listed.kind:
            then, now = _STORED[images.kind], _STORED[listed.kind]
            numbers += f", {then} at one time and {now} at the other"
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


def _read_listing(path, was):
    """The images that a run began with; `was`: where they lay."""
    try:
        return listing.read(path)
    except ValueError as error:
        raise state_files.Damaged(
            path,
            f"cannot be read ({error.__cause__})",
            "It tells which images have changed since the run began. Bring "
            "back a copy of it, or the images as they were "
            f"({paths.shown(was)}): then it is not needed, and made anew.",
        ) from error


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
    try:
        rows, *_ = state_files.read_table(path, ["name"])
    except state_files.Damaged:
        return set()  # or there is none; the log itself says so
    return {row["name"].encode("utf-8", _ANY) for row in rows}


def _is_listing(path):
    """Whether a file lists images; one that cannot be read is made anew."""
    try:
        listing.read(path)
    except ValueError:
        return False
    return True


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
    if not is_begun(workdir):
        return config
    load_saved(workdir, command)  # refuses what is damaged
    saved = records.read_saved(workdir)
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
        starts = records.known_starts(workdir)
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
    saved = records.read_saved(workdir)
    if saved.get("command", "pretrain") != command:
        raise ValueError(
            f"{path} must be of the command {command}. Received one of "
            f"{saved['command']}. Give another folder."
        )
    try:
        values = configs.flatten(saved["config"])
        values |= _noted_sources(saved, workdir, command)
        config = configs.build(values, command)
        missing = configs.missing(configs.flatten(config.to_dict()), command)
        if not missing:
            return config
        raise ValueError(f"It lacks {', '.join(missing)}.")
    except ValueError as error:
        version = saved.get("moco_tf", "")
        if not state_files.is_later(version, moco_tf.__version__):
            raise state_files.Damaged(
                path,
                "has no configuration",
                f"{error} {records.way_back(workdir)}",
            ) from error
        raise state_files.LaterVersion(
            f"{path} is of moco_tf {version}, later than this one, "
            f"{moco_tf.__version__}, which cannot read it: {error} Use the "
            "version that wrote it."
        ) from error


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
    from tensorflow.python.util import _pywrap_util_port as port

    now = datetime.datetime.now(datetime.UTC)
    return {
        "started": now.isoformat("T", "seconds"),
        "command": [sys.executable, *sys.argv],
        "directory": os.getcwd(),
        "moco_tf": moco_tf.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cores.count(),
        "lane": lane.NAME,
        "lamb_and_sgdw": lane.OPTIMIZERS,
        "onednn": port.IsMklEnabled(),
        "packages": {name: lane.version(name) for name in lane.PACKAGES},
        "devices": [d.name for d in tf.config.list_logical_devices()],
    }


def _check_encoder(workdir, encoder):
    """Refuses a task in a folder that holds one of another encoder."""
    before = records.read_saved(workdir).get("encoder", "")
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
    before = records.read_saved(workdir).get("data_fingerprint", "")
    if before and before != fingerprint:
        raise ValueError(
            f"The run in {workdir} was started on other data: its source has "
            "changed since (files added, removed or replaced). Restore it, or "
            "pass another folder."
        )
