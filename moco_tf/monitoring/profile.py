"""A trace of a few steps for TensorBoard."""

import contextlib
import os

import tensorflow as tf

from moco_tf import paths
from moco_tf.monitoring import listener


class Profile(listener.Listener):
    """Traces the steps first..last of a run, once.

    The Profile tab of the package tensorboard-plugin-profile shows it.
    """

    def __init__(self, folder, first, last, events=None):
        """Stores the steps.

        Args:
          folder: of TensorBoard's files.
          first, last: int, steps (from 1); the first steps of a session also
            compile.
          events: EventWriter, which the step's graph is written to, or None.

        Raises:
          ValueError: if last is below first, or first below 1.
        """
        if not 1 <= first <= last:
            raise ValueError(
                "--profile_steps are a first and a last step, from 1. Received "
                f"{first},{last}. Pass, for example, --profile_steps=10,20."
            )
        self._folder = os.fspath(folder)
        self._first, self._last = first, last
        self._events = events
        self._on = False
        self._open = contextlib.ExitStack()

    def before_step(self, step):
        if step == self._first:
            os.makedirs(self._folder, exist_ok=True)
            # The trace is written at the end, where it was begun.
            plain = self._open.enter_context(paths.plain(self._folder))
            tf.profiler.experimental.start(plain)
            self._on = True

    def on_step(self, method, step):
        if step >= self._last:
            self._stop()

    def on_end(self, method, step):
        self._stop()
        if self._events and method.step_graph:
            self._events.graph(method.step_graph)

    def close(self):
        self._stop()

    def _stop(self):
        """Writes the trace, if one is on."""
        if self._on:
            self._on = False
            with self._open:
                tf.profiler.experimental.stop()
