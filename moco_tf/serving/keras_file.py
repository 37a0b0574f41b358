"""The encoder as a .keras file of stock Keras layers."""

import tensorflow as tf

from moco_tf.models import cloning, normalization


def stock_model(backbone):
    """Copies a backbone into layers that Keras itself has.

    Args:
      backbone: functional keras.Model, images -> features.

    Returns:
      keras.Model of the same layer names, weights and features. Trained, its
      BatchNormalization takes the whole batch as one group.

    Raises:
      ValueError: for a model that holds other layers, with their names.
    """
    copy = cloning.clone_functional(backbone, _stock)
    foreign = sorted(
        {
            f"{type(layer).__module__}.{type(layer).__name__}"
            for layer in cloning.sublayers(copy)
            if type(layer).__module__.split(".")[0] != "keras"
        }
    )
    if foreign:
        raise ValueError(
            "A .keras file must hold layers of Keras alone. Received "
            f"{backbone.name!r} with {', '.join(foreign)}."
        )
    cloning.copy_weights(backbone, copy)
    return copy


def _stock(layer):
    """A BatchNormalization for our BatchNorm; None for another layer."""
    if not isinstance(layer, normalization.BatchNorm):
        return None
    return tf.keras.layers.BatchNormalization(
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        name=layer.name,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )
