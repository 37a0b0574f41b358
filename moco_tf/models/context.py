"""The context of a place in a grid: what lies in its row and above (CPC)."""

import tensorflow as tf


def context_network(side, dim, blocks):
    """Makes masked convolutions that read a grid from the top to the bottom.

    A block is PixelCNN's idea (arXiv:1601.06759) with rows in the place of
    pixels: 1x1, 1x3 along the row, 2x1 over the row and the one above, 1x1,
    and the input added.

    Args:
      side: g, rows and columns. dim: C. blocks: int, at least 1; each sees one
        row more above, and one column more on both sides.

    Returns:
      keras.Model, float32 [N, g, g, C] -> [N, g, g, C].
    """
    layers = tf.keras.layers
    inputs = tf.keras.Input([side, side, dim], name="grid", dtype=tf.float32)
    x = inputs
    for block in range(blocks):

        def convolve(y, kernel, name, padding="same", block=block):
            return layers.Conv2D(
                dim,
                kernel,
                padding=padding,
                dtype="float32",
                name=f"block{block}.{name}",
            )(y)

        y = layers.ReLU(dtype="float32")(convolve(x, 1, "in"))
        y = layers.ReLU(dtype="float32")(convolve(y, (1, 3), "row"))
        # A row of zeros above the first: nothing below is seen.
        y = layers.ZeroPadding2D(((1, 0), (0, 0)), dtype="float32")(y)
        y = layers.ReLU(dtype="float32")(convolve(y, (2, 1), "above", "valid"))
        x = layers.Add(dtype="float32")([x, convolve(y, 1, "out")])
    x = layers.ReLU(dtype="float32", name="context")(x)
    return tf.keras.Model(inputs, x, name="context")
