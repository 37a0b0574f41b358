"""Requests that TensorFlow Serving replays before it takes others.

A TFRecord file of PredictionLog messages (tensorflow/serving, "SavedModel
Warmup"). Its few messages are encoded here, so that no package of protocol
buffers other than TensorFlow's own is needed; the images are the embedded
data set's, so that none of a user's leaves with the export.
"""

import io
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf import paths
from moco_tf.data import decode, shapes, views
from moco_tf.serving import signatures

FILE = "assets.extra/tf_serving_warmup_requests"
_ROWS = (1, 4)  # of the requests of each signature


def requests(names, recipe, image_size, files=1):
    """Makes inputs for each signature.

    Args:
      names: of signatures. recipe: views.Recipe. image_size: int, pixels.
      files: int, of an image: 1, or 2 of pairs.

    Returns:
      list of (signature, dict name -> array).
    """
    pairs = []
    for rows in _ROWS:
        images = shapes.render("test", np.arange(rows))
        contents = np.array(_encoded(images), object)
        inputs = dict.fromkeys(signatures.FILE_INPUTS[:files], contents)
        images = np.tile(images, files)
        pixels = [recipe.evaluate(image, image_size) for image in images]
        tensors = views.normalize(tf.stack(pixels), recipe.mean, recipe.std)
        for signature in names:
            if signature == "embed_images":
                pairs.append((signature, {"images": images}))
            elif signature == "embed_tensors":
                pairs.append((signature, {"images": tensors.numpy()}))
            else:
                pairs.append((signature, inputs))
    return pairs


def write(folder, model_name, pairs):
    """Writes the file of requests into a SavedModel.

    Args:
      folder: of the SavedModel, which is there already.
      model_name: as the server knows it.
      pairs: as `requests` returns them.

    Side effects: writes assets.extra/tf_serving_warmup_requests.
    """
    path = pathlib.Path(folder) / FILE
    path.parent.mkdir()
    with paths.plain(path) as plain, tf.io.TFRecordWriter(plain) as writer:
        for signature, inputs in pairs:
            request = predict_request(model_name, signature, inputs)
            # PredictionLog.predict_log = 6, PredictLog.request = 1
            writer.write(_field(6, _field(1, request)))


def predict_request(model_name, signature, inputs):
    """The bytes of a tensorflow.serving.PredictRequest.

    Args:
      model_name, signature: str. inputs: dict name -> array.
    """
    # ModelSpec: name = 1, signature_name = 3
    model = _field(1, model_name.encode()) + _field(3, signature.encode())
    message = _field(1, model)
    for name, values in inputs.items():
        tensor = tf.make_tensor_proto(values).SerializeToString()
        # An entry of the map inputs = 2: key = 1, value = 2
        message += _field(2, _field(1, name.encode()) + _field(2, tensor))
    return message


def _field(number, payload):
    """A length-delimited field of a protocol buffer's wire format."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(number):
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _encoded(images):
    """Encodes images, in all formats in turn."""
    files = []
    for number, image in enumerate(images):
        buffer = io.BytesIO()
        form = decode.FORMATS[number % len(decode.FORMATS)]
        Image.fromarray(image).save(buffer, form)
        files.append(buffer.getvalue())
    return files
