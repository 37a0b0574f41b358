"""What all trained models share: the compiled step and its log."""

import functools
import time
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import config as tf_config

from moco_tf.data import image_ops, photometric
from moco_tf.models import batch_norm


def encode_in_parts(encode_rows, images, count, dim):
    """Applies a function without gradient to the micro-batches of a batch.

    Args:
      encode_rows: float [N / count, ...] -> float32 [N / count, dim].
      images: float [N, ...]. count: int, micro-batches. dim: int.

    Returns:
      float32 [N, dim].
    """
    if count == 1:
        return encode_rows(images)
    parts = _parts(images, count)

    def body(number, encoded):
        with batch_norm.micro_batch(number, count):
            return number + 1, encoded.write(number, encode_rows(parts[number]))

    _, encoded = tf.while_loop(
        lambda number, _: number < count,
        body,
        (0, tf.TensorArray(tf.float32, count)),
        parallel_iterations=1,
    )
    return tf.reshape(encoded.stack(), [images.shape[0], dim])


def loss_and_gradients(
    loss_of, rows, count, variables, optimizer, shapes, share=1.0
):
    """Means of a loss and scores over a batch, and the loss's gradients.

    Args:
      loss_of: takes a dict of tensors [N / count, ...]; returns the loss, a
        float32 scalar, and a dict of float32 scores: means over the rows, or
        rows [N / count, ...].
      rows: dict of tensors [N, ...]. count: int, micro-batches.
      variables: list of variables.
      optimizer: Keras optimiser; its loss scale is used if it has one.
      shapes: dict of tf.TensorShape, of the scores; rows begin with None.
      share: float, of the loss, whose gradients are returned.

    Returns:
      loss: float32 scalar; dict of scores; list of gradients by variable.
    """

    def of(rows):
        scales = hasattr(optimizer, "get_scaled_loss")  # float16
        with tf.GradientTape() as tape:
            loss, scores = loss_of(rows)
            part = loss * share
            part = optimizer.get_scaled_loss(part) if scales else part
        found = tape.gradient(part, variables)
        if scales:
            found = optimizer.get_unscaled_gradients(found)
        return loss, scores, found

    if count == 1:
        return of(rows)
    parts = {name: _parts(values, count) for name, values in rows.items()}

    def body(number, sums):
        part = {name: values[number] for name, values in parts.items()}
        with batch_norm.micro_batch(number, count):
            loss, scores, slopes = of(part)
        scores = {
            name: _placed(values, number, count) if name in by_row else values
            for name, values in scores.items()
        }
        return number + 1, tf.nest.map_structure(
            lambda total, new: total + new / count,
            sums,
            (loss, scores, slopes),
        )

    batch = next(iter(rows.values())).shape[0]
    by_row = [name for name, shape in shapes.items() if shape[:1] == [None]]
    scores = {
        name: tf.zeros([batch, *shape[1:]] if name in by_row else shape)
        for name, shape in shapes.items()
    }
    slopes = [tf.zeros(variable.shape) for variable in variables]
    return tf.while_loop(
        lambda number, _: number < count,
        body,
        (0, (0.0, scores, slopes)),
        parallel_iterations=1,
    )[1]


def _parts(rows, count):
    """[N, ...] -> [count, N / count, ...]."""
    return tf.reshape(rows, [count, rows.shape[0] // count, *rows.shape[1:]])


def _placed(rows, number, count):
    """Rows [N / count, ...] at their place of [N, ...], times count."""
    places = tf.one_hot(number, count, float(count))
    placed = tf.tensordot(places, rows, axes=0)
    return tf.reshape(placed, [-1, *rows.shape[1:]])


class StepLog(tf.Module):
    """The values of the last steps, kept on the device.

    The host reads many steps at once, so that no step waits for it. The log is
    part of the checkpoint: a resumed run reports the same means.

    Attributes:
      values: float32 [CAPACITY, len(columns)] variable; the row of a step is
        step % CAPACITY.
      columns: names of the columns.
    """

    CAPACITY = 1024

    def __init__(self, columns):
        super().__init__(name="step_log")
        self.columns = tuple(columns)
        self.values = tf.Variable(
            tf.zeros([self.CAPACITY, len(self.columns)]), trainable=False
        )

    def write(self, step, row):
        """Stores a row float32 [columns] for an int64 step, in the graph."""
        position = (step % self.CAPACITY)[tf.newaxis]
        self.values.scatter_update(tf.IndexedSlices(row[tf.newaxis], position))

    def read(self, first, last):
        """Columns of the steps first..last-1, a dict of lists of float."""
        if not 0 <= last - first <= self.CAPACITY:
            raise ValueError(
                f"The step log holds {self.CAPACITY} steps. Received a request "
                f"for steps {first} to {last - 1}."
            )
        values = self.values.numpy()
        rows = [values[step % self.CAPACITY] for step in range(first, last)]
        return {
            name: [float(row[column]) for row in rows]
            for column, name in enumerate(self.columns)
        }


class Leave:
    """Whether some replica asks all of them to leave; never saved.

    A plain object, which no checkpoint follows.
    """

    def __init__(self):
        self._asked = tf.Variable(0.0, trainable=False, name="leave")

    def ask(self):
        """Asks, from the next step of this process on."""
        for copy in local_values(self._asked):
            copy.assign(1.0)

    def read(self):
        """This replica's part, in the graph: float32, 0 or 1."""
        return self._asked.read_value()


class Newest:
    """The histograms of the last step, the same on all replicas; never saved.

    A plain object, which no checkpoint follows.
    """

    def __init__(self, shape):
        self._values = tf.Variable(
            tf.zeros(shape), trainable=False, name="histograms"
        )

    def write(self, histograms):
        """Stores them, in the graph."""
        self._values.assign(histograms)

    def read(self):
        """Returns them as a float32 array; zeros before the first step."""
        return self._values.numpy()


def local_values(value):
    """The values of this process's replicas, a list."""
    strategy = tf.distribute.get_strategy()
    return list(strategy.experimental_local_results(value))


class Method(tf.keras.Model):
    """A method of training: subclasses say how a batch becomes a loss.

    A subclass defines `train_step(batch)`, which runs inside a replica, updates
    the method's own state and returns the scalars named by `METRICS`. AutoGraph
    does not read it: write tf.cond, not `if`, on tensors.

    Attributes:
      step: int64 variable, number of finished steps.
      step_log: StepLog of METRICS and of the seconds waited for input.
      newest: Newest, the histograms of the last step.
      step_graph: the graph of a step, once it is compiled.
      leave: Leave; a step returns "leave", above 0 if any replica asked.
      backbone: the keras.Model that is evaluated and exported.
    """

    train_function: Any  # Keras makes it

    METRICS: tuple[str, ...] = ("loss", "instance_top1", "unreadable")
    # Shapes of what `descend` returns beside the loss (means over the batch,
    # or rows [None, ...] of it), and of the histograms that a step returns
    # besides METRICS.
    SCORES = {"instance_top1": tf.TensorShape([])}
    HISTOGRAMS = tf.TensorShape([0])

    def __init__(
        self, name: str, micro_batches: int = 1, jit_compile: bool = False
    ) -> None:
        """Makes what all methods have.

        Args:
          name: str.
          micro_batches: parts that a replica's batch is encoded in, in turn.
          jit_compile: whether XLA compiles the encoders.
        """
        super().__init__(name=name)
        self.micro_batches = micro_batches
        self.jit_encoders = jit_compile
        self.replicas = batch_norm.replica_count()
        self.step = tf.Variable(
            tf.constant(0, tf.int64), trainable=False, name="step"
        )
        self.step_log = StepLog([*self.METRICS, "input_wait"])
        self.leave = Leave()
        self.newest = Newest(self.HISTOGRAMS)
        self.step_graph = None
        self._start = (0, 0)
        # What a step returns is already the same on every replica; Keras would
        # sum it over replicas (and workers).
        self.distribute_reduction_method = "first"

    @property
    def backbone(self):
        raise AttributeError(f"{type(self).__name__} names no backbone.")

    def build_optimizer(self):
        """Creates the optimiser's slots, so that a checkpoint can set them."""
        legacy = tf.keras.optimizers.legacy.Optimizer
        with self.distribute_strategy.scope():
            if isinstance(self.optimizer, legacy):
                self.optimizer._create_all_weights(self.trained_variables())
            else:
                self.optimizer.build(self.trained_variables())

    def trained_variables(self):
        """The variables that the optimiser changes."""
        raise AttributeError(f"{type(self).__name__} names no variables.")

    def project(self, encoder, images):
        """Projections float32 [N, C] of images; BatchNorm uses the batch."""
        run = functools.partial(encoder, training=True)
        if self.jit_encoders:
            run = tf.function(run, jit_compile=True, autograph=False)
        return run(images)

    def vectors(self, encoder, images):
        """As `project`, unit vectors."""
        return tf.math.l2_normalize(self.project(encoder, images), axis=1)

    def encode(self, encoder, images):
        """As `vectors`, without gradient, in micro-batches."""
        return encode_in_parts(
            functools.partial(self.vectors, encoder),
            images,
            self.micro_batches,
            encoder.dim,
        )

    def descend(self, loss_of, rows):
        """One step of the optimiser on the mean of a loss over all replicas.

        Args:
          loss_of: function of rows -> loss and scores by name of SCORES (see
            `gradients` in micro_batches.py).
          rows: dict of tensors [N, ...] of this replica.

        Returns:
          loss, scores: float32 of this replica.
        """
        variables = self.trained_variables()
        loss, scores, gradients = loss_and_gradients(
            loss_of,
            rows,
            self.micro_batches,
            variables,
            self.optimizer,
            self.SCORES,
            share=1.0 / self.replicas,  # Keras sums gradients over replicas
        )
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss, scores

    def start_at(self, epoch, step_in_epoch):
        """Makes the next `fit` start inside an epoch (exact resume)."""
        self._start = (epoch, step_in_epoch)

    def _maybe_load_initial_counters_from_ckpt(self, steps_per_epoch, epoch):
        """Keras' hook for resuming within an epoch (private in Keras 2.15)."""
        del steps_per_epoch, epoch
        return self._start

    def make_train_function(self, force=False):
        """Compiles input, train_step and step log into one function."""
        if self.train_function is not None and not force:
            return self.train_function

        def replica_step(batch, input_wait):
            # The clock is read before the step keeps all threads busy.
            with tf.control_dependencies([input_wait]):
                batch = tf.nest.map_structure(tf.identity, batch)
            metrics = self.train_step(finished_views(batch))
            row = [metrics[name] for name in self.METRICS]
            row = tf.stack([*row, self.leave.read()])
            histograms = metrics.get("histograms", tf.zeros(self.HISTOGRAMS))
            # One collective carries all.
            row = tf.concat([row, tf.reshape(histograms, [-1])], axis=0)
            context = tf.distribute.get_replica_context()
            row = context.all_reduce(tf.distribute.ReduceOp.MEAN, row)
            names = [*self.METRICS, "leave"]
            row, histograms = row[: len(names)], row[len(names) :]
            self.newest.write(tf.reshape(histograms, self.HISTOGRAMS))
            logged = tf.concat([row[:-1], [input_wait]], axis=0)
            self.step_log.write(self.step, logged)
            self.step.assign_add(1)
            return dict(zip(names, tf.unstack(row), strict=True))

        def train_function(iterator):
            if not tf.executing_eagerly():
                self.step_graph = tf.compat.v1.get_default_graph()
            start = _clock()
            with tf.control_dependencies([start]):
                batch = next(iterator)
            parts = tf.nest.map_structure(local_values, batch)
            with tf.control_dependencies(tf.nest.flatten(parts)):
                wait = tf.cast(_clock() - start, tf.float32)
            strategy = self.distribute_strategy
            metrics = strategy.run(replica_step, args=(batch, wait))
            return {
                name: strategy.experimental_local_results(value)[0]
                for name, value in metrics.items()
            }

        if not self.run_eagerly:
            # AutoGraph's reading of the source took 3 s of every start. Of
            # models it still reads the layers (given.py).
            train_function = tf.function(
                train_function, reduce_retracing=True, autograph=False
            )
        self.train_function = train_function
        return self.train_function


def _clock():
    """Seconds, float64; TensorFlow's own clock is refused as no function."""
    if tf_config.is_op_determinism_enabled():
        return tf.numpy_function(time.perf_counter, [], tf.float64)
    return tf.timestamp()


def finished_views(batch):
    """The batch, its views finished where the stream left that to the device.

    Args:
      batch: dict of a replica, of the stream; another batch stays as it is.
    """
    if not isinstance(batch, dict) or "query_distortion" not in batch:
        return batch
    batch = dict(batch)
    for name in [n for n in batch if n.endswith("_distortion")]:
        distortions = batch.pop(name)
        name = name.removesuffix("_distortion")
        views = batch[name]
        rows = tf.reshape(views, [-1, *views.shape[-3:]])
        distortions = tf.reshape(distortions, [-1, distortions.shape[-1]])
        made = image_ops.to_uint8(photometric.distort_batch(rows, distortions))
        batch[name] = tf.reshape(made, views.shape)
    return batch
