"""What the queue and the two encoders are like between two steps."""

import numpy as np

from moco_tf.data import sources
from moco_tf.evaluation import representation
from moco_tf.monitoring import listener

_KEYS = 2048  # keys, at most, of which the rank is taken


class Inspector(listener.Listener):
    """Looks at a method between its steps, without changing it."""

    def __init__(self, batches):
        """Stores what tells the images of a step.

        Args:
          batches: Stream that the method trains on.
        """
        self._batches = batches

    def on_report(self, method, row):
        row.update(self(method))

    def __call__(self, method):
        """Describes the dictionary and the key encoder.

        Args:
          method: TwoViews, with at least one finished step.

        Returns:
          dict of floats by column of metrics.csv, of what the method has. Of a
          queue "queue_fill", share of the
          queue that holds keys of images (not the random ones of the start);
          "key_age", their mean age in steps; "same_image", share of them whose
          image is in the next batch; "key_rank", effective rank of a sample of
          the keys. Of a key encoder "key_drift", L2 distance of its parameters
          from the query encoder's, as a share of the latter's norm.
        """
        found = {}
        if method.key_encoder is not None:
            found["key_drift"] = drift(method.key_encoder, method.query_encoder)
        if method.queue is not None:
            found |= self._queue(method)
        return found

    def _queue(self, method):
        step = int(method.step.numpy())
        steps = method.queue.steps.numpy()
        written = steps >= 0
        coming = self._batches.samples(self._batches.positions(step)).numpy()
        held = method.queue.samples.numpy()[written]
        keys = method.queue.keys.numpy()[written]
        spread = sources.evenly_spaced(len(keys), _KEYS)
        return {
            "queue_fill": float(written.mean()),
            "key_age": float((step - steps[written]).mean()),
            "same_image": float(np.isin(held, coming).mean()),
            "key_rank": representation.effective_rank(keys[spread]),
        }


def drift(key_encoder, query_encoder):
    """L2 distance of the parameters of two encoders, relative to the second.

    Args:
      key_encoder, query_encoder: keras.Model of one architecture.

    Returns:
      float, at least 0.
    """
    apart = whole = 0.0
    for key_weight, query_weight in zip(
        key_encoder.trainable_variables,
        query_encoder.trainable_variables,
        strict=True,
    ):
        key, query = key_weight.numpy(), query_weight.numpy()
        apart += float(np.sum(np.square(key - query), dtype=np.float64))
        whole += float(np.sum(np.square(query), dtype=np.float64))
    return (apart / whole) ** 0.5 if whole else 0.0


class Pace:
    """How far one step takes the key encoder towards the query encoder.

    By the momentum update (v1, Eq. 2) it is 1 - m of the way. It is measured
    on one kernel, the last: reading all would stop the device for longer.
    """

    def __init__(self):
        self._before = None

    def begin(self, method):
        """Notes where both encoders are, after a step."""
        self._before = [
            encoder.trainable_variables[_last_kernel(encoder)].numpy()
            for encoder in (method.key_encoder, method.query_encoder)
        ]

    def end(self, method):
        """After the step after that: the share of the way, or None.

        None where it was not begun, or both encoders were equal.
        """
        if self._before is None:
            return None
        key, query = (values.astype(np.float64) for values in self._before)
        self._before = None
        encoder = method.key_encoder
        new = encoder.trainable_variables[_last_kernel(encoder)].numpy()
        way = query - key
        length = float(np.sum(np.square(way)))
        if not length or not np.isfinite(length):
            return None
        return float(np.sum((new - key) * way)) / length


def _last_kernel(encoder):
    """The place of the last variable that is no vector."""
    variables = encoder.trainable_variables
    ranks = [len(variable.shape) for variable in variables]
    return max(place for place, rank in enumerate(ranks) if rank > 1)
