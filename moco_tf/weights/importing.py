"""Makes a run of published weights (the `import-weights` command)."""

import pathlib

import numpy as np

from moco_tf import config as configs
from moco_tf import paths, workdirs
from moco_tf.evaluation import frozen
from moco_tf.training import checkpoints
from moco_tf.weights import conversion, layouts, pickle_reader, weight_files

_MAX_STEPS = 10**9 - 1  # that the name of a checkpoint can hold
_LISTED = 30  # of what is left out; the rest is counted
_PROBLEMS = 1000  # lines of a message; a ResNet-152 has 932 tensors


def import_weights(
    path, workdir, config="", overrides=None, entry="", prefix=""
):
    """Makes the workdir of a pre-training run from a file of weights.

    A MoCo checkpoint with a queue becomes a run that `pretrain` can go on with:
    both encoders, the queue, the momentum of SGD if the file has it, and the
    step that BatchNorm counted. Any other file gives the query encoder alone,
    for knn, linear, finetune, embed and export.

    Args:
      path: of a file of torch.save (.pth.tar, .pth, .pt, .bin, .ckpt), a
        pickle of arrays (.pkl) or safetensors, with a ResNet in it.
      workdir: folder of the run; it must not hold one.
      config: name or path of a pre-training configuration; "": by the head and
        the stem, one of moco_v1_imagenet, moco_v2_imagenet and moco_cifar10.
      overrides: dict "section.key" -> text, of fields to change in it. The
        encoder and the size of the queue are set by the file.
      entry: keys that lead to the dictionary of the encoder, where a file has
        several, with dots; prefix: of its names there; "": see
        weights/candidates.py.

    Returns:
      path of the checkpoint.

    Raises:
      ValueError: before anything is written, for a file that cannot be read,
        and for missing, extra or misshaped tensors, all of them named.

    Side effects: writes the workdir, prints what was read and what was not;
    seeds the generators of Keras.
    """
    workdir, path = paths.expand(workdir), paths.expand(path)
    if any((workdir / n).exists() for n in ("config.json", "checkpoints")):
        raise ValueError(
            "Weights are imported into a new workdir. Received "
            f"{str(workdir)!r}, which holds a run. Pass another --workdir."
        )
    file = weight_files.read(path, entry, prefix)
    loaded = _configuration(file, config, overrides or {})
    if file.can_resume:
        method = conversion.make_method(loaded)
        encoder = method.query_encoder
    else:
        method, encoder = None, frozen.build_encoder(loaded)
    fresh_head = _check(file, encoder, method, path)
    step = _step(file, loaded)
    notes = _assign(file, encoder, method, step, fresh_head)
    meta = _meta(file, path, fresh_head)
    with workdirs.hold(workdir):
        workdirs.save(loaded, workdir)
        if method:
            saved = checkpoints.save(method, workdir, 1, meta)
        else:
            saved = checkpoints.save_query_encoder(encoder, workdir, step, meta)
    print(_summary(file, path, loaded, saved, notes))
    return saved


def read_encoder(path, entry="", prefix="", config="", overrides=None):
    """Builds the encoder of a file of weights, without a workdir.

    Args:
      path, entry, prefix, config, overrides: as of `import_weights`.

    Returns:
      encoder.Encoder, whose head is random where the file has none of ours; and
      the ConfigDict of its run.

    Raises:
      ValueError: as `import_weights` does.

    Side effects: seeds the generators of Keras.
    """
    path = paths.expand(path)
    file = weight_files.read(path, entry, prefix)
    loaded = _configuration(file, config, overrides or {})
    encoder = frozen.build_encoder(loaded)
    _check(file, encoder, None, path)
    conversion.assign(encoder, file.query)
    return encoder, loaded


def _configuration(file, config, overrides):
    """The configuration of the file's encoder, with the user's fields."""
    fields = layouts.architecture(file.query)
    if file.can_resume and file.queue.ndim == 2:
        fields["moco.queue_size"] = file.queue.shape[1]
    if not config:
        config = "moco_v2_imagenet"
        if fields.get("model.head") == "fc":
            config = "moco_v1_imagenet"
        if fields["model.stem"] == "cifar":
            config = "moco_cifar10"
    method = configs.load(config).method
    if file.can_resume and method != "moco":
        raise ValueError(
            "A file with a queue and its key encoder is a run of MoCo. Received"
            f" the configuration {config!r}, of the method {method}. Give one "
            "of MoCo, or none."
        )
    texts = {name: str(value) for name, value in fields.items()}
    loaded = configs.load(config, texts | overrides)
    if loaded.model.init:
        raise ValueError(
            "import-weights takes weights from its file alone. Received "
            f"model.init={loaded.model.init!r}. Pass --config.model.init= , or "
            "give the file as --config.model.init to pretrain."
        )
    if loaded.probe.online:
        raise ValueError(
            "An online probe trains from a run's first step on, and a file of "
            "weights has none. Received probe.online=true. Pass "
            "--config.probe.online=false."
        )
    return loaded


def _check(file, encoder, method, path):
    """Refuses tensors that do not fit; returns whether the head is new."""
    expected = conversion.shapes(encoder)
    fresh_head = not any(name.startswith("fc.") for name in file.query)
    if fresh_head:
        expected = {n: s for n, s in expected.items() if n[:3] != "fc."}
    lines = layouts.problems(file.query, expected, file.spell)
    if method:
        lines += layouts.problems(file.key, expected, file.spell_key)
        lines += _queue_problems(file, method.queue)
    if lines:
        listed = "\n".join(f"  {line}" for line in lines[:_PROBLEMS])
        if len(lines) > _PROBLEMS:
            listed += f"\n  and {len(lines) - _PROBLEMS} more"
        if others := [o.flags for o in file.others if not o.missing]:
            listed += (
                f"\nOf the file's other encoders, take one with {others[0]}"
            )
        raise ValueError(
            f"The tensors of {path} must be those of a "
            f"{encoder.backbone.name} with its head as configured. "
            f"{len(lines)} are not:\n{listed}"
        )
    return fresh_head


def _queue_problems(file, queue):
    lines = layouts.problems(
        {"queue": file.queue},
        {"queue": tuple(reversed(queue.keys.shape))},
        lambda name: file.chosen.prefix.rpartition(layouts.QUERY)[0] + name,
    )
    values = file.pointer.reshape(-1)[:4].tolist()
    if len(values) != 1 or values[0] not in range(queue.size):
        lines.append(
            f"queue_ptr: {values[:3]}, where one position of the queue is "
            "needed"
        )
    return lines


def _step(file, config):
    """Steps that were trained, as BatchNorm counted them; 0 if unknown."""
    count = conversion.summarise_counts(file.counts["query"])
    if file.layout != "moco" or not isinstance(count, int):
        return 0
    step = count // conversion.batches_per_step(config)
    return step if 0 <= step <= _MAX_STEPS else 0


def _assign(file, encoder, method, step, fresh_head):
    """Sets variables to the file's tensors; returns notes for the user."""
    notes = []
    rounded = conversion.assign(encoder, file.query)
    if fresh_head:
        notes.append("new head: the file has none; its weights are random")
    if method:
        rounded += conversion.assign(method.key_encoder, file.key)
        method.queue.keys.assign(np.asarray(file.queue.T, np.float32))
        method.queue.pointer.assign(int(file.pointer.max()))
        method.step.assign(step)
        method.optimizer.iterations.assign(step)
        velocities = None
        if hasattr(method.optimizer, "velocities"):
            velocities = conversion.read_velocities(file.optimizer, encoder)
        if velocities is None:
            notes.append("no momentum for this optimiser: it starts from zero")
        else:
            conversion.assign_velocities(method, velocities)
    else:
        notes.append(
            "no queue with its key encoder in it: `pretrain` cannot go on"
        )
    if rounded:
        notes.append(f"rounded from float64 to float32: {len(rounded)} tensors")
    return notes


def _meta(file, path, fresh_head):
    imported = {
        "file": pathlib.Path(path).name,
        "layout": file.layout,
        "entry": pickle_reader.printable(file.chosen.entry),
        "prefix": pickle_reader.printable(file.chosen.prefix),
        **file.about,
        "fresh_head": fresh_head,
        "counters": {
            side: conversion.summarise_counts(counts)
            for side, counts in file.counts.items()
        },
    }
    epoch = float(file.about.get("epoch", 0))
    return {"epoch": epoch, "imported": imported}


def _summary(file, path, config, saved, notes):
    model = config.model
    place = ", ".join(
        f"{word} {pickle_reader.printable(text)}"
        for word, text in (
            ("entry", file.chosen.entry),
            ("prefix", file.chosen.prefix),
        )
        if text
    )
    lines = [
        f"imported    {paths.shown(path)} ({file.layout})",
        f"found at    {place or 'its names as they are'}",
        f"encoder     {model.backbone} x{model.width:g}, {model.stem} stem, "
        f"{model.head} head, {model.dim} features",
        f"checkpoint  {paths.shown(saved)}",
    ]
    if file.can_resume:
        lines.append(f"queue       {config.moco.queue_size} keys")
    left_out = list(file.left_out[:_LISTED])
    if not file.can_resume and file.key:
        left_out.append("the key encoder")
    if len(file.left_out) > _LISTED:
        left_out.append(f"{len(file.left_out) - _LISTED} more")
    if left_out:
        lines.append(f"left out    {', '.join(left_out)}")
    if file.others:
        notes = [
            f"the file has other encoders; this is {file.chosen.flags}",
            *(f"for another: {other.flags}" for other in file.others[:_LISTED]),
            *notes,
        ]
    return "\n".join(lines + [f"note        {note}" for note in notes])
