"""A backbone that is traced in no time, in the place of the configured one."""

import tensorflow as tf


def build(name, image_size=None, **options):
    """Takes what encoder.build_backbone takes; [N, S, S, 3] -> [N, 8]."""
    del name, options
    layers = [
        tf.keras.Input([image_size, image_size, 3]),
        tf.keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        tf.keras.layers.GlobalAveragePooling2D(),
    ]
    return tf.keras.Sequential(layers)
