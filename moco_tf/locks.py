"""A lock that ends with the process that has it, however that ends."""

import errno
import fcntl

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
