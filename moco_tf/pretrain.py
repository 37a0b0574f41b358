"""Pre-training: stream, model, callbacks, fit."""

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Sequence

import ml_collections
import tensorflow as tf

from moco_tf import config as configs
from moco_tf import counting, paths, resuming, workdirs
from moco_tf import plan as plans
from moco_tf.cluster import watchdog
from moco_tf.data import unreadable
from moco_tf.evaluation import diagnostics, monitor, verdict
from moco_tf.methods import method as method_lib
from moco_tf.monitoring import (
    health,
    listener,
    loggers,
    metrics_csv,
    printed,
    progress,
    tensorboard,
    warning_log,
)
from moco_tf.reporting import board
from moco_tf.training import (
    callbacks,
    checkpoints,
    distribution,
    nonfinite,
)
from moco_tf.weights import origin, starting


def pretrain(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    strategy: tf.distribute.Strategy,
    extend: bool = False,
    guard: watchdog.Guard | None = None,
    profile_steps: Sequence[int] = (),
    preset: str = "",
    require: Callable[..., None] | None = None,
) -> tf.keras.Model:
    """Trains, or goes on training, the encoder that a configuration describes.

    In a cluster every worker calls this; the chief alone writes to the workdir,
    which all must see.

    Args:
      config: ConfigDict (see configs/).
      workdir: folder of the run; made if missing. A run that is there goes on
        from its last checkpoint.
      strategy: tf.distribute.Strategy.
      extend: bool; allows more epochs than the run was started with.
      guard: Guard of this process; None: a process on its own, whose signals
        are left alone.
      profile_steps: first and last step (from 1) to trace, or ().
      preset: text of the preset file of a chosen configuration; "": none.
      require: function of config and strategy that raises ValueError for what
        this machine cannot carry; None: nothing is asked.

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
    workdir = paths.expand(workdir)
    with contextlib.ExitStack() as stack:
        _enter(workdir, guard, stack)
        config = _require(config, workdir, strategy, require)
        source = plans.open_source(config, config.data.source)
        data = workdirs.restore_source(source, workdir)
        plan = plans.make(config, strategy, data.source)
        per_epoch = plan.steps_per_epoch
        knn = None
        if guard.is_chief:
            probed = plan.labels and plan.source
            knn = monitor.of_run(config, per_epoch, plan.source, probed)
            workdirs.check(config, workdir, data.fingerprint, extend)
            Files.check(workdir)
            makers = loggers.find(config.log.listeners)
        path = _agree(config, data, workdir, strategy, guard)
        method, step, start = _begin(plan, path, strategy, guard)
        callback = callbacks.StepCallback(per_epoch, plan.last_step, guard)
        if guard.is_chief:
            others = make_loggers(makers, plan, workdir, step)
            # Not before all is known to go on: a refused start writes nothing.
            workdirs.save(
                config,
                workdir,
                data.fingerprint,
                listings=[("images", data.images)],
                preset=preset,
            )
            if words := data.describe():
                print(words)
            if path is None:
                _save_start(plan, method, start, workdir)
            files = Files(plan, workdir, step)
            if knn and step:
                knn.recall_baseline(workdir)
            listeners = make_listeners(plan, files, method, knn, profile_steps)
            callback = make_callback(plan, files, guard, listeners + others)
            stack.callback(callback.close)
        if (config.knn.bank or config.knn.sample) and step % per_epoch == 0:
            # The chief may measure first, for any time.
            guard.limit(0, "the evaluation before training")
        callback.resume(method)
        if step >= plan.last_step:
            name = paths.shown(workdir)
            print(f"This run is finished: {name} holds all {step} steps.")
        else:
            _train(plan, method, strategy, callback, workdir, knn)
    return method


def _enter(workdir, guard, stack):
    """Lets the chief hold the workdir; a run that is there goes on in its log.

    Before anything is looked at: why a start is refused is part of the log.
    """
    if guard.is_chief:
        stack.enter_context(workdirs.hold(workdir))
    if workdirs.is_begun(workdir):
        _keep_log(workdir, guard)


def _require(config, workdir, strategy, require):
    """Refuses what cannot be run; returns it with sources that open here."""
    plans.check(config, strategy.num_replicas_in_sync)
    config = workdirs.locate(config, workdir)
    if require:
        require(config, strategy)
    return config


def _keep_log(workdir, guard):
    """Keeps what a worker prints too, and what its watchdog has to say.

    What the chief prints is kept by `workdirs`.
    """
    if not guard.is_chief:
        printed.keep(workdir, worker=guard.cluster.index)
    guard.log_to(printed.kept())


def _train(plan, method, strategy, callback, workdir, knn):
    """Trains from a step on; prints what begins, and kNN before and after."""
    guard, step = callback.guard, callback.step
    _keep_log(workdir, guard)
    if guard.is_chief:
        print(plan.describe(workdir, step))
        print(monitor.describe(knn), end="")
        _measure_start(knn, method, workdir, step)
        guard.first_step()  # the others wait in it, without a limit
    else:
        print(f"moco-tf {guard.cluster.name()} joins; worker 0 reports.")
    _fit(plan, method, strategy, callback)
    if callback.left:
        raise watchdog.Left(callback.step, guard.status())
    if knn and knn.baseline:
        _print_verdict(knn, workdir)


def _measure_start(knn, method, workdir, step):
    """Measures and prints what the encoder will be compared with.

    Args:
      knn: Monitor, or None. method: Method. workdir: Path.
      step: int, of which the run goes on.

    Side effects: those of `measure_baseline`; the starting encoder is the
    run's best/ until a checkpoint is better.
    """
    if not knn:
        return
    if step == 0 and knn.config.knn.baseline:
        knn.measure_baseline(method.query_encoder, workdir)
        if knn.is_labelled:
            checkpoints.keep_start(method.query_encoder, workdir)
    if words := knn.baseline_words():
        kind = "kNN" if knn.is_labelled else "Representation"
        print(f"{kind} before training: {words}")


def _print_verdict(knn, workdir):
    """Prints what the trained encoder is against its baseline."""
    if knn.newest_top1 is not None:
        trained = f"trained encoder {100 * knn.newest_top1:.2f} %"
        print(f"kNN: {knn.baseline_words()}  {trained}")
    rows = metrics_csv.read(workdir / "metrics.csv")
    start = plans.start_words(knn.config)
    layer = knn.config.knn.features
    reached = verdict.of_rows(rows, layer, f"the {start}")
    if reached:
        print(f"Verdict: {reached.words}.")


def _fit(plan, method, strategy, callback):
    """Trains from a step on; returns when all workers have ended."""
    step = callback.step
    method.start_at(*divmod(step, plan.steps_per_epoch))
    try:
        method.fit(
            plan.batches.distribute(strategy, step),
            epochs=plan.config.train.epochs,
            steps_per_epoch=plan.steps_per_epoch,
            callbacks=[callback],
            verbose=0,
        )
    except callbacks.NotFinite as error:
        if plan.workers > 1:
            raise  # the other workers do not know of it
        print("Looking for the layer ...")
        sentence = nonfinite.find(
            plan.make_method(strategy),
            plan.batches,
            strategy,
            checkpoints.latest(callback.workdir),
            error.step,
        )
        raise FloatingPointError(f"{error} {sentence}") from error
    except KeyboardInterrupt:
        if plan.workers == 1:
            callback.save_interrupted()
        raise
    except tf.errors.OpError as error:
        unreadable.require_one_after(error, plan.source)
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
    same = not resuming.difference(saved, config)
    same &= saved.train.max_steps == config.train.max_steps
    return same and meta["step"] >= meta.get("last_step", math.inf)


def _agree(config, data, workdir, strategy, guard):
    """Returns the checkpoint that all workers go on from, or None.

    The chief chooses it; the others wait until they see it.

    Raises:
      ValueError: on a worker with another configuration or other data than the
        chief's, or that does not see the chief's workdir.
    """
    path = checkpoints.resumed(workdir) if guard.is_chief else None
    if guard.cluster is None:
        return path
    step = checkpoints.read_meta(path)["step"] if path else -1
    identity = workdirs.identity(config, data.identity())
    chief = distribution.chief_values(strategy, [identity, step])
    if chief[1] >= 0 and not guard.is_chief:
        path = checkpoints.wait_for(workdir, chief[1])
    if chief[0] != identity:
        raise ValueError(
            "All workers must have the same configuration and the same data. "
            f"Received others at {guard.cluster.name()} than at "
            f"{guard.cluster.name(0)}. Start all with the same command, and "
            "compare the data folders."
        )
    return path


def _begin(plan, path, strategy, guard):
    """Makes the method, and sets it to a checkpoint or to its first weights.

    Args:
      plan: Plan. path: of the checkpoint to go on from, or None.
      strategy: tf.distribute.Strategy. guard: Guard of this process.

    Returns:
      Method; int, its step; starting.Start, or None where it goes on or starts
      from random weights.
    """
    if not path or checkpoints.read_meta(path)["step"] < plan.last_step:
        unreadable.require_one(plan.source)
    text, weights = plan.config.model.init, None
    if text and not path:
        weights = origin.read(text, plan.config.method)
        _compare(weights, strategy, guard)
    method = plan.make_method(strategy)
    if path:
        return method, checkpoints.restore(method, path), None
    start = None
    if weights is not None:
        start = starting.start(weights, method, plan.config)
    _make_first_passes(plan, method, strategy, guard)
    return method, 0, start


def _make_first_passes(plan, method, strategy, guard):
    """Shows a method the batches that it wants before the first step.

    They are the last of an epoch: with fewer than an epoch has, their keys have
    left the queue again when their images come as queries.
    """
    batch_size, per_epoch = plan.config.train.batch_size, plan.steps_per_epoch
    count = method.first_passes(batch_size)
    if not count:
        return
    guard.limit(0, "the passes before the first step")
    if guard.is_chief:
        print(
            f"Filling the queue: {count} forward passes of the key encoder, of "
            f"{batch_size} images each ..."
        )

    @functools.partial(tf.function, autograph=False)
    def show(batch):
        strategy.run(
            lambda batch: method.first_pass(method_lib.finished_views(batch)),
            args=(batch,),
        )

    first = -(-count // per_epoch) * per_epoch - count
    batches = iter(plan.batches.distribute(strategy, first))
    shown = count if guard.is_chief else 0
    with counting.counted(shown, 0, "filling the queue", "passes") as bar:
        for _ in range(count):
            show(next(batches))
            bar.add(1)


def _compare(weights, strategy, guard):
    """Refuses other weights on this worker than the chief starts from."""
    if guard.cluster is None:
        return
    digest = int(weights.digest()[:15], 16)
    if distribution.chief_values(strategy, [digest]) != [digest]:
        raise ValueError(
            "All workers must start from the same weights. Received others at "
            f"{guard.cluster.name()} than at {guard.cluster.name(0)} as "
            f"{weights.text!r}. Put them on a shared file system."
        )


def _save_start(plan, method, start, workdir):
    """Prints and saves what a run starts from, and its state, as step 0.

    So the weights are read once: whoever goes on needs them no more. A run that
    starts at random is made again by its seed.
    """
    if start:
        print(start.describe())
        start.save(workdir)
    elif not method.first_passes(plan.config.train.batch_size):
        return
    meta = {
        "epoch": 0.0,
        "replicas": plan.replicas,
        "last_step": plan.last_step,
    }
    checkpoints.save(method, workdir, plan.config.checkpoint.keep, meta)


class Files:
    """The chief's files in a workdir, cut back to the step of the checkpoint.

    Attributes:
      workdir: Path. step: int.
      metrics: MetricsFile. events: EventWriter, or None without TensorBoard.
      events_folder: Path of TensorBoard's files. warnings: WarningLog.
      unreadable: UnreadableLog.
    """

    @staticmethod
    def check(workdir):
        """Refuses the files of a later version, or without a header."""
        metrics_csv.check(workdir / "metrics.csv")

    def __init__(self, plan, workdir, step):
        self.workdir, self.step = workdir, step
        self.metrics = metrics_csv.MetricsFile(workdir / "metrics.csv")
        first = callbacks.oldest_step(step, plan.steps_per_epoch)
        self.metrics.cut_back(step, first)
        self.events_folder = workdir / "tensorboard"
        self.events = None
        if plan.config.log.tensorboard:
            self.events = tensorboard.EventWriter(
                self.events_folder, step, plan.chance_loss
            )
        self.warnings = warning_log.WarningLog(workdir / "warnings.csv", step)
        self.unreadable = unreadable.UnreadableLog(
            workdir / "unreadable.csv",
            plan.batches,
            plan.config.data.max_corrupt_fraction,
        )


def make_listeners(plan, files, method, knn=None, profile_steps=()):
    """Makes the chief's listeners.

    Those that add figures to a row come before the files that the row is
    written to, and these before those that read them.

    Args:
      plan: Plan. files: Files. method: Method, restored.
      knn: evaluation.monitor.Monitor, or None.
      profile_steps: first and last step (from 1) to trace, or ().

    Returns:
      list of Listener, in the order in which they are called.
    """
    config, metrics, events = plan.config, files.metrics, files.events
    progress_bar = progress.Progress(
        plan.last_step,
        plan.steps_per_epoch,
        chance=plan.chance_loss,
        epochs=config.train.epochs,
        batch_size=config.train.batch_size,
        step_seconds=progress.seconds_a_step(
            metrics.rows(), config.train.batch_size
        ),
        log_every=config.log.every_steps,
    )
    watch = health.Watch(
        plan.run,
        plan.settings,
        plan.chance_loss,
        known=files.warnings.names,
        rows=metrics.rows(),
        queries=len(knn.query) if knn and knn.is_labelled else 0,
        layer=config.knn.features,
        warmup_epochs=max(
            config.schedule.warmup_epochs,
            getattr(plan.settings, "momentum_warmup_epochs", 0),
        ),
    )
    pace = None if method.momentum is None else diagnostics.Pace()
    listeners: list[listener.Listener] = []
    if profile_steps:
        first, last = profile_steps
        listeners.append(
            tensorboard.Profile(files.events_folder, first, last, events)
        )
    listeners.append(diagnostics.Inspector(plan.batches))
    if knn:
        listeners.append(knn)
    if knn and knn.is_labelled:
        listeners.append(_best_checkpoint(files, knn))
    listeners.append(metrics)
    if events:
        listeners.append(events)
    message = progress_bar.message
    listeners += [
        progress_bar,
        warning_log.Warnings(watch, files.warnings, metrics, message, pace),
    ]
    if events:
        listeners.append(
            board.Board(
                config,
                events,
                files.events_folder,
                batches=plan.batches,
                monitor=knn if knn and knn.is_labelled else None,
                last_step=plan.last_step,
            )
        )
    return listeners


def _best_checkpoint(files, knn):
    """The listener that keeps the best encoder, the first among them."""
    layer = knn.config.knn.features

    def start():
        return knn.baseline and knn.baseline.figures[f"start_{layer}"]

    return callbacks.BestCheckpoint(
        files.workdir, f"knn_{layer}", files.metrics.rows(), start
    )


def make_loggers(makers, plan, workdir, step):
    """Makes the listeners that log.listeners names.

    Args:
      makers: of loggers.find. plan: Plan. workdir: Path. step: int, finished.

    Returns:
      list of loggers.Guarded.
    """
    session = loggers.Session(
        workdir,
        configs.flatten(plan.config.to_dict()),
        step=step,
        last_step=plan.last_step,
        steps_per_epoch=plan.steps_per_epoch,
    )
    return loggers.make(makers, session, counting.print_line)


def make_callback(plan, files, guard, listeners):
    """Makes the chief's callback.

    Args:
      plan: Plan. files: Files. guard: Guard. listeners: of make_listeners.

    Returns:
      RunCallback.
    """
    config = plan.config
    cadence = callbacks.Cadence(
        steps_per_epoch=plan.steps_per_epoch,
        last_step=plan.last_step,
        batch_size=config.train.batch_size,
        log_every=config.log.every_steps,
        save_every=config.checkpoint.every_steps,
        keep=config.checkpoint.keep,
    )
    return callbacks.RunCallback(
        cadence,
        workdir=files.workdir,
        metrics=files.metrics,
        unreadable=files.unreadable,
        guard=guard,
        listeners=listeners,
        causes="Usual causes: a learning rate too high for the batch, or a "
        "temperature too low. Lower config.optimizer.learning_rate, in another "
        "--workdir.",
    )
