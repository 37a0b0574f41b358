"""The stage of the stream that turns decoded images into views."""

from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf.data import augmentation, image_ops

HOST, DEVICE = "host", "device"
WHERE = (HOST, DEVICE)
NAMES = ("query", "key")
# Pixels; up to here an image's kernels take longer to call than to run. At 32 a
# batch at a time is a third faster than an image at a time, at 64 half as fast.
_SMALL = 32
_SMALL_KEYS = 2**32  # a seed is below this


class SmallViews(NamedTuple):
    """The small views of multi-crop (SwAV, arXiv:2006.09882, Sec. 3.2).

    Attributes:
      parts: Augmentation or Seeded, of all of them.
      count: int, of an image. size: int, pixels of a side.
    """

    parts: Any
    count: int  # type: ignore[assignment]  # not the method of tuples
    size: int


class ViewStage(NamedTuple):
    """One or two views of each image, by the choices of its slot.

    Attributes:
      parts: of the query and of the key view, each an Augmentation or Seeded
        (see augmentation.py).
      size: int, pixels of a view's side.
      names: of the views that a job makes.
      augment_on: "device": crops leave the host, and with each, under
        "query_distortion" or "key_distortion", what the device is to do.
      small: SmallViews, made beside them under "small", or None.
      channels: int, of an image.
    """

    parts: tuple
    size: int
    names: tuple
    augment_on: str
    small: Any = None
    channels: int = 3

    def check(self):
        """Raises a ValueError for views that cannot be made, or not there."""
        if self.augment_on not in WHERE:
            raise ValueError(
                f"augment_on must be one of {WHERE}. Received "
                f"augment_on={self.augment_on!r}."
            )
        if len({type(parts) for parts in self.parts}) > 1:
            raise ValueError(
                "A recipe's augment and augment_key must both be functions, or "
                f"both Augmentations. Received {self.parts}. Replace "
                "augment_key too, or set it to None: as augment."
            )
        if self.augment_on == DEVICE and not self._published():
            raise ValueError(
                "augment_on='device' needs a recipe made of Augmentations, "
                f"whose parts are known. Received {self._all_parts()}. Use "
                "augment_on='host'."
            )
        if self.channels != 3 and not self._only_crops():
            raise ValueError(
                "Images of two files take views that crop and flip alone: "
                "colours are of one sensor. Received views that do more. Use "
                "data.views=cmc and data.augment_on=host."
            )

    def _published(self):
        kind = augmentation.Augmentation
        return all(isinstance(parts, kind) for parts in self._all_parts())

    def _only_crops(self):
        on_host = self.augment_on == HOST and self._published()
        return on_host and not any(part.distorts for part in self._all_parts())

    def _all_parts(self):
        return self.parts + ((self.small.parts,) if self.small else ())

    def choose(self, seed, positions):
        """What is random in the views of positions, one after another.

        Args:
          seed: int. positions: int64 [n].

        Returns:
          dict: "pair" [n, 2, ...], and with small views "small" [n, V, ...].
        """
        found = {"pair": self._choose_pair(seed, positions)}
        if self.small:
            each, count = self.small.count, positions.shape[0]
            # Another key than the pair's: unrelated numbers.
            key = tf.constant(seed + _SMALL_KEYS, tf.int64)
            first = tf.stack([key, each * positions[0]])
            choices = self.small.parts.choose(first, each * count)
            found["small"] = tf.reshape(choices, [count, each, -1])
        return found

    def _choose_pair(self, seed, positions):
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
            and shape[-1] == 3
            and self.size <= _SMALL
            and self._published()
        )

    def of_image(self, image, choices, wanted, if_wanted):
        """Views of one image.

        Args:
          image: uint8 [H, W, C]. choices: of `choose`, for this image.
          wanted: bool [2]. if_wanted: function of a bool scalar and two
            functions (see Share).

        Returns:
          dict of uint8 by name: [S, S, C], and "small" [V, s, s, C].
        """
        query, key = self.parts
        pair = choices["pair"]
        boxes = [
            parts.boxes(image, pair)[number]
            for number, parts in enumerate(self.parts)
        ]
        first = self._traced(query, self.size)
        # One trace for both views, where they are alike.
        other = first if key == query else self._traced(key, self.size)
        views = (first, other)
        made = {
            name: if_wanted(
                wanted[number],
                lambda number=number: views[number](
                    image, boxes[number], pair[number]
                ),
                lambda: tf.zeros(self._shape(self.size), tf.uint8),
            )
            for number, name in enumerate(self.names)
        }
        if self.small:
            made["small"] = if_wanted(
                wanted[0],  # they go where the query goes
                lambda: self._small_of_image(image, choices["small"]),
                lambda: tf.zeros(
                    [self.small.count, *self._shape(self.small.size)], tf.uint8
                ),
            )
        return made | self._distortions(choices)

    def _traced(self, parts, size):
        make = parts.view if self.augment_on == HOST else parts.crop

        @tf.function(autograph=False)
        def view(image, box, choice):
            made = make(image, size, box, choice)
            return tf.ensure_shape(made, self._shape(size))

        return view

    def _shape(self, size):
        return [size, size, self.channels]

    def _small_of_image(self, image, choices):
        parts, count, size = self.small
        boxes = parts.boxes(image, choices)
        view = self._traced(parts, size)
        return tf.stack(
            [view(image, boxes[i], choices[i]) for i in range(count)]
        )

    def of_batch(self, images, choices):
        """As `of_image` for n images of one size, wanted or not."""

        def view(parts, size, choices):
            crops = parts.crop_batch(images, size, choices)
            if self.augment_on == HOST:
                crops = parts.distort_batch(crops, choices)
            return image_ops.to_uint8(crops)

        made = {
            name: view(self.parts[i], self.size, choices["pair"][:, i])
            for i, name in enumerate(self.names)
        }
        if self.small:
            parts, count, size = self.small
            chosen = [choices["small"][:, i] for i in range(count)]
            small = [view(parts, size, choice) for choice in chosen]
            made["small"] = tf.stack(small, axis=1)
        return made | self._distortions(choices)

    def _distortions(self, choices):
        if self.augment_on == HOST:
            return {}
        rows = self.parts[0].distortions(choices["pair"])
        found = {
            f"{name}_distortion": rows[..., number, :]
            for number, name in enumerate(self.names)
        }
        if self.small:
            rows = self.small.parts.distortions(choices["small"])
            found["small_distortion"] = rows
        return found
