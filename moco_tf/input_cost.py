"""What a core delivers of the input, what GPUs need, what a cache spares."""

import math
import os
from typing import NamedTuple

import numpy as np

from moco_tf.data import sources, stored_images, unreadable

_PAYS = 1.15  # times the rate of before, at least
_LOOKED_AT = 8  # images whose sizes are taken for those of all
_OF_MEMORY = 0.5  # that pixels may fill; else JPEGs are advised
_NOT_CACHED = ("prepared:", "shapes")


class Cache(NamedTuple):
    """A prepared cache that would make the input faster.

    Attributes:
      command: str, the beginning of the command line that makes it.
      gain: float, times the rate of before, estimated.
    """

    command: str
    gain: float


def cache_for(config, source, stages_of_image, memory=None):
    """The cache that would make an input faster, or None.

    Of pixels, if they fit into memory, where all of reading and decoding is
    spared; else of JPEGs, which are decoded, but of fewer pixels.

    Args:
      config: ConfigDict. source: its Source.
      stages_of_image: dict of `benchmark.stages`.
      memory: bytes of the machine; None: as it is.
    """
    total = sum(stages_of_image.values())
    if config.data.source.startswith(_NOT_CACHED) or total <= 0:
        return None
    share = max(0.0, stages_of_image["read and decode"]) / total
    pixels, small, smaller = _sizes(source)
    memory = _memory() if memory is None else memory
    cache = Cache("moco-tf prepare", 1 / max(1 - share, 0.1))
    if 3 * small * len(source) > _OF_MEMORY * memory:
        spared = share * (1 - smaller / pixels)
        gain = 1 / max(1 - spared, 0.1)
        cache = Cache("moco-tf prepare --format=jpeg", gain)
    return cache if cache.gain >= _PAYS else None


def _sizes(source):
    """Mean pixels of images as they are, in a raw cache, and in one of JPEGs.

    1, 1 and 1 of images that cannot be read.
    """
    sizes = []
    for index in sources.evenly_spaced(len(source), _LOOKED_AT):
        image, _ = unreadable.read(source, index)
        if image is not None:
            height, width = image.shape[:2]
            shrinks = [
                min(1, form.short_side / min(height, width)) ** 2
                for form in (stored_images.RAW, stored_images.JPEG)
            ]
            sizes.append(height * width * np.array([1, *shrinks]))
    return np.mean(sizes, axis=0).tolist() if sizes else [1, 1, 1]


def _memory():
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def needs(rate, cores, gpu_rate, cache):
    """What a core makes, and the cores that GPUs of some rate need.

    Args:
      rate: float, images/s of the input. cores: int, that it ran on.
      gpu_rate: float, images/s of the GPUs; 0: none are meant.
      cache: Cache or None.

    Returns:
      dict of figures, units in their names.
    """
    each = rate / cores
    figures = {"input_images_per_second_per_core": each}
    if cache:
        figures["cache"] = cache._asdict()
    if gpu_rate:
        figures["gpu_images_per_second"] = gpu_rate
        figures["input_cores_needed"] = math.ceil(gpu_rate / each)
    if gpu_rate and cache:
        cores = math.ceil(gpu_rate / (each * cache.gain))
        figures["input_cores_needed_with_cache"] = cores
    return figures


def describe(figures):
    """Lines about figures of `needs`, for people; "" of none."""
    each = figures.get("input_images_per_second_per_core")
    if each is None:
        return ""
    text = f"{'a core':<12}{each:>9.1f} images/s of input\n"
    cache = figures.get("cache")
    wanted = figures.get("gpu_images_per_second")
    if wanted:
        needed = figures["input_cores_needed"]
        text += f"{'needed':<12}{needed:>9} cores for {wanted:,.0f} images/s"
        if cache:
            fewer = figures["input_cores_needed_with_cache"]
            text += f"; about {fewer} from a cache ({cache['command']})"
        text += "\n"
    elif cache:
        text += (
            f"{'cache':<12}{cache['gain']:>9.1f} times the input, about: "
            f"{cache['command']}\n"
        )
    return text
