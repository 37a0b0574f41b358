"""Linear classification on stored features: many rates, one extraction."""

import numpy as np
import tensorflow as tf

from moco_tf.data import views
from moco_tf.evaluation import feature_store, features, probe, subsets


def train(config, judged, pair, output, folder, strategy):
    """The best of many rates by a held-out part, trained on all images.

    Args:
      config: ConfigDict of `linear`. judged: frozen.Frozen.
      pair: labelled.Labelled. folder: of stored features.
      output, strategy: not used here.

    Returns:
      weights float32 [1, F + 1, classes], dict for result.json.
    """
    del output, strategy
    plain = feature_store.extract(judged, pair.train, folder)
    labels, layer = pair.train_labels[plain.index], config.probe.features
    tables = [plain.rows[layer]]
    if config.probe.views:
        tables = _cropped(config, judged, pair.train, plain, folder)
    rates = tuple(config.probe.rates)
    recipe = probe.Recipe(
        rates,
        config.train.epochs,
        tuple(config.schedule.milestones),
        config.schedule.factor,
        config.optimizer.momentum,
        config.optimizer.weight_decay,
        config.train.batch_size,
        config.seed,
    )
    classes = len(pair.names)
    _, held = subsets.split(labels, config.probe.holdout, config.seed)
    if not len(held) and len(rates) > 1:
        raise ValueError(
            "Of several rates the best is chosen by images that are held out, "
            "of classes with two or more. Received "
            f"probe.holdout={config.probe.holdout} and {len(labels)} images, "
            "of which none can be held out. Give one rate, such as "
            "--config.probe.rates=30."
        )
    rate, tried = rates[0], []
    if len(held):
        held = np.isin(np.arange(len(labels)), held)
        weights = probe.train(tables, labels, ~held, classes, recipe)
        tried = probe.top1(plain.rows[layer], labels, held, weights)
        rate = rates[int(np.argmax(tried))]
        print("rate      " + "".join(f"{rate:>9g}" for rate in rates))
        print("held out  " + "".join(f"{100 * x:>7.2f} %" for x in tried))
    # The held-out images were only lent: the chosen rate sees all of them.
    everything = np.ones(len(labels), bool)
    recipe = recipe._replace(rates=(rate,))
    weights = probe.train(tables, labels, everything, classes, recipe)
    return weights, {
        "rate": rate,
        "held_out": dict(zip(map(str, rates), tried, strict=False)),
        "train_images": len(labels),
        "train_views": len(tables),
    }


def _cropped(config, judged, source, plain, folder):
    """Features of random crops: one table for each, of the plain's images."""
    augment = views.crop_and_flip(config.data.crop)
    tables = []
    for number in range(config.probe.views):

        def view(image, index, number=number):
            draw = index * config.probe.views + number
            seed = tf.stack([tf.constant(config.seed, tf.int64), draw])
            return augment(image, judged.image_size, seed)

        def batches(first, view=view):
            return features.evaluation_batches(
                source, judged.recipe, judged.image_size, 512, first, view
            )

        tag = f"-crop{config.data.crop:g}-{config.seed}-"
        tag += f"{number}of{config.probe.views}"
        stored = feature_store.extract(
            judged, source, folder, batches=batches, tag=tag
        )
        if not np.array_equal(stored.index, plain.index):
            raise ValueError(
                "All views must be of the same images. Received other "
                f"readable images now than before. Remove {folder}."
            )
        tables.append(stored.rows[config.probe.features])
    return tables
