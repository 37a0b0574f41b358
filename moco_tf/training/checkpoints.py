"""Checkpoints: all that the next step depends on, written atomically.

Layout of a workdir:

    checkpoints/step-000000097/{state.index, state.data-*, meta.json}
    checkpoints/best/          a copy of the checkpoint with the best kNN; until
                               one is better than the start, the first encoder

A folder is written under a name that starts with a dot and then renamed, so a
folder with its final name is complete. One copy serves every replica count.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import time

import tensorflow as tf

from moco_tf import filesystem, paths, state_files
from moco_tf.models import saved_models

_NAME = re.compile(r"step-(\d{9})")
_NODE = re.compile(r"\{\{[^}]*\}\} ?| ?\[Op:\w+\].*")  # in TensorFlow's errors
_STATE = "state"
_QUERY_ENCODER = "query encoder"  # what imported weights may hold alone
# What TensorFlow raises for a file that is damaged, or of another model.
_UNREADABLE = (AssertionError, ValueError, *saved_models.DAMAGED)


def folder(workdir):
    """The folder of a run's checkpoints."""
    return pathlib.Path(workdir) / "checkpoints"


def complete(workdir):
    """The complete checkpoints of a run as (step, path), oldest first."""
    steps = []
    if folder(workdir).is_dir():
        for path in folder(workdir).iterdir():
            match = _NAME.fullmatch(path.name)
            if match and (path / "meta.json").is_file():
                steps.append((int(match[1]), path))
    return sorted(steps)


def latest(workdir):
    """The newest complete checkpoint's path, or None if there is none."""
    steps = complete(workdir)
    return steps[-1][1] if steps else None


def wait_for(workdir, step, seconds=60.0):
    """The checkpoint of a step that another worker has seen.

    A network folder may show it some seconds later here.

    Raises:
      ValueError: if it does not appear in time.
    """
    path = _path(workdir, step)
    deadline = time.monotonic() + seconds
    while not (path / "meta.json").is_file():
        if time.monotonic() > deadline:
            raise ValueError(
                "All workers must see the same workdir. Received "
                f"{str(workdir)!r}, which does not show the checkpoint of step "
                f"{step} here that worker 0 goes on from. Put --workdir on a "
                "shared file system."
            )
        time.sleep(0.5)
    return path


def best(workdir):
    """The path of the checkpoint with the best kNN so far, or None."""
    for name in ("best", ".best-old"):  # the latter: killed in keep_as_best
        path = folder(workdir) / name
        if (path / "meta.json").is_file():
            return path
    return None


def resumed(workdir):
    """The checkpoint that a run goes on from; None for a run without one.

    Raises:
      Damaged: if a later one has lost its meta.json: the steps up to it would
        be lost without a word, and their files written over.
    """
    path = latest(workdir)
    for _, torn in without_meta(workdir):
        if path is None or torn.name > path.name:
            read_meta(torn)  # says how to go on
    return path


def without_meta(workdir):
    """The checkpoints without meta.json as (step, path), oldest first."""
    return sorted(
        (int(match[1]), path)
        for path in folder(workdir).glob("*")
        if (match := _NAME.fullmatch(path.name))
        and os.path.lexists(path / f"{_STATE}.index")
        and not (path / "meta.json").is_file()
    )


def read_meta(path):
    """What was noted beside a checkpoint: a dict with "step" and more.

    Raises:
      Damaged: if it cannot be read.
    """
    file = path / "meta.json"
    meta = state_files.read_json(file, _meta_remedy(path))
    if type(meta.get("step")) is not int:
        raise state_files.Damaged(file, "names no step", _meta_remedy(path))
    return meta


def _meta_remedy(path):
    """How to go on from a checkpoint without its meta.json, in sentences."""
    match = _NAME.fullmatch(path.name)
    if not match:
        return _instead(path)
    return (
        "The state beside it may be intact, and its step is in the folder's "
        f'name: write {{"step": {int(match[1])}}} into the file to use it. Or: '
        + _instead(path)
    )


def _instead(path):
    """How to go on without a checkpoint, in sentences that delete nothing."""
    others = [
        str(step)
        for step, other in complete(path.parent.parent)
        if other.name != path.name
    ]
    if not others or path.parent.name != "checkpoints":
        return (
            "Bring back a copy of it: there is no other checkpoint beside it. "
            "Without one the run starts anew, with another --workdir."
        )
    return (
        f"Move {path} out of {path.parent}, which keeps it, and go on from "
        f"the latest of the others (steps {', '.join(others)}); what reads a "
        f"run takes one of them by --checkpoint={others[-1]} too."
    )


def save(method, workdir, keep, meta):
    """Writes a checkpoint of a method and drops the oldest ones.

    Args:
      method: Method, with its optimiser.
      workdir: of the run.
      keep: int, checkpoints that stay (besides best/).
      meta: dict for meta.json; "step" is added.

    Returns:
      the checkpoint's path.

    Raises:
      OSError: if it cannot be written; older checkpoints are untouched.
    """
    step = int(method.step.numpy())
    state = tf.train.Checkpoint(model=method)
    final = _write(state, _path(workdir, step), {"step": step, **meta})
    for _, old in complete(workdir)[:-keep]:
        shutil.rmtree(old)
    return final


def save_query_encoder(encoder, workdir, step, meta):
    """Writes a checkpoint of an Encoder alone; pre-training cannot go on.

    Args:
      encoder: Encoder. workdir: of the run. step: int, of its name.
      meta: dict for meta.json; "step" and "holds" are added.

    Returns:
      the checkpoint's path.
    """
    return _write_encoder(encoder, _path(workdir, step), step, meta)


def keep_start(encoder, workdir):
    """Makes the encoder of a run without steps its best/, for want of a better.

    Args:
      encoder: Encoder. workdir: of the run.
    """
    for name in ("best", ".best-old"):  # of a start that came to no checkpoint
        _clear(folder(workdir) / name)
    _write_encoder(encoder, folder(workdir) / "best", 0, {"epoch": 0})


def _write_encoder(encoder, final, step, meta):
    """Writes a checkpoint of an Encoder alone to a path, and returns that."""
    model = tf.train.Checkpoint(query_encoder=encoder)
    meta = {"step": step, "holds": _QUERY_ENCODER, **meta}
    return _write(tf.train.Checkpoint(model=model), final, meta)


def _write(checkpoint, final, meta):
    """Writes a checkpoint's folder, complete or not; returns its path."""
    if (final / "meta.json").is_file():
        return final  # the state is a function of the step
    partial = final.parent / f".{final.name}"
    _clear(partial)
    try:
        if os.path.lexists(final):
            other = state_files.set_aside(final)
            state_files.warn(f"{final} is no checkpoint; it is kept as {other}")
        partial.mkdir(parents=True)
        with paths.plain(partial) as plain:
            checkpoint.write(f"{plain}/{_STATE}")
        meta = {"format": state_files.FORMAT, **meta}
        text = json.dumps(meta, indent=2) + "\n"
        (partial / "meta.json").write_text(text)
        for file in [*partial.iterdir(), partial]:
            filesystem.sync(file)
        os.replace(partial, final)
    except (OSError, tf.errors.OpError) as error:
        _clear(partial)
        raise OSError(
            f"The checkpoint of step {meta['step']} could not be written to "
            f"{final.parent}: {_reason(error)} Earlier checkpoints are "
            "intact. Free space or mend the folder, then give the same command "
            "again to go on from the last one."
        ) from error
    return final


def keep_as_best(path):
    """Makes a checkpoint the run's best/, in place of the one before."""
    final = path.parent / "best"
    partial, old = path.parent / ".best", path.parent / ".best-old"
    _clear(partial)
    partial.mkdir()
    for file in path.iterdir():
        # Hard links: no second copy on disk until the original is dropped.
        _link(file, partial / file.name)
    if final.exists():
        _clear(old)
        os.replace(final, old)
    os.replace(partial, final)
    _clear(old)


def restore(method, path):
    """Sets a method, with its optimiser's slots, to a checkpoint.

    Args:
      method: Method as built and compiled for the run.
      path: of the checkpoint.

    Returns:
      the step, int.

    Raises:
      ValueError: if the checkpoint is damaged, of another model, or holds a
        query encoder alone.
    """
    if read_meta(path).get("holds") == _QUERY_ENCODER:
        raise ValueError(
            "Pre-training goes on from two encoders and a queue of keys. "
            f"Received {path}, which holds a query encoder alone: its weights "
            "were imported from a file without a queue. Evaluate, fine-tune or "
            "export it; to pre-train, give another --workdir."
        )
    checkpoint = tf.train.Checkpoint(model=method)
    try:
        with paths.plain(path) as plain:
            status = checkpoint.read(f"{plain}/{_STATE}")
        status.assert_consumed()
    except _UNREADABLE as error:
        _raise_damaged(path, error)
        raise ValueError(
            f"The checkpoint {path} does not hold this run's state: "
            f"{_reason(error)} It is intact, and of another configuration or "
            "another version of moco_tf: go on with those, or give another "
            "--workdir."
        ) from error
    return int(method.step.numpy())


def restore_query_encoder(encoder, path):
    """Sets an Encoder to the query encoder of a checkpoint.

    Args:
      encoder: Encoder of the run's architecture.
      path: of the checkpoint.

    Raises:
      ValueError: if the checkpoint is damaged or of another model.
    """
    restore_parts({"query_encoder": encoder}, path)


def restore_parts(parts, path):
    """Sets parts of a method to those of a checkpoint; the others are not read.

    Args:
      parts: dict of the method's attribute -> model or layer of the run's form.
      path: of the checkpoint.

    Raises:
      ValueError: if the checkpoint is damaged or of another model.
    """
    model = tf.train.Checkpoint(**parts)
    try:
        with paths.plain(path) as plain:
            checkpoint = tf.train.Checkpoint(model=model)
            status = checkpoint.read(f"{plain}/{_STATE}")
        status.expect_partial().assert_existing_objects_matched()
    except _UNREADABLE as error:
        _raise_damaged(path, error)
        raise ValueError(
            f"The checkpoint {path} does not hold such an encoder: "
            f"{_reason(error)} Use the configuration it was trained with."
        ) from error


@contextlib.contextmanager
def reader(path):
    """Opens the tensors of a checkpoint by their names.

    Args:
      path: of the checkpoint.

    Yields:
      tf.train.CheckpointReader, for the time of the block.

    Raises:
      Damaged: if the checkpoint's files cannot be read.
    """
    try:
        with paths.plain(path) as plain:
            yield tf.train.load_checkpoint(f"{plain}/{_STATE}")
    except (RuntimeError, *_UNREADABLE) as error:
        _raise_damaged(path, error)
        raise


def shape_of(path, name):
    """The shape of a variable of a checkpoint, a list of int, or None.

    Args:
      path: of the checkpoint. name: str, as "model/queue/keys".

    Raises:
      Damaged: if the checkpoint's files cannot be read.
    """
    with reader(path) as opened:
        shapes = opened.get_variable_to_shape_map()
    return shapes.get(f"{name}/.ATTRIBUTES/VARIABLE_VALUE")


def _raise_damaged(path, error):
    """Raises Damaged if a checkpoint's own files are why reading it failed.

    Args:
      path: of the checkpoint. error: that TensorFlow raised.

    Raises:
      Damaged: naming the file, if it can be told which; a folder that is whole
        but of another model passes.
    """
    files = saved_models.damaged_files(path / _STATE)
    if not files and isinstance(error, saved_models.DAMAGED):
        files = [saved_models.culprit(path / _STATE, _reason(error))]
    if files:
        file, damage = files[0]
        raise state_files.Damaged(file, damage, _instead(path)) from error


def _path(workdir, step):
    return folder(workdir) / f"step-{step:09d}"


def _reason(error):
    """The first line of an error, as a sentence."""
    text = getattr(error, "message", None) or str(error) or repr(error)
    text = paths.without_link(text.strip())
    line = _NODE.sub("", text.splitlines()[0])
    return line[:300].rstrip(".") + "."


def _clear(path):
    if path.exists():
        shutil.rmtree(path)


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
