"""The momentum (EMA) update of the key encoder."""

import math

import tensorflow as tf


def check_momentum(momentum):
    """Refuses a momentum outside 0..1 (ValueError)."""
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"momentum must lie in 0..1. Received momentum={momentum}."
        )


def rising_momentum(first, step, total_steps):
    """The momentum of a step, which rises to 1 along a cosine.

    1 - (1 - first) (cos(pi k / K) + 1) / 2 (BYOL, arXiv:2006.07733, Sec. 3.2).

    Args:
      first: float in 0..1, momentum of the first step.
      step: int64 scalar, k. total_steps: int, K of the whole run.

    Returns:
      float32 scalar; 1 at and after the last step.
    """
    done = tf.cast(step, tf.float32) / total_steps
    left = (tf.cos(math.pi * tf.minimum(done, 1.0)) + 1.0) / 2.0
    return 1.0 - (1.0 - first) * left


def warmed_momentum(last, step, warmup_steps):
    """The momentum of a step, which rises from 0 to `last` along a cosine.

    Deviation: MoCo's is the same from the first step on. A key encoder of
    momentum m is about 1 / (1 - m) steps behind: in a short run that is
    longer than the encoder has been learning.

    Args:
      last: float in 0..1, momentum from `warmup_steps` on.
      step: int64 scalar. warmup_steps: int, above 0.

    Returns:
      float32 scalar: last (1 - cos(pi step / warmup_steps)) / 2, then `last`.
    """
    done = tf.cast(step, tf.float32) / warmup_steps
    return last * (1.0 - tf.cos(math.pi * tf.minimum(done, 1.0))) / 2.0


def update_momentum(key_encoder, query_encoder, momentum):
    """Sets key weights to momentum * key + (1 - momentum) * query (v1, Eq. 2).

    Parameters only. BatchNorm's moving statistics are not averaged: each
    encoder keeps its own, as in the published implementation.

    Args:
      key_encoder: keras.Model; changed in place, inside the replica.
      query_encoder: keras.Model of the same architecture.
      momentum: float or float32 scalar in 0..1; 0.999 means that the key
        encoder moves slowly.
    """
    pairs = list(
        zip(
            key_encoder.trainable_variables,
            query_encoder.trainable_variables,
            strict=True,
        )
    )

    # XLA goes through the weights once, where single kernels do four times.
    # Made anew by each replica: it holds that replica's variables.
    @tf.function(jit_compile=True, autograph=False)
    def update():
        for key_weight, query_weight in pairs:
            key_weight.assign(
                momentum * key_weight + (1.0 - momentum) * query_weight
            )

    update()
