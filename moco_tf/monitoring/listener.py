"""The interface of listeners: what a run calls while it trains."""


class Listener:
    """Base of the listeners of a run; its methods do nothing.

    A run's callback (training/callbacks.py) calls its listeners in the order
    of their list. A row is a dict by column of metrics.csv, with "step"; a
    listener may add figures to it for those that come after: first what
    measures, then the files, then what reads.
    """

    def on_start(self, method, step):
        """Before the first step of a session, `step` steps being finished.

        Args:
          method: Method. step: int.
        """

    def before_step(self, step):
        """Before a step, `step` being its number from 1."""

    def on_step(self, method, step):
        """After a step; `step` steps are finished. The device may be busy."""

    def on_report(self, method, row):
        """When the steps since the last report were read.

        Args:
          method: Method.
          row: dict: the means of these steps, "steps", their number, "epoch",
            "learning_rate", the speed.
        """

    def on_epoch(self, method, row):
        """At the end of an epoch, which is saved already.

        Args:
          method: Method.
          row: dict: "epoch_loss", the mean over the epoch.
        """

    def on_end(self, method, step):
        """After the last step of a session, `step` steps being finished."""

    def close(self):
        """When the run or its process ends, however that came."""
