"""Fine-tuning of backbone and new head with few or all labels (`finetune`).

`run` is the command: it chooses the labelled images, restores the backbone
(`load_start`), assembles stream and method, trains, and tests the classifier.
"""

import functools
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import ml_collections
import tensorflow as tf

from moco_tf import paths, plan, state_files, workdirs
from moco_tf.data import sources, stream, views
from moco_tf.evaluation import (
    accuracy,
    features,
    frozen,
    label_augment,
    results,
    supervised,
)
from moco_tf.models import batch_norm, encoder, heads, inputs
from moco_tf.training import checkpoints, optimizers

# Of result.json, in what is printed.
_SHOWN = ("init", "labels", "train_images", "epoch")


def run(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    checkpoint: str,
    output: str | pathlib.Path,
    strategy: tf.distribute.Strategy,
) -> dict[str, Any]:
    """Trains a classifier from a run's encoder, and prints its accuracy.

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
      Left: when asked to leave; all is saved before.

    Side effects: writes config.json, metrics.csv, checkpoints/, result.json,
      confusion.csv, confusion.png and per_class.csv, within printed.copied
      log.txt; seeds Python's, NumPy's and TensorFlow's generators.
    """
    run_config = frozen.load_config(workdir)
    output = paths.expand(output)
    with workdirs.hold(output):
        config = workdirs.locate(config, output, "finetune")
        labelled = supervised.open_labelled(
            config.data.train,
            config.data.test,
            run_config,
            inputs.CHANNELS[run_config.model.input],
            output,
        )
        train, held_out = choose(config, labelled)
        check(config, labelled, train, held_out, strategy.num_replicas_in_sync)
        start = load_start(config, run_config, workdir, checkpoint, strategy)
        result, begin = results.open_result(
            config,
            output,
            labelled,
            "finetune",
            start.identity,
            fields=_SHOWN,
        )
        if result:
            print(f"This fine-tuning is finished: {paths.shown(output)}.")
        else:
            sets = labelled, train, held_out
            result = _train(config, start, sets, output, strategy, begin)
    print(_text(result, output))
    return result


def _train(config, start, sets, output, strategy, begin):
    """Trains the classifier, tests it, and writes the result."""
    labelled, train, held_out = sets
    print(
        _describe(config, start, train, held_out, labelled, output), flush=True
    )
    batches = make_stream(config, start.run, train)
    classes = len(labelled.names)
    method = make_method(config, start, batches, classes, strategy)
    size, batch_size = start.run.data.image_size, start.run.knn.batch_size

    def evaluate():
        logits, index = supervised.predict(method, held_out, size, batch_size)
        return float(accuracy.in_top(logits, held_out.labels[index], 1).mean())

    checkpoint = supervised.train(
        method,
        batches,
        config,
        output,
        strategy,
        evaluate=evaluate if len(held_out) else None,
        patience=config.train.early_stopping,
        begin=begin,
    )
    checkpoints.restore(method, checkpoint)
    logits, index = supervised.predict(method, labelled.test, size, batch_size)
    skipped = features.unreadable_names(
        labelled.test, index, len(labelled.test)
    )
    labels = labelled.test_labels[index]
    result = {
        "init": config.model.init,
        "encoder": start.title,
        "encoder_identity": start.identity,
        "labels": config.data.labels,
        "train_images": len(train),
        "held_out_images": len(held_out),
        "held_out_top1": evaluate() if len(held_out) else None,
        "classes": classes,
        "epoch": int(method.step.numpy()) / batches.steps_per_epoch,
        "unreadable_test_images": len(skipped),
        **accuracy.summary(logits, labels),
    }
    state_files.write_json(output / "result.json", result)
    accuracy.write_confusion(
        output, logits.argmax(axis=1), labels, labelled.names
    )
    return result


def choose(config, labelled):
    """Chooses the images to train on and those held out.

    Args:
      config: ConfigDict of the command. labelled: supervised.LabelledSources.

    Returns:
      train, held_out: sources.Subset of the training source; `held_out` is
      empty with data.holdout 0.
    """
    chosen = supervised.balanced(
        labelled.train_labels, config.data.labels, config.seed
    )
    parts = supervised.split(
        labelled.train_labels[chosen], config.data.holdout, config.seed
    )
    return tuple(sources.Subset(labelled.train, chosen[part]) for part in parts)


def check(config, labelled, train, held_out, replicas):
    """Refuses what cannot be trained, before any work.

    Raises:
      ValueError: with the rule, the values received and the remedy.
    """
    batch, options = config.train.batch_size, config.augment
    blends = options.mixup or options.cutmix
    # The images that a step needs.
    least = replicas
    if blends or not config.model.sync_bn or replicas == 1:
        least = 2 * replicas
    if batch > len(train) or batch % replicas:
        raise ValueError(
            "train.batch_size must be at most the number of images to train "
            f"on, and a multiple of the replicas. Received {batch}, "
            f"{len(train)} images (data.labels={config.data.labels:g} of "
            f"{len(labelled.train)}, less {len(held_out)} held out) and "
            f"{replicas} replicas. "
            + supervised.batch_remedy(batch, len(train), least)
        )
    if batch < least:
        raise ValueError(
            "BatchNorm, MixUp and CutMix need two images or more of a "
            f"replica. Received train.batch_size={batch} on {replicas} "
            f"replicas. {supervised.batch_remedy(least, len(train), least)}"
        )
    if config.train.early_stopping and not len(held_out):
        remedy = "--config.train.early_stopping=0"
        if not config.data.holdout and len(set(train.labels)) < len(train):
            remedy = f"--config.data.holdout=0.1 or {remedy}"
        raise ValueError(
            "Early stopping needs held-out images, of classes of two or more. "
            f"Received train.early_stopping={config.train.early_stopping} and "
            f"data.holdout={config.data.holdout:g}, {len(held_out)} images. "
            f"Pass {remedy}."
        )
    supervised.check_schedule(config)


def _describe(config, start, train, held_out, labelled, output):
    """Describes the fine-tuning that begins, in four lines."""
    return (
        f"moco-tf finetune in {paths.shown(output)}\n"
        f"  start    {paths.shown(start.title)}\n"
        f"  train    {len(train)} images of {len(labelled.names)} classes "
        f"({100 * config.data.labels:g} % of {len(labelled.train)}), "
        f"{len(held_out)} held out\n{labelled.remark_lines()}"
        f"  test     {len(labelled.test)} images"
    )


def _text(result, output):
    return (
        f"finetune ({result['init']}), {100 * result['labels']:g} % of labels: "
        f"{result['train_images']} images, epoch {result['epoch']:g}\n"
        f"{accuracy.describe(result)}\n"
        f"results in {paths.shown(output)}"
    )


class Start(NamedTuple):
    """The backbone that a fine-tuning starts from.

    Attributes:
      run: ConfigDict of the pre-training.
      backbone: keras.Model, restored or with random weights.
      title: path of the checkpoint, or "random weights", for messages.
      identity: hex digest of the encoder; of the architecture for random
        weights, which the seed fixes.
    """

    run: object
    backbone: tf.keras.Model
    title: str
    identity: str


def load_start(config, run, workdir, checkpoint, strategy):
    """Builds the backbone of a run; restores it unless init is "random".

    Args:
      config: ConfigDict of `finetune`. run: ConfigDict of the pre-training.
      workdir: of the run. checkpoint: as `frozen.find_checkpoint` takes it.
      strategy: tf.distribute.Strategy, in whose scope it is built.

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
    tuned.train.precision = _precision(config, run)
    with strategy.scope():
        encoder = frozen.build_encoder(tuned)
    backbone = encoder.backbone
    if not restores:
        # Without what a resumed pre-training may change (resuming.py).
        model = run.model.to_dict() | {"recompute": False}
        kind = [model, run.data.image_size, run.data.views]
        identity = hashlib.sha256(json.dumps(kind).encode()).hexdigest()
        return Start(run, backbone, "random weights", identity)
    checkpoints.restore_query_encoder(encoder, path)
    identity = frozen.freeze(encoder, run, str(path)).identity
    return Start(run, backbone, str(path), identity)


def _precision(config, run):
    """The precision of a fine-tuning, by its configuration and its run's."""
    chosen = config.train.precision
    return run.train.precision if chosen == "run" else chosen


def make_stream(config, run, train):
    """Makes the stream of random crops, with RandAugment if it is on.

    Args:
      config: ConfigDict of `finetune`. run: ConfigDict of the pre-training.
      train: Source.

    Returns:
      stream.Stream.
    """
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
    """Makes a compiled FineTuned, with its optimiser's slots.

    Args:
      config: ConfigDict of `finetune`. start: Start.
      batches: stream.Stream of the training images. classes: int.
      strategy: tf.distribute.Strategy, in whose scope it is built.

    Returns:
      FineTuned.
    """
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
            label_smoothing=config.train.label_smoothing,
            mixing=mixing,
        )
        factor = optimizer.head_factor
        sgd = optimizers.MomentumSGD(
            plan.make_schedule(config, batches.steps_per_epoch),
            optimizer.momentum,
            optimizer.weight_decay,
            rate_factors=[(v, factor) for v in head.trainable_variables],
        )
        method.compile(
            optimizers.with_loss_scale(sgd, _precision(config, start.run))
        )
    method.build_optimizer()
    return method


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
        """Joins backbone and head.

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
