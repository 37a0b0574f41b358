"""Writes a prepared cache block by block; a kill costs the last block."""

import csv
import fcntl
import io
import os
import pathlib
import time
import zlib

import numpy as np

from moco_tf.data import prepared_files as form

_COMMIT_BYTES = 64 * 2**20
_COMMIT_SECONDS = 20
_GROWING = form.FILES[1:]


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
            self._open(settings)
        except BaseException:
            self.close()
            raise

    def _open(self, settings):
        if form.read_about(self._folder) is None:
            form.write_about(self._folder, _new(settings))
        for name in _GROWING:
            path = self._folder / name
            path.touch()
            # Without a buffer: closing after a full disk must not write.
            self._files[name] = path.open("r+b", buffering=0)
        try:
            fcntl.flock(self._files[form.IMAGES], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                "Only one process at a time may write a cache. Another one is "
                f"writing {str(self._folder)!r}."
            ) from None
        # Read behind the lock: another process may just have written it.
        self.about = form.read_about(self._folder)
        self._images = self.about["images"]
        self._unreadable = self.about["unreadable"]
        self._sizes = dict(self.about["bytes"])
        if not self.about["finished"]:
            self._cut_back()
        self._committed = time.monotonic()

    def _cut_back(self):
        for name, file in self._files.items():
            size = self._sizes[name]
            if os.fstat(file.fileno()).st_size < size:
                raise ValueError(
                    "An unfinished cache must have what it has committed. "
                    f"{str(self._folder / name)!r} is shorter than {size} "
                    "bytes. Remove the folder and start anew."
                )
            file.truncate(size)
            file.seek(size)
        if not self._sizes[form.UNREADABLE]:
            self._log(form.LOG_HEADER)

    def append(self, image, label, name):
        """Adds an image: uint8 [H, W, 3]; label: int, -1 for none."""
        # Pixels start at a multiple of the alignment: the end is filled.
        pixels = np.ascontiguousarray(image).data.cast("B")
        offset = self._sizes[form.IMAGES]
        fill = bytes(-len(pixels) % form.ALIGNMENT)
        self._write(form.IMAGES, pixels)
        self._write(form.IMAGES, fill)
        height, width, _ = image.shape
        self._row(offset, height, width, label, zlib.crc32(pixels), name)

    def append_unreadable(self, reason, label, name):
        """Adds the place of an original that could not be read."""
        self._log((self._images, name, reason))
        self._row(self._unreadable, 0, 0, label, 0, name)
        self._unreadable += 1

    def _row(self, offset, height, width, label, checksum, name):
        row = np.array((offset, height, width, label, checksum), form.ROW)
        self._write(form.INDEX, row.tobytes())
        self._write(form.NAMES, form.encode_name(name))
        self._images += 1
        behind = self._sizes[form.IMAGES] - self.about["bytes"][form.IMAGES]
        late = time.monotonic() - self._committed > _COMMIT_SECONDS
        if behind >= _COMMIT_BYTES or late:
            self.commit()

    def _log(self, values):
        text = io.StringIO()
        csv.writer(text).writerow(values)
        encoded = text.getvalue().encode(errors="surrogateescape")
        self._write(form.UNREADABLE, encoded)

    def _write(self, name, data):
        self._sizes[name] += len(data)
        left = memoryview(data)
        while left:
            left = left[self._files[name].write(left) :]

    def commit(self, finished=False):
        """Makes all that was appended last.

        Args:
          finished: bool; writes the checksums too, so that it can be opened.
        """
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        form.sync_folder(self._folder)
        self.about |= {
            "images": self._images,
            "unreadable": self._unreadable,
            "bytes": dict(self._sizes),
        }
        if finished:
            self.about["sha256"] = {
                name: form.digest(self._folder / name)
                for name in _GROWING
                if name != form.IMAGES
            }
            self.about["finished"] = True
        form.write_about(self._folder, self.about)
        self._committed = time.monotonic()

    def close(self):
        """Lets go of the files; what is not committed is given up."""
        for file in self._files.values():
            file.close()
        self._files = {}


def _new(settings):
    """The about.json of a cache without images."""
    return {
        "format": form.FORMAT,
        **settings,
        "finished": False,
        "images": 0,
        "unreadable": 0,
        "bytes": dict.fromkeys(_GROWING, 0),
        "sha256": {},
    }
