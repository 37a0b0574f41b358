"""A replica's batch in parts, one after another: less memory, same numbers."""

import tensorflow as tf

from moco_tf.models import normalization


def encode(encode_rows, images, count, dim):
    """Applies a function without gradient to the micro-batches of a batch.

    Args:
      encode_rows: float [N / count, ...] -> float32 [N / count, dim].
      images: float [N, ...]. count: int, micro-batches. dim: int.

    Returns:
      float32 [N, dim].
    """
    if count == 1:
        return encode_rows(images)
    parts = _parts(images, count)

    def body(number, encoded):
        with normalization.micro_batch(number, count):
            return number + 1, encoded.write(number, encode_rows(parts[number]))

    _, encoded = tf.while_loop(
        lambda number, _: number < count,
        body,
        (0, tf.TensorArray(tf.float32, count)),
        parallel_iterations=1,
    )
    return tf.reshape(encoded.stack(), [images.shape[0], dim])


def gradients(loss_of, rows, count, variables, optimizer, shapes, share=1.0):
    """Means of a loss and scores over a batch, and the loss's gradients.

    Args:
      loss_of: takes a dict of tensors [N / count, ...]; returns the loss, a
        float32 scalar, and a dict of float32 scores: means over the rows, or
        rows [N / count, ...].
      rows: dict of tensors [N, ...]. count: int, micro-batches.
      variables: list of variables.
      optimizer: Keras optimiser; its loss scale is used if it has one.
      shapes: dict of tf.TensorShape, of the scores; rows begin with None.
      share: float, of the loss, whose gradients are returned.

    Returns:
      loss: float32 scalar; dict of scores; list of gradients by variable.
    """

    def of(rows):
        scales = hasattr(optimizer, "get_scaled_loss")  # float16
        with tf.GradientTape() as tape:
            loss, scores = loss_of(rows)
            part = loss * share
            part = optimizer.get_scaled_loss(part) if scales else part
        found = tape.gradient(part, variables)
        if scales:
            found = optimizer.get_unscaled_gradients(found)
        return loss, scores, found

    if count == 1:
        return of(rows)
    parts = {name: _parts(values, count) for name, values in rows.items()}

    def body(number, sums):
        part = {name: values[number] for name, values in parts.items()}
        with normalization.micro_batch(number, count):
            loss, scores, slopes = of(part)
        scores = {
            name: _placed(values, number, count) if name in by_row else values
            for name, values in scores.items()
        }
        return number + 1, tf.nest.map_structure(
            lambda total, new: total + new / count,
            sums,
            (loss, scores, slopes),
        )

    batch = next(iter(rows.values())).shape[0]
    by_row = [name for name, shape in shapes.items() if shape[:1] == [None]]
    scores = {
        name: tf.zeros([batch, *shape[1:]] if name in by_row else shape)
        for name, shape in shapes.items()
    }
    slopes = [tf.zeros(variable.shape) for variable in variables]
    return tf.while_loop(
        lambda number, _: number < count,
        body,
        (0, (0.0, scores, slopes)),
        parallel_iterations=1,
    )[1]


def _parts(rows, count):
    """[N, ...] -> [count, N / count, ...]."""
    return tf.reshape(rows, [count, rows.shape[0] // count, *rows.shape[1:]])


def _placed(rows, number, count):
    """Rows [N / count, ...] at their place of [N, ...], times count."""
    places = tf.one_hot(number, count, float(count))
    placed = tf.tensordot(places, rows, axes=0)
    return tf.reshape(placed, [-1, *rows.shape[1:]])
