"""Writes a prepared cache block by block; a kill costs the last block."""

import os
import pathlib
import time
import zlib

import numpy as np

from moco_tf import locks
from moco_tf.data import prepared_files as form

_COMMIT_BYTES = 64 * 2**20
_COMMIT_SECONDS = 20
_GROWING = form.FILES[1:]


def check_folder(folder, settings):
    """Refuses a folder that holds other files, or another cache.

    Args:
      folder: str. settings: dict, as `Writer` takes it.

    Returns:
      dict of about.json, or None where the cache is to be begun.

    Raises:
      ValueError: for such a folder.
    """
    about = form.read_about(folder)
    if about is None:
        others = []
        if os.path.isdir(folder):
            found = os.scandir(folder)
            others = sorted(x.name for x in found if not _is_ours(x))
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


def _is_ours(entry):
    """Whether a kill at the very start leaves such a file."""
    if entry.name == form.PART:
        return True
    return entry.name == form.IMAGES and entry.stat().st_size == 0


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
            self._open(form.IMAGES)
            self._lock()
            # Behind the lock: another process may just have written it.
            if check_folder(self._folder, settings) is None:
                form.write_about(self._folder, _new(settings))
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
        if not locks.take(self._files[form.IMAGES], self._folder):
            raise ValueError(
                "Only one process at a time may write a cache. Another one is "
                f"writing {str(self._folder)!r}. Wait for it, or give another "
                "--path."
            )

    def _resume(self):
        """Cuts off what lies beyond the last commit."""
        self.about = form.read_about(self._folder)
        self._images = self.about["images"]
        self._unreadable = self.about["unreadable"]
        self._sizes = dict(self.about["bytes"])
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
            self._write(form.UNREADABLE, form.encode_log(form.LOG_HEADER))
        self._committed = time.monotonic()

    def append(self, image, label, name):
        """Adds an image: uint8 [H, W, 3]; label: int, -1 for none."""
        # Pixels start at a multiple of the alignment: the end is filled.
        pixels = np.ascontiguousarray(image).data.cast("B")
        offset = self._sizes[form.IMAGES]
        self._write(form.IMAGES, pixels)
        self._write(form.IMAGES, bytes(-len(pixels) % form.ALIGNMENT))
        height, width, _ = image.shape
        self._add((offset, height, width, label, zlib.crc32(pixels)), name)

    def append_unreadable(self, reason, label, name):
        """Adds the place of an original that could not be read."""
        line = form.encode_log((self._images, name, reason))
        self._write(form.UNREADABLE, line)
        self._unreadable += 1
        self._add((self._unreadable - 1, 0, 0, label, 0), name)

    def _add(self, row, name):
        self._write(form.INDEX, np.array(row, form.ROW).tobytes())
        self._write(form.NAMES, form.encode_name(name))
        self._images += 1
        behind = self._sizes[form.IMAGES] - self.about["bytes"][form.IMAGES]
        late = time.monotonic() - self._committed > _COMMIT_SECONDS
        if behind >= _COMMIT_BYTES or late:
            self.commit()

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
            os.fsync(file.fileno())
        form.sync_folder(self._folder)
        about = self.about | {
            "images": self._images,
            "unreadable": self._unreadable,
            "bytes": dict(self._sizes),
        }
        if finished:
            about["sha256"] = {
                name: form.digest(self._folder / name)
                for name in _GROWING
                if name != form.IMAGES
            }
            about["finished"] = True
        form.write_about(self._folder, about)
        self.about = about
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
