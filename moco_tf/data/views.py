"""The published recipes, spelled out: one image in, one view out.

A recipe is two functions and the normalisation of its data. A user's recipe
has functions of the same form, for example v2 without colour and with cutout:

    def augment(image, size, seed):
        draws = views.draw(seed)
        image = views.random_resized_crop(image, size, draws, (0.2, 1.0))
        centre = tf.cast(draws.spare[:2] * size, tf.int32)
        image = image_ops.cutout(image, centre, size // 2, fill=127.0)
        image = image_ops.flip_horizontal(image, draws.flip < 0.5)
        return image_ops.to_uint8(image)

    recipe = views.RECIPES["v2"]._replace(augment=augment)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from moco_tf.data import augmentation, compiled_views, image_ops

# Building blocks of a user's recipe, beside those of image_ops.py.
draw = augmentation.draw
crop_and_flip = augmentation.crop_and_flip
normalize = image_ops.normalize  # of finished views

# A random view: in parts, or one function (see Recipe).
Augment = augmentation.Augmentation | augmentation.Seeded | Callable


class Recipe(NamedTuple):
    """How images become views.

    Attributes:
      augment: (uint8 [H, W, 3], size int, seed int64 [2]) -> uint8
        [size, size, 3], a random view, a pure function of its arguments.
        AutoGraph does not read it: write tf.cond, not `if`, on tensors.
      evaluate: (uint8 [H, W, 3], size int) -> uint8 [size, size, 3].
      mean, std: per channel, of pixels in 0..1, for `normalize`.
      augment_key: of the key view; None: as `augment`.
      augment_small: of multi-crop's small views, whose scale is the stream's;
        None: as `augment`.
    """

    augment: Augment
    evaluate: Callable
    mean: tuple
    std: tuple
    augment_key: Augment | None = None
    augment_small: Augment | None = None

    def evaluate_on_host(self, image, size):
        """As `evaluate`, in a data set of this process: by compiled code."""
        return getattr(self.evaluate, "on_host", self.evaluate)(image, size)

    @property
    def both(self):
        """The functions of the query view and of the key view."""
        return self.augment, self.augment_key or self.augment

    def small(self, count, size, scale):
        """The small views of multi-crop (SwAV, arXiv:2006.09882, Sec. 3.2).

        Args:
          count: int, of an image. size: int, pixels of a side.
          scale: (low, high), parts of the area that a crop takes.

        Returns:
          SmallViews.

        Raises:
          ValueError: for an `augment` that is no Augmentation.
        """
        augment = self.augment_small or self.augment
        if not isinstance(augment, augmentation.Augmentation):
            raise ValueError(
                "Small views need a recipe made of Augmentations, whose scale "
                f"can be set. Received {augment}."
            )
        low, high = scale
        parts = augment._replace(low=low, high=high)
        return augmentation.SmallViews(parts, count, size)


@dataclasses.dataclass(frozen=True)
class Centre:
    """An evaluation view: the short side resized, then the centre cut out.

    Attributes:
      ratio: float, of the short side to the view's, at least 1.
    """

    ratio: float

    def __call__(self, image, size):
        """The view in the graph alone, as `evaluate` of a Recipe."""
        short_side = round(size * self.ratio)
        view = image_ops.resize_and_centre_crop(image, short_side, size)
        return image_ops.to_uint8(view)

    def on_host(self, image, size):
        """The same bits by the compiled kernel, where the host runs Python."""
        if not compiled_views.is_there():
            return self(image, size)
        short_side = round(size * self.ratio)
        return compiled_views.make_evaluation_view(image, short_side, size)


evaluate_imagenet = Centre(256 / 224)  # 256 and 224
evaluate_cifar = Centre(1.0)  # a 32 x 32 image as it is


def random_resized_crop(image, size, draws, scale):
    """A box of `scale` of the area, ratio 3/4..4/3, resized to a square.

    Args:
      image: uint8 [H, W, 3]. size: int, pixels.
      draws: Draws. scale: (low, high), fractions of the image's area.

    Returns:
      float32 [size, size, 3] in 0..255.
    """
    box = image_ops.sample_box(tf.shape(image)[:2], draws.box, scale)
    return image_ops.resized_crop(image, box, size)


def color_jitter(image, draws, brightness, contrast, saturation, hue):
    """torchvision's ColorJitter: random factors, in a random order.

    Args:
      image: float32 [H, W, 3] in 0..255. draws: Draws.
      brightness, contrast, saturation: x in 0..1, the factor is uniform in
        1 - x..1 + x.
      hue: h in 0..0.5 turns, the shift is uniform in -h..h.
    """
    reach = (brightness, contrast, saturation, hue)
    factors, order = augmentation.jitter_numbers(draws, reach)
    return image_ops.color_jitter(image, order, *tf.unstack(factors))


def sometimes(probability, uniform, operation, image):
    """Applies an operation with a probability; else it costs nothing."""
    return tf.cond(
        uniform < probability, lambda: operation(image), lambda: image
    )


_FARTHEST = (1.0, 1.0, 1.0, 0.5)  # brightness, contrast, saturation, hue
_IMAGENET: Any = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

# Deviation: blur is drawn by its sigma alone, with the kernel that this needs;
# SimCLR and BYOL cut it at a tenth of the image. Crops are bilinear and colours
# torchvision's in all recipes; BYOL's and DINO's authors resize bicubically,
# and BYOL's add to the brightness and change the saturation in HSV.
_BYOL = augmentation.Augmentation(
    low=0.08, reach=(0.4, 0.4, 0.2, 0.1), jitter=0.8, gray=0.2, blur=1.0
)

# To add a recipe, add an entry.
RECIPES = {
    # MoCo v1 (arXiv:1911.05722, Sec. 3.3), in the published code's order.
    "v1": Recipe(
        augmentation.Augmentation(
            low=0.2,
            reach=(0.4, 0.4, 0.4, 0.4),
            jitter=1.0,
            gray=0.2,
            gray_first=True,
        ),
        evaluate_imagenet,
        **_IMAGENET,
    ),
    # MoCo v2 (arXiv:2003.04297, Sec. 2): weaker hue, and blur.
    "v2": Recipe(
        augmentation.Augmentation(
            low=0.2,
            reach=(0.4, 0.4, 0.4, 0.1),
            jitter=0.8,
            gray=0.2,
            blur=0.5,
        ),
        evaluate_imagenet,
        **_IMAGENET,
    ),
    # The authors' CIFAR-10 notebook: smaller crops, no blur.
    "cifar": Recipe(
        augmentation.Augmentation(
            low=0.08, reach=(0.4, 0.4, 0.4, 0.1), jitter=0.8, gray=0.2
        ),
        evaluate_cifar,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    # SimCLR (arXiv:2002.05709, App. A) at strength 1.
    "simclr": Recipe(
        augmentation.Augmentation(
            low=0.08, reach=(0.8, 0.8, 0.8, 0.2), jitter=0.8, gray=0.2, blur=0.5
        ),
        evaluate_imagenet,
        **_IMAGENET,
    ),
    # BYOL (arXiv:2006.07733, Table 6): two views of different kinds.
    "byol": Recipe(
        _BYOL,
        evaluate_imagenet,
        **_IMAGENET,
        augment_key=_BYOL._replace(blur=0.1, solarize=0.2),
    ),
    # SwAV (arXiv:2006.09882, App. A): SimCLR's at strength 1 on larger crops.
    "swav": Recipe(
        augmentation.Augmentation(
            low=0.14, reach=(0.8, 0.8, 0.8, 0.2), jitter=0.8, gray=0.2, blur=0.5
        ),
        evaluate_imagenet,
        **_IMAGENET,
    ),
    # DINO (arXiv:2104.14294): BYOL's, with crops as for its ResNet-50.
    "dino": Recipe(
        _BYOL._replace(low=0.14),
        evaluate_imagenet,
        **_IMAGENET,
        augment_key=_BYOL._replace(low=0.14, blur=0.1, solarize=0.2),
        augment_small=_BYOL._replace(blur=0.5),
    ),
    # CMC (arXiv:1906.05849, App. B): crop and flip; the channels differ.
    "cmc": Recipe(
        augmentation.Augmentation(low=0.2), evaluate_imagenet, **_IMAGENET
    ),
    # CPC (arXiv:1807.03748, Sec. 3.2): 256 of 300 pixels a side, and flip.
    # Deviation: 0.73 of the area at least, of ratios from 3 / 4 to 4 / 3.
    "cpc": Recipe(
        augmentation.Augmentation(low=0.73), evaluate_imagenet, **_IMAGENET
    ),
}


def recipe(name, strength=1.0):
    """A recipe by name, with a stronger or weaker colour jitter.

    Args:
      name: key of RECIPES.
      strength: float, s of SimCLR (arXiv:2002.05709, App. A); 1.0 is the
        recipe itself. The hue's reach ends at half a turn, the others' at 1.

    Returns:
      Recipe.
    """
    published = RECIPES[name]
    if strength == 1.0:
        return published

    def stronger(augment):
        pairs = zip(augment.reach, _FARTHEST, strict=True)
        reach = tuple(min(strength * x, limit) for x, limit in pairs)
        return augment._replace(reach=reach)

    query, key = published.both
    return published._replace(
        augment=stronger(query),
        augment_key=stronger(key),
        augment_small=stronger(published.augment_small or query),
    )
