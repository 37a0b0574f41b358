"""Pre-training: stream, model, callbacks, fit."""

import contextlib
import math
import pathlib
from collections.abc import Sequence

import ml_collections
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import plan, workdirs
from moco_tf.cluster import watchdog
from moco_tf.data import unreadable
from moco_tf.evaluation import diagnostics, monitor
from moco_tf.monitoring import (
    health,
    listener,
    metrics_csv,
    profile,
    progress,
    tensorboard,
)
from moco_tf.reporting import board
from moco_tf.training import (
    callbacks,
    checkpoints,
    distribution,
    nonfinite,
    optimizers,
)


def pretrain(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    strategy: tf.distribute.Strategy,
    extend: bool = False,
    guard: watchdog.Guard | None = None,
    profile_steps: Sequence[int] = (),
) -> tf.keras.Model:
    """Trains, or goes on training, the encoder that a configuration describes.

    In a cluster every worker calls this; the chief alone writes to the workdir,
    which all must see.

    Args:
      config: ConfigDict (see configs/).
      workdir: folder of the run; made if missing. A run that it holds goes on
        from its last checkpoint.
      strategy: tf.distribute.Strategy.
      extend: bool; allows more epochs than the run was started with.
      guard: Guard of this process; None: a process on its own, whose signals
        are left alone.
      profile_steps: first and last step (from 1) to trace, or ().

    Returns:
      the Method, trained.

    Raises:
      ValueError: before the first step, for anything that cannot work; also
        where another process trains in the workdir.
      FloatingPointError: at a loss that is not finite.
      OSError: if a checkpoint cannot be written, or the disk is full.
      Left: when asked to leave; all is saved.
    """
    guard = guard or watchdog.Guard()
    workdir = pathlib.Path(workdir)
    configs.check(config, strategy.num_replicas_in_sync)
    source = plan.open_source(config, config.data.source)
    workers = distribution.worker_count(strategy)
    batches = plan.make_stream(config, source, workers)
    total = config.train.epochs * batches.steps_per_epoch
    last_step = min(config.train.max_steps or total, total)
    knn = None
    if guard.is_chief and config.knn.bank:
        knn = monitor.KnnMonitor(config, batches.steps_per_epoch)
    with contextlib.ExitStack() as stack:
        if guard.is_chief:
            stack.enter_context(workdirs.hold(workdir))
            workdirs.prepare(config, workdir, source.fingerprint(), extend)
        path = _agree(config, source, workdir, strategy, guard)
        method = make_method(config, strategy, len(source))
        step = checkpoints.restore(method, path) if path else 0
        callback = callbacks.StepCallback(
            batches.steps_per_epoch, last_step, guard
        )
        if guard.is_chief:
            callback = make_callback(
                config,
                workdir,
                batches,
                method,
                step,
                last_step,
                guard,
                knn,
                profile_steps,
            )
            stack.callback(callback.close)
        if config.knn.bank and step % batches.steps_per_epoch == 0:
            # The chief may measure first, for any time.
            guard.limit(0, "the evaluation before training")
        callback.resume(method)
        if step >= last_step:
            print(f"This run is finished: {workdir} holds all {step} steps.")
        else:
            _train(method, config, batches, strategy, callback, workdir, knn)
    return method


def make_method(config, strategy, images):
    """The method of a configuration, compiled, with its optimiser's slots.

    Args:
      config: ConfigDict. strategy: tf.distribute.Strategy.
      images: N, of the source.

    Side effects: seeds Keras' global generator, so that the first weights are a
    function of config.seed; sets TF32.
    """
    tf.keras.utils.set_random_seed(config.seed)
    distribution.set_precision(config.train.tf32)
    steps_per_epoch = max(1, images // config.train.batch_size)
    with strategy.scope():
        method = plan.make_method(
            config,
            images,
            config.train.epochs * steps_per_epoch,
            strategy.num_replicas_in_sync,
            distribution.worker_count(strategy),
        )
        optimizer = optimizers.make_optimizer(
            config.optimizer.name,
            plan.make_schedule(config, steps_per_epoch),
            config.optimizer.momentum,
            config.optimizer.weight_decay,
        )
        if config.train.precision == "mixed_float16":
            optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
        method.compile(optimizer)
    method.build_optimizer()
    return method


def _train(method, config, batches, strategy, callback, workdir, knn):
    """Trains from a step on, with what is said before and after."""
    guard, step, before = callback.guard, callback.step, ""
    if guard.is_chief:
        print(
            plan.describe(
                config, workdir, batches, strategy, step, callback.last_step
            )
        )
        if knn and config.knn.baseline and step == 0:
            before = knn.baseline(method.query_encoder)
            print(f"kNN before training: {before}")
    else:
        print(f"moco-tf {guard.cluster.name()} joins; worker 0 reports.")
    _fit(method, config, batches, strategy, step, callback)
    if callback.left:
        raise watchdog.Left(callback.step, guard.status())
    if before and knn.newest is not None:
        trained = f"trained encoder {100 * knn.newest:.2f} %"
        print(f"kNN: {before}  {trained}")


def _fit(method, config, batches, strategy, step, callback):
    """Trains from a step on; returns when all workers have ended."""
    method.start_at(*divmod(step, batches.steps_per_epoch))
    try:
        method.fit(
            batches.distribute(strategy, step),
            epochs=config.train.epochs,
            steps_per_epoch=batches.steps_per_epoch,
            callbacks=[callback],
            verbose=0,
        )
    except callbacks.NotFinite as error:
        if distribution.worker_count(strategy) > 1:
            raise  # the other workers do not know of it
        print("Looking for the layer ...")
        place = nonfinite.find(
            make_method(config, strategy, len(batches.source)),
            batches,
            strategy,
            checkpoints.latest(callback.workdir),
            error.step,
        )
        raise FloatingPointError(f"{error} {place}") from error
    except KeyboardInterrupt:
        if distribution.worker_count(strategy) == 1:
            callback.save_interrupted()
        raise
    # The chief may still be saving: a worker that ends may end the others.
    distribution.wait_for_all(strategy)


def is_finished(config, workdir):
    """Whether a workdir's newest checkpoint is the last of this run.

    A worker that is started again asks before it waits for others, which may
    have ended for good.
    """
    path = checkpoints.latest(workdir)
    if path is None:
        return False
    meta = checkpoints.read_meta(path)
    saved = workdirs.load_saved(workdir)
    same = not workdirs.difference(saved, config)
    same &= saved.train.max_steps == config.train.max_steps
    return same and meta["step"] >= meta.get("last_step", math.inf)


def _agree(config, source, workdir, strategy, guard):
    """The checkpoint to go on from, by the chief's word, or None.

    Raises:
      ValueError: on a worker with another configuration or other data than the
        chief's, or that does not see the chief's workdir.
    """
    path = checkpoints.latest(workdir) if guard.is_chief else None
    if guard.cluster is None:
        return path
    step = checkpoints.read_meta(path)["step"] if path else -1
    identity = workdirs.identity(config, source.fingerprint())
    chief = distribution.chief_values(strategy, [identity, step])
    if chief[0] != identity:
        raise ValueError(
            "All workers must have the same configuration and the same data. "
            f"Received others at {guard.cluster.name()} than at "
            f"{guard.cluster.name(0)}. Start all with the same command, and "
            "compare the data folders."
        )
    if chief[1] < 0 or guard.is_chief:
        return path
    return checkpoints.wait_for(workdir, chief[1])


def make_callback(
    config,
    workdir,
    batches,
    method,
    step,
    last_step,
    guard,
    knn=None,
    profile_steps=(),
):
    """The chief's callback, its files cut back to `step`.

    Args:
      config: ConfigDict. workdir: Path. batches: Stream.
      method: Method, restored. step: int, finished ones. last_step: int.
      guard: Guard. knn: KnnMonitor, or None.
      profile_steps: first and last step (from 1) to trace, or ().

    Returns:
      RunCallback. Its listeners are told in this order: what is traced; what
      measures; the files; what reads and shows.
    """
    per_epoch = batches.steps_per_epoch
    chance = plan.chance_loss(config)
    metrics = metrics_csv.MetricsFile(workdir / "metrics.csv")
    metrics.cut_back(step)
    shown = progress.Progress(
        last_step, per_epoch, chance, epochs=config.train.epochs
    )
    folder = workdir / "tensorboard"
    events = None
    if config.log.tensorboard:
        events = tensorboard.EventWriter(folder, step, chance)
    listeners: list[listener.Listener] = []
    if profile_steps:
        first, last = profile_steps
        listeners.append(profile.Profile(folder, first, last, events))
    listeners.append(diagnostics.Inspector(batches))
    if knn:
        column = f"knn_{config.knn.features}"
        listeners += [
            knn,
            callbacks.BestCheckpoint(workdir, column, metrics.rows()),
        ]
    listeners.append(metrics)
    if events:
        listeners.append(events)
    listeners += [
        shown,
        _warnings(config, workdir, batches, method, step, metrics, shown),
    ]
    if events:
        listeners.append(
            board.Board(config, events, folder, batches, knn, last_step)
        )
    return callbacks.RunCallback(
        callbacks.Cadence(
            per_epoch,
            last_step,
            config.train.batch_size,
            config.log.every_steps,
            config.checkpoint.every_steps,
            config.checkpoint.keep,
        ),
        workdir,
        metrics,
        unreadable.UnreadableLog(
            workdir / "unreadable.csv",
            batches,
            config.data.max_corrupt_fraction,
        ),
        guard,
        listeners,
        "Usual causes: a learning rate too high for the batch, or a "
        "temperature too low.",
    )


def _warnings(config, workdir, batches, method, step, metrics, shown):
    """The listener that warns, with what an earlier session has warned of."""
    log = health.WarningLog(workdir / "warnings.csv", step)
    watch = health.Watch(
        config.method,
        config[config.method].to_dict(),
        len(batches.source),
        config.train.batch_size,
        config.model.dim,
        plan.chance_loss(config),
        log.names,
        metrics.rows(),
    )
    pace = None if method.momentum is None else diagnostics.Pace()
    return health.Warnings(watch, log, metrics, shown.message, pace)
