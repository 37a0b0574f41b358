"""From the figures of a scan to the faults of each image, and class counts.

Images that occur twice, to the pixel or to the eye, are found without comparing
all pairs. Two 64-bit hashes that differ in at most MAX_DISTANCE bits, cut at
the same positions into _BLOCKS blocks, have _BLOCKS - MAX_DISTANCE blocks or
more in common. So each choice of that many blocks is a table of its own: images
that agree there become neighbours when they are sorted, and only neighbours are
compared. Work and memory grow with N, not with its square.
"""

import collections
import csv
import itertools
import os
import pathlib
from typing import NamedTuple

import numpy as np

from moco_tf import counting, paths
from moco_tf.data import (
    class_folders,
    host_decode,
    image_files,
    sources,
    unreadable,
)
from moco_tf.doctor import scan, table

# Levels of 255. Grey photographs stored in colour keep a trace of it.
_GREY = 6  # largest distance between the channels
_PLAIN = 12  # largest range of a channel

_NAMED = 3  # images named in a row of the table
_NAME_LENGTH = 60  # characters of a name there

_UNEVEN = 10  # times as many images in one class as in another
MAX_DISTANCE = 8  # bits in which the hashes of near copies may differ
MIN_CORRELATION = 0.95  # of the thumbnails of near copies
_BLOCKS = 11  # that a hash is cut into
# In a crowd (frames of one film) an image meets as many of its neighbours: the
# chain of pairs joins them all the same.
_NEIGHBOURS = 32
_PAIRS_AT_ONCE = 65536  # whose thumbnails are compared
# Masks of 64 bits: every second bit, two of four, four of eight, one of eight.
_ODD, _PAIRS, _NIBBLES, _OCTETS = (
    np.uint64(int(f"0x{octet * 8}", 16)) for octet in ("55", "33", "0f", "01")
)


class Fault(NamedTuple):
    """A fault of one image.

    Attributes:
      index: int, of the image in the source. kind: key of KINDS. detail: str.
    """

    index: int  # type: ignore[assignment]  # not the method of tuples
    kind: str
    detail: str


class Kind(NamedTuple):
    """A kind of fault: its words in the table, and the remedy."""

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


def find_faults(source, figures, image_size):
    """Finds the faults of the images of a source.

    Args:
      source: Source. figures: scan.Scan of it.
      image_size: int, pixels of a view's side.

    Returns:
      list of Fault, by index.
    """
    indices = figures.readable
    column = {name: values[indices] for name, values in figures.columns.items()}
    short = np.minimum(column["height"], column["width"])
    plain = column["contrast"] <= _PLAIN
    faults = [
        Fault(index, "unreadable", reason)
        for index, reason in figures.unreadable.items()
    ]
    faults += [
        Fault(index, "damaged", warning)
        for index, warning in figures.damaged.items()
    ]

    def add(kind, mask, detail):
        """Adds a fault for each readable image of a mask, bool [n]."""
        for row in np.flatnonzero(mask):
            faults.append(Fault(int(indices[row]), kind, detail(row)))

    add(
        "misnamed",
        column["misnamed"],
        lambda row: f"holds a {host_decode.FORMATS[column['format'][row] - 1]}",
    )
    add(
        "tiny",
        2 * short < image_size,
        lambda row: f"{column['width'][row]} x {column['height'][row]} px",
    )
    add(
        "plain",
        plain,
        lambda row: f"tones within {column['contrast'][row]} levels",
    )
    add("grey", (column["spread"] < _GREY) & ~plain, lambda row: "no colour")
    add(
        "turned",
        column["orientation"] > 1,
        lambda row: f"EXIF orientation {column['orientation'][row]}",
    )
    faults += _copies(source, indices, column, plain)
    return sorted(faults, key=lambda fault: fault.index)


def _copies(source, indices, column, plain):
    """Copies of earlier images; plain ones all look the same and do not count.

    Args:
      indices: int64 [n], of the readable images in the source.
      column: dict of their figures. plain: bool [n].
    """
    first = exact_copies(column["pixel_hash"])
    is_first = first == np.arange(len(indices))
    for row in np.flatnonzero(~is_first):
        name = source.name(int(indices[first[row]]))
        yield Fault(int(indices[row]), "copy", f"of {name}")
    once = np.flatnonzero(is_first & ~plain)
    groups = near_copies(
        column["perceptual_hash"][once], column["thumbnail"][once]
    )
    for row in np.flatnonzero(groups != np.arange(len(once))):
        name = source.name(int(indices[once[groups[row]]]))
        yield Fault(int(indices[once[row]]), "near_copy", f"of {name}")


def count_faults(faults):
    """Number of images of each kind of fault, a dict with all KINDS."""
    counts = dict.fromkeys(KINDS, 0)
    for fault in faults:
        counts[fault.kind] += 1
    return counts


def fault_rows(source, faults, max_corrupt_fraction):
    """Rows of the table, one for each kind of fault that occurs.

    Args:
      source: Source. faults: list of Fault.
      max_corrupt_fraction: float, of unreadable images; more fail.
    """
    rows = []
    for name, kind in KINDS.items():
        indices = [fault.index for fault in faults if fault.kind == name]
        if not indices:
            continue
        share = len(indices) / len(source)
        names = ", ".join(_short(source.name(x)) for x in indices[:_NAMED])
        more = ", ..." if len(indices) > _NAMED else ""
        words = (
            f"{len(indices)} ({100 * share:.2g} %) {kind.words}: {names}{more}"
        )
        verdict, remedy = kind.verdict, kind.remedy
        if name == "unreadable":
            words += f"{'' if more else '.'} Why: {_reasons(faults)}"
        if name == "unreadable" and share > max_corrupt_fraction:
            verdict = table.FAIL
            remedy += (
                " A run stops above --config.data.max_corrupt_fraction="
                f"{max_corrupt_fraction:g}; pass {_above(share):g} to let it "
                "go on."
            )
        rows.append(table.Row(name.replace("_", " "), words, verdict, remedy))
    if all(row.verdict == table.OK for row in rows):
        words = "all can be read; none is tiny, plain or a copy"
        rows.insert(0, table.Row("images", words))
    return rows


def _reasons(faults):
    """The most frequent reasons of unreadable images, with their numbers."""
    reasons = collections.Counter(
        unreadable.without_path(fault.detail)
        for fault in faults
        if fault.kind == "unreadable"
    )
    named = [f"{text} ({n})" for text, n in reasons.most_common(_NAMED)]
    return "; ".join(named) + "; ..." * (len(reasons) > _NAMED)


def _above(share):
    """A fraction above a share of images, in two digits."""
    return min(1.0, (int(100 * share) + 1) / 100)


def _short(name):
    """A name cut to what fits into a row of the table."""
    name = paths.shown(name)  # it may be bytes that are no text
    if len(name) <= _NAME_LENGTH:
        return name
    return "..." + name[3 - _NAME_LENGTH :]


def format_rows(figures):
    """A row that counts the files of each format; none without files.

    Args:
      figures: scan.Scan.
    """
    counts = np.bincount(
        figures.columns["format"], minlength=1 + len(host_decode.FORMATS)
    )[1:]
    words = [
        f"{count} {name}"
        for name, count in zip(host_decode.FORMATS, counts, strict=True)
        if count
    ]
    return [table.Row("formats", ", ".join(words))] if words else []


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


def remark_rows(source):
    """Rows on what was left out or passed over, and on strays."""
    return [
        table.Row(
            remark.subject,
            remark.words,
            table.WARN if remark.remedy else table.OK,
            remark.remedy,
        )
        for remark in sources.remarks(source)
    ]


def class_rows(source, spec, bank=""):
    """Rows of the table about labels.

    Args:
      source: Source. spec: str, that it was opened with.
      bank: str, other images, which have labels, that kNN takes, or "".
    """
    rows = _empty_folders(spec)
    if source.labels is None:
        words = "no labels; pre-training needs none"
        if bank:
            words += f", and kNN takes those of {paths.shown(bank)}"
            return [table.Row("classes", words), *rows]
        why = getattr(source, "why_unlabelled", "")
        if why:
            words += f". kNN and `linear` do: {why.rstrip('.')}"
        return [table.Row("classes", words), *rows]
    labels = np.asarray(source.labels)
    labels = labels[labels >= 0]  # strays have none, and a row of their own
    length = len(source.class_names or []) or labels.max() + 1
    counts = np.bincount(labels, minlength=length)
    names = source.class_names or [str(n) for n in range(length)]
    if not counts.all():
        empty = [names[n] for n in np.flatnonzero(counts == 0)]
        rows.append(_empty_row(empty, "class"))
    present = np.flatnonzero(counts)
    few = present[counts[present].argmin()]
    many = present[counts[present].argmax()]
    words = f"{len(present)} classes of {counts[few]} images each"
    if counts[few] < counts[many]:
        words = (
            f"{len(present)} classes of {counts[few]} ({names[few]}) to "
            f"{counts[many]} ({names[many]}) images"
        )
    pairs = class_folders.alike(names)
    if pairs:
        alike = ", ".join(f"{a!r} and {b!r}" for a, b in pairs[:_NAMED])
        remedy = "If each pair is one class, write it in one way."
        rows.append(
            table.Row("classes", f"{alike} look alike", table.WARN, remedy)
        )
    if len(present) == 1:
        words = f"all {counts[many]} images are of one class, {names[many]}"
        remedy = "kNN and `linear` need two classes or more."
        rows.append(table.Row("classes", words, table.WARN, remedy))
    elif counts[many] > _UNEVEN * counts[few]:
        remedy = (
            "Pre-training ignores classes, but sees rare ones rarely. Read "
            "accuracies by class."
        )
        rows.append(table.Row("classes", words, table.WARN, remedy))
    else:
        rows.append(table.Row("classes", words))
    return rows


def _empty_folders(spec):
    """A row for folders below the root that hold no image."""
    kind, _, path = spec.partition(":")
    if kind != "folder":
        return []
    with os.scandir(os.path.expanduser(path)) as listing:
        empty = sorted(
            entry.name
            for entry in listing
            # A link in a circle is no folder to os.path, an error to entry.
            if os.path.isdir(entry.path)
            and not entry.name.startswith(".")
            and not class_folders.is_kept(os.fsencode(entry.name))
            and not _holds_image(entry.path)
        )
    return [_empty_row(empty, "folder")] if empty else []


def _holds_image(folder):
    return any(
        os.fsencode(name).lower().endswith(image_files.READABLE_ENDINGS)
        for _, _, names in os.walk(folder)
        for name in names
    )


def _empty_row(names, noun):
    """The row that names empty classes, or folders."""
    some = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    words = f"{len(names)} without an image: {some}"
    remedy = f"Fill or remove each such {noun}."
    return table.Row("empty classes", words, table.WARN, remedy)


def exact_copies(hashes):
    """Groups images of the same pixels.

    Args:
      hashes: int64 [N], the same for the same pixels.

    Returns:
      int64 [N], the first position of the same value.
    """
    _, first, groups = np.unique(hashes, return_index=True, return_inverse=True)
    return first[groups]


@counting.timed("looking for copies")
def near_copies(hashes, thumbnails):
    """Groups images that look the same.

    Args:
      hashes: int64 [N] (scan.perceptual_hash).
      thumbnails: uint8 [N, 256], luminance.

    Returns:
      int64 [N], the first position of the group of each.
    """
    hashes = np.ascontiguousarray(hashes).view(np.uint64)
    groups = np.arange(len(hashes))
    for mask in _masks():
        keys = hashes & mask
        order = np.lexsort((hashes, keys))
        keys, ordered = keys[order], hashes[order]
        for step in range(1, min(_NEIGHBOURS, len(hashes) - 1) + 1):
            rows = np.flatnonzero(keys[:-step] == keys[step:])
            if not len(rows):
                break
            bits = hamming_distance(ordered[rows], ordered[rows + step])
            rows = rows[bits <= MAX_DISTANCE]
            left, right = order[rows], order[rows + step]
            new = groups[left] != groups[right]
            _join(groups, *_confirm(thumbnails, left[new], right[new]))
    return groups


def _masks():
    """The bits that each table sorts by: uint64 scalars."""
    edges = np.linspace(0, scan.HASH_BITS, _BLOCKS + 1).astype(int)
    blocks = [
        ((1 << high) - 1) ^ ((1 << low) - 1)
        for low, high in itertools.pairwise(edges.tolist())
    ]
    chosen = itertools.combinations(blocks, _BLOCKS - MAX_DISTANCE)
    return [np.uint64(sum(some)) for some in chosen]


def hamming_distance(left, right):
    """Bits in which hashes differ.

    Args:
      left, right: uint64 [n].

    Returns:
      int64 [n], 0..64.
    """
    bits = left ^ right
    # Sums of bits in fields of 2, 4 and 8 bits; then of the eight fields.
    bits = bits - (bits >> np.uint64(1) & _ODD)
    bits = (bits & _PAIRS) + (bits >> np.uint64(2) & _PAIRS)
    bits = bits + (bits >> np.uint64(4)) & _NIBBLES
    return (bits * _OCTETS >> np.uint64(56)).astype(np.int64)


def correlation(left, right):
    """Correlation of thumbnails, which no change of contrast alters.

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


def _confirm(thumbnails, left, right):
    """Those of the pairs whose thumbnails look the same too."""
    kept = np.zeros(len(left), bool)
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        rows = slice(start, start + _PAIRS_AT_ONCE)
        same = correlation(thumbnails[left[rows]], thumbnails[right[rows]])
        kept[rows] = same >= MIN_CORRELATION
    return left[kept], right[kept]


def _join(groups, left, right):
    """Joins the groups of pairs, in place: each takes the first position."""
    while len(left):
        low = np.minimum(groups[left], groups[right])
        # The least of all pairs of an image, whatever their order.
        np.minimum.at(groups, groups[left], low)
        np.minimum.at(groups, groups[right], low)
        _settle(groups)
        open_pairs = groups[left] != groups[right]
        left, right = left[open_pairs], right[open_pairs]


def _settle(groups):
    """Follows the positions to the first of each group, in place."""
    while True:
        onward = groups[groups]
        if np.array_equal(onward, groups):
            return
        groups[:] = onward
