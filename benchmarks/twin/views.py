"""The images of the twin, and their random views: Pillow and NumPy alone."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance

_MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
_STD = torch.tensor([0.2023, 0.1994, 0.2010]).view(1, 3, 1, 1)


def load_images(folder, per_class=None):
    """Decodes folder/CLASS/*.jpg in name order.

    Args:
      folder: path. per_class: int, the first files of each class; None: all.

    Returns:
      uint8 [N, 32, 32, 3], and the labels, int64 tensor [N].
    """
    files = [
        (path, label)
        for label, class_folder in enumerate(sorted(Path(folder).iterdir()))
        for path in sorted(class_folder.glob("*.jpg"))[:per_class]
    ]
    images = np.stack(
        [np.asarray(Image.open(path).convert("RGB")) for path, _ in files]
    )
    return images, torch.tensor([label for _, label in files])


def to_tensor(images):
    """Normalises uint8 [N, 32, 32, 3] to float32 [N, 3, 32, 32].

    Stored channels-last, which is faster on a CPU.
    """
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    pixels = pixels.sub_(_MEAN).div_(_STD)
    return pixels.contiguous(memory_format=torch.channels_last)


def _crop(image, rng, size=32, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """Resizes a box of random area and aspect ratio to size x size."""
    for _ in range(10):
        area = size * size * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w = round(math.sqrt(area * aspect))
        h = round(math.sqrt(area / aspect))
        if 0 < w <= size and 0 < h <= size:
            left, top = rng.randint(0, size - w), rng.randint(0, size - h)
            # Crop first: resize(box=...) would let pixels from outside the box
            # in at its edges.
            box = image.crop((left, top, left + w, top + h))
            return box.resize((size, size), Image.BILINEAR)
    return image  # torchvision's fall-back, for a square image all of it


def _shift_hue(image, amount):
    """Turns the hue by a fraction of the circle, in 8-bit HSV."""
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(int(amount * 255) % 256)
    return Image.fromarray(hsv, "HSV").convert("RGB")


def _jitter(image, rng):
    """Brightness, contrast, saturation by 0.6..1.4, hue by -0.1..0.1."""
    for step in rng.sample(range(4), 4):
        if step == 3:
            image = _shift_hue(image, rng.uniform(-0.1, 0.1))
            continue
        enhancer = (
            ImageEnhance.Brightness,
            ImageEnhance.Contrast,
            ImageEnhance.Color,
        )[step]
        image = enhancer(image).enhance(rng.uniform(0.6, 1.4))
    return image


def augment(pixels, rng):
    """One random view of uint8 [32, 32, 3], in the notebook's order."""
    image = _crop(Image.fromarray(pixels), rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    if rng.random() < 0.8:
        image = _jitter(image, rng)
    if rng.random() < 0.2:
        image = image.convert("L").convert("RGB")
    return np.asarray(image)


def view_of(images, rng):
    """A batch of independent random views as a normalised tensor."""
    return to_tensor(np.stack([augment(pixels, rng) for pixels in images]))
