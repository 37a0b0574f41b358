"""Finds where a number that is not finite arose, by running its step again."""

import tensorflow as tf

from moco_tf import counting
from moco_tf.methods import method as methods
from moco_tf.methods import micro_batches
from moco_tf.models import batch_norm
from moco_tf.training import checkpoints

_MAX_STEPS = 2000  # run again, to come from a checkpoint to the step


def find(method, batches, strategy, path, step):
    """Names the first place at which a step's numbers are not finite.

    A run is a function of its seed and its steps, so the steps since the last
    checkpoint come out as they did; the one in question is then looked into.

    Args:
      method: Method as built for the run, at step 0; of no use afterwards.
      batches: Stream of the run. strategy: of this process alone.
      path: of the newest checkpoint, or None: from the start.
      step: int, the step (from 1) whose loss is not finite.

    Returns:
      str, a sentence.
    """
    first = checkpoints.restore(method, path) if path else 0
    if step - 1 - first > _MAX_STEPS:
        return (
            f"Step {step} is {step - first} steps after the last checkpoint, "
            "too far to run them again and find the layer; set "
            "config.checkpoint.every_steps to have one nearer."
        )
    iterator = iter(batches.distribute(strategy, first))
    train = method.make_train_function()
    again = step - 1 - first
    with counting.counted(again, 0, "running again", "steps") as bar:
        for _ in range(again):
            train(iterator)
            bar.add(1)
    batch = next(iterator)
    names: list[str] = []

    @tf.function(autograph=False)
    def look(batch):
        tensors = list(_tensors(method, methods.finished_views(batch)))
        names[:] = [name for name, _ in tensors]
        finite = [
            tf.reduce_all(tf.math.is_finite(tf.cast(values, tf.float32)))
            for _, values in tensors
        ]
        return tf.stack(finite)

    finite = strategy.experimental_local_results(
        strategy.run(look, args=(batch,))
    )
    for number, name in enumerate(names):
        if not all(bool(replica[number]) for replica in finite):
            return (
                f"The step was run again: the first numbers that are not "
                f"finite are {name}."
            )
    return (
        "The step was run again and all layers were finite: the loss itself "
        "overflows, or the fault does not come again."
    )


def _tensors(method, batch):
    """Names and tensors of a step in the order they are computed in."""
    encodings = method.encodings(batch)
    for kind, (encoder, _, _) in encodings.items():
        for weight in encoder.trainable_variables:
            yield f"the weights {weight.name!r} of the {kind} encoder", weight
    for kind, (encoder, images, _) in encodings.items():
        yield f"the {kind} images", images
        # As in the step: BatchNorm's groups are of a micro-batch.
        for values in tf.split(images, method.micro_batches):
            for model in (encoder.backbone, encoder.head):
                *outputs, values = _probe(model)(values, training=True)
                for layer, value in zip(_layers(model), outputs, strict=True):
                    name = f"the output of layer {layer.name!r} of the {kind}"
                    yield f"{name} encoder", value
    yield from _loss_and_gradients(method, batch)


def _layers(model):
    return [
        layer
        for layer in model.layers
        # A layer that is used twice has no one output.
        if len(layer.inbound_nodes) == 1
        and not isinstance(layer, tf.keras.layers.InputLayer)
    ]


def _probe(model):
    """A model that returns the outputs of all layers, then the model's."""
    outputs = [layer.output for layer in _layers(model)]
    return tf.keras.Model(model.inputs, [*outputs, model.output])


def _loss_and_gradients(method, batch):
    """The loss of a step and its gradients; no weight is moved by them."""
    step = {}

    def descend(loss_of, rows):
        variables = method.trained_variables()
        outputs, gradients = micro_batches.loss_and_gradients(
            loss_of,
            rows,
            method.micro_batches,
            variables,
            method.optimizer,
            layers=batch_norm.layers_of(method),
        )
        step["loss"] = outputs[0]
        step["gradients"] = list(zip(variables, gradients, strict=True))
        return outputs

    method.descend = descend  # the method is of no further use: see `find`
    method.train_step(batch)
    yield "the loss", step["loss"]
    # Backwards: the gradient that is computed first comes first.
    for variable, gradient in reversed(step["gradients"]):
        if gradient is not None:
            yield f"the gradient of {variable.name!r}", gradient
