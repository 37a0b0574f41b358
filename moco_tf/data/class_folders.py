"""Labels from folders: which images of a folder have a class, and which not.

The rule, on the paths below the root:

* A class is a folder directly below the root; its images are those that lie
  directly in it.
* Other images are strays: beside the class folders, or deeper. They have no
  label. They are images all the same where nobody asks for labels.
* A folder is one of class folders if two class folders or more hold images and
  at least three of four images lie in them, or four and more with no more than
  two strays. Else no image has a label.
* What programs put into folders by themselves (KEPT_BY_PROGRAMS, thumbnails)
  is no class and does not count in the share: some make three small pictures
  of each image.

Deviation: torchvision's ImageFolder and Keras' image_dataset_from_directory
give an image of any depth the class of the folder below the root, so that
train/cat and val/cat become the classes "train" and "val", without a word.
"""

import bisect
import collections
import os
import unicodedata
from typing import Any, NamedTuple

import numpy as np

from moco_tf import paths

NAMED = 3  # names of files that a sentence shows
_SHARE = 3  # labelled images for each stray, at least
_FEW, _OF = 2, 4  # strays, among so many labelled images, whatever the share

# Folders that programs and systems make beside images, in lower case: of
# Synology and QNAP, of macOS, of Windows, of a disk's repair.
KEPT_BY_PROGRAMS = frozenset(
    [
        b"@eadir", b"@__thumb", b"@recycle", b"#recycle", b"#snapshot",
        b"@tmp", b"__macosx", b"$recycle.bin", b"lost+found",
        b"system volume information", b"__pycache__",
    ]
)  # fmt: skip
# These only below a class folder: beside others they may be a class.
_THUMBNAILS = KEPT_BY_PROGRAMS | frozenset(
    [b"thumb", b"thumbs", b"_thumbs", b"thumbnail", b"thumbnails", b"previews"]
)


class Tally:
    """A number of things, and the names of a few, the first by name."""

    def __init__(self, names=()):
        """Counts the names, an iterable of bytes."""
        self.count = 0
        self.first: list[bytes] = []
        for name in names:
            self.add(name)

    def add(self, name):
        """Counts one more, of a name in bytes."""
        self.count += 1
        # Folders are listed in any order; a message is the same each time.
        if self.count <= NAMED or name < self.first[-1]:
            bisect.insort(self.first, name)
            del self.first[NAMED:]

    def __str__(self):
        """The names for a sentence: "a.jpg, b.jpg, ..."."""
        more = ", ..." if self.count > len(self.first) else ""
        names = (paths.shown(os.fsdecode(name)) for name in self.first)
        return ", ".join(names) + more


class Remark(NamedTuple):
    """Something about a source that a user should know.

    Attributes:
      subject: str, a word or two. words: str, what there is.
      remedy: str, sentences; "" where there is nothing to do.
    """

    subject: str
    words: str
    remedy: str = ""

    def __str__(self):
        return f"{self.subject}: {self.words}. {self.remedy}".strip()


class Classes(NamedTuple):
    """The classes of the N images of a folder.

    Attributes:
      labels: int64 [N], -1 for an image without a class; None: no labels.
      names: list of str, by label; None: no labels.
      recorded: (labels, names) that a fingerprint holds, or None. It is what
        earlier versions took for labels, so that their runs go on.
      strays, kept: Tally, of images without a class, the latter in folders
        that programs keep.
      refusal: str, why there are no labels, and the remedy; "" with labels.
    """

    labels: Any
    names: Any
    recorded: Any
    strays: Tally
    kept: Tally
    refusal: str

    def remarks(self):
        """What has no class, counted and named: list of Remark."""
        remarks = []
        if self.labels is not None and self.strays.count:
            words = (
                "images beside the class folders or deeper, without a class: "
                f"{self.strays.count} ({self.strays})"
            )
            remedy = (
                "They are trained on without labels and left out where labels "
                "are needed. Move them into class folders, or away."
            )
            remarks.append(Remark("strays", words, remedy))
        if self.kept.count:
            words = (
                "images in folders that programs make: "
                f"{self.kept.count} ({self.kept})"
            )
            remedy = (
                "They are trained on and have no class. Move these folders "
                "away if they hold thumbnails."
            )
            remarks.append(Remark("strays", words, remedy))
        return remarks


def classes_of(images, root=""):
    """Finds the classes of a folder's images, by the rule above.

    Args:
      images: list of bytes [N], paths below the root.
      root: str, the folder, for the remedy.

    Returns:
      Classes.
    """
    place_of = _Places()  # of a million images few folders
    places = [place_of[name[: name.rfind(b"/") + 1]] for name in images]
    strays = Tally(_of(images, places, _STRAY))
    kept = Tally(_of(images, places, _KEPT))
    numbered, names = number_classes(
        name.partition(b"/")[0] for name in _of(images, places, _MEMBER)
    )
    labels = np.full(len(images), -1, np.int64)
    labels[np.array(places) == _MEMBER] = numbered
    recorded = (labels, names) if len(names) > 1 else None
    if strays.count or kept.count:
        recorded = _recorded(images)
    few = strays.count <= _FEW and len(numbered) >= _OF
    if len(names) > 1 and (few or len(numbered) >= _SHARE * strays.count):
        return Classes(labels, names, recorded, strays, kept, "")
    refusal = _refusal(images, places, names, strays, root)
    return Classes(None, None, recorded, Tally(), kept, refusal)


def _recorded(images):
    """Labels and names by the rule of earlier versions, or None.

    All images had to lie directly in two folders or more, of any name.
    """
    if any(name.count(b"/") != 1 for name in images):
        return None
    labels, names = number_classes(name.partition(b"/")[0] for name in images)
    return (labels, names) if len(names) > 1 else None


_MEMBER, _STRAY, _KEPT = range(3)


class _Places(dict):
    """Where the images of a folder lie, by its path with a "/" at its end."""

    def __missing__(self, folder):
        self[folder] = place = _place(folder)
        return place


def _place(folder):
    """Where an image lies: _MEMBER of a class folder, _STRAY or _KEPT."""
    *folders, _ = folder.lower().split(b"/")
    if not folders:
        return _STRAY
    if is_kept(folders[0]):
        return _KEPT
    if len(folders) == 1:
        return _MEMBER
    return _STRAY if _THUMBNAILS.isdisjoint(folders[1:]) else _KEPT


def is_kept(name):
    """Whether a folder (bytes) is one that programs make for themselves."""
    return name.lower() in KEPT_BY_PROGRAMS


def _of(images, places, wanted):
    for name, place in zip(images, places, strict=True):
        if place == wanted:
            yield name


def _refusal(images, places, names, strays, root):
    """Why a folder is not one of class folders, and what to do."""
    instead = (
        "or name the images in a list with their classes (list:FILE, each line "
        "PATH<TAB>CLASS)."
    )
    deep = [
        name for name in _of(images, places, _STRAY) if name.count(b"/") > 1
    ]
    if len(names) > 1:
        return (
            f"{strays.count} of its {len(images)} images lie beside the class "
            f"folders or deeper ({strays}): more than one of four. Move them "
            f"away or into class folders, {instead}"
        )
    if deep and 2 * len(deep) > len(images):
        below = _folders_of_classes(deep)
        if below:
            path = os.path.join(root, os.fsdecode(below[0]))
            spec = paths.quote(f"folder:{path}")
            others = f" ({len(below)} are such)" if len(below) > 1 else ""
            instead = f"as {spec}{others}, {instead}"
        return (
            "its images lie more than one folder deep "
            f"({paths.shown(os.fsdecode(deep[0]))}). Give the folder whose "
            f"folders are the classes, {instead}"
        )
    if names and not strays.count:
        return (
            f"all its images lie in one folder, {names[0]!r}, and classes are "
            f"two or more. Add the folders of the others, {instead}"
        )
    return (
        f"its images lie side by side ({strays}). Put those of each class into "
        f"a folder of its own below it, {instead}"
    )


def _folders_of_classes(deep):
    """The folders directly below the root that are folders of class folders."""
    below = collections.defaultdict(list)
    for name in deep:
        folder, _, rest = name.partition(b"/")
        below[folder].append(rest)
    return [
        folder
        for folder, names in sorted(below.items())
        if classes_of(names).labels is not None
    ]


def number_classes(classes):
    """Numbers the classes of N images in the order of their names.

    Args:
      classes: iterable of bytes, the class name of each image.

    Returns:
      labels int64 [N], and the names by label, list of str; names that are all
      whole numbers are sorted as numbers.
    """
    numbers, names = number_distinct(classes)
    names = [name.decode("utf-8", "surrogateescape") for name in names]
    ordered = sorted(names)
    if all(name.isdecimal() for name in names):
        ordered.sort(key=lambda name: (int(name), name))
    rank = {name: number for number, name in enumerate(ordered)}
    ranks = np.array([rank[name] for name in names], np.int64)
    return ranks[numbers], ordered


def number_distinct(values):
    """Numbers of N values, int64 [N], and the distinct values that they index.

    The distinct values are in the order of their first appearance.
    """
    known: dict[bytes, int] = {}
    numbers = (known.setdefault(value, len(known)) for value in values)
    return np.fromiter(numbers, np.int64), list(known)


def without_quotes(name):
    """A class (str) without what is not seen: blanks and quotes around it."""
    name = name.strip()
    for quote in "\"'":
        if len(name) > 1 and name.startswith(quote) and name.endswith(quote):
            name = name[1:-1].strip()
    return unicodedata.normalize("NFC", name)


def alike(names):
    """Pairs of classes that differ in nothing one sees, or in case alone.

    Args:
      names: list of str.
    """
    first: dict[str, str] = {}
    pairs = ((first.setdefault(plain(name), name), name) for name in names)
    return [pair for pair in pairs if pair[0] != pair[1]]


def plain(name):
    """A class (str) as it is compared with others to find a slip."""
    return without_quotes(name).casefold()
