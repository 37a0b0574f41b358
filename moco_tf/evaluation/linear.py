"""Linear classification on frozen features (the `linear` command).

Two ways to the same figure. "published": a new random crop of every image in
every epoch, through the frozen encoder (MoCo v1, Sec. 4.1). "cached": features
once, then many learning rates in one pass, and the best by a held-out part.
"""

import functools
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tensorflow as tf

from moco_tf import plan, workdirs
from moco_tf.data import stream, views
from moco_tf.evaluation import (
    accuracy,
    features,
    frozen,
    representation,
    supervised,
)
from moco_tf.training import optimizers

CHUNK = 65_536  # rows in memory at once: 512 MB of 2048 features
IN_MEMORY = 2**30  # bytes of features that are read once for all epochs


class Recipe(NamedTuple):
    """How a probe is trained."""

    rates: tuple  # of learning
    epochs: int
    milestones: tuple  # epochs at which the rate drops
    factor: float  # what each milestone multiplies the rate by
    momentum: float
    weight_decay: float  # coupled: gradient + weight_decay * weight
    batch_size: int
    seed: int


def initial_weights(features, classes, seed):
    """N(0, 0.01) weights and zero biases, float32 [F + 1, classes]."""
    weights = 0.01 * tf.random.stateless_normal(
        [features, classes], [seed, 0], alg="philox"
    )
    return tf.concat([weights, tf.zeros([1, classes])], axis=0)


def train_probe(tables, labels, kept, classes, recipe):
    """Trains one linear classifier for each rate, in one pass.

    Args:
      tables: list of float32 [n, F] arrays, in memory or mapped from disk:
        features of one or more views of the same images.
      labels: int64 [n]. kept: bool [n], the images to train on.
      classes: int. recipe: Recipe.

    Returns:
      float32 [rates, F + 1, classes]: weights, and the bias as the last row.
    """
    size = tables[0].shape[1]
    batch = min(recipe.batch_size, int(kept.sum()))
    start = initial_weights(size, classes, recipe.seed)
    weights = tf.Variable(tf.tile(start[tf.newaxis], [len(recipe.rates), 1, 1]))
    velocity = tf.Variable(tf.zeros_like(weights))
    rates = np.array(recipe.rates, np.float32)
    steps = _make_steps(weights, velocity, recipe, batch)
    random = np.random.Generator(np.random.PCG64(recipe.seed))
    blocks = _blocks(tables, labels, kept)
    for epoch in range(recipe.epochs):
        drops = sum(epoch >= milestone for milestone in recipe.milestones)
        rate = tf.constant(rates * recipe.factor**drops)
        for place in random.permutation(len(blocks)):
            rows, block_labels = blocks[place]()
            count = len(rows) // batch * batch
            order = random.permutation(len(rows))[:count]
            steps(rows, block_labels, tf.constant(order, tf.int32), rate)
    return weights.numpy()


def _blocks(tables, labels, kept):
    """Functions that read the kept rows and labels of a block each.

    What fits in memory is one block and read once. Else blocks are read anew
    in every epoch, in random order, and shuffled within themselves. A block
    holds every n-th row: rows often come class by class, and steps on a few
    classes at a time are others than those of the published way.
    """

    def read(table, block):
        chosen = kept[block]
        return (
            tf.constant(np.asarray(table[block])[chosen]),
            tf.constant(labels[block][chosen]),
        )

    whole = slice(0, len(labels))
    if sum(table.nbytes for table in tables) <= IN_MEMORY:
        parts = [read(table, whole) for table in tables]
        rows, own = (tf.concat(x, axis=0) for x in zip(*parts, strict=True))
        return [lambda: (rows, own)]
    count = -(-len(labels) // CHUNK)
    return [
        functools.partial(read, table, slice(start, None, count))
        for table in tables
        for start in range(count)
        if kept[start::count].any()
    ]


def _make_steps(weights, velocity, recipe, batch):
    """A function that takes all steps of one block, in the graph."""
    classes = weights.shape[2]
    models = weights.shape[0]

    @tf.function(reduce_retracing=True)
    def steps(rows, labels, chosen, rates):
        rates = rates[:, tf.newaxis, tf.newaxis]
        for step in tf.range(tf.size(chosen) // batch):
            places = chosen[step * batch : (step + 1) * batch]
            x = tf.gather(rows, places)  # [b, F]
            x = tf.concat([x, tf.ones_like(x[:, :1])], axis=1)
            target = tf.one_hot(tf.gather(labels, places), classes)
            # One product for all rates: [b, F + 1] x [F + 1, R * classes].
            flat = tf.reshape(
                tf.transpose(weights, [1, 0, 2]), [x.shape[1], -1]
            )
            logits = tf.reshape(x @ flat, [-1, models, classes])
            error = tf.nn.softmax(logits) - target[:, tf.newaxis]
            error = tf.reshape(error, [-1, models * classes])
            gradient = tf.matmul(x, error, transpose_a=True) / batch
            gradient = tf.reshape(gradient, [-1, models, classes])
            gradient = tf.transpose(gradient, [1, 0, 2])
            gradient += recipe.weight_decay * weights
            velocity.assign(recipe.momentum * velocity + gradient)
            weights.assign_sub(rates * velocity)

    return steps


def scores(rows, weights):
    """Logits float32 [models, n, classes] of rows [n, F], in blocks."""
    found = []
    for first in range(0, len(rows), CHUNK):
        block = np.ascontiguousarray(rows[first : first + CHUNK])
        found.append(
            tf.einsum("nf,rfc->rnc", block, weights[:, :-1]) + weights[:, -1:]
        )
    return np.concatenate(found, axis=1)


def top1(rows, labels, chosen, weights):
    """Top-1 fraction of each model on the chosen images; 0 if it diverged.

    Args:
      rows: float32 [n, F]. labels: int64 [n]. chosen: bool [n].
      weights: float32 [models, F + 1, classes].

    Returns:
      list of floats in 0..1.
    """
    correct = np.zeros(len(weights), np.int64)
    for first in range(0, len(labels), CHUNK):
        block = slice(first, first + CHUNK)
        part = np.asarray(rows[block])[chosen[block]]
        if len(part):
            best = scores(part, weights).argmax(axis=2)
            correct += (best == labels[block][chosen[block]]).sum(axis=1)
    finite = np.isfinite(weights).all(axis=(1, 2))
    return (correct * finite / chosen.sum()).tolist()


def train_cached(config, judged, pair, output, folder, strategy):
    """The best of many rates by a held-out part, trained on all images.

    Args:
      config: ConfigDict of `linear`. judged: frozen.FrozenEncoder.
      pair: supervised.LabelledSources. folder: of stored features.
      output, strategy: not used here.

    Returns:
      weights float32 [1, F + 1, classes], dict for result.json.
    """
    del output, strategy
    plain = features.extract_to_disk(judged, pair.train, folder)
    labels, layer = pair.train_labels[plain.index], config.probe.features
    tables = [plain.rows[layer]]
    if config.probe.views:
        tables = _cropped(config, judged, pair.train, plain, folder)
    rates = tuple(config.probe.rates)
    recipe = Recipe(
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
    _, held = supervised.split(labels, config.probe.holdout, config.seed)
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
        weights = train_probe(tables, labels, ~held, classes, recipe)
        tried = top1(plain.rows[layer], labels, held, weights)
        rate = rates[int(np.argmax(tried))]
        print("rate      " + "".join(f"{rate:>9g}" for rate in rates))
        print("held out  " + "".join(f"{100 * x:>7.2f} %" for x in tried))
    # The held-out images were only lent: the chosen rate sees all of them.
    everything = np.ones(len(labels), bool)
    recipe = recipe._replace(rates=(rate,))
    weights = train_probe(tables, labels, everything, classes, recipe)
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
        stored = features.extract_to_disk(
            judged, source, folder, batches=batches, tag=tag
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

    def __init__(self, judged, layer, classes, labels, seed):
        """Makes the layer, N(0, 0.01) weights and zero biases.

        Args:
          judged: frozen.FrozenEncoder. layer: whose features.
          classes: int. labels: int64 [N] of the training source. seed: int.
        """
        super().__init__(labels, judged.recipe, "linear_probe")
        self._encode = judged.encode  # no part of the checkpoint
        self._layer = layer
        shape = [1, judged.image_size, judged.image_size, judged.channels]
        one = judged.encode(tf.zeros(shape, tf.uint8))[layer]
        start = initial_weights(one.shape[1], classes, seed)
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
        """float32 [1, F + 1, classes], the form of train_probe."""
        rows = [self.kernel.numpy(), self.bias.numpy()[np.newaxis]]
        return np.concatenate(rows)[np.newaxis]


def train_published(config, judged, pair, output, folder, strategy):
    """Trains on a new random crop of every image in every epoch.

    Args:
      config: ConfigDict of `linear`. judged: frozen.FrozenEncoder.
      pair: supervised.LabelledSources.
      output: folder of metrics and checkpoints.
      folder: not used here. strategy: tf.distribute.Strategy.

    Returns:
      weights float32 [1, F + 1, classes], dict for result.json.
    """
    del folder
    recipe = judged.recipe._replace(
        augment=views.crop_and_flip(config.data.crop)
    )
    batches = stream.Stream(
        pair.train,
        recipe,
        judged.image_size,
        config.train.batch_size,
        seed=config.seed,
        threads=config.data.threads,
        key_views=False,
    )
    layer = config.probe.features
    with strategy.scope():
        method = LinearProbe(
            judged, layer, len(pair.names), pair.train_labels, config.seed
        )
        method.compile(
            optimizers.MomentumSGD(
                plan.make_schedule(config, batches.steps_per_epoch),
                config.optimizer.momentum,
                config.optimizer.weight_decay,
            )
        )
    method.build_optimizer()
    supervised.train(method, batches, config, output, strategy)
    return method.weights_and_bias(), {
        "rate": config.optimizer.learning_rate,
        "epochs": config.train.epochs,
        "train_images": len(pair.train),
    }


def run(
    config: ml_collections.ConfigDict,
    judged: frozen.FrozenEncoder,
    output: str | pathlib.Path,
    strategy: tf.distribute.Strategy,
    folder: str | pathlib.Path | None = None,
) -> dict[str, Any]:
    """Measures and prints the linear accuracy of an encoder.

    Args:
      config: ConfigDict of the command. judged: frozen.FrozenEncoder.
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
      confusion.png and per_class.csv, and what the way itself writes.
    """
    pair = supervised.open_labelled(
        config.data.train, config.data.test, judged.config, judged.channels
    )
    check(config, judged, pair, strategy.num_replicas_in_sync)
    output = pathlib.Path(output)
    with workdirs.hold(output):
        workdirs.prepare(
            config,
            output,
            pair.train.fingerprint() + pair.test.fingerprint(),
            command="linear",
            encoder=judged.identity,
        )
        if (output / "result.json").is_file():
            result = workdirs.read_json(output / "result.json")
            print(f"This probe is finished: {output}.")
        else:
            folder = folder or output / "features"
            result = _measure(config, judged, pair, output, strategy, folder)
    print(_text(result, output))
    return result


def _measure(config, judged, pair, output, strategy, folder):
    """Trains, judges on the test source, and writes the result."""
    print(_describe(config, judged, pair, output), flush=True)
    test = features.extract_to_disk(judged, pair.test, folder)
    way = {
        "cached": train_cached,
        "published": train_published,
    }[config.probe.way]
    weights, found = way(config, judged, pair, output, folder, strategy)
    if frozen.digest(judged) != judged.identity:
        raise FloatingPointError(
            "The encoder's weights have changed during the probe: the figure "
            "would not be that of a frozen encoder."
        )
    rows, labels = (
        test.rows[config.probe.features],
        pair.test_labels[test.index],
    )
    logits = scores(rows, weights)[0]
    result = {
        "way": config.probe.way,
        "encoder": judged.title,
        "encoder_identity": judged.identity,
        "encoder_weights": sum(int(tf.size(w)) for w in judged.weights),
        "features": config.probe.features,
        "feature_size": int(rows.shape[1]),
        "feature_norm": representation.mean_norm(rows),
        "unreadable_test_images": len(test.skipped),
        **found,
        **accuracy.summary(logits, labels),
    }
    _write(output, result, weights[0], pair.names)
    accuracy.write_confusion(output, logits.argmax(axis=1), labels, pair.names)
    return result


def check(config, judged, pair, replicas):
    """Refuses what cannot be measured, before any work.

    Raises:
      ValueError: with the rule, the values received and the remedy.
    """
    layer, batch = config.probe.features, config.train.batch_size
    if layer not in judged.layers:
        raise ValueError(
            f"The encoder has the features {', '.join(judged.layers)}. "
            f"Received probe.features={layer!r}."
        )
    if len(pair.train) < batch or batch % replicas:
        raise ValueError(
            "train.batch_size must be at most the number of training images, "
            f"and a multiple of the replicas. Received {batch}, "
            f"{len(pair.train)} images and {replicas} replicas. Lower "
            "--config.train.batch_size."
        )
    supervised.check_schedule(config)


def _write(output, result, weights, names):
    """Writes result.json and linear.npz (kernel, bias, classes)."""
    np.savez(
        output / "linear.npz",
        kernel=weights[:-1],
        bias=weights[-1],
        classes=np.array(names, np.str_),
    )
    workdirs.write_json(output / "result.json", result)


def _text(result, output):
    return (
        f"linear ({result['way']}), {result['features']} features of "
        f"{result['feature_size']}, mean norm {result['feature_norm']:.3f}, "
        f"rate {result['rate']:g}\n"
        f"{accuracy.describe(result)}\n"
        f"the encoder's {result['encoder_weights']} weights have not changed "
        f"by one bit\nresults in {output}"
    )


def _describe(config, judged, pair, output):
    return (
        f"moco-tf linear, {config.probe.way} way, in {output}\n"
        f"  encoder  {judged.title}\n"
        f"  train    {len(pair.train)} images, {len(pair.names)} classes\n"
        f"  test     {len(pair.test)} images"
    )
