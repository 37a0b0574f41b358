"""The files of a prepared cache: decoded images behind one another.

    about.json      settings, class names, sizes and checksums of the others
    images.bin      uint8 [H, W, 3] of every image, at multiples of ALIGNMENT
    index.bin       a ROW of every image: where it lies, its label, checksum
    names.bin       the names of the originals, a zero byte after each
    unreadable.csv  the originals that could not be read, and why

An original that cannot be read keeps its place and its label: its height is 0.
"""

import csv
import hashlib
import io
import json
import os
import pathlib
import zlib

import numpy as np

FORMAT = 2  # 1 had no checksum of about.json
ABOUT, IMAGES, INDEX, NAMES, UNREADABLE = FILES = (
    "about.json",
    "images.bin",
    "index.bin",
    "names.bin",
    "unreadable.csv",
)
PART = f"{ABOUT}.part"  # until it is whole
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
_ANY = "surrogateescape"  # a file name need not be text, so its bytes are kept
LOG_HEADER = ("place", "name", "reason")


def read_about(folder):
    """The content of about.json, or None where there is none.

    Raises:
      ValueError: for one of another format, or damaged.
    """
    path = pathlib.Path(folder) / ABOUT
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text(encoding="ascii"))
        known = about["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{ABOUT} cannot be read: {error!r}") from error
    if not known:
        raise ValueError(
            f"A prepared cache must be of format {FORMAT}. Received format "
            f"{about['format']!r} in {str(folder)!r}. Prepare it with this "
            "version, in another folder."
        )
    if about.pop("sha256_of_this", None) != _digest_of(about):
        raise _damaged(folder, f"the checksum of {ABOUT} differs")
    return about


def write_about(folder, about):
    """Replaces about.json in one step, after it is on the disk."""
    part = pathlib.Path(folder) / PART
    signed = {**about, "sha256_of_this": _digest_of(about)}
    with part.open("w", encoding="ascii") as file:
        file.write(json.dumps(signed, indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, part.with_name(ABOUT))
    sync_folder(folder)


def _digest_of(about):
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def sync_folder(folder):
    """Brings a folder's list of files to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path):
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
                f"--source=folder:IMAGES --path={folder}"
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
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                what = "is missing" if found is None else f"has {found} bytes"
                raise _damaged(self.folder, f"{name} {what}, not {size}")
        for name, wanted in about["sha256"].items():
            if digest(self.folder / name) != wanted:
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

    def is_whole(self, index):
        """Whether the pixels of an image have their checksum."""
        row = self.rows[index]
        size = int(row["height"]) * int(row["width"]) * 3
        if not size:
            return True
        # Not by a mapping: there, a disk that fails ends the process.
        with (self.folder / IMAGES).open("rb", buffering=0) as file:
            pixels = os.pread(file.fileno(), size, int(row["offset"]))
        return zlib.crc32(pixels) == row["crc32"]


def encode_name(name):
    """A name as it lies in names.bin; it holds no zero byte."""
    return name.encode(errors=_ANY) + b"\0"


def encode_log(values):
    """A line of unreadable.csv, bytes."""
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode(errors=_ANY)


def _damaged(folder, what):
    return ValueError(
        f"A prepared cache must have all its files, whole. In {str(folder)!r} "
        f"{what}. Remove the folder and prepare it again."
    )
