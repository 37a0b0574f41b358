"""From the figures of a scan to what is wrong with which image."""

import csv
import itertools
import os
import pathlib
from typing import NamedTuple

import numpy as np

from moco_tf.data import decode, image_files
from moco_tf.doctor import scan, table

_UNEVEN = 10  # times as many images in one class as in another


def class_rows(source, spec):
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
        os.fsencode(name).lower().endswith(image_files.READABLE_ENDINGS)
        for _, _, names in os.walk(folder)
        for name in names
    )


def _empty(names, what):
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    words = f"{len(names)} without an image: {shown}"
    remedy = f"Fill or remove each such {what}."
    return table.Row("empty classes", words, table.WARN, remedy)


REACH = 8  # bits in which hashes of alike images may differ
LIKENESS = 0.95  # correlation of their little copies at least

_BLOCKS = 11
# In a crowd (frames of one film) an image meets as many of its neighbours: the
# chain of pairs joins them all the same.
_NEIGHBOURS = 32
# Of 64 bits: every second one, two of four, four of eight, one of eight.
_ODD, _PAIRS, _NIBBLES, _OCTETS = (
    np.uint64(int(f"0x{octet * 8}", 16)) for octet in ("55", "33", "0f", "01")
)
_ROWS = 65536  # pairs whose little copies are compared at a time


def exact_copies(pixels):
    """Groups images of the same pixels.

    Args:
      pixels: int64 [N], the same for the same pixels.

    Returns:
      int64 [N], the first place with the same value.
    """
    _, first, places = np.unique(pixels, return_index=True, return_inverse=True)
    return first[places]


def alike(looks, little):
    """Groups images that look the same.

    Args:
      looks: int64 [N], perceptual hashes (scan.perceptual_hash).
      little: uint8 [N, 256], luminance of the little copies.

    Returns:
      int64 [N], the first place of the group of each.
    """
    looks = np.ascontiguousarray(looks).view(np.uint64)
    groups = np.arange(len(looks))
    for mask in _masks():
        keys = looks & mask
        order = np.lexsort((looks, keys))
        keys, sorted_looks = keys[order], looks[order]
        for apart in range(1, min(_NEIGHBOURS, len(looks) - 1) + 1):
            here = np.flatnonzero(keys[:-apart] == keys[apart:])
            if not len(here):
                break
            bits = distance(sorted_looks[here], sorted_looks[here + apart])
            here = here[bits <= REACH]
            left, right = order[here], order[here + apart]
            new = groups[left] != groups[right]
            _join(groups, *_confirm(little, left[new], right[new]))
    return groups


def _masks():
    """The bits that each table sorts by: uint64 scalars."""
    edges = np.linspace(0, scan.BITS, _BLOCKS + 1).astype(int)
    blocks = [
        ((1 << high) - 1) ^ ((1 << low) - 1)
        for low, high in itertools.pairwise(edges.tolist())
    ]
    chosen = itertools.combinations(blocks, _BLOCKS - REACH)
    return [np.uint64(sum(some)) for some in chosen]


def distance(left, right):
    """Bits in which hashes differ.

    Args:
      left, right: uint64 [n].

    Returns:
      int64 [n], 0..64.
    """
    both = left ^ right
    # Sums of bits in fields of 2, 4 and 8 bits; then of the eight fields.
    both = both - (both >> np.uint64(1) & _ODD)
    both = (both & _PAIRS) + (both >> np.uint64(2) & _PAIRS)
    both = both + (both >> np.uint64(4)) & _NIBBLES
    return (both * _OCTETS >> np.uint64(56)).astype(np.int64)


def likeness(left, right):
    """Correlation of little copies, which no change of contrast alters.

    Args:
      left, right: uint8 [n, 256].

    Returns:
      float32 [n] in -1..1; 0 where one is of one tone.
    """
    left, right = left.astype(np.float32), right.astype(np.float32)
    left -= left.mean(axis=1, keepdims=True)
    right -= right.mean(axis=1, keepdims=True)
    sizes = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.einsum("nc,nc->n", left, right) / np.maximum(sizes, 1e-6)


def _confirm(little, left, right):
    """Those of the pairs whose little copies are alike too."""
    kept = np.zeros(len(left), bool)
    for start in range(0, len(left), _ROWS):
        rows = slice(start, start + _ROWS)
        found = likeness(little[left[rows]], little[right[rows]])
        kept[rows] = found >= LIKENESS
    return left[kept], right[kept]


def _join(groups, left, right):
    """Joins the groups of pairs, in place: each ends as its first place."""
    while len(left):
        low = np.minimum(groups[left], groups[right])
        # The least of all pairs of an image, whatever their order.
        np.minimum.at(groups, groups[left], low)
        np.minimum.at(groups, groups[right], low)
        _settle(groups)
        open_pairs = groups[left] != groups[right]
        left, right = left[open_pairs], right[open_pairs]


def _settle(groups):
    """Follows the places to the first of each group, in place."""
    while True:
        onward = groups[groups]
        if np.array_equal(onward, groups):
            return
        groups[:] = onward


# Levels of 255. Grey photographs stored in colour keep a trace of it.
_GREY = 6  # largest distance between the channels
_PLAIN = 12  # largest range of a channel

_SHOWN = 3  # names in a row of the table
_LONGEST = 60  # characters of a name there


class Fault(NamedTuple):
    """One thing that is wrong with one image.

    Attributes:
      index: int, its place in the source. kind: key of KINDS. detail: str.
    """

    index: int  # type: ignore[assignment]  # not the method of tuples
    kind: str
    detail: str


class Kind(NamedTuple):
    """What a kind of fault is called in the table, and what to do."""

    words: str
    remedy: str
    verdict: str = table.WARN


# In the order of the table.
KINDS = {
    "unreadable": Kind(
        "cannot be read",
        "Mend or remove them. Training takes other images in their place.",
    ),
    "damaged": Kind(
        "are read in spite of damaged data, part of the picture may be wrong",
        "Look at them; copy them anew from where they came.",
    ),
    "misnamed": Kind(
        "have the extension of another format",
        "Rename them. They are read by their first bytes, here; other "
        "programs may not.",
    ),
    "tiny": Kind(
        "have a side of less than half a view",
        "Remove them, or lower data.image_size: crops of them are enlarged.",
    ),
    "plain": Kind(
        "show one tone and nothing else",
        "Remove them: two of them cannot be told apart.",
    ),
    "grey": Kind("have no colour", "", table.OK),
    "turned": Kind("are turned as their EXIF data say", "", table.OK),
    "copy": Kind(
        "are copies of another, to the pixel",
        "Remove the copies: each is a negative of the other.",
    ),
    "near_copy": Kind(
        "look the same as another",
        "Look at them; remove those that are copies: each is a negative of "
        "the other.",
    ),
}


def find(source, found, image_size):
    """Finds what is wrong with the images of a source.

    Args:
      source: Source. found: Scan of it.
      image_size: int, pixels of a view's side.

    Returns:
      list of Fault, by place.
    """
    read = found.readable
    column = {name: values[read] for name, values in found.columns.items()}
    short = np.minimum(column["height"], column["width"])
    plain = column["contrast"] <= _PLAIN
    faults = [
        Fault(index, "unreadable", reason)
        for index, reason in found.unreadable.items()
    ]
    faults += [
        Fault(index, "damaged", words) for index, words in found.damaged.items()
    ]
    for place in np.flatnonzero(column["misnamed"]):
        words = f"holds a {decode.FORMATS[column['format'][place] - 1]}"
        faults.append(Fault(int(read[place]), "misnamed", words))
    for place in np.flatnonzero(2 * short < image_size):
        size = f"{column['width'][place]} x {column['height'][place]} px"
        faults.append(Fault(int(read[place]), "tiny", size))
    for place in np.flatnonzero(plain):
        words = f"tones within {column['contrast'][place]} levels"
        faults.append(Fault(int(read[place]), "plain", words))
    for place in np.flatnonzero((column["spread"] < _GREY) & ~plain):
        faults.append(Fault(int(read[place]), "grey", "no colour"))
    for place in np.flatnonzero(column["orientation"] > 1):
        words = f"EXIF orientation {column['orientation'][place]}"
        faults.append(Fault(int(read[place]), "turned", words))
    faults += _copies(source, read, column, plain)
    return sorted(faults, key=lambda fault: fault.index)


def _copies(source, read, column, plain):
    """Copies of earlier images; plain ones all look the same and do not count.

    Args:
      read: int64 [n], places of the readable images in the source.
      column: dict of their figures. plain: bool [n].
    """
    first = exact_copies(column["pixels"])
    for place in np.flatnonzero(first != np.arange(len(read))):
        name = source.name(int(read[first[place]]))
        yield Fault(int(read[place]), "copy", f"of {name}")
    once = np.flatnonzero((first == np.arange(len(read))) & ~plain)
    groups = alike(column["look"][once], column["little"][once])
    for place in np.flatnonzero(groups != np.arange(len(once))):
        name = source.name(int(read[once[groups[place]]]))
        yield Fault(int(read[once[place]]), "near_copy", f"of {name}")


def count(faults):
    """Number of images of each kind of fault, a dict with all KINDS."""
    counts = dict.fromkeys(KINDS, 0)
    for fault in faults:
        counts[fault.kind] += 1
    return counts


def rows(source, faults, max_corrupt_fraction):
    """Rows of the table, one for each kind that was found.

    Args:
      source: Source. faults: list of Fault.
      max_corrupt_fraction: float, of unreadable images; more fail.
    """
    made = []
    for name, kind in KINDS.items():
        own = [fault for fault in faults if fault.kind == name]
        if not own:
            continue
        share = len(own) / len(source)
        shown = ", ".join(_short(source.name(f.index)) for f in own[:_SHOWN])
        more = ", ..." if len(own) > _SHOWN else ""
        words = f"{len(own)} ({100 * share:.2g} %) {kind.words}: {shown}{more}"
        verdict, remedy = kind.verdict, kind.remedy
        if name == "unreadable" and share > max_corrupt_fraction:
            verdict = table.FAIL
            remedy += (
                " A run stops above data.max_corrupt_fraction="
                f"{max_corrupt_fraction:g}."
            )
        made.append(table.Row(name.replace("_", " "), words, verdict, remedy))
    if all(row.verdict == table.OK for row in made):
        words = "all can be read; none is tiny, plain or a copy"
        made.insert(0, table.Row("images", words))
    return made


def formats(found):
    """A row that counts the files of each format; none without files.

    Args:
      found: Scan.
    """
    counts = np.bincount(
        found.columns["format"], minlength=1 + len(decode.FORMATS)
    )[1:]
    words = [
        f"{count} {name}"
        for name, count in zip(decode.FORMATS, counts, strict=True)
        if count
    ]
    return [table.Row("formats", ", ".join(words))] if words else []


def _short(name):
    return name if len(name) <= _LONGEST else "..." + name[3 - _LONGEST :]


def write_csv(path, source, faults):
    """Writes all faults: a row each with name, kind and detail.

    Side effects: replaces the file; makes its folder.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name of a file need not be text, so its bytes are kept.
    with path.open(
        "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.writer(file)
        writer.writerow(["name", "kind", "detail"])
        for fault in faults:
            name = source.name(fault.index)
            writer.writerow([name, fault.kind, fault.detail])
