"""Joining a cluster: the order in which a process of a run starts."""

import contextlib

from moco_tf.cluster import rendezvous, watchdog

_GRACE = 60.0  # seconds for what takes a moment where nothing hangs


@contextlib.contextmanager
def joined(cluster, make_strategy, start_timeout, stall_timeout):
    """Joins the other workers; the block is what they do together.

    The order of a start, and why it is this one:

    1. The watchdog starts, since each of the next steps may wait inside
       TensorFlow or a system call, where no handler of Python runs.
    2. The workers meet (see rendezvous): TensorFlow would wait for a missing
       one without end and not name it.
    3. `make_strategy` is called. In a cluster TensorFlow joins the workers
       there, and takes SIGTERM for itself.
    4. So only now SIGTERM and SIGUSR1 are taken, to ask the run to leave; in a
       cluster Ctrl-C too.
    5. The block runs. Its first step is limited by `stall_timeout`; later ones
       say to the Guard when they are done.
    6. The process ends. TensorFlow may wait for a peer there again, so this
       is limited too.

    A process on its own has no watchdog and waits for nobody: 3, 4, 5 remain.

    Args:
      cluster: Cluster, or None for a process on its own.
      make_strategy: function without arguments that returns the strategy, and
        does whatever must be done before signals are taken.
      start_timeout: float, seconds to wait for the other workers.
      stall_timeout: float, seconds a step may take in a cluster; 0: no limit.

    Yields:
      what `make_strategy` returned; Guard of this process.

    Raises:
      PeerMissing: for workers that did not come in time.
      ValueError: for workers that were started with another list of workers.

    Side effects: the watchdog and the signal handlers stay after the block, to
    the end of the process.
    """
    guard = watchdog.Guard(cluster, stall_timeout)
    if cluster:
        guard.limit(start_timeout + _GRACE, "the arrival of all workers")
        rendezvous.meet(cluster, start_timeout)
        guard.limit(start_timeout, "joining the other workers")
    strategy = make_strategy()
    guard.take_signals()
    guard.limit(stall_timeout, "the start of training")
    yield strategy, guard
    guard.limit(_GRACE, "the end of the process")
