"""One local worker: a process, its log and its end."""

import contextlib
import ctypes
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time

_SHOWN = 20  # lines of a failed worker's log,
_TAIL = 16384  # of its last bytes
_PORTS = range(12000, 32000)  # below those that systems give to connections
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


def free_ports(count):
    """Returns ports that nobody holds, lingering connections included."""
    ports = []
    with contextlib.ExitStack() as sockets:
        for port in random.sample(_PORTS, len(_PORTS)):
            opened = sockets.enter_context(socket.socket())
            try:
                opened.bind(("", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                break
    return ports


def say(text):
    """Writes a message to the terminal, which may be gone."""
    write(2, os.fsencode(f"local_workers: {text}\n"))


def write(descriptor, data):
    """Writes bytes, as far as they are taken."""
    # The workers matter more than a terminal that was closed.
    with contextlib.suppress(OSError):
        os.write(descriptor, data)


class Worker:
    """One process and its log."""

    def __init__(self, index, words, log):
        """Starts the process, in a process group of its own.

        Args:
          index: int. words: list of str. log: Path, appended to.

        Raises:
          OSError: for a program that cannot be started.
        """
        self.index, self.log, self.status = index, log, None
        with log.open("ab") as file:
            when = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(os.fsencode(f"--- {when} {shlex.join(words)}\n"))
            file.flush()
            self.shown = file.tell()  # bytes of the log seen by the terminal
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_launcher(),
            )

    def has_left(self):
        """Whether the process has ended; then its status is set.

        Side effects: kills what it leaves behind in its group.
        """
        if self.status is None:
            # Not yet reaped, so that nobody else gets the group's number.
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, self._process.pid, flags):
                self.signal(signal.SIGKILL)
                code = self._process.wait()
                self.status = code if code >= 0 else 128 - code
        return self.status is not None

    def signal(self, number):
        """Sends a signal to the process and its children."""
        if self.status is None:
            # An ended process has no group any more on some systems.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def show(self):
        """Copies what is new in the log to the terminal."""
        with self.log.open("rb") as file:
            file.seek(self.shown)
            new = file.read()
        self.shown += len(new)
        write(1, new)

    def last_lines(self):
        """The end of the log."""
        end = self.log.read_bytes()[-_TAIL:].decode(errors="replace")
        return "\n".join(end.splitlines()[-_SHOWN:])


def _die_with_launcher():
    """A function for the child: Linux kills it when this process dies.

    Without it a launcher that is killed itself (SIGKILL, out of memory) would
    leave workers that nobody watches. It holds for the command's own process,
    so a command that is a shell script ends with `exec`. Elsewhere than on
    Linux there is no such thing, and such workers run on.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl, launcher = ctypes.CDLL(None).prctl, os.getpid()

    def ask():
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != launcher:  # it died before the line above
            os._exit(128 + signal.SIGKILL)

    return ask
