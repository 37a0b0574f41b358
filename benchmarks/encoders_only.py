"""A method's step without what is not its encoders' passes."""

import functools

import tensorflow as tf


def strip(method):
    """Strips a method's step to the encoders' forward and backward passes.

    Left out: momentum update, shuffle, predictor, logits, optimiser, queue or
    bank. It learns nothing.

    Args:
      method: TwoViews, compiled. Its train_step is replaced.
    """
    method.train_step = functools.partial(_passes_alone, method)


def _passes_alone(method, batch):
    """One step; the metrics keep every pass and every gradient alive."""
    encodings = method.encodings(batch).values()
    keys = [
        method.vectors(x.encoder, x.images) for x in encodings if not x.trained
    ]
    with tf.GradientTape() as tape:
        queries = [
            method.vectors(x.encoder, x.images) for x in encodings if x.trained
        ]
        # Against other rows: along itself a unit vector has no gradient.
        loss = tf.add_n([tf.reduce_sum(q * _others(q)) for q in queries])
    gradients = tape.gradient(loss, method.trained_variables())
    # One value of each: enough that none is pruned from the graph, and no
    # pass over the others.
    kept = [g for g in gradients if g is not None] + keys
    kept = tf.add_n([tf.reshape(value, [-1])[0] for value in kept])
    rest = dict.fromkeys(method.METRICS[1:], kept)
    return {"loss": loss, **rest}


def _others(rows):
    return tf.stop_gradient(tf.roll(rows, 1, axis=0))
