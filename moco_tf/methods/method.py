"""What all trained models share: the compiled step and its log."""

import functools
import time
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import config as tf_config

from moco_tf.data import image_ops, photometric
from moco_tf.methods import micro_batches, step_log
from moco_tf.models import replica_statistics


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
        self.replicas = replica_statistics.replica_count()
        self.step = tf.Variable(
            tf.constant(0, tf.int64), trainable=False, name="step"
        )
        self.step_log = step_log.StepLog([*self.METRICS, "input_wait"])
        self.leave = step_log.Leave()
        self.newest = step_log.Newest(self.HISTOGRAMS)
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
        return micro_batches.encode(
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
        loss, scores, gradients = micro_batches.gradients(
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
            parts = tf.nest.map_structure(step_log.local_values, batch)
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
