"""Copies of Keras models, as they are or with our BatchNorm."""

import contextlib
import itertools

import tensorflow as tf

from moco_tf.models import batch_norm


def output_bytes(model, rows=1, inner=1):
    """Bytes of the output of each layer of a functional model, a list of int.

    A model that stands as a layer has `inner` rows for each of the others.

    Args:
      model: keras.Model, whose layers have known sizes. rows: int, of a batch.
      inner: int.

    Raises:
      TypeError: for a layer of any size.
    """
    sizes = []
    for layer in model.layers:
        if is_functional(layer):
            sizes += output_bytes(layer, rows * inner)
            continue
        for output in tf.nest.flatten(layer.output):
            values = output.shape[1:].num_elements()
            sizes.append(rows * values * output.dtype.size)
    return sizes


def swap_batch_norm(model, *, norm=batch_norm.BatchNorm):
    """Copies a model; our BatchNorm replaces Keras' BatchNormalization.

    Momentum, epsilon and weights stay.

    Args:
      model: functional keras.Model; left as it is.
      norm: BatchNorm, or a functools.partial of it with its `splits` and
        `synchronized`.

    Returns:
      keras.Model of the same architecture and weights.

    Raises:
      ValueError: The model is not functional, or a layer cannot be replaced.
    """
    if not is_functional(model):
        raise ValueError(
            "swap_batch_norm needs a functional keras.Model. Received "
            f"{type(model).__name__} {model.name!r}. Use "
            "moco_tf.models.batch_norm.BatchNorm in its definition."
        )
    keras_layer = tf.keras.layers.BatchNormalization
    swapped = clone_functional(
        model,
        lambda layer: (
            _batch_norm_like(layer, norm)
            if isinstance(layer, keras_layer)
            else None
        ),
    )
    remaining = [
        layer.name
        for layer in sublayers(swapped)
        if isinstance(layer, keras_layer)
    ]
    if remaining:
        raise ValueError(
            "These BatchNormalization layers sit where they cannot be "
            f"replaced: {remaining}. Use moco_tf.models.batch_norm.BatchNorm "
            f"in the definition of {model.name!r}."
        )
    copy_weights(model, swapped)
    return swapped


def _batch_norm_like(layer, norm):
    """BatchNorm with the settings of a Keras BatchNormalization."""
    config = layer.get_config()
    axis = config["axis"]
    axis = axis[0] if isinstance(axis, (list, tuple)) else axis
    # Keras-cv says 3 for the last axis of an image; a built layer says so too.
    rank = layer.input_spec.ndim if layer.built else 4
    if axis not in (-1, rank - 1):
        raise ValueError(
            "BatchNorm works on the last axis. Received a BatchNormalization "
            f"with axis={axis} at layer {layer.name}. Use a channels-last "
            "model."
        )
    return norm(
        momentum=config["momentum"],
        epsilon=config["epsilon"],
        center=config["center"],
        scale=config["scale"],
        name=layer.name,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )


def clone(model):
    """Copies a functional model and its weights.

    BatchNorm layers inside a layer of the model are copied with their settings
    too, as after `swap_batch_norm`.

    Args:
      model: functional keras.Model; left as it is.

    Returns:
      keras.Model of the same architecture and weights; shares no variable.

    Raises:
      ValueError: A layer's config does not make the same variables again.
    """
    copy = clone_functional(
        model,
        lambda layer: (
            batch_norm.BatchNorm.from_config(layer.get_config())
            if isinstance(layer, batch_norm.BatchNorm)
            else None
        ),
    )
    copy_weights(model, copy)
    return copy


def clone_functional(model, replace):
    """Makes a functional model again, with other layers where wanted.

    Keras' clone_model makes a layer again from its config, and with it the
    layers that its constructor makes. So layers inside a layer (keras-cv's
    blocks) are replaced here too: those that are attributes, before they are
    built.

    Args:
      model: functional keras.Model.
      replace: function from a keras Layer to a new layer that takes its place,
        or to None where a plain copy will do.

    Returns:
      keras.Model with new variables, at their initial values; see
      `copy_weights`.
    """

    def copy(layer):
        replacement = replace(layer)
        if replacement is not None:
            return replacement
        if is_functional(layer):
            return clone_functional(layer, replace)
        if not sublayers(layer):
            return layer.__class__.from_config(layer.get_config())
        # Layers that a layer makes for itself take the global policy.
        with global_policy(layer.dtype_policy):
            new = layer.__class__.from_config(layer.get_config())
        _replace_attributes(layer, new, replace)
        return new

    return tf.keras.models.clone_model(model, clone_function=copy)


def _replace_attributes(layer, new, replace):
    """Replaces the layers that are attributes of a copied layer."""
    for name, value in list(vars(new).items()):
        if isinstance(value, tf.keras.layers.Layer):
            replacement = replace(getattr(layer, name))
            # A layer that stays is assigned again too: Keras lists the
            # weights of a layer in the order of assignments.
            delattr(new, name)
            setattr(new, name, value if replacement is None else replacement)


def copy_weights(source, target):
    """Sets the variables of a model to those of its original.

    Args:
      source: keras.Model, the original.
      target: keras.Model of the same architecture, changed in place.

    Raises:
      ValueError: The models do not have the same variables in the same order.
    """
    pairs = itertools.zip_longest(
        map(_name_and_shape, source.weights),
        map(_name_and_shape, target.weights),
    )
    for old, new in pairs:
        if old != new:
            raise ValueError(
                f"The copy of {source.name!r} has other variables than the "
                f"original: {new} in place of {old}. Give each of its layers "
                "a get_config() that returns its constructor's arguments."
            )
    for old, new in zip(source.weights, target.weights, strict=True):
        new.assign(old)


def _name_and_shape(variable):
    return variable.name.split("/")[-1].split(":")[0], tuple(variable.shape)


@contextlib.contextmanager
def global_policy(policy):
    """Sets Keras' global dtype policy for a block of code."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def is_functional(model):
    """Whether a layer is a keras.Model made of a graph of layers."""
    return bool(getattr(model, "_is_graph_network", False))


def sublayers(layer):
    """All layers inside a layer, at any depth, a list."""
    return list(layer._flatten_layers(include_self=False))
