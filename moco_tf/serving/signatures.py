"""The encoder as it is served: from bytes, pixels or tensors to features."""

import tensorflow as tf

from moco_tf.data import pairs, views
from moco_tf.models import cloning, configured
from moco_tf.serving import image_rows


def float32_backbone(judged):
    """The backbone of a run with its weights, in float32.

    Args:
      judged: frozen.Frozen of a run, in any precision.

    Returns:
      keras.Model, normalised float32 [n, S, S, C] -> float32 [n, F], with
      variables of its own.
    """
    config = judged.config.copy_and_resolve_references()
    config.train.precision = "float32"
    config.model.sync_bn = False
    config.data.image_size = judged.image_size
    config.data.small_views = 0
    recipe = judged.recipe
    backbone, _ = configured.make_parts(config, recipe.mean, recipe.std)
    cloning.copy_weights(judged.encoder.backbone, backbone)
    return backbone


class ServedEncoder(tf.Module):
    """An encoder with its preprocessing, as a SavedModel holds it.

    A loaded one, in plain TensorFlow, is called with normalised images
    float32 [n, S, S, C] and `training` (bool, whether BatchNorm uses the
    batch), returns features float32 [n, F], and passes gradients to its
    `trainable_variables`.

    Attributes:
      variables, trainable_variables: lists, of the backbone.
      head: linear_head.LinearHead or None.
      bank: feature_bank.FeatureBank or None.
    """

    # tf.Module's properties do not outlive a SavedModel; attributes do.
    variables = None
    trainable_variables = None

    def __init__(self, backbone, recipe, image_size, head=None, bank=None):
        """Joins the parts.

        Args:
          backbone: keras.Model, normalised float32 [n, S, S, C] -> float32
            [n, F].
          recipe: views.Recipe, whose evaluation view images go through.
          image_size: S, pixels.
          head, bank: see the attributes.
        """
        super().__init__()
        self.image_size = image_size
        self._channels = backbone.input_shape[-1]
        self.variables = backbone.variables
        self.trainable_variables = backbone.trainable_variables
        self.head = head
        self.bank = bank
        # Functions: what is tracked would be saved too, a Keras model with
        # code that only a process with this package can load.
        self._encode = lambda x, training: backbone(x, training=training)
        self._view = lambda image: recipe.evaluate(image, image_size)
        self._normalize = lambda x: views.normalize(x, recipe.mean, recipe.std)

    @tf.function
    def __call__(self, images, training=False):
        """Features float32 [n, F] of normalised images [n, S, S, C]."""
        return self._encode(images, training)

    def signatures(self):
        """Traces what a SavedModel offers, and the forms of `__call__`.

        Returns:
          dict of concrete functions by name.
        """
        side, deep = self.image_size, self._channels
        tensors = tf.TensorSpec([None, side, side, deep], tf.float32)
        for training in (False, True):
            self.__call__.get_concrete_function(tensors, training=training)
        of_files, contents = _of_one_file, [tf.TensorSpec([None], tf.string)]
        if deep == pairs.CHANNELS:
            of_files, contents = _of_two_files, 2 * contents
        pixels = tf.TensorSpec([None, None, None, deep], tf.uint8)
        forms = {
            "serving_default": (of_files(self._embed_bytes), contents),
            "embed_images": (self._embed_images, [pixels]),
            "embed_tensors": (self._embed_tensors, [tensors]),
        }
        if self.head is not None:
            forms["classify"] = (of_files(self._classify), contents)
        if self.bank is not None:
            forms["neighbours"] = (of_files(self._neighbours), contents)
        return {
            name: tf.function(call).get_concrete_function(*specs)
            for name, (call, specs) in forms.items()
        }

    def _embed_tensors(self, images):
        return _outputs(self(images, training=False))

    def _embed_images(self, images):
        shape, side = tf.shape(images), self.image_size
        view = [side, side, self._channels]
        some = tf.reduce_prod(shape[1:3]) > 0
        pixels = tf.cond(
            some,
            lambda: tf.map_fn(
                self._view,
                images,
                fn_output_signature=tf.TensorSpec(view, tf.uint8),
            ),
            lambda: tf.zeros([shape[0], *view], tf.uint8),
        )
        return self._embed(pixels, tf.fill(shape[:1], some))

    def _embed_bytes(self, files):
        pixels, valid = image_rows.decode_rows(
            files, self._view, self.image_size
        )
        return self._embed(pixels, valid)

    def _classify(self, files):
        found = self._embed_bytes(files)
        classes, probabilities = self.head(found["features"])
        return _only_valid(
            found["valid"], classes=classes, probabilities=probabilities
        )

    def _neighbours(self, files):
        found = self._embed_bytes(files)
        classes, scores = self.bank(found["normalised"])
        return _only_valid(found["valid"], classes=classes, scores=scores)

    def _embed(self, pixels, valid):
        # The platform's fused convolutions fail on a batch of no rows.
        rows = tf.shape(valid)[0]
        extra = tf.maximum(1 - rows, 0)
        pixels = tf.pad(pixels, [[0, extra], [0, 0], [0, 0], [0, 0]])
        features = self(self._normalize(pixels), training=False)[:rows]
        return _only_valid(valid, **_outputs(features))


# The arguments' names are those of a signature's inputs.


def _of_one_file(call):
    return lambda image_bytes: call(image_bytes)


def _of_two_files(call):
    return lambda image_bytes, second_bytes: call(
        tf.stack([image_bytes, second_bytes], axis=1)
    )


def _outputs(features):
    # As kNN does: a row of zeros stays one.
    normalised = tf.math.l2_normalize(features, axis=1, epsilon=1e-24)
    return {"features": features, "normalised": normalised}


def _only_valid(valid, **outputs):
    """Zeros, or empty texts, in rows that could not be read."""
    outputs = {
        name: tf.where(valid[:, tf.newaxis], rows, tf.zeros([], rows.dtype))
        for name, rows in outputs.items()
    }
    return {**outputs, "valid": valid}
