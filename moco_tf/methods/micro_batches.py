"""A batch in parts: encoded, and its loss and gradients, one part at a time.

The memory is that of a part and the step that of the whole batch: one momentum
update, one step of the optimiser, the same moving statistics.
"""

from typing import Any

import tensorflow as tf

from moco_tf.models import batch_norm


def encode(encode_rows, images, count, dim, layers=()):
    """Applies a function without gradient to the micro-batches of a batch.

    Args:
      encode_rows: float [N / count, ...] -> float32 [N / count, dim].
      images: float [N, ...]. count: int, micro-batches. dim: int.
      layers: the BatchNorm that it calls, which `follow_parts`.

    Returns:
      float32 [N, dim].
    """
    if count == 1:
        return encode_rows(images)
    parts = _parts(images, count)

    def body(number, encoded):
        with batch_norm.micro_batch(number, count, layers):
            return number + 1, encoded.write(number, encode_rows(parts[number]))

    _, encoded = tf.while_loop(
        lambda number, _: number < count,
        body,
        (0, tf.TensorArray(tf.float32, count)),
        parallel_iterations=1,
    )
    return tf.reshape(encoded.stack(), [images.shape[0], dim])


def loss_and_gradients(
    loss_of, rows, count, variables, optimizer, factor=1.0, layers=()
):
    """A loss over a batch that is encoded in micro-batches, and its gradients.

    Args:
      loss_of: takes a dict like `rows`, of tensors [N / count, ...]; returns a
        tuple: the loss, a float32 scalar; a dict of float32 means over these
        rows; and, if wanted, further float32 tensors [N / count, ...].
      rows: dict of tensors [N, ...]. count: int, micro-batches.
      variables: list of variables.
      optimizer: Keras optimiser; its loss scale is used if it has one.
      factor: float; the gradients are those of factor * loss.
      layers: the BatchNorm that `loss_of` calls, which `follow_parts`.

    Returns:
      outputs: a tuple like that of `loss_of`, for the whole batch.
      gradients: list, one for each variable.
    """

    def compute(rows):
        scales = hasattr(optimizer, "get_scaled_loss")  # float16
        with tf.GradientTape() as tape:
            outputs = loss_of(rows)
            target = outputs[0] * factor
            target = optimizer.get_scaled_loss(target) if scales else target
        gradients = tape.gradient(target, variables)
        if scales:
            gradients = optimizer.get_unscaled_gradients(gradients)
        return outputs, gradients

    if count == 1:
        return compute(rows)
    parts = {name: _parts(values, count) for name, values in rows.items()}
    shapes: Any = None  # of the outputs; known when the loop is traced

    def body(number, sums, written):
        nonlocal shapes
        part = {name: values[number] for name, values in parts.items()}
        with batch_norm.micro_batch(number, count, layers):
            outputs, gradients = compute(part)
        shapes = tf.nest.map_structure(lambda output: output.shape, outputs)
        sums = [
            total + gradient / count
            for total, gradient in zip(sums, gradients, strict=True)
        ]
        flat = [tf.reshape(value, [-1]) for value in tf.nest.flatten(outputs)]
        return number + 1, sums, written.write(number, tf.concat(flat, axis=0))

    _, gradients, written = tf.while_loop(
        lambda number, *_: number < count,
        body,
        (
            0,
            [tf.zeros(variable.shape) for variable in variables],
            tf.TensorArray(tf.float32, count),
        ),
        parallel_iterations=1,
    )
    return _combine(written.stack(), shapes, count), gradients


def _parts(rows, count):
    """[N, ...] -> [count, N / count, ...]."""
    return tf.reshape(rows, [count, rows.shape[0] // count, *rows.shape[1:]])


def _combine(parts, shapes, count):
    """The outputs of a batch from those of its micro-batches.

    Args:
      parts: float32 [count, D], the flat outputs of each micro-batch.
      shapes: the outputs' structure, a tf.TensorShape in each one's place: the
        loss and the dict of means, then tensors of rows. count: int.

    Returns:
      a tuple of that structure: means of the means, and the rows put together.
    """
    flat = tf.nest.flatten(shapes)
    sizes = [shape.num_elements() for shape in flat]
    parts = tf.ensure_shape(parts, [count, sum(sizes)])
    of_means = len(tf.nest.flatten(shapes[:2]))
    length = sum(sizes[:of_means])
    means = sum(part / count for part in tf.unstack(parts[:, :length]))
    outputs = [
        tf.reshape(values, shape)
        for values, shape in zip(
            tf.split(means, sizes[:of_means]), flat[:of_means], strict=True
        )
    ]
    for shape in flat[of_means:]:
        size = shape.num_elements()
        rows = parts[:, length : length + size]
        outputs.append(tf.reshape(rows, [count * shape[0], *shape[1:]]))
        length += size
    return tf.nest.pack_sequence_as(shapes, outputs)
