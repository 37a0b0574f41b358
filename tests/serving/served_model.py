"""A small SavedModel with the signatures of an exported encoder."""

import tensorflow as tf


class ServedMean(tf.Module):
    """Features are the mean colour, of bytes or of tensors."""

    def __init__(self):
        super().__init__()
        self.factor = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def of_bytes(self, image_bytes):
        def one(data):
            decoded = tf.data.Dataset.from_tensors(data).map(
                lambda x: (
                    tf.reduce_mean(
                        tf.cast(
                            tf.io.decode_image(
                                x, channels=3, expand_animations=False
                            ),
                            tf.float32,
                        ),
                        [0, 1],
                    ),
                    True,
                )
            )
            nothing = tf.data.Dataset.from_tensors((tf.zeros([3]), False))
            return decoded.ignore_errors().concatenate(nothing).take(1)

        rows = tf.data.Dataset.from_tensor_slices(image_bytes).interleave(
            one, cycle_length=4, num_parallel_calls=2, deterministic=True
        )
        count = tf.size(image_bytes, tf.int64)
        features, valid = rows.batch(count).get_single_element()
        return {"features": self.factor * features, "valid": valid}

    @tf.function(input_signature=[tf.TensorSpec([None, 2, 2, 3], tf.float32)])
    def of_tensors(self, images):
        return {"features": self.factor * tf.reduce_mean(images, [1, 2])}


def save(path):
    """Writes it as version 3 below a folder."""
    module = ServedMean()
    tf.saved_model.save(
        module,
        str(path / "3"),
        {
            "serving_default": module.of_bytes,
            "embed_tensors": module.of_tensors,
        },
    )
