"""Figures of the queue and of the two encoders, taken between two steps."""

import numpy as np

from moco_tf.data import sources
from moco_tf.evaluation import representation
from moco_tf.monitoring import listener

_KEYS = 2048  # keys at most, of which the effective rank is computed


class Inspector(listener.Listener):
    """Measures a method between its steps, without changing it."""

    def __init__(self, batches):
        """Stores the stream, which knows the images of a step.

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
          dict of floats by column of metrics.csv.

          With a key encoder "key_drift", L2 distance of its parameters from
          the query encoder's, as a share of the latter's norm.

          With a queue "queue_fill", share of the queue with keys of images
          instead of the random ones of the start; "key_age", their mean age in
          steps; "same_image", share of them whose image is in the next batch;
          "key_rank", effective rank of a sample of the keys; "key_age_auc",
          see `age_auc`, None for keys of fewer than four steps.
        """
        figures = {}
        if method.key_encoder is not None:
            figures["key_drift"] = drift(
                method.key_encoder, method.query_encoder
            )
        if method.queue is not None:
            figures |= self._queue(method)
        return figures

    def _queue(self, method):
        step = int(method.step.numpy())
        steps = method.queue.steps.numpy()
        written = steps >= 0
        next_batch = self._batches.samples(self._batches.positions(step))
        samples = method.queue.samples.numpy()[written]
        keys = method.queue.keys.numpy()[written]
        spread = sources.evenly_spaced(len(keys), _KEYS)
        return {
            "queue_fill": float(written.mean()),
            "key_age": float((step - steps[written]).mean()),
            "same_image": float(np.isin(samples, next_batch.numpy()).mean()),
            "key_rank": representation.effective_rank(keys[spread]),
            "key_age_auc": age_auc(keys, steps[written]),
        }


def drift(key_encoder, query_encoder):
    """Measures the L2 distance of two encoders, relative to the second's norm.

    Args:
      key_encoder, query_encoder: keras.Model of one architecture.

    Returns:
      float, at least 0.
    """
    distance = norm = 0.0
    for key_weight, query_weight in zip(
        key_encoder.trainable_variables,
        query_encoder.trainable_variables,
        strict=True,
    ):
        key, query = key_weight.numpy(), query_weight.numpy()
        distance += float(np.sum(np.square(key - query), dtype=np.float64))
        norm += float(np.sum(np.square(query), dtype=np.float64))
    return (distance / norm) ** 0.5 if norm else 0.0


def age_auc(keys, steps):
    """Measures how well a direction tells newer keys from older ones.

    Keys of a slow encoder do not show their age (the "slow drift" of XBM,
    arXiv:1912.06798, Sec. 3.2). Where they do, a query can find its own key,
    the newest, by its age alone. The direction is the difference of the means
    of the newer and the older half of the steps, and is measured on keys of
    other steps: those of one share the statistics of their BatchNorm.

    Args:
      keys: float32 [K, C]. steps: int64 [K], when each was made.

    Returns:
      float in 0..1, area under the ROC curve: the share of pairs of a newer
      and an older key that it puts in their order. 0.5: age does not show.
      None for fewer than four steps.
    """
    order, rank = np.unique(steps, return_inverse=True)
    if len(order) < 4:
        return None
    newer, odd = rank >= len(order) / 2, rank % 2 == 1
    shares = []
    for known in (odd, ~odd):
        direction = keys[known & newer].mean(0) - keys[known & ~newer].mean(0)
        scores = keys[~known] @ direction
        # Mann and Whitney: a tie is half a win.
        newest, oldest = scores[newer[~known]], np.sort(scores[~newer[~known]])
        wins = [oldest.searchsorted(newest, side) for side in ("left", "right")]
        shares.append(np.sum(wins) / 2 / (len(newest) * len(oldest)))
    return float(np.mean(shares))


class Pace:
    """Measures how far a step moves the key encoder to the query encoder.

    By the momentum update (v1, Eq. 2) it is 1 - m of the way. Only one kernel,
    the last, is measured: reading all would stop the device for longer.
    """

    def __init__(self):
        self._before = None

    def begin(self, method):
        """Stores the kernels of both encoders, after a step."""
        self._before = [
            encoder.trainable_variables[_last_kernel(encoder)].numpy()
            for encoder in (method.key_encoder, method.query_encoder)
        ]

    def end(self, method):
        """Measures the share of the way, after the next step.

        Returns:
          float; None without a `begin`, or where both encoders were equal.
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
    """Finds the number of the last variable that is not a vector."""
    variables = encoder.trainable_variables
    ranks = [len(variable.shape) for variable in variables]
    return max(number for number, rank in enumerate(ranks) if rank > 1)
