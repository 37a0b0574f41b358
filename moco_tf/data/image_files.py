"""Sources of image files: a folder, a list, and pairs of two aligned files.

Names of files need not be valid text: paths are bytes throughout. A folder or
list may have millions of files: asking a network file system for each one, and
Python objects for each one, are avoided where they would take minutes.
"""

import functools
import hashlib
import os
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf import counting, file_kinds
from moco_tf import paths as any_paths
from moco_tf.data import (
    class_folders,
    folder_contents,
    host_decode,
    list_files,
    listing,
    specs,
)
from moco_tf.data.class_folders import Remark

FORMATS_READ = host_decode.FORMATS  # by all that read files of the disk
# Endings of file names, in the order of the formats.
ENDINGS = (
    (b".jpg", b".jpeg", b".jpe", b".jfif", b".mpo"),
    (b".png", b".apng"),
    (b".gif",),
    (b".bmp", b".dib"),
    (b".webp",),
    (b".tif", b".tiff"),
)
READABLE_ENDINGS = sum(ENDINGS, ())
# Of which earlier versions read no files: their runs began without them.
_ADDED = (b".mpo", b".apng", b".dib", b".webp", b".tif", b".tiff")
_FIRST_ENDINGS = tuple(x for x in READABLE_ENDINGS if x not in _ADDED)
_SIZES_HASHED = 10_000
PAIR_CHANNELS = 6  # of both files of a pair


class FileSource:
    """Image files, read and decoded sample by sample.

    Attributes:
      why_unlabelled: str, why `labels` are None, and the remedy; "" with
        labels, or where nothing is known of it.
      earlier: function of nothing -> the source as earlier versions opened it,
        which read files of fewer endings; None where that is the same.
    """

    may_fail = True
    channels = 3
    removed: Any = None
    earlier: Any = None

    def __init__(
        self,
        root,
        paths,
        labels=None,
        class_names=None,
        *,
        recorded=(),
        why_unlabelled="",
        look=lambda _: [],
    ):
        """Takes the paths of the files.

        Args:
          root: folder that relative paths start from.
          paths: list of str or bytes, relative to `root` or absolute.
          labels: int64 [N], -1 for an image without a class, or None.
          class_names: list of str or None.
          recorded: (labels, class_names) that the fingerprint holds, or None;
            (): those above.
          why_unlabelled: see above. look: this source -> list of Remark.
        """
        self.labels = labels
        self.class_names = class_names
        self.why_unlabelled = why_unlabelled
        self._recorded = recorded
        if recorded == ():
            self._recorded = None if labels is None else (labels, class_names)
        self._look = look
        self._root = os.fsencode(any_paths.absolute(root))
        listed = [os.fsencode(path) for path in paths]
        # The graph refers to a tensor that exists before it is traced; a
        # constant created while tracing would be copied into it.
        with tf.device("CPU:0"):
            self._paths = self._files = tf.constant(listed)
            if any(b".." in path for path in listed):
                self._files = tf.constant([self._file(x) for x in listed])

    def __len__(self):
        return len(self._paths)

    def _file(self, path):
        """A listed path without ".."; the platform follows no link there."""
        if b".." not in path.split(b"/"):
            return path
        return os.path.realpath(os.path.join(self._root, path))

    def paths(self):
        """The paths as they were listed, bytes [N]."""
        return self._paths.numpy()

    def reordered(self, indices):
        """A source of the same files without labels, in int [N] order."""
        root, paths = os.fsdecode(self._root), self.paths()[indices]
        return FileSource(root, paths, look=self._look)

    def records(self, indices):
        """Full paths, string [n], of int64 [n] indices."""
        paths = tf.gather(self._files, indices)
        absolute = tf.equal(tf.strings.substr(paths, 0, 1), b"/")
        return tf.where(
            absolute, paths, tf.strings.join([self._root, b"/", paths])
        )

    def image(self, record):
        """Reads one path: uint8 [H, W, 3]; raises as `host_decode.decode`."""
        return host_decode.decode(tf.io.read_file(record))

    def file_paths(self, index):
        """Full paths of the files of a sample, list of bytes."""
        return self.records(index[tf.newaxis]).numpy().tolist()

    def name(self, index):
        """The file's path as it was listed."""
        return os.fsdecode(self._paths[index].numpy())

    def remarks(self):
        """What a user should know of the files: list of Remark.

        Side effects: may read the first bytes of a few files.
        """
        return self._look(self)

    def fingerprint(self):
        """Hex digest of the names, their labels, and the sizes of files.

        Labels are those of earlier versions, so that a run of theirs goes on
        (`class_folders.Classes.recorded`); the names decide the others. Sizes
        are taken of at most 10,000 files, evenly spaced: asking a
        network folder for millions takes many minutes.
        """
        digest = hashlib.sha256()
        # Joined by the platform: a million names are no Python objects then.
        joined = tf.strings.reduce_join(self._paths, separator="\0")
        digest.update(joined.numpy())
        if self._recorded is not None:
            labels, class_names = self._recorded
            digest.update(labels.tobytes())
            names = "\0".join(class_names)
            digest.update(names.encode("utf-8", "surrogateescape"))
        for size in self.marks(listing.marked(len(self), _SIZES_HASHED)):
            digest.update(b"%d " % size)
        return digest.hexdigest()

    @counting.timed("asking for the sizes of files")
    def marks(self, indices):
        """Sizes of files, bytes, int64 [n] of [n]; -1 where there is none."""
        paths = (
            os.path.join(self._root, name)
            for name in tf.gather(self._paths, indices).numpy()
        )
        sizes = (os.path.getsize(p) if os.path.exists(p) else -1 for p in paths)
        return np.fromiter(sizes, np.int64, len(indices))

    def listing(self):
        """The Listing of the files, for the workdir of a run."""
        names, places = (
            self.paths().tolist(),
            listing.marked(len(self), _SIZES_HASHED),
        )
        return listing.of(self, names, "bytes", places, self._root)

    def relisted(self, before, difference):
        """These files, numbered and labelled as in an earlier Listing.

        Args:
          before: Listing. difference: Difference of it and these files.
        """
        root, names = os.fsdecode(self._root), difference.names
        # As when it was opened, labels that some images lack are in no digest.
        lacking = before.labels is not None and (before.labels < 0).any()
        source = FileSource(
            root,
            names,
            before.labels,
            before.class_names,
            recorded=None if lacking else (),
            why_unlabelled=self.why_unlabelled,
            look=self._look,
        )
        source.removed = difference.gone
        return source


class PairSource:
    """Images of two files, their channels one behind the other.

    Attributes:
      channels: of an image; the first file's red, green and blue come first.
      earlier: as of FileSource.
    """

    may_fail = True
    channels = PAIR_CHANNELS
    removed: Any = None
    earlier: Any = None

    def __init__(self, first, second):
        """Pairs two sources, file i with file i.

        Args:
          first, second: FileSource of as many files; labels are the first's.
        """
        self.labels, self.class_names = first.labels, first.class_names
        self._parts = first, second

    def __len__(self):
        return len(self._parts[0])

    def records(self, indices):
        """Both full paths, string [n, 2], of int64 [n] indices."""
        return tf.stack([part.records(indices) for part in self._parts], 1)

    def image(self, record):
        """Reads both paths: uint8 [H, W, 6].

        Raises:
          tf.errors.InvalidArgumentError: when run, for a file that cannot be
            read (see `host_decode.decode`), or two of unequal size.
        """
        return decode_pair(self._parts[0].image, record)

    def file_paths(self, index):
        """Full paths of both files of a sample, list of bytes."""
        return self.records(index[tf.newaxis]).numpy()[0].tolist()

    def name(self, index):
        """The first file's path as it was listed."""
        return self._parts[0].name(index)

    @property
    def why_unlabelled(self):
        """Why there are no labels: those of the first file are missing."""
        return self._parts[0].why_unlabelled

    def remarks(self):
        """What a user should know of both folders: list of Remark."""
        return [x for part in self._parts for x in part.remarks()]

    def fingerprint(self):
        """Hex digest of both sources."""
        digests = "\0".join(part.fingerprint() for part in self._parts)
        return hashlib.sha256(digests.encode()).hexdigest()

    def marks(self, indices):
        """Sizes of both files in one number, int64 [n] of [n]."""
        first, second = (part.marks(indices) for part in self._parts)
        return (first + 1 << 32) + second

    def listing(self):
        """The Listing of the pairs, for the workdir of a run."""
        pairs = zip(*(part.paths() for part in self._parts), strict=True)
        names = [listing.PAIR.join(pair) for pair in pairs]
        places = listing.marked(len(self), _SIZES_HASHED)
        return listing.of(self, names, "bytes", places)

    def relisted(self, before, difference):
        """As FileSource.relisted."""
        pairs = [name.split(listing.PAIR) for name in difference.names]
        first, second = (
            part.relisted(before, difference._replace(names=list(names)))
            for part, names in zip(
                self._parts, zip(*pairs, strict=True), strict=True
            )
        )
        source = PairSource(first, second)
        source.removed = difference.gone
        return source


def decode_pair(decode, files_of_pair):
    """Decodes both files of a pair.

    Args:
      decode: a function of a string scalar -> uint8 [H, W, 3].
      files_of_pair: string [2].

    Returns:
      uint8 [H, W, 6].

    Raises:
      tf.errors.InvalidArgumentError: when run, for two of unequal size.
    """
    first, second = decode(files_of_pair[0]), decode(files_of_pair[1])
    shapes = tf.shape(first), tf.shape(second)
    equal = tf.debugging.assert_equal(
        *shapes, message="Both files of a pair must have one size."
    )
    with tf.control_dependencies([equal] if equal is not None else []):
        image = tf.concat([first, second], axis=-1)
    return tf.ensure_shape(image, [None, None, PAIR_CHANNELS])


def open_folder(path, endings=READABLE_ENDINGS):
    """Opens the image files of a folder, by extension.

    `class_folders` has the rule of the labels, `folder_contents` says what is
    passed over; `FileSource.remarks` names it.

    Args:
      path: str. endings: tuple of bytes, lower case, of the files to take.

    Returns:
      FileSource.

    Raises:
      ValueError: for a missing, unreadable or empty folder.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise ValueError(
            "The source folder:PATH must name a folder. Received "
            f"{path!r}, which is {_what_is(path)} Correct the path; a list of "
            "files is opened with list:FILE."
        )
    try:
        contents = folder_contents.Contents(os.fsencode(path), endings)
    except OSError as error:
        where = error.filename or path
        raise ValueError(
            "Every folder of the images must exist and be readable. "
            f"Received {os.fsdecode(where)!r}: {error.strerror}. Correct "
            "the path, or grant read and search permission on the folder."
        ) from error
    images = contents.images
    if not images:
        others = sum(tally.count for tally in contents.others.values())
        said = " ".join(map(str, contents.remarks(FORMATS_READ)))
        raise ValueError(
            "A folder must contain at least one image. Received "
            f"{path!r} with {others} files, none of them named "
            f"{b', '.join(READABLE_ENDINGS).decode()}. Correct the path."
            + f" {said}"
            * bool(said)
        )
    classes = class_folders.classes_of(images, path)
    contents.images = []  # a million names take memory; a tensor holds them
    source = FileSource(
        path,
        images,
        classes.labels,
        classes.names,
        recorded=classes.recorded,
        why_unlabelled=classes.refusal,
        look=lambda _: contents.remarks(FORMATS_READ) + classes.remarks(),
    )
    if any(name.lower().endswith(_ADDED) for name in images):
        source.earlier = functools.partial(open_folder, path, _FIRST_ENDINGS)
    return source


def _what_is(path):
    """What a path names that is no folder: "missing.", "a file: JSON."."""
    try:
        return f"a file: {file_kinds.kind_of_file(path).name}."
    except (FileNotFoundError, NotADirectoryError):
        return "missing."
    except ValueError:
        return f"{file_kinds.kind_of_mode(os.stat(path).st_mode)}."
    except OSError as error:
        return f"unreadable: {error.strerror}."


def open_list(path):
    """Opens the files named in a text file.

    One image a line: its path, absolute or relative to the list's folder;
    then, on all lines or on none, a tab and the name of its class. Empty
    lines are left out. Paths may contain spaces. UTF-8, or UTF-16 as
    PowerShell writes it.

    Args:
      path: str.

    Returns:
      FileSource.

    Raises:
      ValueError: for a missing or empty list, and, with the number of the
        line, for a missing image or a label that is missing or too many.
    """
    path = os.path.expanduser(path)
    rows = list_files.read(path)
    labels = names = None
    if rows.classes is not None:
        labels, names = class_folders.number_classes(rows.classes)
    _refuse_formats(rows.images)
    list_files.check_files(path, rows)
    why = "its lines name no class. Write PATH<TAB>CLASS on every line."
    return FileSource(
        rows.root,
        rows.images,
        labels,
        names,
        why_unlabelled=why if labels is None else "",
        look=_list_remarks,
    )


def _list_remarks(source):
    """Remarks on images that a list names more than once."""
    labels = source.labels
    numbers, distinct = class_folders.number_distinct(source.paths())
    again = len(numbers) - len(distinct)
    if not again:
        return []
    remedy = "Each line is a sample: remove those that are not meant."
    words = f"lines that name an image of an earlier line: {again}"
    remarks = [Remark("repeated", words, remedy)]
    if labels is not None:
        pairs = np.unique(np.stack([numbers, labels], 1), axis=0)
        twice = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
        if len(twice):
            names = class_folders.Tally(distinct[image] for image in twice)
            words = f"images with more than one class: {len(twice)} ({names})"
            remedy = "Keep the line of the class that is right."
            remarks.append(Remark("repeated", words, remedy))
    return remarks


def open_pairs(text, endings=READABLE_ENDINGS):
    """Opens two folders whose files have the same names.

    A file of the first and one of the second are a pair if their paths below
    the folders are the same but for the ending: a/1.jpg and a/1.png.

    Args:
      text: "DIR,DIR". Labels are the first folder's (see `open_folder`).
      endings: tuple of bytes, lower case, of the files to take.

    Returns:
      PairSource.

    Raises:
      ValueError: for another number of folders, a folder that cannot be
        opened, or a file without its pair.
    """
    folders = specs.split_pair(text)
    first, second = (open_folder(folder, endings) for folder in folders)
    stems = [
        _index_by_stem(part, folder)
        for part, folder in zip((first, second), folders, strict=True)
    ]
    lone = stems[0].keys() ^ stems[1].keys()
    if lone:
        name = min(lone)
        folder = folders[0 if name in stems[0] else 1]
        raise ValueError(
            "Each file of one folder of pairs:DIR,DIR must have one of the "
            "same name, but for its ending, in the other. Received "
            f"{len(lone)} without: {os.fsdecode(name)!r} is in {folder!r} "
            "alone. Move them away, or add the missing files."
        )
    order = [stems[1][stem] for stem in stems[0]]
    source = PairSource(first, second.reordered(order))
    if first.earlier or second.earlier:
        source.earlier = functools.partial(open_pairs, text, _FIRST_ENDINGS)
    return source


def _refuse_formats(paths):
    """Raises ValueError for paths, list of bytes, of other formats."""
    endings = tuple(
        {ending.encode() for ending in folder_contents.OTHER_FORMATS}
        - set(READABLE_ENDINGS)
    )
    refused = [path for path in paths if path.lower().endswith(endings)]
    if refused:
        named = ", ".join(os.fsdecode(path) for path in refused[:5])
        more = ", ..." if len(refused) > 5 else ""
        raise ValueError(
            f"Images must be {host_decode.FORMAT_NAMES} files. Received "
            f"{len(refused)} of other formats: {named}{more}. "
            "Convert them to PNG, or remove their lines."
        )


def _index_by_stem(source, folder):
    """Dict: path of a file without its ending, bytes -> index of the file."""
    indices = {}
    for index, path in enumerate(source.paths()):
        stem = os.path.splitext(path)[0]
        if stem in indices:
            raise ValueError(
                "Names in a folder of pairs:DIR,DIR must differ in more than "
                f"their ending. Received {os.fsdecode(stem)!r} twice in "
                f"{folder!r}. Move one of them away."
            )
        indices[stem] = index
    return indices
