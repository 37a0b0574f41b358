"""Heads: from the backbone's features to the contrasted space, or classes.

`projection_head` makes the published projection heads by name, and
`classification_head` a linear classifier. Of single methods are `Prototypes`
(SwAV and DINO) and `context_network` (CPC). All compute in float32 under any
dtype policy.
"""

import math

import tensorflow as tf

from moco_tf.models import batch_norm

KINDS = ("fc", "mlp", "simclr", "byol", "swav", "dino", "dino_bn")
WITH_BATCH_NORM = ("simclr", "byol", "swav", "dino_bn")


def projection_head(
    kind, features, dim, *, hidden=0, norm=batch_norm.BatchNorm
):
    """Makes the head on top of a backbone.

    "fc" is one linear layer (MoCo v1); "mlp" adds a hidden layer and a ReLU
    (MoCo v2, section 3.1); "simclr", "byol" and "swav" have BatchNorm in
    between, and "simclr" at the end too; "dino" has three layers, and "dino_bn"
    BatchNorm between them. Layers of the first two are named as in the
    published implementation and start as its linear layers do: weights and
    biases uniform within 1 / sqrt(inputs).

    Args:
      kind: one of KINDS.
      features: F, features of the backbone.
      dim: C, features of a query or key.
      hidden: features of the hidden layers; 0: as many as the backbone's.
      norm: BatchNorm, or a functools.partial of it with its `splits` and
        `synchronized`; for the heads that have BatchNorm.

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
    if kind in ("dino", "dino_bn"):
        norm = norm if kind == "dino_bn" else None
        return dino_mlp(features, hidden, dim, norm=norm)
    if kind in ("simclr", "byol", "swav"):
        return bn_mlp(
            features, hidden, dim, norm=norm, output_bn=kind == "simclr"
        )
    hidden = hidden or features
    inputs = tf.keras.Input([features], name="features", dtype=tf.float32)
    if kind == "fc":
        outputs = _linear("fc", features, dim)(inputs)
    else:
        x = _linear("fc.0", features, hidden)(inputs)
        x = tf.keras.layers.ReLU(name="fc.1", dtype="float32")(x)
        outputs = _linear("fc.2", hidden, dim)(x)
    return tf.keras.Model(inputs, outputs, name="head")


def bn_mlp(
    features,
    hidden,
    dim,
    *,
    norm=batch_norm.BatchNorm,
    output_bn=False,
    name="head",
):
    """Makes two linear layers with BatchNorm and ReLU in between.

    With `output_bn` it is SimCLR's projection head as in its authors' code
    (arXiv:2002.05709): no layer has a bias, and a BatchNorm without an offset
    ends it. Without, it is BYOL's projector and predictor (arXiv:2006.07733,
    section 3.3), and SwAV's projector (arXiv:2006.09882, App. A). Deviation:
    BYOL's authors have no bias in the last layer.

    Args:
      features: inputs. hidden: features of the hidden layer; 0: as many.
      dim: outputs.
      norm: BatchNorm, or a functools.partial of it.
      output_bn: whether a BatchNorm ends it.
      name: of the model.

    Returns:
      keras.Model, [N, features] -> float32 [N, dim].
    """
    hidden = hidden or features
    inputs = tf.keras.Input([features], name="features", dtype=tf.float32)
    x = _linear("linear_1", features, hidden, bias=not output_bn)(inputs)
    x = norm(dtype="float32", name="bn_1")(x)
    x = tf.keras.layers.ReLU(name="relu", dtype="float32")(x)
    x = _linear("linear_2", hidden, dim, bias=not output_bn)(x)
    if output_bn:
        x = norm(dtype="float32", name="bn_2", center=False)(x)
    return tf.keras.Model(inputs, x, name=name)


def dino_mlp(features, hidden, dim, *, norm=None):
    """Makes DINO's projector (arXiv:2104.14294, App. C).

    Three layers, GELU in between. Weights start normal with deviation 0.02, cut
    at two deviations, and biases at 0. Deviation: the authors' are cut at 2, so
    theirs deviate by 0.02 and these by 0.0176.

    Args:
      features: inputs. hidden: features of both hidden layers; 0: as many.
      dim: outputs.
      norm: BatchNorm or a functools.partial of it, before each GELU; or None.

    Returns:
      keras.Model, [N, features] -> float32 [N, dim].
    """
    hidden = hidden or features
    inputs = tf.keras.Input([features], name="features", dtype=tf.float32)
    x = inputs
    for number, outputs in enumerate((hidden, hidden, dim), start=1):
        # A new one each time: Keras repeats the values of a reused one.
        normal = tf.keras.initializers.TruncatedNormal(stddev=0.02)
        x = tf.keras.layers.Dense(
            outputs,
            kernel_initializer=normal,
            dtype="float32",
            name=f"linear_{number}",
        )(x)
        if number < 3:
            if norm:
                x = norm(dtype="float32", name=f"bn_{number}")(x)
            x = tf.keras.layers.Activation(
                tf.nn.gelu, dtype="float32", name=f"gelu_{number}"
            )(x)
    return tf.keras.Model(inputs, x, name="head")


def _linear(name, inputs, outputs, bias=True):
    limit = 1.0 / math.sqrt(inputs)
    uniform = tf.keras.initializers.RandomUniform
    return tf.keras.layers.Dense(
        outputs,
        kernel_initializer=uniform(-limit, limit),
        bias_initializer=uniform(-limit, limit),
        use_bias=bias,
        dtype="float32",  # under a policy of mixed precision too
        name=name,
    )


def classification_head(features, classes, *, norm=None, seed=0):
    """Makes a linear classifier on top of a backbone.

    Weights start from N(0, 0.01), biases from 0 (MoCo v1's published code). A
    new layer that has BatchNorm trains at the scale of its own inputs (v1,
    section 4.2).

    Args:
      features: F, features of the backbone. classes: int.
      norm: BatchNorm or a functools.partial of it, before the linear layer; or
        None.
      seed: int, of the weights.

    Returns:
      keras.Model, [N, F] -> logits float32 [N, classes]. Its layers are "bn"
      (with `norm`) and "fc".
    """
    inputs = tf.keras.Input([features], name="features", dtype=tf.float32)
    x = norm(dtype="float32", name="bn")(inputs) if norm else inputs
    outputs = tf.keras.layers.Dense(
        classes,
        kernel_initializer=tf.keras.initializers.RandomNormal(
            stddev=0.01, seed=seed
        ),
        dtype="float32",
        name="fc",
    )(x)
    return tf.keras.Model(inputs, outputs, name="classifier")


class Prototypes(tf.keras.layers.Layer):
    """K directions in the projection's space that vectors are compared with.

    Attributes:
      kernel: float32 [C, K] variable.
    """

    def __init__(self, dim, count, name="prototypes"):
        """Starts uniform within 1 / sqrt(C), as torch's linear layers do.

        Args:
          dim: C, features of a projection.
          count: K.
          name: of the layer.
        """
        super().__init__(name=name, dtype="float32")
        limit = dim**-0.5
        self.kernel = self.add_weight(
            name="kernel",
            shape=[dim, count],
            initializer=tf.keras.initializers.RandomUniform(-limit, limit),
        )

    def normalize(self):
        """Makes every prototype of unit length (SwAV, App. A), in place."""
        self.kernel.assign(tf.math.l2_normalize(self.kernel, axis=0))

    def call(self, vectors, frozen=False, unit=False):
        """Compares vectors with the prototypes.

        Args:
          vectors: float32 [N, C], L2-normalised.
          frozen: bool, Python's or a tensor; True: no gradient of prototypes.
          unit: whether lengths are divided out here: a weight-normalised layer
            whose gains are 1 (arXiv:1602.07868, Eq. 2; DINO, App. C).

        Returns:
          float32 [N, K].
        """
        kernel = tf.convert_to_tensor(self.kernel)
        kernel = tf.where(frozen, tf.stop_gradient(kernel), kernel)
        if unit:
            kernel = tf.math.l2_normalize(kernel, axis=0)
        return tf.matmul(vectors, kernel)


def context_network(side, dim, blocks):
    """Makes CPC's context network, which reads a grid of patches downwards.

    The context at a position of the grid depends on the patches of its row and
    of the rows above, by masked convolutions; on none below. A
    block is PixelCNN's idea (arXiv:1601.06759) with rows in the place of
    pixels: 1x1, 1x3 along the row, 2x1 over the row and the one above, 1x1,
    and the input added.

    Args:
      side: g, rows and columns of the grid.
      dim: C, features of a patch.
      blocks: int, at least 1; each sees one row more above, and one column
        more on both sides.

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
