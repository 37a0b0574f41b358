"""Heads: from the backbone's features to the contrasted space, or classes."""

import math

import tensorflow as tf

from moco_tf.models import normalization

KINDS = ("fc", "mlp")


def projection_head(kind, features, dim):
    """Makes the head on top of a backbone, in float32.

    "fc" is one linear layer (MoCo v1); "mlp" adds a hidden layer as wide as
    the features, and a ReLU (MoCo v2, section 3.1). Layers are named as in the
    published implementation and start as its linear layers do: weights and
    biases uniform within 1 / sqrt(inputs).

    Args:
      kind: "fc" or "mlp".
      features: F, features of the backbone.
      dim: C, features of a query or key.

    Returns:
      keras.Model, [N, F] -> float32 [N, C].

    Raises:
      ValueError: The kind is unknown or a size is not positive.
    """
    if kind not in KINDS:
        raise ValueError(f"head must be one of {KINDS}. Received {kind!r}.")
    if features < 1 or dim < 1:
        raise ValueError(
            "A head needs at least one input and one output. Received "
            f"features={features}, dim={dim}."
        )
    inputs = tf.keras.Input([features], name="features", dtype=tf.float32)
    if kind == "fc":
        outputs = _linear("fc", features, dim)(inputs)
    else:
        hidden = _linear("fc.0", features, features)(inputs)
        hidden = tf.keras.layers.ReLU(name="fc.1", dtype="float32")(hidden)
        outputs = _linear("fc.2", features, dim)(hidden)
    return tf.keras.Model(inputs, outputs, name="head")


def classification_head(
    features, classes, batch_norm=True, synchronized=True, seed=0
):
    """Makes a linear classifier on top of a backbone, in float32.

    Weights start from N(0, 0.01), biases from 0 (MoCo v1's published code). A
    new layer that has BatchNorm trains at the scale of its own inputs (v1,
    section 4.2).

    Args:
      features: F, features of the backbone. classes: int.
      batch_norm: whether a BatchNorm comes first.
      synchronized: whether that takes the statistics of all replicas' batches.
      seed: int, of the weights.

    Returns:
      keras.Model, [N, F] -> logits float32 [N, classes]. Its layers are "bn"
      and "fc".
    """
    inputs = tf.keras.Input([features], name="features", dtype=tf.float32)
    x = inputs
    if batch_norm:
        x = normalization.BatchNorm(
            synchronized=synchronized, dtype="float32", name="bn"
        )(x)
    outputs = tf.keras.layers.Dense(
        classes,
        kernel_initializer=tf.keras.initializers.RandomNormal(
            stddev=0.01, seed=seed
        ),
        dtype="float32",
        name="fc",
    )(x)
    return tf.keras.Model(inputs, outputs, name="classifier")


def _linear(name, inputs, outputs):
    limit = 1.0 / math.sqrt(inputs)
    uniform = tf.keras.initializers.RandomUniform
    return tf.keras.layers.Dense(
        outputs,
        kernel_initializer=uniform(-limit, limit),
        bias_initializer=uniform(-limit, limit),
        dtype="float32",  # under any policy; see design, "Precision"
        name=name,
    )
