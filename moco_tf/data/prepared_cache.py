"""The files of prepared caches: images behind one another, in one folder.

    about.json      settings, class names, sizes and checksums of the others
    images.bin      the images, each as its form has it (data/stored_images.py)
    index.bin       a row of every image: where it lies, its label, checksum
    names.bin       the names of the originals, a zero byte after each
    unreadable.csv  the originals that could not be read, and why

An original that cannot be read keeps its index and its label: its height is 0.
`Writer` appends images block by block, and a kill costs the last block. A cache
of several hosts is a folder of such folders, shard-0-of-2 and shard-1-of-2,
each a run of the images.
"""

import csv
import hashlib
import io
import json
import os
import pathlib
import re
import time

import numpy as np

from moco_tf import filesystem, paths, state_files
from moco_tf.data import stored_images

# 1 had no checksum of about.json. 2 is of pixels in one folder; 3 names the
# form of its images and its place among shards.
FORMATS = (2, 3)
ABOUT, IMAGES, INDEX, NAMES, UNREADABLE = FILES = (
    "about.json",
    "images.bin",
    "index.bin",
    "names.bin",
    "unreadable.csv",
)
LOG_HEADER = ("place", "name", "reason")
# Of about.json: at which image a session ended, which it may leave out next.
FAILED = "failed_at"
_REMEDY = (
    "Prepare it again with another --path, and keep this folder until that is "
    "done."
)
_ANY = "surrogateescape"  # a file name need not be text, so its bytes are kept
_GROWING = FILES[1:]  # appended to until the cache is finished
_COMMIT_BYTES = 64 * 2**20
_COMMIT_SECONDS = 20  # between two commits, at most
# Of about.json, what one cache has to share with another to go on, or to be a
# shard of the same. Format 2 lacks those of the second line.
_SHARED = ("fingerprint", "short_side", "labelled", "class_names")
_FORM = ("stored_as", "quality", "chroma", "shards")
_SHARD = re.compile(r"shard-(\d+)-of-(\d+)")


class Cache:
    """A finished cache, open for reading.

    Attributes:
      about: dict of about.json. form: stored_images.Form.
      rows: form.row [N].
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
        self.form = form_of(about)
        self._check(about)
        self.about = about
        self.rows = np.fromfile(self.folder / INDEX, self.form.row)

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
        if about["bytes"][INDEX] != about["images"] * self.form.row.itemsize:
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
        """Whether the bytes of an image have their checksum."""
        row = self.rows[index]
        size = int(self.form.sizes(row))
        if not size:
            return True
        # Not by a mapping: there, a disk that fails ends the process.
        with (self.folder / IMAGES).open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, int(row["offset"]))
        return self.form.checksum(data) == row[self.form.mark]


def open_caches(folder):
    """Opens the cache in a folder, or all of its shards.

    Returns:
      list of Cache, in the order of their images.

    Raises:
      ValueError: as `Cache`; for shards that are not all there, or are not of
        the same source and settings.
    """
    shards = _shards_in(folder)
    if os.path.lexists(os.path.join(folder, ABOUT)) or not shards:
        return [Cache(folder)]
    counts = {count for _, count in shards}
    wanted = [(shard, max(counts)) for shard in range(max(counts))]
    missing = [shard_folder("", *x) for x in wanted if x not in shards]
    if missing or len(counts) > 1:
        lack = f"lacks {', '.join(missing[:5])}"
        if len(counts) > 1:
            lack = f"has shards of {', '.join(map(str, sorted(counts)))} parts"
        raise ValueError(
            "A cache in shards must have all of one division. "
            f"{str(folder)!r} {lack}. Prepare or copy what is missing, and "
            "move what is of another division to another folder."
        )
    caches = [Cache(shard_folder(folder, *x)) for x in wanted]
    for cache in caches:
        _check_same(caches[0].about, cache.about, folder)
    return caches


def _shards_in(folder):
    """The shards in a folder: set of (int, which one; int, of how many)."""
    if not os.path.isdir(folder):
        return set()
    matches = map(_SHARD.fullmatch, os.listdir(folder))
    return {(int(match[1]), int(match[2])) for match in matches if match}


def shard_folder(folder, shard, shards):
    """The folder of a shard in that of its cache; the latter of one alone."""
    name = f"shard-{shard}-of-{shards}"
    return folder if shards == 1 else os.path.join(folder, name)


def check_shards(folder, settings):
    """Refuses a folder that holds something else than shards of a cache.

    Args:
      folder: str, of all shards. settings: dict, of one of them.

    Raises:
      ValueError: for such a folder, or one with shards of another cache.
    """
    if not os.path.isdir(folder):
        return
    shards = settings["shards"]
    names = {shard_folder("", shard, shards) for shard in range(shards)}
    others = sorted(set(os.listdir(folder)) - names)
    if others:
        raise _not_its_own(folder, others)
    for name in sorted(names):
        about = read_about(os.path.join(folder, name))
        if about is not None:
            _check_same(about, settings, folder)


def _check_same(about, other, folder):
    """Refuses two shards that are not of one cache."""
    differ = _differing(about, other)
    if differ:
        raise ValueError(
            "The shards of a cache must be of one source, as it was at one "
            f"time, and of one form. In {str(folder)!r} one is of "
            f"{_in_words(about)}. Another is of {_in_words(other)}; they "
            f"differ in {', '.join(differ)}. Prepare all shards in another "
            "folder, from the same images."
        )


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
        self._form = form_of(settings)
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

    def append(self, stored, label, name):
        """Adds an image: Stored of its form; label: int, -1 for none."""
        offset = self._sizes[IMAGES]
        self._write(IMAGES, stored.data)
        # The next one starts at a multiple of the alignment.
        fill = -self._sizes[IMAGES] % self._form.alignment
        self._write(IMAGES, bytes(fill))
        self._add(self._form.row_of(stored, offset, label), name)

    def append_unreadable(self, reason, label, name):
        """Adds an original that could not be read, without pixels."""
        line = _encode_log((self._images, name, reason))
        self._write(UNREADABLE, line)
        self._unreadable += 1
        nothing = stored_images.NOTHING
        self._add(self._form.row_of(nothing, self._unreadable - 1, label), name)

    def _add(self, row, name):
        self._write(INDEX, row.tobytes())
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

    def commit(self, finished=False, failed=False):
        """Brings all that was appended to the disk, to survive a kill.

        Args:
          finished: bool; writes the checksums too, so that it can be opened.
          failed: bool; notes that the next image could not be read.
        """
        for file in self._files.values():
            os.fsync(file.fileno())
        filesystem.sync(self._folder)
        about = self.about | {
            "images": self._images,
            "unreadable": self._unreadable,
            "bytes": dict(self._sizes),
        }
        about.pop(FAILED, None)
        if failed:
            about[FAILED] = self._images
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
            raise _not_its_own(folder, others)
        return None
    differ = _differing(about, settings, ("of", "shard"))
    if differ:
        raise ValueError(
            "A cache goes on only with the source and settings it was begun "
            f"with. {str(folder)!r} is of {_in_words(about)}. Received "
            f"{_in_words(settings)}, which differ in {', '.join(differ)}. Give "
            "another --path, or remove that folder."
        )
    return about


def _not_its_own(folder, others):
    return ValueError(
        "A cache needs a folder of its own. Received "
        f"{str(folder)!r}, which holds {', '.join(others[:5])}. Give "
        "another --path."
    )


def _in_words(about):
    """Source and settings of a cache, for people."""
    return (
        f"{about['source']}, short_side={about['short_side']}, format="
        f"{about.get('stored_as', 'raw')}"
    )


def _differing(about, settings, others=()):
    """The settings of two caches, or shards, that are not the same."""
    return [
        name
        for name in (*_SHARED, *_FORM, *others)
        if about.get(name) != settings.get(name)
    ]


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
    if about["format"] not in FORMATS:
        raise ValueError(
            f"A prepared cache must be of format 2 or 3. Received format "
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


def form_of(about):
    """The Form of the images of an about.json, or of settings for one."""
    return stored_images.FORMS[about.get("stored_as", "raw")]


def _new(settings):
    """The about.json of a cache without images."""
    return {
        "format": FORMATS["stored_as" in settings],
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
