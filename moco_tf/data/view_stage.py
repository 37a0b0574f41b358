"""The stage of the stream that turns decoded images into views."""

from typing import NamedTuple

import tensorflow as tf

from moco_tf.data import augmentation, image_ops

HOST, DEVICE = "host", "device"
WHERE = (HOST, DEVICE)
NAMES = ("query", "key")
# Pixels; up to here an image's kernels take longer to call than to run. At 32 a
# batch at a time is a third faster than an image at a time, at 64 half as fast.
_SMALL = 32


class ViewStage(NamedTuple):
    """One or two views of each image, by the choices of its slot.

    Attributes:
      parts: of the query and of the key view, each an Augmentation or Seeded
        (see augmentation.py).
      size: int, pixels of a view's side.
      names: of the views that a job makes.
      augment_on: "device": crops leave the host, and with each, under
        "query_distortion" or "key_distortion", what the device is to do.
    """

    parts: tuple
    size: int
    names: tuple
    augment_on: str

    def check(self):
        """Raises a ValueError for views that the device cannot finish."""
        if self.augment_on not in WHERE:
            raise ValueError(
                f"augment_on must be one of {WHERE}. Received "
                f"augment_on={self.augment_on!r}."
            )
        if self.augment_on == DEVICE and not self._published():
            raise ValueError(
                "augment_on='device' needs a recipe made of Augmentations, "
                f"whose parts are known. Received {self.parts}. Use "
                "augment_on='host'."
            )

    def _published(self):
        kind = augmentation.Augmentation
        return all(isinstance(parts, kind) for parts in self.parts)

    def choose(self, seed, positions):
        """Choices [n, 2, ...] of positions int64 [n], one after another."""
        first = tf.stack([tf.constant(seed, tf.int64), 2 * positions[0]])
        count = positions.shape[0]
        query, key = self.parts
        choices = query.choose(first, 2 * count)
        choices = tf.reshape(choices, [count, 2, choices.shape[-1]])
        if key == query:
            return choices
        others = key.choose(first, 2 * count)
        others = tf.reshape(others, choices.shape)
        return tf.stack([choices[:, 0], others[:, 1]], axis=1)

    def takes_batches_of(self, shape):
        """Whether `of_batch` serves for images of a TensorShape."""
        return (
            shape.is_fully_defined()
            and self.size <= _SMALL
            and self._published()
        )

    def of_image(self, image, choices, wanted, if_wanted):
        """Views of one image.

        Args:
          image: uint8 [H, W, 3]. choices: [2, ...], of `choose`.
          wanted: bool [2]. if_wanted: function of a bool scalar and two
            functions (see Share).

        Returns:
          dict of uint8 [S, S, 3] by name.
        """
        shape = [self.size, self.size, 3]
        query, key = self.parts
        boxes = [
            parts.boxes(image, choices)[number]
            for number, parts in enumerate(self.parts)
        ]

        def traced(parts):
            make = parts.view if self.augment_on == HOST else parts.crop

            @tf.function(autograph=False)
            def view(image, box, choice):
                made = make(image, self.size, box, choice)
                return tf.ensure_shape(made, shape)

            return view

        first = traced(query)
        # One trace for both views, where they are alike.
        views = (first, first if key == query else traced(key))
        return {
            name: if_wanted(
                wanted[number],
                lambda number=number: views[number](
                    image, boxes[number], choices[number]
                ),
                lambda: tf.zeros(shape, tf.uint8),
            )
            for number, name in enumerate(self.names)
        } | self._distortions(choices)

    def of_batch(self, images, choices):
        """As `of_image` for n images of one size, wanted or not."""
        made = {}
        for number, name in enumerate(self.names):
            parts, chosen = self.parts[number], choices[:, number]
            crops = parts.crop_batch(images, self.size, chosen)
            if self.augment_on == HOST:
                crops = parts.distort_batch(crops, chosen)
            made[name] = image_ops.to_uint8(crops)
        return made | self._distortions(choices)

    def _distortions(self, choices):
        if self.augment_on == HOST:
            return {}
        rows = self.parts[0].distortions(choices)
        return {
            f"{name}_distortion": rows[..., number, :]
            for number, name in enumerate(self.names)
        }
