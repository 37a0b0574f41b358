"""Pass after pass over the same images, for what is measured every epoch."""

import tensorflow as tf

from moco_tf.evaluation import features


class Passes:
    """Batches of `features.evaluation_batches`, as often as they are wanted.

    One iterator makes all passes. TensorFlow optimises the functions of a new
    one anew, which takes half a second for an evaluation view and a whole one
    for a training view, and scatters what the process holds of the memory.
    """

    def __init__(self, source, recipe, image_size, batch_size, view=None):
        """Reads nothing yet; arguments as of `evaluation_batches`."""
        batches = features.evaluation_batches(
            source, recipe, image_size, batch_size, view=view
        )
        shape = [0, image_size, image_size, source.channels]
        end = (tf.zeros(shape, tf.uint8), tf.zeros([0], tf.int64))
        end = tf.data.Dataset.from_tensors(end)
        # Nothing is read ahead of a pass: `repeat` waits until it is asked.
        self._batches = batches.concatenate(end).repeat()
        self._iterator = None

    def __iter__(self):
        iterator = self._iterator or iter(self._batches)
        self._iterator = None  # one that is left in a pass is not taken up
        for images, index in iterator:
            if not len(index):
                break
            yield images, index
        self._iterator = iterator
