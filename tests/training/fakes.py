"""A MoCo so small that building and saving it takes no time."""

import tensorflow as tf

from moco_tf.methods import moco
from moco_tf.training import optimizers


def make_method(optimizer="sgd", queue_size=6, head="fc", rate=0.1):
    """A compiled method with its slots, step 0."""
    images = tf.keras.Input([4, 4, 3])
    features = tf.keras.layers.Flatten()(images)
    features = tf.keras.layers.Dense(3, name="dense")(features)
    backbone = tf.keras.Model(images, features)
    method = moco.MoCo(backbone, head=head, dim=2, queue_size=queue_size)
    method.compile(optimizers.make_optimizer(optimizer, rate, 0.9, 0.01))
    method.build_optimizer()
    return method


def mark(method, step):
    """Sets the step, and all of the state to values that tell it."""
    for number, variable in enumerate(state(method)):
        value = tf.fill(variable.shape, 100 * step + number)
        variable.assign(tf.cast(value, variable.dtype))
    method.step.assign(step)


def state(method):
    """The variables that a run depends on."""
    return [
        *method.query_encoder.weights,
        *method.key_encoder.weights,
        *method.optimizer.variables,
        method.queue.keys,
        method.queue.samples,
        method.queue.steps,
        method.queue.pointer,
        method.step_log.values,
        method.step,
    ]
