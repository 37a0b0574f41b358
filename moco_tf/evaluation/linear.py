"""Linear classification on frozen features (the `linear` command).

Two ways to the same figure. "published": a new random crop of every image in
every epoch, through the frozen encoder (MoCo v1, Sec. 4.1). "cached": features
once, then many learning rates in one pass, and the best by held-out images.

Both are one optimisation: SGD with momentum on raw features, a rate that drops
at milestones, weights that start from N(0, 0.01).
"""

import functools
import pathlib
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import filesystem, paths, plan, state_files, workdirs
from moco_tf.data import stream, views
from moco_tf.evaluation import (
    accuracy,
    cached_probe,
    features,
    frozen,
    representation,
    results,
    supervised,
)
from moco_tf.training import optimizers

# Of result.json, in what is printed.
_SHOWN = "way features feature_size feature_norm rate encoder_weights".split()


def run(
    config: ml_collections.ConfigDict,
    encoder: frozen.FrozenEncoder,
    output: str | pathlib.Path,
    strategy: tf.distribute.Strategy,
    folder: str | pathlib.Path | None = None,
) -> dict[str, Any]:
    """Measures and prints an encoder's accuracy with a linear classifier.

    Args:
      config: ConfigDict of the command. encoder: frozen.FrozenEncoder.
      output: folder of the results; a run that it holds goes on.
      strategy: tf.distribute.Strategy.
      folder: of stored features; None: features/ in `output`.

    Returns:
      dict, as in result.json.

    Raises:
      ValueError: before any work, for what cannot be measured, or where
        another process writes to `output`.
      FloatingPointError: if the encoder has changed.

    Side effects: writes config.json, result.json, linear.npz, confusion.csv,
      confusion.png and per_class.csv, and what the way itself writes; log.txt
      within printed.copied.
    """
    output = paths.expand(output)
    with workdirs.hold(output):
        config = workdirs.locate(config, output, "linear")
        labelled = supervised.open_labelled(
            config.data.train,
            config.data.test,
            encoder.config,
            encoder.channels,
            output,
        )
        check(config, encoder, labelled, strategy.num_replicas_in_sync)
        result, begin = results.open_result(
            config,
            output,
            labelled,
            "linear",
            encoder.identity,
            fields=_SHOWN,
            files=("linear.npz",),
        )
        if result:
            print(f"This probe is finished: {paths.shown(output)}.")
        else:
            folder = folder or output / "features"
            result = _measure(
                config, encoder, labelled, output, strategy, folder, begin
            )
    print(_text(result, output))
    return result


def _measure(config, encoder, labelled, output, strategy, folder, begin):
    """Trains the classifier, tests it, and writes the result."""
    print(_describe(config, encoder, labelled, output), flush=True)
    if config.probe.way == "cached":
        begin()
        weights, training = train_cached(config, encoder, labelled, folder)
    else:
        weights, training = train_published(
            config, encoder, labelled, output, strategy, begin
        )
    test = features.extract_to_disk(encoder, labelled.test, folder)
    if frozen.digest(encoder) != encoder.identity:
        raise FloatingPointError(
            "The encoder's weights have changed during the probe: the figure "
            "would not be that of a frozen encoder."
        )
    rows = test.rows[config.probe.features]
    labels = labelled.test_labels[test.index]
    logits = cached_probe.scores(rows, weights)[0]
    result = {
        "way": config.probe.way,
        "encoder": encoder.title,
        "encoder_identity": encoder.identity,
        "encoder_weights": sum(int(tf.size(w)) for w in encoder.weights),
        "features": config.probe.features,
        "feature_size": int(rows.shape[1]),
        "feature_norm": representation.mean_norm(rows),
        "unreadable_test_images": len(test.skipped),
        **training,
        **accuracy.summary(logits, labels),
    }
    _write(output, result, weights[0], labelled.names)
    accuracy.write_confusion(
        output, logits.argmax(axis=1), labels, labelled.names
    )
    return result


def check(config, encoder, labelled, replicas):
    """Refuses what cannot be measured, before any work.

    Raises:
      ValueError: with the rule, the values received and the remedy.
    """
    layer, batch = config.probe.features, config.train.batch_size
    if layer not in encoder.layers:
        raise ValueError(
            f"The encoder has the features {', '.join(encoder.layers)}. "
            f"Received probe.features={layer!r}. Pass "
            f"--config.probe.features={encoder.layers[0]}."
        )
    if len(labelled.train) < batch or batch % replicas:
        remedy = supervised.batch_remedy(batch, len(labelled.train), replicas)
        raise ValueError(
            "train.batch_size must be at most the number of training images, "
            f"and a multiple of the replicas. Received {batch}, "
            f"{len(labelled.train)} images and {replicas} replicas. {remedy}"
        )
    supervised.check_schedule(config)


def _write(output, result, weights, names):
    """Writes result.json and linear.npz (kernel, bias, classes)."""
    with (
        filesystem.atomic_file(output / "linear.npz") as part,
        open(part, "wb") as file,  # savez would append .npz to a name
    ):
        np.savez(
            file,
            kernel=weights[:-1],
            bias=weights[-1],
            classes=np.array(names, np.str_),
        )
    state_files.write_json(output / "result.json", result)


def _text(result, output):
    return (
        f"linear ({result['way']}), {result['features']} features of "
        f"{result['feature_size']}, mean norm {result['feature_norm']:.3f}, "
        f"rate {result['rate']:g}\n"
        f"{accuracy.describe(result)}\n"
        f"the encoder's {result['encoder_weights']} weights have not changed "
        f"by one bit\nresults in {paths.shown(output)}"
    )


def _describe(config, encoder, labelled, output):
    return (
        f"moco-tf linear, {config.probe.way} way, in "
        f"{paths.shown(output)}\n"
        f"  encoder  {paths.shown(encoder.title)}\n"
        f"  train    {len(labelled.train)} images, "
        f"{len(labelled.names)} classes\n{labelled.remark_lines()}"
        f"  test     {len(labelled.test)} images\n"
        f"  rate     {_rate_words(config)}"
    )


def _rate_words(config):
    """The rates of a probe, and the fields that they are of."""
    if config.probe.way == "published":
        return f"{config.optimizer.learning_rate:g} (optimizer.learning_rate)"
    rates = ", ".join(f"{rate:g}" for rate in config.probe.rates)
    best = ", the best of them" if len(config.probe.rates) > 1 else ""
    return f"{rates}{best} (probe.rates)"


def train_cached(config, encoder, labelled, folder):
    """Chooses a rate by held-out images, and trains with it on all images.

    Args:
      config: ConfigDict of `linear`. encoder: frozen.FrozenEncoder.
      labelled: supervised.LabelledSources. folder: of stored features.

    Returns:
      weights float32 [1, F + 1, classes], dict for result.json.
    """
    plain = features.extract_to_disk(encoder, labelled.train, folder)
    labels, layer = labelled.train_labels[plain.index], config.probe.features
    tables = [plain.rows[layer]]
    if config.probe.views:
        tables = _cropped(config, encoder, labelled.train, plain, folder)
    rates = tuple(config.probe.rates)
    recipe = recipe_of(config)
    classes = len(labelled.names)
    everything = np.ones(len(labels), bool)
    held_out = cached_probe.hold_out(
        labels, everything, config.probe.holdout, config.seed
    )
    if not held_out.any() and len(rates) > 1:
        raise ValueError(
            "Of several rates the best is chosen by images that are held out, "
            "of classes with two or more. Received "
            f"probe.holdout={config.probe.holdout} and {len(labels)} images, "
            "of which none can be held out. Give one rate, such as "
            "--config.probe.rates=30."
        )
    weights, rate, accuracies = cached_probe.choose_and_train(
        tables, plain.rows[layer], labels, everything, held_out, classes, recipe
    )
    if accuracies:
        print("rate      " + "".join(f"{rate:>9g}" for rate in rates))
        print("held out  " + "".join(f"{100 * x:>7.2f} %" for x in accuracies))
    return weights, {
        "rate": rate,
        "held_out": dict(zip(map(str, rates), accuracies, strict=False)),
        "train_images": len(labels),
        "train_views": len(tables),
    }


def recipe_of(config):
    """The cached_probe.Recipe of a configuration of `linear`."""
    return cached_probe.Recipe(
        rates=tuple(config.probe.rates),
        epochs=config.train.epochs,
        schedule=functools.partial(plan.make_schedule, config, rate=1.0),
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        batch_size=config.train.batch_size,
        seed=config.seed,
    )


def _cropped(config, encoder, source, plain, folder):
    """Stores features of probe.views random crops of each image.

    Args:
      config: ConfigDict of `linear`. encoder: frozen.FrozenEncoder.
      source: Source. folder: of stored features.
      plain: features.StoredFeatures of the evaluation view.

    Returns:
      list of float32 [n, F], one for each crop, rows as those of `plain`.

    Raises:
      ValueError: if other images can be read than before.
    """
    augment = views.crop_and_flip(config.data.crop)
    size = features.batch_for(encoder, len(source))
    tables = []
    for number in range(config.probe.views):

        def view(image, index, number=number):
            draw = index * config.probe.views + number
            seed = tf.stack([tf.constant(config.seed, tf.int64), draw])
            return augment(image, encoder.image_size, seed)

        def batches(first, view=view):
            return features.evaluation_batches(
                source, encoder.recipe, encoder.image_size, size, first, view
            )

        tag = f"-crop{config.data.crop:g}-{config.seed}-"
        tag += f"{number}of{config.probe.views}"
        stored = features.extract_to_disk(
            encoder, source, folder, size, batches, tag
        )
        if not np.array_equal(stored.index, plain.index):
            raise ValueError(
                "All views must be of the same images. Received other "
                f"readable images now than before. Remove {folder}."
            )
        tables.append(stored.rows[config.probe.features])
    return tables


class LinearProbe(supervised.Classifier):
    """One linear layer on the frozen features of an encoder."""

    def __init__(self, encoder, layer, classes, labels, seed):
        """Makes the layer, N(0, 0.01) weights and zero biases.

        Args:
          encoder: frozen.FrozenEncoder. layer: name of the features.
          classes: int. labels: int64 [N] of the training source. seed: int.
        """
        super().__init__(labels, encoder.recipe, "linear_probe")
        self._encode = encoder.encode  # no part of the checkpoint
        self._layer = layer
        shape = [1, encoder.image_size, encoder.image_size, encoder.channels]
        row = encoder.encode(tf.zeros(shape, tf.uint8))[layer]
        start = cached_probe.initial_weights(row.shape[1], classes, seed)
        self.kernel = tf.Variable(start[:-1], name="kernel")
        self.bias = tf.Variable(start[-1], name="bias")

    def trained_variables(self):
        return [self.kernel, self.bias]

    def train_step(self, batch):
        """SGD of the linear layer alone; the encoder is in inference mode."""
        labels = self.labels_of(batch)
        features = self._encode(batch["query"])[self._layer]
        features = tf.stop_gradient(features)

        def classify(rows):
            logits = rows["features"] @ self.kernel + self.bias
            loss = supervised.cross_entropy(rows["labels"], logits)
            return loss, {}, logits

        rows = {"features": features, "labels": labels}
        loss, _, logits = self.descend(classify, rows)
        return self.report(batch, labels, logits, loss)

    def weights_and_bias(self):
        """Returns float32 [1, F + 1, classes], as `train_probe` does."""
        rows = [self.kernel.numpy(), self.bias.numpy()[np.newaxis]]
        return np.concatenate(rows)[np.newaxis]


def train_published(config, encoder, labelled, output, strategy, begin=None):
    """Trains on a new random crop of every image in every epoch.

    Args:
      config: ConfigDict of `linear`. encoder: frozen.FrozenEncoder.
      labelled: supervised.LabelledSources.
      output: folder of metrics and checkpoints.
      strategy: tf.distribute.Strategy. begin: as of `supervised.train`.

    Returns:
      weights float32 [1, F + 1, classes], dict for result.json.
    """
    recipe = encoder.recipe._replace(
        augment=views.crop_and_flip(config.data.crop)
    )
    batches = stream.Stream(
        labelled.train,
        recipe,
        encoder.image_size,
        config.train.batch_size,
        seed=config.seed,
        threads=config.data.threads,
        key_views=False,
    )
    layer = config.probe.features
    with strategy.scope():
        method = LinearProbe(
            encoder,
            layer,
            len(labelled.names),
            labelled.train_labels,
            config.seed,
        )
        method.compile(
            optimizers.MomentumSGD(
                plan.make_schedule(config, batches.steps_per_epoch),
                config.optimizer.momentum,
                config.optimizer.weight_decay,
            )
        )
    method.build_optimizer()
    supervised.train(method, batches, config, output, strategy, begin=begin)
    return method.weights_and_bias(), {
        "rate": config.optimizer.learning_rate,
        "epochs": config.train.epochs,
        "train_images": len(labelled.train),
    }
