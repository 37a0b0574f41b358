"""A trace of a few steps for TensorBoard."""

import os

import tensorflow as tf


class Profile:
    """Traces the steps first..last of a run, once.

    The Profile tab of the package tensorboard-plugin-profile shows it.
    """

    def __init__(self, folder, first, last):
        """Stores the steps.

        Args:
          folder: of TensorBoard's files.
          first, last: int, steps (from 1); the first steps of a session also
            compile.

        Raises:
          ValueError: if last is below first, or first below 1.
        """
        if not 1 <= first <= last:
            raise ValueError(
                "profile_steps are a first and a last step, from 1. Received "
                f"{first},{last}. Pass, for example, --profile_steps=10,20."
            )
        self._folder = os.fspath(folder)
        self._first, self._last = first, last
        self._on = False

    def before(self, step):
        """Starts at the first step; `step` is the one about to run."""
        if step == self._first:
            tf.profiler.experimental.start(self._folder)
            self._on = True

    def after(self, step):
        """Stops after the last step, `step` being the one that ended."""
        if self._on and step >= self._last:
            self.stop()

    def stop(self):
        """Writes what was traced, if a trace is on."""
        if self._on:
            self._on = False
            tf.profiler.experimental.stop()
