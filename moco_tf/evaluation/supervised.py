"""Training with labels: which images, which classifier, resumable epochs.

The choices of images (`balanced`, `split`) are functions of the labels, the
fraction and the seed alone. They draw raw numbers of Philox, whose stream NumPy
keeps the same on every platform and in every version; that of its permutations
it does not.
"""

import contextlib
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from moco_tf import config_schema, counting, workdirs
from moco_tf.cluster import watchdog
from moco_tf.data import sources, specs, unreadable
from moco_tf.evaluation import features, knn
from moco_tf.methods import method
from moco_tf.monitoring import listener, metrics_csv, progress
from moco_tf.training import callbacks, checkpoints

_SUBSET, _HOLDOUT = 0, 1  # separate draws of one seed

COLUMNS = (  # of metrics.csv, beside "step"
    "epoch",
    "steps",
    "loss",
    "top1",
    "learning_rate",
    "images_per_second",
    "input_wait_share",
    "unreadable",
    "epoch_loss",
    "evaluated_top1",
    metrics_csv.TIME,
)


def balanced(labels, fraction, seed):
    """Chooses the same fraction of each class (the "1 %" of labels).

    Of a class of n images it takes fraction * n, rounded, at least 1. With one
    seed, a smaller choice is part of any larger one.

    Args:
      labels: int [N]. fraction: float above 0, at most 1. seed: int, 0 or more.

    Returns:
      int64 [n], positions in the labels, rising.

    Raises:
      ValueError: for no labels or a fraction outside its range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(
            "A fraction of labels must lie above 0 and be at most 1. Received "
            f"{fraction}."
        )
    ranks, sizes = _ranks(labels, seed, _SUBSET)
    wanted = np.maximum(_rounded(fraction, sizes), 1)
    return np.flatnonzero(ranks < wanted)


def split(labels, holdout, seed):
    """Splits labelled images into a part to train on and a held-out part.

    Of a class of n images holdout * n are held out, rounded, at least 1; at
    least 1 is kept, so a class of a single image is never held out.

    Args:
      labels: int [N]. holdout: float, at least 0, below 1. seed: int, 0 or
        more.

    Returns:
      kept, held_out: int64 [n], positions in the labels, rising. With holdout 0
      the second is empty.

    Raises:
      ValueError: for no labels or a holdout outside its range.
    """
    if not 0 <= holdout < 1:
        raise ValueError(
            "holdout must be at least 0 and below 1. Received "
            f"holdout={holdout}."
        )
    ranks, sizes = _ranks(labels, seed, _HOLDOUT)
    wanted = np.clip(_rounded(holdout, sizes), int(holdout > 0), sizes - 1)
    held_out = ranks < wanted
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _ranks(labels, seed, purpose):
    """Orders the images of each class at random.

    Args:
      labels: int [N]. seed: int. purpose: int, another one draws otherwise.

    Returns:
      ranks: int64 [N], position of an image in the order of its class.
      sizes: int64 [N], images of its class.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels):
        raise ValueError(
            "A choice of labelled images needs labels [N], at least one. "
            f"Received labels of shape {labels.shape}."
        )
    philox = np.random.Philox(key=np.array([seed, purpose], np.uint64))
    order = np.lexsort((philox.random_raw(len(labels)), labels))
    _, firsts, counts = np.unique(
        labels[order], return_index=True, return_counts=True
    )
    ranks, sizes = np.empty([2, len(labels)], np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(firsts, counts)
    sizes[order] = np.repeat(counts, counts)
    return ranks, sizes


def batch_remedy(batch, images, least):
    """What to do about a batch that the images cannot fill.

    Args:
      batch: int, that was asked for. images: int, to train on.
      least: int, images of the smallest batch; it divides all others.

    Returns:
      str, a sentence.
    """
    fitting = min(max(batch, least), images) // least * least
    if fitting:
        return f"Pass --config.train.batch_size={fitting}."
    return (
        f"Give {least} images or more to train on, or fewer devices by "
        "--devices."
    )


def _rounded(fraction, sizes):
    """Rounds fraction * sizes to the nearest integer, halves up."""
    return np.floor(fraction * sizes + 0.5).astype(np.int64)


class LabelledSources(NamedTuple):
    """A source to train on and one to test on, labels in one numbering.

    Attributes:
      train, test: Sources.
      train_labels, test_labels: int64 [n], positions in `names`.
      names: list of str, of the classes.
      data: workdirs.RunData of both, where they were opened for a folder of
        results.
    """

    train: sources.Source
    test: sources.Source
    train_labels: np.ndarray
    test_labels: np.ndarray
    names: list[str]
    data: tuple[workdirs.RunData, ...] = ()

    def remark_lines(self):
        """What a user should know of both, a line each with its end, or ""."""
        indent = " " * 11
        lines = [sources.remark_lines(x, indent) for x in self[:2]]
        names = "data.train", "data.test"
        if words := knn.overlap_words(self.train, self.test, names):
            lines.append(f"{indent}Warning: {words}\n")
        return "".join(dict.fromkeys(lines))  # both may be of one folder


def open_labelled(train, test, run_config=None, channels=3, output=None):
    """Opens the two labelled sources of a task, and compares their classes.

    Args:
      train, test: source specs; "": the run's own, knn.bank and knn.query.
      run_config: ConfigDict of a pre-training run, or None.
      channels: of the images that the encoder takes.
      output: folder of the results, whose images they have to be; or None.

    Returns:
      LabelledSources.

    Raises:
      ValueError: for sources that are not named, without labels, or with test
        classes that the training source lacks.
    """
    given = {"train": train, "test": test}
    for name, set_of_run in (("train", "bank"), ("test", "query")):
        if run_config is not None and not given[name]:
            given[name] = run_config.knn[set_of_run]
            specs.check_there(
                given[name],
                f"knn.{set_of_run}",
                f"pass --config.data.{name}=SOURCE.",
            )
    for name, spec in given.items():
        if not spec:
            raise ValueError(
                f"A labelled source to {name} on must be given, and the run "
                f"names none. Pass --config.data.{name}=folder:DIR/{name}."
            )
    opened = [sources.open_source(s, channels) for s in given.values()]
    data: tuple[workdirs.RunData, ...] = ()
    if output is not None:
        data = tuple(
            workdirs.restore_source(
                source,
                output,
                name=f"{name}_images",
                field=f"data.{name}",
                place=place,
                labelled=True,
            )
            for place, (name, source) in enumerate(
                zip(given, opened, strict=True)
            )
        )
        opened = [part.source for part in data]
    names = ("training set", "test set")
    train_source, test_source = (
        sources.labelled(source, name)
        for source, name in zip(opened, names, strict=True)
    )
    test_labels, classes = features.common_labels(
        train_source, test_source, names
    )
    if classes < 2:
        raise ValueError(
            "A classifier needs two classes or more. Received "
            f"{classes} in {given['train']!r}. Give another source by "
            "--config.data.train."
        )
    return LabelledSources(
        train_source,
        test_source,
        np.asarray(train_source.labels, np.int64),
        test_labels,
        train_source.class_names or [str(n) for n in range(classes)],
        data,
    )


class Classifier(method.Method):
    """Base of the classifiers that are trained with labels.

    A subclass defines `train_step(batch)`, and for `predict` the tf.function
    `logits`: float32 [n, classes] of uint8 [n, S, S, 3], in inference mode.
    Labels do not travel with the images: a batch holds the numbers of its
    samples, and the step looks their labels up.

    Attributes:
      recipe: views.Recipe, whose normalisation the backbone expects.
    """

    METRICS = ("loss", "top1", "unreadable")

    def __init__(self, labels, recipe, name):
        """Stores the labels.

        Args:
          labels: int64 [N] of the training source, 0..classes - 1.
          recipe: views.Recipe of the encoder.
          name: str.
        """
        super().__init__(name=name)
        self._labels = np.asarray(labels, np.int64)
        self.recipe = recipe

    def labels_of(self, batch):
        """Looks up the labels int64 [b] of a batch."""
        return tf.gather(tf.constant(self._labels), batch["index"])

    def report(self, batch, labels, logits, loss):
        """Computes the scalars of METRICS for a step.

        Args:
          batch: as `train_step` takes it. labels: int64 [b].
          logits: float32 [b, classes]. loss: float32 scalar.

        Returns:
          dict of float32 scalars.
        """
        correct = tf.equal(tf.argmax(logits, axis=1), labels)
        return {
            "loss": loss,
            "top1": tf.reduce_mean(tf.cast(correct, tf.float32)),
            "unreadable": self.unreadable(batch),
        }


def cross_entropy(labels, logits, smoothing=0.0):
    """Mean cross-entropy with smoothed targets (arXiv:1512.00567, Sec. 7).

    A target is (1 - smoothing) * target + smoothing / classes.

    Args:
      labels: int64 [n], or float32 [n, classes] that sum to 1.
      logits: float32 [n, classes]. smoothing: float in 0..1.

    Returns:
      float32 scalar, nats.
    """
    classes = logits.shape[1]
    targets = labels
    if labels.dtype.is_integer:
        targets = tf.one_hot(labels, classes)
    targets = (1.0 - smoothing) * targets + smoothing / classes
    return tf.reduce_mean(
        tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    )


def predict(classifier, source, image_size, batch_size):
    """Computes the logits of all readable images of a source.

    Args:
      classifier: Classifier. source: Source.
      image_size: pixels. batch_size: images per forward pass.

    Returns:
      logits: float32 [n, classes]. index: int64 [n], numbers of the images.

    Raises:
      ValueError: when no image can be read.
    """
    logits, indices = [], []
    with counting.counted(len(source), 0, "classifying") as bar:
        for images, index in features.evaluation_batches(
            source, classifier.recipe, image_size, batch_size
        ):
            padded = features.pad_batch(images, batch_size)
            logits.append(classifier.logits(padded).numpy()[: len(index)])
            indices.append(index.numpy())
            bar.add(len(index))
    if not logits:
        raise unreadable.none_error(source)
    return np.concatenate(logits), np.concatenate(indices)


def check_schedule(config):
    """Refuses a schedule that does not fit the epochs (ValueError)."""
    config_schema.check_schedule(config.schedule, config.train.epochs)


def train(
    method,
    batches,
    config,
    output,
    strategy,
    evaluate=None,
    patience=0,
    begin=None,
):
    """Trains a compiled Classifier, or goes on from its last checkpoint.

    Args:
      method: Classifier, compiled in the strategy's scope, optimiser built.
      batches: Stream without key views.
      config: ConfigDict of the task.
      output: folder of metrics.csv, checkpoints/ and unreadable.csv.
      strategy: tf.distribute.Strategy.
      evaluate: () -> top-1 fraction, called after every epoch, or None.
      patience: epochs without a better evaluation, after which training ends;
        0: never.
      begin: function without arguments, called when the last checkpoint and
        the figures could be read and before anything is written; or None.

    Returns:
      path of the checkpoint to use: the best evaluated one with patience, else
      the last.

    Raises:
      Left: when asked to leave; all is saved before.
      FloatingPointError: at a loss that is not finite.
      ValueError: above max_corrupt_fraction.
    """
    guard = watchdog.Guard()
    guard.take_signals()
    output = pathlib.Path(output)
    path = checkpoints.resumed(output)
    step = checkpoints.restore(method, path) if path else 0
    if (output / "metrics.csv").exists():
        metrics_csv.read(output / "metrics.csv")
    if begin:
        begin()
    metrics = metrics_csv.MetricsFile(output / "metrics.csv", COLUMNS)
    first = callbacks.oldest_step(step, batches.steps_per_epoch)
    metrics.cut_back(step, first)
    batch = config.train.batch_size
    shown = progress.Progress(
        config.train.epochs * batches.steps_per_epoch,
        batches.steps_per_epoch,
        batch_size=batch,
        step_seconds=progress.seconds_a_step(metrics.rows(), batch),
        log_every=config.log.every_steps,
    )
    stopping = EarlyStopping(patience, metrics, shown.message)
    listeners = [metrics, shown, stopping]
    if evaluate:
        keep_best = callbacks.BestCheckpoint(
            output, "evaluated_top1", metrics.rows()
        )
        listeners = [Evaluation(evaluate), keep_best, *listeners]
    callback = _make_callback(
        config, output, batches, metrics, guard, listeners
    )
    with contextlib.closing(callback):
        callback.resume(method)
        if step < callback.last_step and not stopping.is_enough():
            _fit(method, batches, config.train.epochs, strategy, step, callback)
    if callback.left:
        raise watchdog.Left(callback.step, guard.status())
    best = checkpoints.best(output) if patience else None
    return best or checkpoints.latest(output)


def _fit(method, batches, epochs, strategy, step, callback):
    """Trains from a step on; Ctrl-C loses no finished step."""
    method.start_at(*divmod(step, batches.steps_per_epoch))
    try:
        method.fit(
            batches.distribute(strategy, step),
            epochs=epochs,
            steps_per_epoch=batches.steps_per_epoch,
            callbacks=[callback],
            verbose=0,
        )
    except KeyboardInterrupt:
        callback.save_interrupted()
        raise
    except tf.errors.OpError as error:
        unreadable.require_one_after(error, batches.source)
        raise


def _make_callback(config, output, batches, metrics, guard, listeners):
    """Makes the callback of a task, which saves at the end of each epoch."""
    steps = batches.steps_per_epoch
    return callbacks.RunCallback(
        callbacks.Cadence(
            steps_per_epoch=steps,
            last_step=config.train.epochs * steps,
            batch_size=config.train.batch_size,
            log_every=config.log.every_steps,
        ),
        workdir=output,
        metrics=metrics,
        unreadable=unreadable.UnreadableLog(
            output / "unreadable.csv", batches, config.data.max_corrupt_fraction
        ),
        guard=guard,
        listeners=listeners,
        causes="Usual cause: a learning rate too high for these features. "
        "Lower config.optimizer.learning_rate, in another --output.",
    )


class Evaluation(listener.Listener):
    """Evaluates the classifier at the end of each epoch."""

    def __init__(self, evaluate):
        """Stores the function.

        Args:
          evaluate: () -> top-1 fraction.
        """
        self._evaluate = evaluate

    def on_epoch(self, method, row):
        row["evaluated_top1"] = self._evaluate()


class EarlyStopping(listener.Listener):
    """Ends the training when epochs have brought no better evaluation."""

    def __init__(self, patience, metrics, show):
        """Stores the rule.

        Args:
          patience: epochs without a better evaluation; 0: never ends it.
          metrics: MetricsFile, which stands before it among the listeners.
          show: function that prints a line.
        """
        self._patience = patience
        self._metrics = metrics
        self._show = show

    def on_epoch(self, method, row):
        if self.is_enough():
            self._show(
                f"no better evaluation for {self._patience} epochs: stopped"
            )
            method.stop_training = True

    def is_enough(self):
        """Says whether the best evaluation is `patience` epochs old."""
        column = [row["evaluated_top1"] for row in self._metrics.rows()]
        values = [value for value in column if value is not None]
        if not self._patience or not values:
            return False
        return len(values) - 1 - values.index(max(values)) >= self._patience
