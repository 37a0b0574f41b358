"""From a configuration to what it names: stream, schedule, description."""

import math

from moco_tf.data import stream, views
from moco_tf.training import distribution, schedules


def make_stream(config, source, workers=1):
    """The stream of a configuration over a source, for so many processes."""
    return stream.Stream(
        source,
        views.RECIPES[config.data.views],
        config.data.image_size,
        config.train.batch_size,
        config.seed,
        shuffle(config, workers),
        config.data.threads,
        augment_on=config.data.augment_on,
    )


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
            schedule.get("first_epoch", 0),  # of pre-training alone
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


def shuffle(config, workers):
    """The shuffle in use: one host deals both views of a sample itself."""
    if config.moco.shuffle == "auto":
        return "address" if workers == 1 else "gather"
    return config.moco.shuffle


def describe(config, workdir, batches, strategy, step, last_step):
    """What is about to run, in a few lines."""
    model, train = config.model, config.train
    workers = distribution.worker_count(strategy)
    places = f"{strategy.num_replicas_in_sync} replica(s)"
    if workers > 1:
        places += f" of {workers} workers, shuffle {batches.shuffle_keys}"
    start = f"goes on after step {step}" if step else "starts"
    return (
        f"moco-tf {start} in {workdir}\n"
        f"  data     {len(batches.source)} images of {config.data.source}, "
        f"views {config.data.views} at {config.data.image_size} px\n"
        f"  model    {model.backbone} x{model.width:g}, {model.head} head, "
        f"{model.dim} features, {train.precision}\n"
        f"  queue    {config.moco.queue_size} keys, momentum "
        f"{config.moco.momentum}, temperature {config.moco.temperature}; loss "
        f"at chance {chance_loss(config):.3f}\n"
        f"  batch    {train.batch_size} on {places}, "
        f"{model.bn_groups} BatchNorm groups of "
        f"{train.batch_size // model.bn_groups}\n"
        f"  steps    {last_step} ({batches.steps_per_epoch} an epoch, "
        f"{train.epochs} epochs)"
    )
