"""From a fine-tuning's configuration to its start, stream and method."""

import hashlib
import json
from typing import NamedTuple

import tensorflow as tf

from moco_tf import assembly
from moco_tf.data import stream, views
from moco_tf.evaluation import (
    augment,
    finetuned,
    frozen,
    restored,
)
from moco_tf.models import heads
from moco_tf.training import checkpoints, optimizers


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
    path = restored.find_checkpoint(workdir, checkpoint) if restores else None
    tuned = run.copy_and_resolve_references()
    tuned.seed = config.seed
    tuned.data.small_views = 0
    tuned.model.sync_bn = config.model.sync_bn
    if config.train.precision != "run":
        tuned.train.precision = config.train.precision
    with strategy.scope():
        encoder = restored.build_encoder(tuned)
    backbone = encoder.backbone
    if not restores:
        kind = [run.model.to_dict(), run.data.image_size, run.data.views]
        identity = hashlib.sha256(json.dumps(kind).encode()).hexdigest()
        return Start(run, backbone, "random weights", identity)
    checkpoints.restore_query_encoder(encoder, path)
    identity = frozen.of_encoder(encoder, run, str(path)).identity
    return Start(run, backbone, str(path), identity)


def make_stream(config, run, train):
    """The stream of crops of a source, with RandAugment if it is on."""
    crop = views.crop_and_flip(config.data.crop)
    if config.augment.rand_augment:
        crop = augment.rand_augment(crop, config.augment.rand_augment)
    return stream.Stream(
        train,
        views.RECIPES[run.data.views]._replace(augment=crop),
        run.data.image_size,
        config.train.batch_size,
        config.seed,
        threads=config.data.threads,
        key_views=False,
    )


def make_method(config, start, batches, classes, strategy):
    """FineTuned, compiled, with its optimiser's slots."""
    options, optimizer = config.augment, config.optimizer
    mixing = None
    if options.mixup or options.cutmix:
        mixing = augment.Mixing(options.mixup, options.cutmix, config.seed)
    with strategy.scope():
        head = heads.classification_head(
            start.backbone.output_shape[-1],
            classes,
            config.model.head_bn,
            config.model.sync_bn,
            config.seed,
        )
        method = finetuned.FineTuned(
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
                assembly.make_schedule(config, batches.steps_per_epoch),
                optimizer.momentum,
                optimizer.weight_decay,
                rate_factors=[(v, factor) for v in head.trainable_variables],
            )
        )
    method.build_optimizer()
    return method
