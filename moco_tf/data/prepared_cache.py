"""Prepared caches: decoded images behind one another, in one folder.

    about.json      settings, class names, sizes and checksums of the others
    images.bin      uint8 [H, W, 3] of every image, at multiples of ALIGNMENT
    index.bin       a ROW of every image: where it lies, its label, checksum
    names.bin       the names of the originals, a zero byte after each
    unreadable.csv  the originals that could not be read, and why

An original that cannot be read keeps its index and its label: its height is 0.
`PreparedSource` reads the images through a mapping of the file. `Writer`
appends them block by block, and a kill costs the last block.
"""

import copy
import csv
import ctypes
import functools
import hashlib
import io
import json
import mmap
import os
import pathlib
import time
import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf import filesystem, paths, state_files
from moco_tf.data import file_bytes, listing

FORMAT = 2  # 1 had no checksum of about.json
ABOUT, IMAGES, INDEX, NAMES, UNREADABLE = FILES = (
    "about.json",
    "images.bin",
    "index.bin",
    "names.bin",
    "unreadable.csv",
)
ALIGNMENT = 64  # bytes; TensorFlow takes a slice that starts there uncopied
ROW = np.dtype(
    [
        ("offset", "<i8"),  # bytes; of an unreadable one its line in the log
        ("height", "<i4"),
        ("width", "<i4"),
        ("label", "<i8"),  # -1 without labels
        ("crc32", "<u4"),  # of the pixels
    ]
)
LOG_HEADER = ("place", "name", "reason")
_REMEDY = (
    "Prepare it again with another --path, and keep this folder until that is "
    "done."
)
_ANY = "surrogateescape"  # a file name need not be text, so its bytes are kept
_GROWING = FILES[1:]  # appended to until the cache is finished
_COMMIT_BYTES = 64 * 2**20
_COMMIT_SECONDS = 20  # between two commits, at most


def open_prepared(path):
    """Opens the cache in a folder.

    Args:
      path: str.

    Returns:
      PreparedSource.

    Raises:
      ValueError: as `Cache`.
    """
    return PreparedSource(os.path.expanduser(path))


class PreparedSource:
    """Images that `prepare` has written; nothing is decoded any more.

    One tensor lies over the mapped file of pixels. A record says where an
    image lies, and taking it is a slice in the graph: without Python, without
    a copy, and with the disk read only where a view looks.
    """

    channels = 3
    removed: Any = None

    def __init__(self, folder):
        """Opens a cache (see Cache for what is checked)."""
        self._cache = cache = Cache(folder)
        rows = cache.rows
        self.class_names = cache.about["class_names"]
        self.labels = None
        self.why_unlabelled = (
            f"its source, {cache.about.get('source')}, had none when it was "
            "prepared. Prepare one that has labels."
        )
        if cache.about["labelled"]:
            self.labels = rows["label"].astype(np.int64)
        self.may_fail = bool(cache.about["unreadable"])
        sizes = np.stack([rows["height"], rows["width"]], axis=1)
        # Small images of one size are augmented in whole batches.
        same = not self.may_fail and (sizes == sizes[0]).all()
        self._shape = [*sizes[0].tolist(), 3] if same else [None, None, 3]
        records = np.column_stack([rows["offset"], sizes])
        with tf.device("CPU:0"):
            self._records = tf.constant(records, tf.int64)
            self._reasons = tf.constant(cache.reasons() or [b""])
            self._pixels = _map(cache.folder / IMAGES)

    def __len__(self):
        return len(self._records)

    def records(self, indices):
        """Offset, height and width, int64 [n, 3], of int64 [n] indices."""
        return tf.gather(self._records, indices)

    def image(self, record):
        """Takes one image: uint8 [H, W, 3].

        Raises:
          tf.errors.InvalidArgumentError: when run, for an original that could
            not be read.
        """
        offset, height, width = tf.unstack(record)
        checks = []
        if self.may_fail:
            readable = height > 0
            line = tf.where(readable, tf.zeros_like(offset), offset)
            reason = tf.gather(self._reasons, line)
            checks = file_bytes.require(
                readable, "Unreadable when it was prepared:", reason
            )
        with tf.control_dependencies(checks):
            size = tf.reshape(3 * height * width, [1])
        pixels = tf.slice(self._pixels, tf.reshape(offset, [1]), size)
        image = tf.reshape(pixels, tf.stack([height, width, 3]))
        return tf.ensure_shape(image, self._shape)

    @functools.cached_property
    def _names(self):
        return self._cache.names()

    def name(self, index):
        """The original's name in its source."""
        return self._names[index]

    def fingerprint(self):
        """Hex digest of the pixels' checksums, labels, names and settings."""
        about = self._cache.about
        names = ("fingerprint", "short_side", "class_names", "sha256")
        identity = json.dumps({name: about[name] for name in names})
        if self.removed is not None:
            gone = np.packbits(self.removed).tobytes().hex()
            identity += json.dumps([self._names, gone])
        return hashlib.sha256(identity.encode()).hexdigest()

    def marks(self, indices):
        """Checksums of the pixels, int64 [n] of [n]; -1: it has none."""
        rows = self._cache.rows[indices]
        return np.where(rows["height"] > 0, rows["crc32"].astype(np.int64), -1)

    def listing(self):
        """The Listing of the originals, for the workdir of a run."""
        names = [name.encode(errors=_ANY) for name in self._names]
        return listing.of(self, names, "crc32", np.arange(len(self)))

    def relisted(self, before, difference):
        """This cache with the numbers and labels of an earlier Listing.

        Args:
          before: Listing. difference: Difference of it and this cache.

        Returns:
          PreparedSource of len(before.names); the first reason is that of the
          images that are gone.
        """
        source = copy.copy(self)
        names = [name.decode(errors=_ANY) for name in difference.names]
        places = {name: place for place, name in enumerate(self._names)}
        rows = np.array([places.get(name, 0) for name in names])
        records = self._records.numpy()[rows]
        records[records[:, 1] == 0, 0] += 1  # lines of the reasons
        records[difference.gone] = 0
        with tf.device("CPU:0"):
            source._records = tf.constant(records, tf.int64)
            source._reasons = tf.concat([[b"removed"], self._reasons], axis=0)
        source._names, source.removed = names, difference.gone
        source.labels, source.class_names = before.labels, before.class_names
        source.may_fail, source._shape = True, [None, None, 3]
        return source


def _map(path):
    """A file as a tensor uint8 [bytes], read from the disk on access."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, np.uint8)
    # NumPy hands out no read-only memory, so this is called writable. A mapping
    # that may be written would have to fit into memory and swap on many
    # systems. TensorFlow writes into no tensor that is in use; if it did, the
    # process would end and the file stay as it is. (ImmutableConst, which maps
    # a file too, crashes for some sizes above 4 GB.)
    memory = (ctypes.c_uint8 * len(array)).from_address(array.ctypes.data)
    # Lives as long as the tensor.
    memory.mapped = array  # type: ignore[attr-defined]
    shared = np.ctypeslib.as_array(memory)
    return tf.experimental.dlpack.from_dlpack(shared.__dlpack__())


class Cache:
    """A finished cache, open for reading.

    Attributes:
      about: dict of about.json.
      rows: ROW [N].
    """

    def __init__(self, folder):
        """Checks sizes, and the checksums of all but the images.

        Raises:
          ValueError: for a folder that is no cache, is not finished, or is
            damaged.
        """
        self.folder = pathlib.Path(folder)
        about = read_about(self.folder)
        if about is None:
            raise ValueError(
                "The source prepared:DIR must name a folder that `prepare` has "
                f"written. Received {str(folder)!r}, which has no {ABOUT}. "
                "Correct the path, or prepare it: moco-tf prepare "
                f"--source=folder:IMAGES {paths.quote(f'--path={folder}')}"
            )
        if not about["finished"]:
            raise ValueError(
                "A prepared cache must be finished. Received "
                f"{about['images']} of {about['of']} images in "
                f"{str(folder)!r}. Start its command again: it goes on where "
                "it was."
            )
        self._check(about)
        self.about = about
        self.rows = np.fromfile(self.folder / INDEX, ROW)

    def _check(self, about):
        for name, size in about["bytes"].items():
            path = self.folder / name
            actual = path.stat().st_size if path.is_file() else None
            if actual is None:
                raise _damaged(self.folder, f"{name} is missing, not {size}")
            if actual != size:
                raise _damaged(
                    self.folder, f"{name} has {actual} bytes, not {size}"
                )
        for name, expected in about["sha256"].items():
            if _digest(self.folder / name) != expected:
                raise _damaged(self.folder, f"the checksum of {name} differs")
        if about["bytes"][INDEX] != about["images"] * ROW.itemsize:
            raise _damaged(self.folder, f"{INDEX} has another number of rows")

    def __len__(self):
        return len(self.rows)

    def names(self):
        """The names of the originals: list of str."""
        joined = (self.folder / NAMES).read_bytes().decode(errors=_ANY)
        return joined.split("\0")[:-1]

    def reasons(self):
        """Why originals could not be read, list of bytes: lines of the log."""
        path = self.folder / UNREADABLE
        with path.open(newline="", encoding="utf-8", errors=_ANY) as file:
            rows = list(csv.DictReader(file))
        return [row["reason"].encode(errors=_ANY) for row in rows]

    def is_intact(self, index):
        """Whether the pixels of an image have their checksum."""
        row = self.rows[index]
        size = int(row["height"]) * int(row["width"]) * 3
        if not size:
            return True
        # Not by a mapping: there, a disk that fails ends the process.
        with (self.folder / IMAGES).open("rb", buffering=0) as file:
            pixels = os.pread(file.fileno(), size, int(row["offset"]))
        return zlib.crc32(pixels) == row["crc32"]


class Writer:
    """Appends images; what is committed survives a kill or a full disk.

    The order of a commit: the data files reach the disk, then about.json says
    how long they are. What lies beyond is cut off at the next start.

    Attributes:
      about: dict of about.json, as last committed.
    """

    def __init__(self, folder, settings):
        """Opens a new cache, or an unfinished one of the same settings.

        Args:
          folder: of the cache; made if missing.
          settings: dict for about.json, "of" (the number of images) with it.

        Raises:
          ValueError: where another process writes, or a file is damaged.
        """
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files = {}
        try:
            self._open(IMAGES)
            self._lock()
            # Behind the lock: another process may just have written it.
            if check_folder(self._folder, settings) is None:
                write_about(self._folder, _new(settings))
            for name in _GROWING[1:]:
                self._open(name)
            self._resume()
        except BaseException:
            self.close()
            raise

    def _open(self, name):
        path = self._folder / name
        path.touch()
        # Without a buffer: closing after a full disk must not write.
        self._files[name] = path.open("r+b", buffering=0)

    def _lock(self):
        if not filesystem.lock(self._files[IMAGES], self._folder):
            raise ValueError(
                "Only one process at a time may write a cache. Another one is "
                f"writing {str(self._folder)!r}. Wait for it, or give another "
                "--path."
            )

    def _resume(self):
        """Cuts off what lies beyond the last commit."""
        self.about = read_about(self._folder)
        self._images = self.about["images"]
        self._unreadable = self.about["unreadable"]
        self._sizes = dict(self.about["bytes"])
        for name, file in self._files.items():
            size = self._sizes[name]
            if os.fstat(file.fileno()).st_size < size:
                raise ValueError(
                    "An unfinished cache must have what it has committed. "
                    f"{str(self._folder / name)!r} is shorter than {size} "
                    f"bytes. {_REMEDY}"
                )
            file.truncate(size)
            file.seek(size)
        if not self._sizes[UNREADABLE]:
            self._write(UNREADABLE, _encode_log(LOG_HEADER))
        self._committed = time.monotonic()

    def append(self, image, label, name):
        """Adds an image: uint8 [H, W, 3]; label: int, -1 for none."""
        # Pixels start at a multiple of the alignment: the end is filled.
        pixels = np.ascontiguousarray(image).data.cast("B")
        offset = self._sizes[IMAGES]
        self._write(IMAGES, pixels)
        self._write(IMAGES, bytes(-len(pixels) % ALIGNMENT))
        height, width, _ = image.shape
        self._add((offset, height, width, label, zlib.crc32(pixels)), name)

    def append_unreadable(self, reason, label, name):
        """Adds an original that could not be read, without pixels."""
        line = _encode_log((self._images, name, reason))
        self._write(UNREADABLE, line)
        self._unreadable += 1
        self._add((self._unreadable - 1, 0, 0, label, 0), name)

    def _add(self, row, name):
        self._write(INDEX, np.array(row, ROW).tobytes())
        self._write(NAMES, _encode_name(name))
        self._images += 1
        behind = self._sizes[IMAGES] - self.about["bytes"][IMAGES]
        late = time.monotonic() - self._committed > _COMMIT_SECONDS
        if behind >= _COMMIT_BYTES or late:
            self.commit()

    def _write(self, name, data):
        self._sizes[name] += len(data)
        left = memoryview(data)
        while left:
            left = left[self._files[name].write(left) :]

    def commit(self, finished=False):
        """Brings all that was appended to the disk, to survive a kill.

        Args:
          finished: bool; writes the checksums too, so that it can be opened.
        """
        for file in self._files.values():
            os.fsync(file.fileno())
        filesystem.sync(self._folder)
        about = self.about | {
            "images": self._images,
            "unreadable": self._unreadable,
            "bytes": dict(self._sizes),
        }
        if finished:
            about["sha256"] = {
                name: _digest(self._folder / name)
                for name in _GROWING
                if name != IMAGES
            }
            about["finished"] = True
        write_about(self._folder, about)
        self.about = about
        self._committed = time.monotonic()

    def close(self):
        """Closes the files; what is not committed is lost."""
        for file in self._files.values():
            file.close()
        self._files = {}


def check_folder(folder, settings):
    """Refuses a folder that holds other files, or another cache.

    Args:
      folder: str. settings: dict, as `Writer` takes it.

    Returns:
      dict of about.json, or None where the cache is to be begun.

    Raises:
      ValueError: for such a folder.
    """
    about = read_about(folder)
    if about is None:
        others = []
        if os.path.isdir(folder):
            entries = os.scandir(folder)
            others = sorted(x.name for x in entries if not _is_leftover(x))
        if others:
            raise ValueError(
                "A cache needs a folder of its own. Received "
                f"{str(folder)!r}, which holds {', '.join(others[:5])}. Give "
                "another --path."
            )
        return None
    names = ("fingerprint", "short_side", "of", "labelled", "class_names")
    differ = [name for name in names if about[name] != settings[name]]
    if differ:
        raise ValueError(
            "A cache goes on only with the source and settings it was begun "
            f"with. {str(folder)!r} is of {about['source']}, short_side="
            f"{about['short_side']}. Received {settings['source']}, "
            f"short_side={settings['short_side']}, which differ in "
            f"{', '.join(differ)}. Give another --path, or remove that folder."
        )
    return about


def _is_leftover(entry):
    """Whether a kill at the very start of a writer leaves such a file."""
    if entry.name == filesystem.part_of(pathlib.Path(ABOUT)).name:
        return True
    return entry.name == IMAGES and entry.stat().st_size == 0


def read_about(folder):
    """The content of about.json, or None where there is none.

    Raises:
      ValueError: for one of another format, or damaged.
    """
    path = pathlib.Path(folder) / ABOUT
    if not os.path.lexists(path):
        return None
    about = state_files.read_object(path, _REMEDY)
    if "format" not in about:
        raise state_files.Damaged(path, "is of no prepared cache", _REMEDY)
    if about["format"] != FORMAT:
        raise ValueError(
            f"A prepared cache must be of format {FORMAT}. Received format "
            f"{about['format']!r} in {str(folder)!r}. Prepare it with this "
            "version, in another folder, or use the version that wrote it."
        )
    if about.pop("sha256_of_this", None) != _digest_of_about(about):
        raise _damaged(folder, f"the checksum of {ABOUT} differs")
    return about


def write_about(folder, about):
    """Replaces about.json in one step, and brings it to the disk."""
    signed = {**about, "sha256_of_this": _digest_of_about(about)}
    with filesystem.atomic_file(pathlib.Path(folder) / ABOUT) as part:
        part.write_text(json.dumps(signed, indent=1), encoding="ascii")
    filesystem.sync(folder)


def _new(settings):
    """The about.json of a cache without images."""
    return {
        "format": FORMAT,
        **settings,
        "finished": False,
        "images": 0,
        "unreadable": 0,
        "bytes": dict.fromkeys(_GROWING, 0),
        "sha256": {},
    }


def _digest_of_about(about):
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _digest(path):
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode_name(name):
    """A name as it lies in names.bin; it contains no zero byte."""
    return name.encode(errors=_ANY) + b"\0"


def _encode_log(values):
    """A line of unreadable.csv, bytes."""
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode(errors=_ANY)


def _damaged(folder, damage):
    return ValueError(
        "A prepared cache must have all its files, undamaged. In "
        f"{str(folder)!r} {damage}. {_REMEDY}"
    )
