"""Class counts of a source."""

import os

import numpy as np

from moco_tf.data import files
from moco_tf.doctor import table

_UNEVEN = 10  # times as many images in one class as in another


def rows(source, spec):
    """Rows of the table about labels.

    Args:
      source: Source. spec: str, that it was opened with.
    """
    if source.labels is None:
        words = "no labels; pre-training needs none"
        return [table.Row("classes", words), *_empty_folders(spec)]
    labels = np.asarray(source.labels)
    length = len(source.class_names or []) or labels.max() + 1
    counts = np.bincount(labels, minlength=length)
    names = source.class_names or [str(n) for n in range(length)]
    made = _empty_folders(spec)
    if not counts.all():
        empty = [names[n] for n in np.flatnonzero(counts == 0)]
        made.append(_empty(empty, "class"))
    held = np.flatnonzero(counts)
    few, many = held[counts[held].argmin()], held[counts[held].argmax()]
    words = f"{len(held)} classes of {counts[few]} images each"
    if counts[few] < counts[many]:
        words = (
            f"{len(held)} classes of {counts[few]} ({names[few]}) to "
            f"{counts[many]} ({names[many]}) images"
        )
    if len(held) == 1:
        words = f"all {counts[many]} images are of one class, {names[many]}"
        remedy = "kNN and `linear` need two classes or more."
        made.append(table.Row("classes", words, table.WARN, remedy))
    elif counts[many] > _UNEVEN * counts[few]:
        remedy = (
            "Pre-training ignores classes, but sees rare ones rarely. Read "
            "accuracies by class."
        )
        made.append(table.Row("classes", words, table.WARN, remedy))
    else:
        made.append(table.Row("classes", words))
    return made


def _empty_folders(spec):
    """A row for folders below the root that hold no image."""
    kind, _, path = spec.partition(":")
    if kind != "folder":
        return []
    with os.scandir(os.path.expanduser(path)) as listing:
        empty = sorted(
            entry.name
            for entry in listing
            if entry.is_dir()
            and not entry.name.startswith(".")
            and not _holds_image(entry.path)
        )
    return [_empty(empty, "folder")] if empty else []


def _holds_image(folder):
    return any(
        os.fsencode(name).lower().endswith(files.READ)
        for _, _, names in os.walk(folder)
        for name in names
    )


def _empty(names, what):
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    words = f"{len(names)} without an image: {shown}"
    remedy = f"Fill or remove each such {what}."
    return table.Row("empty classes", words, table.WARN, remedy)
