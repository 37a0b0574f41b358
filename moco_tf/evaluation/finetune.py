"""Fine-tuning of a whole network with few or all labels (`finetune`)."""

import functools
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import ml_collections
import tensorflow as tf

from moco_tf import plan, workdirs
from moco_tf.data import sources, stream, views
from moco_tf.evaluation import (
    accuracy,
    features,
    frozen,
    label_augment,
    supervised,
)
from moco_tf.models import batch_norm, encoder, heads, inputs
from moco_tf.training import checkpoints, optimizers


class FineTuned(supervised.Classifier):
    """A pre-trained backbone and a new head, both trained with labels.

    BatchNorm is in training mode, as in MoCo's transfer experiments
    (arXiv:1911.05722, section 4.2).

    Attributes:
      head: keras.Model, features -> logits, as of heads.classification_head.
    """

    def __init__(
        self,
        backbone,
        head,
        labels,
        recipe,
        label_smoothing=0.0,
        mixing=None,
    ):
        """Joins both parts.

        Args:
          backbone: keras.Model, normalised images -> features [N, F].
          head: keras.Model, features [N, F] -> logits [N, classes].
          labels: int64 [N] of the training source, 0..classes - 1.
          recipe: views.Recipe, whose normalisation the backbone expects.
          label_smoothing: float in 0..1.
          mixing: label_augment.Mixing of a replica's batch, or None.
        """
        super().__init__(labels, recipe, "fine_tuned")
        self._backbone = backbone
        self.head = head
        self.label_smoothing = label_smoothing
        self._mixing = mixing

    @property
    def backbone(self):
        return self._backbone

    def trained_variables(self):
        parts = (self._backbone, self.head)
        return [v for part in parts for v in part.trainable_variables]

    def train_step(self, batch):
        """One step of SGD on all weights, inside a replica.

        Args:
          batch: query uint8 [N, H, W, 3]; index int64 [N]; valid bool [N].

        Returns:
          dict of the scalars in METRICS; top1 counts an image that is blended
          with others as its own class.
        """
        labels = targets = self.labels_of(batch)
        images = views.normalize(
            batch["query"], self.recipe.mean, self.recipe.std
        )
        if self._mixing:
            targets = tf.one_hot(labels, self.head.output_shape[-1])
            images, targets = self._mixing(images, targets, self.step)

        def classify(rows):
            logits = self._classify(rows["images"], training=True)
            loss = supervised.cross_entropy(
                rows["targets"], logits, self.label_smoothing
            )
            return loss, {}, logits

        rows = {"images": images, "targets": targets}
        loss, _, logits = self.descend(classify, rows)
        return self.report(batch, labels, logits, loss)

    @tf.function
    def logits(self, images):
        images = views.normalize(images, self.recipe.mean, self.recipe.std)
        return self._classify(images, training=False)

    def _classify(self, images, training):
        features = encoder.call_as_keras(self._backbone, images, training)
        features = tf.cast(features, tf.float32)
        return encoder.call_as_keras(self.head, features, training)


class Start(NamedTuple):
    """What a fine-tuning starts from.

    Attributes:
      run: ConfigDict of the pre-training.
      backbone: keras.Model, restored or with random weights.
      title: what it is, for messages.
      identity: hex digest of the encoder; of the architecture for random
        weights, which the seed fixes.
    """

    run: object
    backbone: tf.keras.Model
    title: str
    identity: str


def load_start(config, run, workdir, checkpoint, strategy):
    """Builds the backbone of a run; restores it unless init is "random".

    Returns:
      Start.

    Raises:
      ValueError: without such a checkpoint, or for one of another
        architecture.

    Side effects: seeds Python's, NumPy's and TensorFlow's generators; sets TF32
      as the run did.
    """
    restores = config.model.init == "encoder"
    path = frozen.find_checkpoint(workdir, checkpoint) if restores else None
    tuned = run.copy_and_resolve_references()
    tuned.seed = config.seed
    tuned.data.small_views = 0
    tuned.model.sync_bn = config.model.sync_bn
    if config.train.precision != "run":
        tuned.train.precision = config.train.precision
    with strategy.scope():
        encoder = frozen.build_encoder(tuned)
    backbone = encoder.backbone
    if not restores:
        kind = [run.model.to_dict(), run.data.image_size, run.data.views]
        identity = hashlib.sha256(json.dumps(kind).encode()).hexdigest()
        return Start(run, backbone, "random weights", identity)
    checkpoints.restore_query_encoder(encoder, path)
    identity = frozen.freeze(encoder, run, str(path)).identity
    return Start(run, backbone, str(path), identity)


def make_stream(config, run, train):
    """The stream of crops of a source, with RandAugment if it is on."""
    crop = views.crop_and_flip(config.data.crop)
    if config.augment.rand_augment:
        crop = label_augment.rand_augment(crop, config.augment.rand_augment)
    return stream.Stream(
        train,
        views.RECIPES[run.data.views]._replace(augment=crop),
        run.data.image_size,
        config.train.batch_size,
        seed=config.seed,
        threads=config.data.threads,
        key_views=False,
    )


def make_method(config, start, batches, classes, strategy):
    """FineTuned, compiled, with its optimiser's slots."""
    options, optimizer = config.augment, config.optimizer
    mixing = None
    if options.mixup or options.cutmix:
        mixing = label_augment.Mixing(
            options.mixup, options.cutmix, config.seed
        )
    norm = functools.partial(
        batch_norm.BatchNorm, synchronized=config.model.sync_bn
    )
    with strategy.scope():
        head = heads.classification_head(
            start.backbone.output_shape[-1],
            classes,
            norm=norm if config.model.head_bn else None,
            seed=config.seed,
        )
        method = FineTuned(
            start.backbone,
            head,
            batches.source.labels,
            batches.recipe,
            config.train.label_smoothing,
            mixing,
        )
        factor = optimizer.head_factor
        method.compile(
            optimizers.MomentumSGD(
                plan.make_schedule(config, batches.steps_per_epoch),
                optimizer.momentum,
                optimizer.weight_decay,
                rate_factors=[(v, factor) for v in head.trainable_variables],
            )
        )
    method.build_optimizer()
    return method


def run(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    checkpoint: str,
    output: str | pathlib.Path,
    strategy: tf.distribute.Strategy,
) -> dict[str, Any]:
    """Trains a classifier from a run's encoder and prints how good it is.

    Args:
      config: ConfigDict of the command. workdir: of the pre-training run.
      checkpoint: of the run: "latest", "best", a step or a path; not read
        where model.init is "random".
      output: folder of the results; a fine-tuning that it holds goes on.
      strategy: tf.distribute.Strategy.

    Returns:
      dict, as in result.json.

    Raises:
      ValueError: before any work, for what cannot be trained, or where
        another process writes to `output`.
      Left: when asked to leave; all is saved.

    Side effects: writes config.json, metrics.csv, checkpoints/, result.json,
      confusion.csv, confusion.png and per_class.csv; seeds Python's, NumPy's
      and TensorFlow's generators.
    """
    run = frozen.load_config(workdir)
    pair = supervised.open_labelled(
        config.data.train,
        config.data.test,
        run,
        inputs.CHANNELS[run.model.input],
    )
    train, held = choose(config, pair)
    check(config, pair, train, held, strategy.num_replicas_in_sync)
    start = load_start(config, run, workdir, checkpoint, strategy)
    output = pathlib.Path(output)
    with workdirs.hold(output):
        workdirs.prepare(
            config,
            output,
            pair.train.fingerprint() + pair.test.fingerprint(),
            command="finetune",
            encoder=start.identity,
        )
        if (output / "result.json").is_file():
            result = workdirs.read_json(output / "result.json")
            print(f"This fine-tuning is finished: {output}.")
        else:
            result = _train(config, start, pair, train, held, output, strategy)
    print(_text(result, output))
    return result


def _train(config, start, pair, train, held, output, strategy):
    """Trains, judges on the test source, and writes the result."""
    print(_describe(config, start, train, held, pair, output), flush=True)
    batches = make_stream(config, start.run, train)
    classes = len(pair.names)
    method = make_method(config, start, batches, classes, strategy)
    size, rows = start.run.data.image_size, start.run.knn.batch_size

    def evaluate():
        logits, index = supervised.predict(method, held, size, rows)
        return float(accuracy.in_top(logits, held.labels[index], 1).mean())

    used = supervised.train(
        method,
        batches,
        config,
        output,
        strategy,
        evaluate if len(held) else None,
        config.train.early_stopping,
    )
    checkpoints.restore(method, used)
    logits, index = supervised.predict(method, pair.test, size, rows)
    skipped = features.unreadable_names(pair.test, index, len(pair.test))
    labels = pair.test_labels[index]
    result = {
        "init": config.model.init,
        "encoder": start.title,
        "encoder_identity": start.identity,
        "labels": config.data.labels,
        "train_images": len(train),
        "held_out_images": len(held),
        "held_out_top1": evaluate() if len(held) else None,
        "classes": classes,
        "epoch": checkpoints.read_meta(used)["epoch"],
        "unreadable_test_images": len(skipped),
        **accuracy.summary(logits, labels),
    }
    workdirs.write_json(output / "result.json", result)
    accuracy.write_confusion(output, logits.argmax(axis=1), labels, pair.names)
    return result


def choose(config, pair):
    """The images to train on and those held out, of the training source.

    Args:
      config: ConfigDict of the command. pair: supervised.LabelledSources.

    Returns:
      train, held: sources.Subset; `held` is empty with data.holdout 0.
    """
    chosen = supervised.balanced(
        pair.train_labels, config.data.labels, config.seed
    )
    kept, held = supervised.split(
        pair.train_labels[chosen], config.data.holdout, config.seed
    )
    return tuple(
        sources.Subset(pair.train, chosen[part]) for part in (kept, held)
    )


def check(config, pair, train, held, replicas):
    """Refuses what cannot be trained, before any work.

    Raises:
      ValueError: with the rule, the values received and the remedy.
    """
    batch, options = config.train.batch_size, config.augment
    if batch > len(train) or batch % replicas:
        raise ValueError(
            "train.batch_size must be at most the number of images to train "
            f"on, and a multiple of the replicas. Received {batch}, "
            f"{len(train)} images (data.labels={config.data.labels:g} of "
            f"{len(pair.train)}, less {len(held)} held out) and {replicas} "
            "replicas. Lower --config.train.batch_size."
        )
    together = batch if config.model.sync_bn else batch // replicas
    blends = options.mixup or options.cutmix
    if together < 2 or (blends and batch // replicas < 2):
        raise ValueError(
            "BatchNorm, MixUp and CutMix need two images or more of a "
            f"replica. Received train.batch_size={batch} on {replicas} "
            "replicas. Raise --config.train.batch_size."
        )
    if config.train.early_stopping and not len(held):
        raise ValueError(
            "Early stopping needs held-out images. Received "
            f"train.early_stopping={config.train.early_stopping} and "
            f"data.holdout={config.data.holdout:g}, {len(held)} images. Pass "
            "--config.data.holdout=0.1, or --config.train.early_stopping=0."
        )
    supervised.check_schedule(config)


def _describe(config, start, train, held, pair, output):
    """What is about to run, in a few lines."""
    return (
        f"moco-tf finetune in {output}\n"
        f"  start    {start.title}\n"
        f"  train    {len(train)} images of {len(pair.names)} classes "
        f"({100 * config.data.labels:g} % of {len(pair.train)}), {len(held)} "
        "held out\n"
        f"  test     {len(pair.test)} images"
    )


def _text(result, output):
    return (
        f"finetune ({result['init']}), {100 * result['labels']:g} % of labels: "
        f"{result['train_images']} images, epoch {result['epoch']:g}\n"
        f"{accuracy.describe(result)}\n"
        f"results in {output}"
    )
