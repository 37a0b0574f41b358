"""What a step leaves behind for the host to read between two steps."""

import tensorflow as tf


class StepLog(tf.Module):
    """The values of the last steps, kept on the device.

    The host reads many steps at once, so that no step waits for it. The log is
    part of the checkpoint: a resumed run reports the same means.

    Attributes:
      values: float32 [CAPACITY, len(columns)] variable; the row of a step is
        step % CAPACITY.
      columns: names of the columns.
    """

    CAPACITY = 1024

    def __init__(self, columns):
        super().__init__(name="step_log")
        self.columns = tuple(columns)
        self.values = tf.Variable(
            tf.zeros([self.CAPACITY, len(self.columns)]), trainable=False
        )

    def write(self, step, row):
        """Stores a row float32 [columns] for an int64 step, in the graph."""
        position = (step % self.CAPACITY)[tf.newaxis]
        self.values.scatter_update(tf.IndexedSlices(row[tf.newaxis], position))

    def read(self, first, last):
        """Columns of the steps first..last-1, a dict of lists of float."""
        if not 0 <= last - first <= self.CAPACITY:
            raise ValueError(
                f"The step log holds {self.CAPACITY} steps. Received a request "
                f"for steps {first} to {last - 1}."
            )
        values = self.values.numpy()
        rows = [values[step % self.CAPACITY] for step in range(first, last)]
        return {
            name: [float(row[column]) for row in rows]
            for column, name in enumerate(self.columns)
        }


class Leave:
    """Whether some replica asks all of them to leave; never saved.

    A plain object, which no checkpoint follows.
    """

    def __init__(self):
        self._asked = tf.Variable(0.0, trainable=False, name="leave")

    def ask(self):
        """Asks, from the next step of this process on."""
        for copy in local_values(self._asked):
            copy.assign(1.0)

    def read(self):
        """This replica's part, in the graph: float32, 0 or 1."""
        return self._asked.read_value()


class Newest:
    """The histograms of the last step, the same on all replicas; never saved.

    A plain object, which no checkpoint follows.
    """

    def __init__(self, shape):
        self._values = tf.Variable(
            tf.zeros(shape), trainable=False, name="histograms"
        )

    def write(self, histograms):
        """Stores them, in the graph."""
        self._values.assign(histograms)

    def read(self):
        """Returns them as a float32 array; zeros before the first step."""
        return self._values.numpy()


def local_values(value):
    """The values of this process's replicas, a list."""
    strategy = tf.distribute.get_strategy()
    return list(strategy.experimental_local_results(value))
