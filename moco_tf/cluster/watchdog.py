"""Kills a process that hangs.

A process inside a collective, or waiting for a peer in TensorFlow's own code,
holds Python's lock: no thread and no signal handler of its own runs. So a
second, small process watches it from outside.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

_STACKS = 2.0  # seconds for the stacks to be written before the kill


class Watchdog:
    """Kills this process when nothing is heard from it for too long.

    Side effects: starts a Python process that ends with this one; when the
    time is over it writes why to stderr, asks for the stacks of all threads
    (SIGUSR2, see faulthandler) and sends SIGKILL (status 137).
    """

    def __init__(self, name):
        """Starts the watching process; nothing is limited yet.

        Args:
          name: str, this process in messages.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), name],
            stdin=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin  # for mypy: there is one with PIPE
        self._words = self._process.stdin
        self._said = None
        self._time = 0.0

    def limit(self, seconds, what):
        """Allows so much time from now until the next word.

        Args:
          seconds: float; 0: no limit until the next word.
          what: str, what is waited for, in one line.
        """
        now = time.monotonic()
        # A word a second is enough, for steps that take milliseconds.
        if (seconds, what) == self._said and now - self._time < 1.0:
            return
        self._said, self._time = (seconds, what), now
        # Without its watchdog a run goes on.
        with contextlib.suppress(OSError):
            self._words.write(f"{seconds:g} {what}\n".encode())


def _watch(parent, name):
    """The watching process: reads limits, kills when one is passed."""
    # Slurm sends its signals to every process of a task. This one ends with
    # the process it watches, which may still be saving.
    for kind in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    deadline, seconds, what = None, 0.0, ""
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        ready = [0]
        if left is not None:
            ready = select.select([0], [], [], max(left, 0.0))[0]
        if not ready:
            break
        data = os.read(0, 65536)
        if not data:
            return  # the parent has ended
        line = data.decode().splitlines()[-1]
        number, _, what = line.partition(" ")
        seconds = float(number)
        deadline = time.monotonic() + seconds if seconds else None
    print(
        f"moco-tf: {name} hangs: {what} did not end within {seconds:g} s. It "
        "is killed, to be started again (status 137). Its stacks:",
        file=sys.stderr,
        flush=True,
    )
    with contextlib.suppress(ProcessLookupError):
        os.kill(parent, signal.SIGUSR2)
        time.sleep(_STACKS)
        os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
