"""Signals and hangs of a training process.

A run is asked to leave by SIGTERM or SIGUSR1, maybe one worker and not the
others: the step carries the word to all of them (methods/method.py), so that
all leave after the same step. A Guard is what a process has of this.

A process inside a collective, or waiting for a peer in TensorFlow's own code,
holds Python's lock: no thread and no signal handler of its own runs. So a
second, small process watches it from outside and kills it: this file, started
as a script. It must import nothing but the standard library.
"""

import contextlib
import faulthandler
import os
import select
import signal
import subprocess
import sys
import threading
import time

# Exit statuses; 0, 1 and 2 are those of every command.
INTERRUPTED = 130
START_AGAIN = 138
# Times the limit of a step: the first one traces, and on a GPU that is newer
# than TensorFlow's kernels the driver compiles these.
FIRST_STEP = 4
_STACKS = 2.0  # seconds for the stacks to be written before the kill
_LOG = "log"  # the first word of a line that names a log; of others: seconds


class Left(Exception):
    """All workers saved and left when asked to; start again to go on.

    Attributes:
      status: exit status of the process.
    """

    def __init__(self, step, status):
        super().__init__(f"asked to leave: all is saved at step {step}.")
        self.status = status


class Guard:
    """Signals and time limits of one training process.

    Attributes:
      cluster: Cluster, or None for a process on its own.
      asked: the signal that asked this process to leave, or None.
    """

    def __init__(self, cluster=None, stall_timeout=0.0):
        """Starts a watchdog where there is a cluster.

        Args:
          cluster: Cluster or None.
          stall_timeout: seconds that a step may take; 0: no limit. Holds in a
            cluster only: a process on its own keeps nobody waiting.
        """
        self.cluster = cluster
        self.asked = None
        self._stall_timeout = stall_timeout
        self._watchdog = None
        if cluster:
            faulthandler.register(signal.SIGUSR2, sys.__stderr__ or 2)
            self._watchdog = Watchdog(cluster.name())

    @property
    def is_chief(self):
        """Whether this process is the one that writes."""
        return self.cluster is None or self.cluster.is_chief

    def take_signals(self):
        """Lets signals ask instead of kill.

        Call it after the strategy is made: TensorFlow takes SIGTERM for itself
        when it joins a cluster. In a cluster Ctrl-C asks too, once: a worker
        that stops between two steps of the others would lose the step.
        """
        kinds = [signal.SIGTERM, signal.SIGUSR1]
        if self.cluster:
            kinds.append(signal.SIGINT)
        for kind in kinds:
            signal.signal(kind, self._note)

    def _note(self, number, frame):
        """Notes that a signal came (a signal handler)."""
        del frame
        self.asked = signal.Signals(number)
        if number == signal.SIGINT:  # the second one interrupts
            signal.signal(number, signal.default_int_handler)

    def status(self):
        """The exit status of a process that was asked to leave."""
        return INTERRUPTED if self.asked == signal.SIGINT else START_AGAIN

    def limit(self, seconds, activity):
        """Allows an activity so many seconds from now; see Watchdog.limit."""
        if self._watchdog:
            self._watchdog.limit(seconds, activity)

    def log_to(self, path):
        """Also writes there if it kills; see Watchdog.log_to. None: nothing."""
        if self._watchdog and path:
            self._watchdog.log_to(path)

    def first_step(self):
        """Begins the time of the first step, which compiles."""
        seconds = FIRST_STEP * self._stall_timeout
        self.limit(seconds, "the start of training")

    def step_done(self, step):
        """Begins the time of the next step."""
        self.limit(self._stall_timeout, f"the step after step {step}")


class Watchdog:
    """Kills this process when nothing is heard from it for too long.

    Side effects: starts a Python process that ends with this one; when the
    time is over it writes why to stderr, and to the log of `log_to`, asks for
    the stacks of all threads (SIGUSR2, see faulthandler: on stderr) and sends
    SIGKILL (status 137).
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
        self._pipe = self._process.stdin
        self._last_limit = None
        self._last_time = 0.0

    def limit(self, seconds, activity):
        """Allows so much time from now until the next call.

        Args:
          seconds: float; 0: no limit until the next call.
          activity: str, what is waited for, in one line.
        """
        now = time.monotonic()
        # One line a second is enough, for steps that take milliseconds.
        same = (seconds, activity) == self._last_limit
        if same and now - self._last_time < 1.0:
            return
        self._last_limit, self._last_time = (seconds, activity), now
        self._send(f"{seconds:g} {activity}")

    def log_to(self, path):
        """Names a file to which the sentence of a kill, no stacks, is added.

        Args:
          path: of the log of this process.
        """
        # In digits: a name may hold the end of a line.
        self._send(f"{_LOG} {os.fsencode(os.path.abspath(path)).hex()}")

    def _send(self, line):
        # Without its watchdog a run goes on.
        with contextlib.suppress(OSError):
            self._pipe.write(f"{line}\n".encode())


def _watch(parent, name):
    """The watching process: reads limits, kills when one is exceeded."""
    # Slurm sends its signals to every process of a task. This one ends with
    # the process it watches, which may still be saving.
    for kind in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    deadline, seconds, activity = None, 0.0, ""
    log, rest = "", b""
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
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            word, _, text = line.decode().partition(" ")
            if word == _LOG:
                log = os.fsdecode(bytes.fromhex(text))
                continue
            seconds, activity = float(word), text
            deadline = time.monotonic() + seconds if seconds else None
    words = (
        f"moco-tf: {name} hangs: {activity} did not end within {seconds:g} s. "
        "It is killed, to be started again (status 137). "
    )
    if log:
        # The file system of the log may be what hangs: nobody waits for it.
        given = log, f"{words}Its stacks are on standard error.\n"
        threading.Thread(target=_append, args=given, daemon=True).start()
    print(f"{words}Its stacks:", file=sys.stderr, flush=True)
    with contextlib.suppress(ProcessLookupError):
        os.kill(parent, signal.SIGUSR2)
        time.sleep(_STACKS)
        os.kill(parent, signal.SIGKILL)


def _append(path, text):
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
