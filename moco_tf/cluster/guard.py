"""Signals and hangs of a training process.

SIGTERM and SIGUSR1 ask a run to leave. One worker may be asked and the others
not: the step tells all of them (methods/method.py), so that all leave after the
same step.
"""

import faulthandler
import signal
import sys

from moco_tf.cluster import watchdog

# Statuses of a process; 0, 1 and 2 are those of every command.
INTERRUPTED = 130
START_AGAIN = 138


class Left(Exception):
    """All workers saved and left when asked to; start again to go on."""

    def __init__(self, step, status):
        super().__init__(f"asked to leave: all is saved at step {step}.")
        self.status = status


class Guard:
    """What watches over one training process.

    Attributes:
      cluster: Cluster, or None for a process on its own.
      asked: the signal that asks to leave, or None.
    """

    def __init__(self, cluster=None, stall_timeout=0.0):
        """Starts to watch.

        Args:
          cluster: Cluster or None.
          stall_timeout: seconds that a step may take; 0: no limit. Kept in a
            cluster only: alone, nobody is waited for.
        """
        self.cluster = cluster
        self.asked = None
        self._stall_timeout = stall_timeout
        self._watchdog = None
        if cluster:
            faulthandler.register(signal.SIGUSR2, sys.__stderr__ or 2)
            self._watchdog = watchdog.Watchdog(cluster.name())

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
        del frame
        self.asked = signal.Signals(number)
        if number == signal.SIGINT:  # the second one interrupts
            signal.signal(number, signal.default_int_handler)

    def status(self):
        """The exit status of a process that was asked to leave."""
        return INTERRUPTED if self.asked == signal.SIGINT else START_AGAIN

    def wait(self, seconds, what):
        """Allows `what` to take so many seconds; 0: any time."""
        if self._watchdog:
            self._watchdog.limit(seconds, what)

    def step_done(self, step):
        """Tells the watchdog that a step ended."""
        self.wait(self._stall_timeout, f"the step after step {step}")
