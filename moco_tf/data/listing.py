"""The images of a run, as its workdir lists them: names, labels and marks.

The order of the samples is a permutation of the images' numbers, so a run
needs the numbering it began with. Its workdir keeps the names in their order;
when the images differ at a later start, they are numbered by that list again,
and what differs is counted. A mark is the size of a file, or the checksum of
the pixels in a cache; a network folder is asked for 10,000 sizes at most.

The file is an .npz without pickles. Needs no TensorFlow.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from moco_tf import counting, filesystem, state_files

_ANY = "surrogateescape"  # a name need not be text, so its bytes are kept
PAIR = b"\0"  # between the two files of a pair: in no name
_SHOWN = 5  # names of each kind, in what is said


class Listing(NamedTuple):
    """N images in their order.

    Attributes:
      names: list of bytes [N].
      root: bytes, folder that relative names start from; b"" where names are
        no paths of files.
      kind: of the marks, "bytes" or "crc32"; marks of two kinds differ.
      places: int64 [n], the images that are marked, rising.
      marks: int64 [n]; negative: the image could not be read.
      labels: int64 [N], or None. class_names: list of str, or None.
    """

    names: list
    root: bytes
    kind: str
    places: np.ndarray
    marks: np.ndarray
    labels: np.ndarray | None = None
    class_names: list | None = None


class Difference(NamedTuple):
    """What became of the images of a Listing.

    Attributes:
      names: list of bytes [N], as they are called now; those that are gone as
        they were.
      gone: bool [N]. changed: bool [N], of those that are marked.
      looked_at: int, images whose marks were compared.
      added: list of bytes, names that the Listing lacks.
      relabelled: int, images of another class. reordered: bool.
    """

    names: list
    gone: np.ndarray
    changed: np.ndarray
    looked_at: int
    added: list
    relabelled: int
    reordered: bool

    def is_the_same_set(self, known_bad: Collection[bytes] = ()) -> bool:
        """Whether at least half of the images, then and now, are the same.

        Args:
          known_bad: names of images that could not be read: to mend or to
            remove them does not make other data.
        """
        total = len(self.names)
        if not self.looked_at and total > self.gone.sum():
            return False  # a cache in the place of files, or the reverse
        other = self.gone | self.changed
        bad = frozenset(known_bad)
        excused = sum(
            self.names[i].partition(PAIR)[0] in bad
            for i in np.flatnonzero(other)
        )
        lost = self.gone.sum()
        # Of the images that are not looked at, as many have changed.
        share = self.changed.sum() / max(self.looked_at, 1)
        kept = total - lost - share * (total - lost) + excused
        return bool(2 * kept >= total + len(self.added))

    def describe(self) -> str:
        """The numbers, and some names, in words; "" where none differ."""
        changed = np.flatnonzero(self.changed)
        parts = [
            _count(len(self.added), "added", self.added),
            _count(int(self.gone.sum()), "removed", self._some(self.gone)),
            _count(len(changed), "changed", self._some(self.changed)),
        ]
        if len(changed) and self.looked_at < len(self.names) - self.gone.sum():
            parts[-1] += f", of {self.looked_at} that were looked at"
        if self.relabelled:
            parts.append(f"{self.relabelled} of another class")
        if self.reordered:
            parts.append("another order")
        return "; ".join(part for part in parts if part)

    def digest(self) -> str:
        """Hex digest of what is gone or changed; "" if nothing is."""
        chosen = np.flatnonzero(self.gone | self.changed)
        return (
            hashlib.sha256(chosen.tobytes()).hexdigest() if len(chosen) else ""
        )

    def _some(self, chosen):
        return [self.names[i] for i in np.flatnonzero(chosen)[: _SHOWN + 1]]


def marked(count: int, most: int) -> np.ndarray:
    """The places int64 [n] of at most `most` of `count` images."""
    return np.arange(0, count, max(1, -(-count // most)))


def of(
    source: Any,
    names: list,
    kind: str,
    places: np.ndarray,
    root: bytes = b"",
) -> Listing:
    """The Listing of a source, with its labels and marks.

    Args:
      source: Source that has `marks`. names: list of bytes [N].
      kind: of the marks. places: int64 [n], the images to mark, rising.
      root: folder that relative names start from; b"": names are no paths.
    """
    return Listing(
        names=names,
        root=root,
        kind=kind,
        places=places,
        marks=source.marks(places),
        labels=source.labels,
        class_names=source.class_names,
    )


@counting.timed("writing the list of the images")
def write(path: str | pathlib.Path, listing: Listing) -> None:
    """Writes a Listing, complete or not at all.

    Args:
      path: of the .npz file, replaced if it is there; its folder is made.
    """
    names, lengths = _pack(listing.names)
    arrays = {
        "names": names,
        "lengths": lengths,
        "root": np.frombuffer(listing.root, np.uint8),
        "kind": np.array(listing.kind),
        "places": listing.places,
        "marks": listing.marks,
    }
    if listing.labels is not None:
        arrays["labels"] = np.asarray(listing.labels, np.int64)
    if listing.class_names is not None:
        encoded = [name.encode("utf-8", _ANY) for name in listing.class_names]
        arrays["classes"], arrays["class_lengths"] = _pack(encoded)
    with filesystem.atomic_file(path) as part:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)


def read(path: str | pathlib.Path) -> Listing:
    """Reads a Listing.

    Raises:
      ValueError: for a file that is missing, damaged or no Listing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = _unpack(arrays["names"], arrays["lengths"])
        class_names = None
        if "classes" in arrays:
            encoded = _unpack(arrays["classes"], arrays["class_lengths"])
            class_names = [name.decode("utf-8", _ANY) for name in encoded]
        return Listing(
            names=names,
            root=arrays["root"].tobytes(),
            kind=str(arrays["kind"]),
            places=arrays["places"],
            marks=arrays["marks"],
            labels=arrays.get("labels"),
            class_names=class_names,
        )
    except state_files.DAMAGED_ARRAY as error:
        raise ValueError(
            f"{path} cannot be read: {error or type(error).__name__}. It lists "
            "the images that the run began with. Put a copy of it back; or "
            "delete it and start with just those images: it is written anew."
        ) from error


def digest(images: Listing) -> str:
    """Hex digest of a Listing, the same for the same images elsewhere."""
    names = _below(images) if images.root else images.names
    sha256 = hashlib.sha256(b"\0".join(names))
    for array in (images.places, images.marks, images.labels):
        if array is not None:
            sha256.update(array.tobytes())
    classes = "\0".join(images.class_names or ())
    sha256.update(classes.encode("utf-8", _ANY))
    return sha256.hexdigest()


def compare(
    before: Listing, now: Listing, marks_of: Callable[[np.ndarray], np.ndarray]
) -> Difference:
    """Finds the images of a Listing among those that are there now.

    Names are compared as they were listed and, where most are not found so, as
    paths below the deepest folder of all: a list of absolute paths may have
    been written anew for another mount.

    Args:
      before: what the run began with. now: of its source now.
      marks_of: function of places int64 [n] in `now` -> int64 [n], their marks.
    """
    rows = _rows(before.names, now.names, before, now)
    if 2 * (rows >= 0).sum() < len(rows) and before.root and now.root:
        below = _rows(_below(before), _below(now), before, now)
        rows = max(rows, below, key=lambda rows: (rows >= 0).sum())
    gone = rows < 0
    names = [
        old if row < 0 else now.names[row]
        for old, row in zip(before.names, rows.tolist(), strict=True)
    ]
    used = np.zeros(len(now.names), bool)
    used[rows[~gone]] = True
    changed = np.zeros(len(rows), bool)
    compared = before.places[rows[before.places] >= 0]
    if before.kind != now.kind:
        compared = compared[:0]
    marks = before.marks[np.isin(before.places, compared)]
    changed[compared] = marks != marks_of(rows[compared])
    relabelled = 0
    if before.labels is not None and now.labels is not None:
        relabelled = _relabelled(before, now, rows)
    return Difference(
        names=names,
        gone=gone,
        changed=changed,
        looked_at=len(compared),
        added=[now.names[i] for i in np.flatnonzero(~used)],
        relabelled=relabelled,
        reordered=bool((np.diff(rows[~gone]) < 0).any()),
    )


def _rows(names, others, before, now):
    """The place of each name among others, int64; -1: it is not there.

    A list may have a name again, with another class as well: a line is one of
    the same class there or, if there is none, of any. The k-th of several is
    the k-th there.

    Args:
      names, others: lists, of the images of `before` and `now`, two Listings.
    """
    classes = _classes(before), _classes(now)
    differ = _all_differ(names) and _all_differ(others)
    if classes[0] is None or classes[1] is None or differ:
        return _places(names, others)
    rows = _places(*map(list, map(zip, (names, others), classes)))
    left = np.flatnonzero(rows < 0)
    free = np.setdiff1d(np.arange(len(others)), rows)
    places = _places([names[i] for i in left], [others[i] for i in free])
    rows[left] = np.append(free, -1)[places]
    return rows


def _all_differ(names):
    return len(set(names)) == len(names)


def _classes(listing):
    """The class of each image: its name, where there are names; or None."""
    if listing.labels is None or listing.class_names is None:
        return None if listing.labels is None else listing.labels.tolist()
    return [
        listing.class_names[label] if label >= 0 else label
        for label in listing.labels.tolist()
    ]


def _places(names, others):
    """The place of each name among others, the k-th of one the k-th."""
    places = {name: place for place, name in enumerate(_numbered(others))}
    rows = (places.get(name, -1) for name in _numbered(names))
    return np.fromiter(rows, np.int64, len(names))


def _numbered(names):
    """Yields the names; one that was there before with how often, a tuple."""
    counts: dict[Any, int] = {}
    for name in names:
        before = counts.get(name, 0)
        counts[name] = before + 1
        yield (before, name) if before else name


def _below(listing):
    """The names as normal paths below the deepest folder of all of them."""
    paths = [
        os.path.normpath(os.path.join(listing.root, name))
        for name in listing.names
    ]
    common = os.path.commonprefix([min(paths), max(paths)])
    start = common.rfind(b"/") + 1
    return [path[start:] for path in paths]


def _relabelled(before, now, rows):
    """How many images of both are of another class now."""
    here = np.flatnonzero(rows >= 0)
    old, new = before.labels[here], np.asarray(now.labels)[rows[here]]
    if before.class_names is None or now.class_names is None:
        return int((old != new).sum())
    numbers = {name: number for number, name in enumerate(now.class_names)}
    # A class that is no more; and -1, of an image without one, stays itself.
    translated = np.array(
        [*(numbers.get(name, -2) for name in before.class_names), -1]
    )
    return int((translated[old] != new).sum())


def _count(number, what, names):
    """ "2 removed (a.png, b.png)"; "" for none."""
    if not number:
        return ""
    shown = [os.fsdecode(name.replace(PAIR, b" + ")) for name in names[:_SHOWN]]
    shown += ["..."] * (number > _SHOWN)
    return f"{number} {what} ({', '.join(shown)})"


def _pack(names):
    """Bytes behind one another, uint8, and their lengths, int64."""
    joined = np.frombuffer(b"".join(names), np.uint8)
    return joined, np.array([len(name) for name in names], np.int64)


def _unpack(joined, lengths):
    """The list of bytes that `_pack` was given."""
    data, ends = joined.tobytes(), np.cumsum(lengths)
    if len(data) != (int(ends[-1]) if len(ends) else 0) or (lengths < 0).any():
        raise ValueError("its names are not as long as it says")
    starts = (ends - lengths).tolist()
    pairs = zip(starts, ends.tolist(), strict=True)
    return [data[start:end] for start, end in pairs]
