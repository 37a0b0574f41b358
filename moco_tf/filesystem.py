"""Files that appear complete or not at all; locks that end with a process."""

import contextlib
import errno
import fcntl
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


# What a file system answers that has no such locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def take(file, folder):
    """Takes the lock of an open file, for as long as the file is open.

    The system takes it back when the process ends, by a kill too. On a network
    file system it holds between machines where the mount passes locks on (NFS
    does; Lustre with the option flock).

    Args:
      file: open for writing. folder: what it stands for, to be named.

    Returns:
      bool; False: another process, or another open file, has it.

    Side effects: where the file system has no locks, says so and returns True.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(
            f"Warning: no-locks: the file system of {folder} has no locks "
            f"({error.strerror}): a second process in it would not be refused. "
            "Start one at a time"
        )
    return True
