"""What every worker does around a step: count, stop, leave together."""

import tensorflow as tf


class NotFinite(FloatingPointError):
    """A loss that is not a number, of a step (from 1)."""

    def __init__(self, step, message):
        super().__init__(message)
        self.step = step


class StepCallback(tf.keras.callbacks.Callback):
    """Counts steps and ends `fit` after the same step on all workers.

    Attributes:
      step: int, finished steps.
      left: whether the run was asked to leave before its last step.
    """

    # Without this, Keras copies the logs to the host at every step.
    _supports_tf_logs = True

    def __init__(self, steps_per_epoch, last_step, guard):
        """Stores what does not change.

        Args:
          steps_per_epoch: int.
          last_step: int, the step after which the run stops.
          guard: Guard of this process.
        """
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.last_step = last_step
        self.guard = guard
        self.left = False
        self._told = False
        self._leave = None

    def resume(self, method):
        """Takes up a method at its step, before `fit`."""
        self.set_model(method)
        self.step = int(method.step.numpy())

    def on_train_batch_begin(self, batch, logs=None):
        del batch, logs
        if self.guard.asked and not self._told:
            self.model.leave.ask()
            self._told = True

    def on_train_batch_end(self, batch, logs=None):
        del batch
        self.step += 1
        self.guard.step_done(self.step)
        # The word of the step before: waiting for this one's would keep the
        # device idle. It is the same on all workers.
        asked = self._leave is not None and float(self._leave) > 0
        self._leave = (logs or {}).get("leave")
        finished = self.step >= self.last_step
        self.left = asked and not finished
        self.after_step()
        if asked or finished:
            self.model.stop_training = True

    def after_step(self):
        """What this worker does after a step."""

    def ends_epoch(self):
        """Whether the last finished step ended an epoch."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    def on_epoch_end(self, epoch, logs=None):
        del epoch, logs
        if self.ends_epoch() and not self.left:
            # kNN may take long, on the chief alone.
            self.guard.wait(0, "the evaluation of an epoch")
            self.finish_epoch()

    def finish_epoch(self):
        """What this worker does at the end of an epoch."""
