"""MoCo without what is not the encoders' forward and backward passes."""

import tensorflow as tf

from moco_tf.methods import moco


class EncodersOnly(moco.MoCo):
    """Encodes both views and computes the gradients; learns nothing.

    Left out: momentum update, shuffle, logits over the queue, optimiser,
    writing the queue.
    """

    def train_step(self, batch):
        """One step, as MoCo's; the metrics keep every gradient alive."""
        query_view, key_view = self.normalized(batch)
        key = self.vectors(self.key_encoder, key_view)
        with tf.GradientTape() as tape:
            query = self.vectors(self.query_encoder, query_view)
            loss = tf.reduce_sum(query * tf.stop_gradient(key))
        gradients = tape.gradient(loss, self.trained_variables())
        # One value of each: enough that none is pruned from the graph, and no
        # pass over the others.
        kept = tf.add_n([tf.reshape(g, [-1])[0] for g in gradients])
        return {
            "loss": loss,
            "instance_top1": kept,
            **dict.fromkeys(self.METRICS[2:], tf.constant(0.0)),
        }
