"""Views of the product's stream, finished as a step takes them.

Started by benchmarks/input_pipeline.py for another checkout: after "ready" on
standard output it answers each line "N" on standard input by the seconds that
N images took, and those of the processor.
"""

import sys
import time

import measure

from moco_tf.cli import quiet

if __name__ == "__main__":  # which comes before TensorFlow
    OPTIONS, CONFIG = measure.parse(
        measure.parser("Finished views.", "moco_v2_imagenet"), measure.INPUT
    )
with quiet.imports():
    import tensorflow as tf

    from moco_tf import plan
    from moco_tf.data import sources, views

WARM_UP = 3  # batches that are made beforehand and do not count


class FinishedViews:
    """Both views of images, normalised to float; called for seconds.

    Attributes:
      processor: list of float, seconds of this process that calls took.
    """

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
        self.processor = []
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
        start, begun = time.perf_counter(), time.process_time()
        for _ in range(self._steps):
            finished = self._finish(next(batches))
        del finished
        self.processor.append(time.process_time() - begun)
        return time.perf_counter() - start


def on_host(config):
    """Two views of each image, made on the host, whatever is configured."""
    config.data.small_views, config.data.augment_on = 0, "host"


def main():
    on_host(CONFIG)
    source, runs = sources.open_source(CONFIG.data.source), {}
    print("ready", flush=True)
    for line in sys.stdin:
        if line not in runs:
            runs[line] = FinishedViews(CONFIG, source, int(line))
        print(runs[line](), runs[line].processor[-1], flush=True)


if __name__ == "__main__":
    main()
