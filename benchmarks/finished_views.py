"""Views of the product's stream, finished as a step takes them."""

import time

import tensorflow as tf

from moco_tf import plan
from moco_tf.data import views

WARM_UP = 3  # batches that are made beforehand and do not count


class FinishedViews:
    """Both views of images, normalised to float; called for seconds."""

    def __init__(self, config, source, images, both=None):
        """Opens the stream.

        Args:
          config: ConfigDict. source: Source. images: int, of a call.
          both: functions of a Recipe for the two views, in place of its own.
        """
        self._stream = plan.make_stream(config, source)
        if both:
            self._stream.use(*both)
        self._steps = images // config.train.batch_size
        self._first = 0
        recipe = views.RECIPES[config.data.views]

        @tf.function(autograph=False)  # as in the step
        def finish(batch):
            return [
                views.normalize(batch[name], recipe.mean, recipe.std)
                for name in ("query", "key")
            ]

        self._finish = finish

    def __call__(self):
        batches = iter(self._stream.batches(1, self._first, 2**62))
        self._first += WARM_UP + self._steps
        for _ in range(WARM_UP):
            self._finish(next(batches))
        start = time.perf_counter()
        for _ in range(self._steps):
            finished = self._finish(next(batches))
        del finished
        return time.perf_counter() - start
