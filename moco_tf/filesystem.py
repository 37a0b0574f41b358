"""Atomic files and folders, and locks that end with their process."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import shutil

from moco_tf import paths

# Of an OSError: there is no room.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors of a file system without such locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_LONGEST_NAME = 255  # bytes


@contextlib.contextmanager
def atomic_file(path, per_process=False):
    """Lets a file appear complete or not at all.

    Args:
      path: of the file, replaced if it exists; its folder is made.
      per_process: whether other processes may write the same file at the same
        time; each then writes under a name of its own.

    Yields:
      pathlib.Path to write to: in the same folder, with a name that starts
      with a dot. When the block ends without an error, the file is brought to
      the disk and takes its name.

    Side effects: nothing is left of a file that fails.
    """
    path = pathlib.Path(path)
    part = part_of(path, f".{os.getpid()}.part" if per_process else ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """Lets a folder appear complete or not at all; it replaces none.

    Args:
      path: of the folder, which must not exist.

    Yields:
      pathlib.Path of an empty folder beside it, to be filled.

    Side effects: nothing is left of a folder that fails.
    """
    path = pathlib.Path(path)
    part = part_of(path)
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir(parents=True)
    try:
        yield part
        os.rename(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def part_of(path, ending=".part"):
    """The name under which `path` is written; a kill may leave it behind.

    Args:
      path: pathlib.Path. ending: str, of the new name.
    """
    return beside(path, ending, "." + path.name)


def beside(path, ending, name=""):
    """A path in the same folder, whose name may be cut to what a name may hold.

    Args:
      path: pathlib.Path. ending: str, of the new name.
      name: before the ending; "": that of the path.

    Returns:
      pathlib.Path; of a name that would be too long, with a digest of it.
    """
    name = name or path.name
    if len(os.fsencode(name + ending)) <= _LONGEST_NAME:
        return path.with_name(name + ending)
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f"{name[:20]}.{digest}{ending}")


def sync(path):
    """Brings a file, or a folder's list of files, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file, folder):
    """Locks an open file, for as long as it is open.

    The system releases the lock when the process ends, by a kill too. On a
    network file system it holds between machines where the mount passes locks
    on (NFS does; Lustre with the option flock).

    Args:
      file: open for writing.
      folder: that the lock protects, to be named in the warning.

    Returns:
      bool; False: another process, or another open file, has the lock.

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
            f"Warning: no-locks: the file system of {paths.shown(folder)} has "
            f"no locks ({error.strerror}): a second process in it would not "
            "be refused. Start one at a time."
        )
    return True
