"""Activations made twice instead of kept: less memory for a slower step."""

import re

import tensorflow as tf

from moco_tf.models import normalization

_BLOCK_END = re.compile(r"layer\d+\.\d+\.relu")  # of our ResNets


def recomputing(backbone):
    """A backbone's training pass that keeps the ends of its blocks alone.

    What lies between is computed again on the way back (arXiv:1604.06174).
    BatchNorm's moving statistics change in the first pass only.

    Args:
      backbone: functional keras.Model, one of our ResNets.

    Returns:
      function of images float [N, H, W, 3] -> features [N, F].

    Raises:
      ValueError: for a backbone whose blocks are not known.
    """
    ends = [
        layer.output
        for layer in backbone.layers
        if _BLOCK_END.fullmatch(layer.name)
    ]
    if not ends:
        raise ValueError(
            "model.recompute knows the blocks of the ResNets alone. Received "
            f"{backbone.name!r}. Use model.recompute=false; for less "
            "memory, a smaller batch."
        )
    # The last block's end is kept for the pooling anyway.
    starts = [backbone.input, *ends[:-1]]
    parts = [
        tf.keras.Model(start, end)
        for start, end in zip(
            starts, [*ends[:-1], backbone.output], strict=True
        )
    ]

    def run(images):
        for part in parts:
            images = tf.recompute_grad(_first_pass_counts(part))(images)
        return images

    return run


def _first_pass_counts(part):
    passes = []

    def run(rows):
        passes.append(rows)
        with normalization.statistics_kept(len(passes) > 1):
            return part(rows, training=True)

    return run
