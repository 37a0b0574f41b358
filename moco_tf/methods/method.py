"""The base of all trained models: the compiled step and its log."""

import functools
import threading
import time
from typing import Any

import tensorflow as tf

from moco_tf.data import image_ops, photometric
from moco_tf.methods import micro_batches, online_probe
from moco_tf.models import batch_norm

# Of gradients that travel at once between hosts: the last layers' are on their
# way while those of the first are still computed.
_BYTES_PER_PACK = 25_000_000
_PROGRAMS = "moco_tf programs of XLA"  # of a graph


class Method(tf.keras.Model):
    """A method of training: subclasses say how a batch becomes a loss.

    A subclass defines `train_step(batch)`, which runs inside a replica, updates
    the method's own state and returns the scalars named by `METRICS`. AutoGraph
    does not read it: write tf.cond, not `if`, on tensors.

    Attributes:
      step: int64 variable, number of finished steps.
      probe: OnlineProbe that trains beside the method, or None.
      step_log: StepLog of `figures` and of the seconds waited for input.
      last_histograms: LastHistograms.
      step_graph: the graph of a step, once it is compiled.
      leave: LeaveRequest; a step returns "leave", above 0 if any replica asked.
      backbone: the keras.Model that is evaluated and exported.
    """

    train_function: Any  # Keras makes it

    METRICS: tuple[str, ...] = ("loss", "instance_top1", "unreadable")
    # Shape of the histograms that a step returns besides METRICS.
    HISTOGRAMS = tf.TensorShape([0])

    def __init__(
        self,
        name: str,
        micro_batches: int = 1,
        jit_compile: bool = False,
        probe: online_probe.OnlineProbe | None = None,
        clip_norm: float = 0.0,
    ) -> None:
        """Makes the step's counter and its log.

        Args:
          name: str.
          micro_batches: parts that a replica's batch is encoded in, in turn.
          jit_compile: whether XLA compiles the encoders.
          probe: OnlineProbe of the features, or None.
          clip_norm: float, largest norm of the gradient of a step; 0: any.
        """
        super().__init__(name=name)
        self.probe = probe
        self.micro_batches = micro_batches
        self.jit_encoders = jit_compile
        self.clip_norm = clip_norm
        self.replicas = batch_norm.replica_count()
        self.step = tf.Variable(
            tf.constant(0, tf.int64), trainable=False, name="step"
        )
        self.step_log = StepLog([*self.figures, "input_wait"])
        self.leave = LeaveRequest()
        self.last_histograms = LastHistograms(self.HISTOGRAMS)
        self.step_graph = None
        self._start = (0, 0)
        # What a step returns is already the same on every replica; Keras would
        # sum it over replicas (and workers).
        self.distribute_reduction_method = "first"

    @property
    def figures(self):
        """The names of a step's scalars, in the order of the step log."""
        of_probe = () if self.probe is None else online_probe.FIGURES
        return (*self.METRICS, *of_probe)

    @property
    def backbone(self):
        raise AttributeError(f"{type(self).__name__} names no backbone.")

    def compile(self, *args, **kwargs):
        """As Keras', and makes room for what micro-batches begin with."""
        super().compile(*args, **kwargs)
        if self.micro_batches > 1:
            for layer in batch_norm.layers_of(self):
                layer.follow_parts()

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
        watched = online_probe.is_watching()
        watched = watched and encoder.backbone is self.backbone
        run = functools.partial(encoder, training=True)
        if watched:
            run = functools.partial(run, with_features=True)
        if self.jit_encoders:
            part = batch_norm.current_part()
            run = compiled(run, id(encoder), watched, part)
        if not watched:
            return run(images)
        features, projections = run(images)
        online_probe.show(features)
        return projections

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
            batch_norm.layers_of(encoder),
        )

    def descend(self, loss_of, rows):
        """One step of the optimiser on the mean of a loss over all replicas.

        Args:
          loss_of: takes a dict like `rows`, of a micro-batch; returns a tuple:
            the loss, a float32 scalar; a dict of float32 means over its rows;
            and, if the step wants them back, further float32 tensors of rows.
          rows: dict of tensors [N, ...] of this replica.

        Returns:
          what `loss_of` returns, for all rows of this replica.
        """
        variables = self.trained_variables()
        outputs, gradients = micro_batches.loss_and_gradients(
            online_probe.watch(self.probe, loss_of),
            rows,
            self.micro_batches,
            variables,
            self.optimizer,
            factor=1.0 / self.replicas,  # they are summed over replicas
            layers=batch_norm.layers_of(self),
        )
        self._apply(gradients, variables)
        return online_probe.take(self.probe, outputs)

    def _apply(self, gradients, variables):
        """A step of the optimiser on gradients that replicas are to sum.

        Clipped (arXiv:1211.5063, Alg. 1), all together have a norm of clip_norm
        at most; those of a smaller norm stay as they are, bit by bit.
        """
        strategy = tf.distribute.get_strategy()
        sums = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if self.clip_norm:
            sums = self.replicas > 1
        if sums:
            gradients = sum_in_packs(gradients)
        if self.clip_norm:
            norm = tf.linalg.global_norm(gradients)
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
            # Where one is not finite all are not: float16 leaves the step out.
            factor = tf.where(tf.math.is_finite(norm), factor, float("nan"))
            gradients = [gradient * factor for gradient in gradients]
        self.optimizer.apply_gradients(
            zip(gradients, variables, strict=True),
            experimental_aggregate_gradients=not (sums or self.clip_norm),
        )

    def probed_step(self, batch):
        """As `train_step`, and a step of the probe, if there is one."""
        if self.probe is None:
            return self.train_step(batch)
        return self.probe.follow(self.train_step, batch)

    def unreadable(self, batch):
        """Share of samples that another one stands in for, float32 scalar."""
        return tf.reduce_mean(1.0 - tf.cast(batch["valid"], tf.float32))

    def start_at(self, epoch, step_in_epoch):
        """Makes the next `fit` start inside an epoch (exact resume)."""
        self._start = (epoch, step_in_epoch)

    def _maybe_load_initial_counters_from_ckpt(self, steps_per_epoch, epoch):
        """Keras' hook for resuming within an epoch (private in Keras 2.15)."""
        del steps_per_epoch, epoch
        return self._start

    def make_train_function(self, force=False):
        """Makes what `fit` calls: train_step and step log are one function."""
        if self.train_function is not None and not force:
            return self.train_function

        def replica_step(batch, input_wait):
            metrics = self.probed_step(finished_views(batch))
            row = [metrics[name] for name in self.figures]
            row = tf.stack([*row, self.leave.read()])
            histograms = metrics.get("histograms", tf.zeros(self.HISTOGRAMS))
            # One collective carries all.
            row = tf.concat([row, tf.reshape(histograms, [-1])], axis=0)
            context = tf.distribute.get_replica_context()
            row = context.all_reduce(tf.distribute.ReduceOp.MEAN, row)
            names = [*self.figures, "leave"]
            row, histograms = row[: len(names)], row[len(names) :]
            self.last_histograms.write(tf.reshape(histograms, self.HISTOGRAMS))
            logged = tf.concat([row[:-1], [input_wait]], axis=0)
            self.step_log.write(self.step, logged)
            self.step.assign_add(1)
            return dict(zip(names, tf.unstack(row), strict=True))

        def step(batch, input_wait):
            if not tf.executing_eagerly():
                self.step_graph = tf.compat.v1.get_default_graph()
            strategy = self.distribute_strategy
            metrics = strategy.run(replica_step, args=(batch, input_wait))
            return {
                name: strategy.experimental_local_results(value)[0]
                for name, value in metrics.items()
            }

        if not self.run_eagerly:
            # AutoGraph's reading of the source took 3 s of every start. Of
            # models it still reads the layers (call_as_keras).
            step = tf.function(step, reduce_retracing=True, autograph=False)
        self.train_function = TrainFunction(step)
        return self.train_function


class TrainFunction:
    """What `fit` calls for a step: fetches a batch and starts the step.

    The batch is waited for here, on the host. In the step's graph a clock
    after the input would wait for all that the device has still to do, and
    nothing of the next step could be started before.
    """

    def __init__(self, step):
        """Stores the step.

        Args:
          step: function of a batch and of the seconds waited for it, a float32
            scalar.
        """
        self._step = step

    def __call__(self, iterator):
        """Returns what the step returns, which may not be computed yet.

        Raises:
          StopIteration: at the end of the batches.
        """
        return self._step(*_next(iterator))

    def get_concrete_function(self, iterator):
        """The step traced for an iterator's batches, one of which it takes."""
        return self._step.get_concrete_function(*_next(iterator))


def _next(iterator):
    """The next batch, and the seconds waited for it, float32 on the host."""
    start = time.perf_counter()
    batch = next(iterator)
    seconds = time.perf_counter() - start
    with tf.device("CPU:0"):
        return batch, tf.constant(seconds, tf.float32)


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
        rows = photometric.distort_batch(rows, distortions)
        batch[name] = tf.reshape(image_ops.to_uint8(rows), views.shape)
    return batch


def compiled(run, *which):
    """A function under XLA, the same program for all its calls in a replica.

    XLA takes minutes for the passes of a large encoder, and would compile each
    call of it anew: a symmetric step has two of either encoder.

    Args:
      run: function of tensors. which: hashable, names it among the functions
        that are compiled in this graph.
    """
    program = tf.function(run, jit_compile=True, autograph=False)
    if tf.executing_eagerly():
        return program
    # Each replica, traced in a thread of its own, has variables of its own.
    which = (threading.get_ident(), *which)
    graph = tf.compat.v1.get_default_graph()
    known = dict(graph.get_collection(_PROGRAMS))
    if which not in known:
        graph.add_to_collection(_PROGRAMS, (which, program))
    return known.get(which, program)


def local_values(value):
    """The values of this process's replicas, a list."""
    strategy = tf.distribute.get_strategy()
    return list(strategy.experimental_local_results(value))


def sum_in_packs(gradients):
    """Sums gradients over all replicas, those of some layers at a time.

    Called in a replica. TensorFlow begins with the last gradients, which the
    backward pass computes first, and sends a pack when all of it is there.
    Keras' own sum is one pack: nothing of it leaves before the first layer.

    Args:
      gradients: list of tensors, in the order of the layers.

    Returns:
      list of tensors.
    """
    return tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM,
        gradients,
        options=tf.distribute.experimental.CommunicationOptions(
            bytes_per_pack=_BYTES_PER_PACK
        ),
    )


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

    def written_from(self, first, last):
        """The step from which on those up to last - 1 were all written.

        The log of a checkpoint that was made of weights is empty: all zeros.
        """
        values = self.values.numpy()
        for step in reversed(range(first, last)):
            if not values[step % self.CAPACITY].any():
                return step + 1
        return first

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


class LeaveRequest:
    """The request of a replica that all of them leave; never saved.

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


class LastHistograms:
    """The histograms of the last step, equal on all replicas; never saved.

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
