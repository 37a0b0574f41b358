"""The encoder as it is served: from bytes, pixels or tensors to features.

serving_default   bytes of image files -> features
embed_images      uint8 pixels of any size -> features
embed_tensors     normalised pixels of the encoder's size -> features
classify          bytes -> classes of a linear head, where one was exported
neighbours        bytes -> classes of the nearest neighbours, likewise

A row that cannot be read fails no other: it is zeros, and not `valid`.
"""

import tensorflow as tf

from moco_tf import plan
from moco_tf.data import decode, image_files, views
from moco_tf.models import cloning

FILE_INPUTS = ("image_bytes", "second_bytes")  # the second one of pairs alone
# Of tensors by signature and name, or by name alone.
_MEANINGS = {
    "image_bytes": f"whole files, {decode.FORMAT_NAMES}, any size",
    "second_bytes": "the other sensor's files, of the same sizes",
    ("embed_images", "images"): "RGB pixels, any height and width",
    ("embed_tensors", "images"): "(RGB / 255 - mean) / std, already resized",
    "features": "as the encoder gives them",
    "normalised": "of length 1",
    "valid": "whether the row could be read; if not, the row is zeros",
    "classes": "names, the best first; empty where a row could not be read",
    "probabilities": "of these classes",
    "scores": "votes of the nearest neighbours, sum of exp(cosine / T)",
}


class ServedEncoder(tf.Module):
    """An encoder with its preprocessing, as a SavedModel holds it.

    A loaded one, in plain TensorFlow, is called with normalised images
    float32 [n, S, S, C] and `training` (bool, whether BatchNorm uses the
    batch), returns features float32 [n, F], and passes gradients to its
    `trainable_variables`.

    Attributes:
      variables, trainable_variables: lists, of the backbone.
      head: labelling.LinearHead or None.
      bank: labelling.FeatureBank or None.
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
        side, channels = self.image_size, self._channels
        tensors = tf.TensorSpec([None, side, side, channels], tf.float32)
        for training in (False, True):
            self.__call__.get_concrete_function(tensors, training=training)
        named, contents = _one_file, [tf.TensorSpec([None], tf.string)]
        if channels == image_files.PAIR_CHANNELS:
            named, contents = _two_files, 2 * contents
        pixels = tf.TensorSpec([None, None, None, channels], tf.uint8)
        forms = {
            "serving_default": (named(self._embed_bytes), contents),
            "embed_images": (self._embed_images, [pixels]),
            "embed_tensors": (self._embed_tensors, [tensors]),
        }
        if self.head is not None:
            forms["classify"] = (named(self._classify), contents)
        if self.bank is not None:
            forms["neighbours"] = (named(self._neighbours), contents)
        return {
            name: tf.function(call).get_concrete_function(*specs)
            for name, (call, specs) in forms.items()
        }

    def _embed_tensors(self, images):
        return _outputs(self(images, training=False))

    def _embed_images(self, images):
        shape, side = tf.shape(images), self.image_size
        view = [side, side, self._channels]
        not_empty = tf.reduce_prod(shape[1:3]) > 0
        pixels = tf.cond(
            not_empty,
            lambda: tf.map_fn(
                self._view,
                images,
                fn_output_signature=tf.TensorSpec(view, tf.uint8),
            ),
            lambda: tf.zeros([shape[0], *view], tf.uint8),
        )
        return self._embed(pixels, tf.fill(shape[:1], not_empty))

    def _embed_bytes(self, files):
        pixels, valid = decode_rows(files, self._view, self.image_size)
        return self._embed(pixels, valid)

    def _classify(self, files):
        rows = self._embed_bytes(files)
        classes, probabilities = self.head(rows["features"])
        return _only_valid(
            rows["valid"], classes=classes, probabilities=probabilities
        )

    def _neighbours(self, files):
        rows = self._embed_bytes(files)
        classes, scores = self.bank(rows["normalised"])
        return _only_valid(rows["valid"], classes=classes, scores=scores)

    def _embed(self, pixels, valid):
        # The platform's fused convolutions fail on a batch of no rows.
        rows = tf.shape(valid)[0]
        extra = tf.maximum(1 - rows, 0)
        pixels = tf.pad(pixels, [[0, extra], [0, 0], [0, 0], [0, 0]])
        features = self(self._normalize(pixels), training=False)[:rows]
        return _only_valid(valid, **_outputs(features))


# Named arguments, FILE_INPUTS, become the inputs of a signature.


def _one_file(call):
    return lambda image_bytes: call(image_bytes)


def _two_files(call):
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


def float32_backbone(encoder):
    """The backbone of a run with its weights, in float32.

    Args:
      encoder: frozen.FrozenEncoder of a run, in any precision.

    Returns:
      keras.Model, normalised float32 [n, S, S, C] -> float32 [n, F]; its
      variables are copies.
    """
    config = encoder.config.copy_and_resolve_references()
    config.train.precision = "float32"
    config.model.sync_bn = False
    config.data.image_size = encoder.image_size
    config.data.small_views = 0
    recipe = encoder.recipe
    backbone, _ = plan.make_parts(config, recipe.mean, recipe.std)
    cloning.copy_weights(encoder.encoder.backbone, backbone)
    return backbone


def decode_rows(contents, view, size):
    """Decodes a batch; a row that cannot be read does not fail the others.

    Args:
      contents: string [n], or [n, 2] of pairs of files; n may be 0.
      view: uint8 [H, W, C] -> uint8 [size, size, C].
      size: int, pixels.

    Returns:
      uint8 [n, size, size, C], zeros where a row could not be read.
      bool [n], which rows could be read.
    """
    count = tf.shape(contents, tf.int64)[0]
    pairs = contents.shape.rank == 2
    shape = [size, size, image_files.PAIR_CHANNELS if pairs else 3]
    zeros = tf.zeros([1, *shape], tf.uint8)

    def read(row):
        files = contents[row]
        if pairs:
            image = image_files.decode_pair(decode.decode, files)
        else:
            image = decode.decode(files)
        return tf.ensure_shape(view(image), shape), row

    # Only rows that could be read come out of this, so each one brings its
    # number; the last, of no row, leaves no batch empty.
    rows = (
        tf.data.Dataset.range(count)
        .map(read, tf.data.AUTOTUNE, deterministic=True)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors((zeros[0], count)))
    )
    images, numbers = rows.batch(count + 1).get_single_element()
    last = tf.size(numbers) - 1
    index = tf.tensor_scatter_nd_update(
        tf.fill([count + 1], last), numbers[:, tf.newaxis], tf.range(last + 1)
    )[:-1]
    images = tf.ensure_shape(images, [None, *shape])
    return tf.gather(images, index), index < last


def describe(signatures):
    """Lists signatures.

    Args:
      signatures: dict of concrete functions, of a module that is to be saved
        or of a loaded SavedModel.

    Returns:
      dict name -> {"inputs": …, "outputs": …}, of dicts name -> {"dtype",
      "shape" (list, None for any size), "meaning"}, that JSON can hold.
    """
    described = {}
    for name, function in signatures.items():
        arguments, named = function.structured_input_signature
        named = {spec.name: spec for spec in arguments} | named
        described[name] = {
            "inputs": _tensors(name, named),
            "outputs": _tensors(name, function.structured_outputs),
        }
    return described


def _tensors(signature, specs):
    return {
        name: {
            "dtype": spec.dtype.name,
            "shape": spec.shape.as_list(),
            "meaning": _MEANINGS.get(
                (signature, name), _MEANINGS.get(name, "")
            ),
        }
        for name, spec in specs.items()
    }


def text(described):
    """Lines for people on the signatures of `describe`; "n" is any number."""
    lines = []
    for name, parts in described.items():
        lines.append(name)
        for arrow, tensors in (
            ("", parts["inputs"]),
            ("-> ", parts["outputs"]),
        ):
            for tensor, form in tensors.items():
                lines.append(
                    f"  {arrow + tensor:<17} {_form(form):<22} "
                    f"{form['meaning']}".rstrip()
                )
        lines.append("")
    return "\n".join(lines)


def _form(form):
    letters = ("n", "H", "W", "C")
    sizes = [
        letters[axis] if size is None else str(size)
        for axis, size in enumerate(form["shape"])
    ]
    return f"{form['dtype']} [{', '.join(sizes)}]"
