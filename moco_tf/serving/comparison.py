"""An exported encoder against the one it was made from, on photographs."""

import importlib.resources
import io
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf.data import decode, shapes, views

FILE = "assets.extra/tf_serving_warmup_requests"
BYTES = ("image_bytes", "second_bytes")  # inputs, by file of an image
_ROWS = (1, 4)  # of the requests of each signature


def requests(signatures, recipe, image_size, files=1):
    """Makes inputs for each signature.

    Args:
      signatures: names. recipe: views.Recipe. image_size: int, pixels.
      files: int, of an image: 1, or 2 of pairs.

    Returns:
      list of (signature, dict name -> array).
    """
    made = []
    for rows in _ROWS:
        images = shapes.render("test", np.arange(rows))
        contents = np.array(_encoded(images), object)
        inputs = dict.fromkeys(BYTES[:files], contents)
        images = np.tile(images, files)
        seen = [recipe.evaluate(image, image_size) for image in images]
        tensors = views.normalize(tf.stack(seen), recipe.mean, recipe.std)
        for signature in signatures:
            if signature == "embed_images":
                made.append((signature, {"images": images}))
            elif signature == "embed_tensors":
                made.append((signature, {"images": tensors.numpy()}))
            else:
                made.append((signature, inputs))
    return made


def write(folder, model_name, made):
    """Writes the file into a SavedModel.

    Args:
      folder: of the SavedModel, which is there already.
      model_name: as the server knows it.
      made: as `requests` returns it.

    Side effects: writes assets.extra/tf_serving_warmup_requests.
    """
    path = pathlib.Path(folder) / FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in made:
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
    """Files of all formats in turn."""
    files = []
    for place, image in enumerate(images):
        buffer = io.BytesIO()
        form = decode.FORMATS[place % len(decode.FORMATS)]
        Image.fromarray(image).save(buffer, form)
        files.append(buffer.getvalue())
    return files


LIMIT = 1e-4  # of the largest feature
# Of a run in another precision: about what bfloat16 leaves of a direction.
SMALLEST_COSINE = 0.99


class Difference(NamedTuple):
    """How far two sets of features are apart."""

    form: str
    largest: float  # difference of two values
    relative: float  # the same, as a share of the largest feature
    cosine: float  # smallest of a row

    def __str__(self):
        return (
            f"{self.form:<16} max difference {self.largest:.2e} "
            f"({self.relative:.1e} of the largest), cosine {self.cosine:.7f}"
        )


def compare(form, rows, expected):
    """Compares float [n, F] rows with those expected.

    Returns:
      Difference.
    """
    rows, expected = np.asarray(rows), np.asarray(expected)
    rows, expected = rows.astype(np.float64), expected.astype(np.float64)
    largest = np.abs(rows - expected).max()
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (rows * expected).sum(axis=1) / np.maximum(lengths, 1e-30)
    scale = max(np.abs(expected).max(), 1e-30)
    return Difference(
        form, float(largest), float(largest / scale), float(cosine.min())
    )


def photographs():
    """Encoded images of several sizes: two photographs, three scenes.

    Returns:
      list of bytes, JPEG and PNG.
    """
    folder = importlib.resources.files("sklearn.datasets") / "images"
    photos = [
        (folder / name).read_bytes() for name in ("china.jpg", "flower.jpg")
    ]
    scenes = shapes.render("test", np.arange(3))
    return photos + [tf.io.encode_png(scene).numpy() for scene in scenes]


def inputs_of_photographs(count):
    """The photographs as an encoder of one or two files takes them.

    Args:
      count: int, files of an image; a second one is the first's negative.

    Returns:
      files: dict of lists of bytes, by input of a signature.
      images: list of uint8 [H, W, 3 count].
    """
    files = {BYTES[0]: photographs()}
    images = [decode.decode(contents) for contents in photographs()]
    if count == 2:
        negatives = [255 - image for image in images]
        files[BYTES[1]] = [
            tf.io.encode_png(image).numpy() for image in negatives
        ]
        images = [
            tf.concat(both, axis=-1)
            for both in zip(images, negatives, strict=True)
        ]
    return files, images


def check_export(folder, served, judged):
    """Loads an export and compares it with what the run gives.

    Args:
      folder: of a SavedModel, with or without encoder.keras.
      served: signatures.ServedEncoder that was saved there.
      judged: frozen.Frozen of the run.

    Returns:
      list of Difference.

    Raises:
      FloatingPointError: if the export does not give the run's features.
    """
    folder = pathlib.Path(folder)
    recipe, precision = judged.recipe, judged.config.train.precision
    files, decoded = inputs_of_photographs(judged.channels // 3)
    pixels = tf.stack([recipe.evaluate(x, judged.image_size) for x in decoded])
    tensors = views.normalize(pixels, recipe.mean, recipe.std)
    own = judged.encode(pixels)["backbone"]
    expected = own
    found = []
    if precision != "float32":
        expected = served(tensors)
        found.append(compare(f"in {precision}", own, expected))
        _check(found[-1].cosine >= SMALLEST_COSINE, folder, found)
    loaded = tf.saved_model.load(str(folder))
    rows = _of_signatures(loaded.signatures, files, decoded[0], tensors)
    if (folder / "encoder.keras").is_file():
        model = tf.keras.models.load_model(
            folder / "encoder.keras", compile=False, safe_mode=True
        )
        rows["encoder.keras"] = model(tensors, training=False)
    for form, values in rows.items():
        found.append(compare(form, values, expected[: len(values)]))
        _check(found[-1].relative <= LIMIT, folder, found)
    _check_classes(loaded.signatures, served, files, expected)
    return found


def _of_signatures(signatures, files, image, tensors):
    """Features of the same images through each way in, by name."""
    answer = signatures["serving_default"](
        **{
            name: tf.constant([*column, b"not an image"])
            for name, column in files.items()
        }
    )
    read = answer["valid"].numpy().tolist()
    if read != [True] * len(tensors) + [False] or tf.reduce_any(
        answer["features"][-1] != 0
    ):
        raise FloatingPointError(
            "The exported encoder must read images and give zeros for what is "
            f"none. Received valid={read}."
        )
    return {
        "serving_default": answer["features"][:-1],
        "embed_images": signatures["embed_images"](images=image[tf.newaxis])[
            "features"
        ],
        "embed_tensors": signatures["embed_tensors"](images=tensors)[
            "features"
        ],
    }


def _check_classes(signatures, served, files, expected):
    """Compares the answers of classify and neighbours, where there are."""
    unit = tf.math.l2_normalize(expected, axis=1, epsilon=1e-24)
    parts = {
        "classify": (served.head, expected, "probabilities"),
        "neighbours": (served.bank, unit, "scores"),
    }
    for form, (part, rows, name) in parts.items():
        if part is None:
            continue
        inputs = {key: tf.constant(column) for key, column in files.items()}
        values = signatures[form](**inputs)[name]
        wanted = part(rows)[1]
        if not np.allclose(values, wanted, rtol=1e-2, atol=1e-3):
            raise FloatingPointError(
                f"The exported {form} must give what its parts give. Received "
                f"{values.numpy()} in place of {wanted.numpy()}."
            )


def _check(holds, folder, found):
    if not holds:
        raise FloatingPointError(
            "The exported encoder must give the run's features: to "
            f"{LIMIT:g} of the largest in float32, and with cosines above "
            f"{SMALLEST_COSINE} to those of another precision. Received from "
            f"{str(folder)!r}:\n" + "\n".join(map(str, found))
        )
