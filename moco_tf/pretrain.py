"""Pre-training: stream, model, callbacks, fit."""

import math
import pathlib

import tensorflow as tf

from moco_tf import config as configs
from moco_tf.data import sources, stream, unreadable, views
from moco_tf.evaluation import monitor
from moco_tf.methods import moco
from moco_tf.models import encoder as encoders
from moco_tf.monitoring import metrics_csv, progress, tensorboard
from moco_tf.training import (
    callbacks,
    checkpoints,
    distribution,
    optimizers,
    schedules,
)


def pretrain(config, workdir, strategy, extend=False):
    """Trains, or goes on training, the encoder that a configuration describes.

    Args:
      config: ConfigDict (see configs/).
      workdir: folder of the run; made if missing. A run that it holds goes on
        from its last checkpoint.
      strategy: tf.distribute.Strategy of one host.
      extend: bool; allows more epochs than the run was started with.

    Returns:
      the Method, trained.

    Raises:
      ValueError: before the first step, for anything that cannot work.
      FloatingPointError: at a loss that is not finite.
      OSError: if a checkpoint cannot be written.
    """
    replicas = strategy.num_replicas_in_sync
    configs.check(config, replicas)
    workdir = pathlib.Path(workdir)
    source = sources.open_source(config.data.source)
    batches = make_stream(config, source)
    total = config.train.epochs * batches.steps_per_epoch
    last_step = min(config.train.max_steps or total, total)
    knn_monitor = monitor.KnnMonitor(config) if config.knn.bank else None
    configs.prepare_workdir(config, workdir, source.fingerprint(), extend)

    method = make_method(config, strategy, batches.steps_per_epoch)
    path = checkpoints.latest(workdir)
    step = checkpoints.restore(method, path) if path else 0
    callback = make_callback(config, workdir, batches, step, last_step)
    callback.knn = knn_monitor
    callback.resume(method)
    if step >= last_step:
        print(f"This run is finished: {workdir} holds all {step} steps.")
        return method
    print(describe(config, workdir, batches, replicas, step, last_step))
    before = ""
    if knn_monitor and config.knn.baseline and step == 0:
        before = knn_monitor.baseline(method.query_encoder)
        print(f"kNN before training: {before}")
    method.start_at(*divmod(step, batches.steps_per_epoch))
    try:
        method.fit(
            batches.distribute(strategy, step, total),
            epochs=config.train.epochs,
            steps_per_epoch=batches.steps_per_epoch,
            callbacks=[callback],
            verbose=0,
        )
    except KeyboardInterrupt:
        callback.save_interrupted()
        raise
    if before and callback.newest_knn is not None:
        trained = f"trained encoder {100 * callback.newest_knn:.2f} %"
        print(f"kNN: {before}  {trained}")
    return method


def make_stream(config, source):
    """The stream of a configuration over a source."""
    return stream.Stream(
        source,
        views.RECIPES[config.data.views],
        config.data.image_size,
        config.train.batch_size,
        config.seed,
        _shuffle(config),
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
            shuffle_keys=_shuffle(config),
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


def make_callback(config, workdir, batches, step, last_step):
    """The callback with all that a run writes, cut back to `step`."""
    metrics = metrics_csv.MetricsFile(workdir / "metrics.csv")
    metrics.cut_back(step)
    scalars = None
    if config.log.tensorboard:
        scalars = tensorboard.ScalarWriter(
            workdir / "tensorboard", step, chance_loss(config)
        )
    return callbacks.PretrainCallback(
        config,
        workdir,
        batches.steps_per_epoch,
        last_step,
        metrics,
        scalars,
        progress.Progress(
            last_step, batches.steps_per_epoch, chance_loss(config)
        ),
        unreadable.UnreadableLog(
            workdir / "unreadable.csv",
            batches,
            config.data.max_corrupt_fraction,
        ),
    )


def chance_loss(config):
    """ln(K + 1), the loss of features that tell nothing, in nats."""
    directions = 2 if config.moco.symmetric else 1
    return directions * math.log(config.moco.queue_size + 1)


def describe(config, workdir, batches, replicas, step, last_step):
    """What is about to run, in a few lines."""
    model, train = config.model, config.train
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
        f"  batch    {train.batch_size} on {replicas} replica(s), "
        f"{model.bn_groups} BatchNorm groups of "
        f"{train.batch_size // model.bn_groups}\n"
        f"  steps    {last_step} ({batches.steps_per_epoch} an epoch, "
        f"{train.epochs} epochs)"
    )


def _shuffle(config):
    """The shuffle in use: one host deals both views of a sample itself."""
    shuffle = config.moco.shuffle
    return "address" if shuffle == "auto" else shuffle
