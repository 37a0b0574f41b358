"""Files and folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil


@contextlib.contextmanager
def file(path):
    """Gives a name to write under; the file takes its own when all went well.

    Args:
      path: of the file, replaced if it exists; its folder is made.

    Yields:
      pathlib.Path in the same folder, with a name that starts with a dot.

    Side effects: nothing is left of a file that fails.
    """
    path = pathlib.Path(path)
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(path):
    """As `file`, for a folder, which is there and empty; it replaces none."""
    path = pathlib.Path(path)
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir(parents=True)
    try:
        yield part
        os.rename(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
