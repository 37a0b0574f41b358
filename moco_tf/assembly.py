"""From a configuration to what it names: stream, method, schedule."""

import math

import tensorflow as tf

from moco_tf.data import stream, views
from moco_tf.methods import moco
from moco_tf.models import encoder as encoders
from moco_tf.training import distribution, optimizers, schedules


def make_stream(config, source, workers=1):
    """The stream of a configuration over a source, for so many processes."""
    return stream.Stream(
        source,
        views.RECIPES[config.data.views],
        config.data.image_size,
        config.train.batch_size,
        config.seed,
        _shuffle(config, workers),
        config.data.threads,
    )


def make_method(config, strategy, steps_per_epoch):
    """The method of a configuration, compiled, with its optimiser's slots.

    Side effects: seeds Keras' global generator, so that the first weights are a
    function of config.seed; sets TF32.
    """
    tf.keras.utils.set_random_seed(config.seed)
    distribution.set_precision(config.train.tf32)
    replicas = strategy.num_replicas_in_sync
    recipe = views.RECIPES[config.data.views]
    with strategy.scope():
        backbone = encoders.build_backbone(
            config.model.backbone,
            width=config.model.width,
            stem=config.model.stem,
            bn_splits=config.model.bn_groups // replicas,
            image_size=config.data.image_size,
            precision=config.train.precision,
        )
        method = moco.MoCo(
            backbone,
            head=config.model.head,
            dim=config.model.dim,
            queue_size=config.moco.queue_size,
            momentum=config.moco.momentum,
            temperature=config.moco.temperature,
            symmetric=config.moco.symmetric,
            shuffle_keys=_shuffle(config, distribution.worker_count(strategy)),
            mean=recipe.mean,
            std=recipe.std,
            seed=config.seed,
        )
        method.compile(
            optimizers.make_optimizer(
                config.optimizer.name,
                make_schedule(config, steps_per_epoch),
                config.optimizer.momentum,
                config.optimizer.weight_decay,
            )
        )
    method.build_optimizer()
    return method


def make_schedule(config, steps_per_epoch):
    """The learning-rate schedule of a configuration."""
    schedule, rate = config.schedule, config.optimizer.learning_rate
    if schedule.name == "cosine":
        return schedules.Cosine(
            rate,
            config.train.epochs,
            steps_per_epoch,
            schedule.warmup_epochs,
            schedule.unit,
            schedule.first_epoch,
        )
    return schedules.Step(
        rate,
        schedule.milestones,
        steps_per_epoch,
        schedule.factor,
        schedule.warmup_epochs,
        schedule.unit,
    )


def chance_loss(config):
    """ln(K + 1), the loss of features that tell nothing, in nats."""
    directions = 2 if config.moco.symmetric else 1
    return directions * math.log(config.moco.queue_size + 1)


def _shuffle(config, workers):
    """The shuffle in use: one host deals both views of a sample itself."""
    if config.moco.shuffle == "auto":
        return "address" if workers == 1 else "gather"
    return config.moco.shuffle
