"""A model that was given, called as Keras calls it."""

import functools

import tensorflow as tf


def call(model, inputs, training):
    """Calls a model; AutoGraph reads its layers, as Keras promises them.

    Steps run without AutoGraph (methods/method.py). A layer of the model may
    be written for it all the same, with `if` on a tensor.

    Args:
      model: keras.Model. inputs: what it takes. training: bool.

    Returns:
      what the model returns.
    """
    return _read_by_autograph()(model, inputs, training)


@functools.cache
def _read_by_autograph():
    return tf.autograph.to_graph(_call)


def _call(model, inputs, training):
    return model(inputs, training=training)
