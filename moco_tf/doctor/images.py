"""From the figures of a scan to what is wrong with which image."""

import csv
import pathlib
from typing import NamedTuple

import numpy as np

from moco_tf.data import decode
from moco_tf.doctor import duplicates, table

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
    first = duplicates.exact_copies(column["pixels"])
    for place in np.flatnonzero(first != np.arange(len(read))):
        name = source.name(int(read[first[place]]))
        yield Fault(int(read[place]), "copy", f"of {name}")
    once = np.flatnonzero((first == np.arange(len(read))) & ~plain)
    groups = duplicates.alike(column["look"][once], column["little"][once])
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
