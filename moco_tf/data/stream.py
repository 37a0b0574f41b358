"""The stream: the batch of a step is a function of the seed and the step.

There is no iterator state. Starting at step s is resuming at step s, whatever
ran before and on however many replicas.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from moco_tf import cores
from moco_tf.data import augmentation, sources, views

_ROUNDS = 12  # fewer leave the orders of two epochs correlated
_CHUNK = 16  # jobs at most that share a data set
_MOST_SUBSTITUTES = 10_000  # of a sample
# Batches that wait on a device. A copy to a GPU begins when the work that it
# had by then is done: one alone might come after the end of the step before.
_ON_DEVICE = 2

# AutoGraph's reading of the source is most of the time to the first batch.
_as_written = tf.autograph.experimental.do_not_convert


def distributed(strategy, batches_of_worker):
    """A distributed data set whose batches are copied ahead to the devices.

    Args:
      strategy: tf.distribute.Strategy.
      batches_of_worker: function of a tf.distribute.InputContext -> data set
        of a worker's batches, a replica's at a time.
    """

    def batches_ahead(context):
        batches = batches_of_worker(context)
        gpus = tf.config.list_logical_devices("GPU")
        if strategy.num_replicas_in_sync == 1 and gpus:
            # No strategy copies them there.
            batches = batches.apply(
                tf.data.experimental.prefetch_to_device(
                    gpus[0].name, _ON_DEVICE
                )
            )
        return batches

    return strategy.distribute_datasets_from_function(
        batches_ahead,
        tf.distribute.InputOptions(
            experimental_per_replica_buffer_size=_ON_DEVICE
        ),
    )


class Stream:
    """Two views of every sample, in an order fixed by (seed, step).

    Attributes:
      source, recipe, image_size, global_batch, seed, shuffle_keys, key_views:
        as of the constructor.
      threads: int, at least 1.
      steps_per_epoch: int; the rest of an epoch that fills no batch is dropped,
        another rest in each epoch.
    """

    def __init__(
        self,
        source: sources.Source,
        recipe: views.Recipe,
        image_size: int,
        global_batch: int,
        *,
        seed: int = 0,
        shuffle_keys: str = "gather",
        threads: int = 0,
        key_views: bool = True,
        augment_on: str = "host",
        small: augmentation.SmallViews | None = None,
    ) -> None:
        """Checks that the source fills a batch.

        Args:
          source: Source (moco_tf/data/sources.py).
          recipe: Recipe (moco_tf/data/views.py).
          image_size: int, pixels of a view's side.
          global_batch: int, G, samples of a step over all replicas.
          seed: int; with the step, it fixes everything.
          shuffle_keys: "address": the key views are dealt in the order of
            `order`; "gather": in slot order, to be shuffled in the step;
            "none": in slot order, as is `order`.
          threads: int, parallel decodes and views; 0: one per core of
            this process.
          key_views: bool; False: query views alone, for training with labels.
          augment_on: "host", or "device": the host crops, and the replica's
            device distorts (see `augmentation.ViewStage`).
          small: SmallViews of multi-crop, or None.

        Raises:
          ValueError: if the source has fewer samples than a batch, or the
            device cannot distort the recipe's views.
        """
        if len(source) < global_batch:
            raise ValueError(
                "A batch must not be larger than the data set. Received "
                f"batch_size={global_batch} and {len(source)} images. Use a "
                "smaller config.train.batch_size (`moco-tf doctor` suggests "
                "one) or more images."
            )
        self.source = source
        self.recipe = recipe
        self.image_size = image_size
        self.global_batch = global_batch
        self.seed = seed
        self.shuffle_keys = shuffle_keys
        self.threads = threads or cores.count()
        self.key_views = key_views
        self._augment_on = augment_on
        self._small = small
        self._removed = getattr(source, "removed", None)
        if self._removed is not None:
            with tf.device("CPU:0"):
                self._removed = tf.constant(self._removed)
        self.use(recipe.augment, recipe.augment_key)
        self.steps_per_epoch = len(source) // global_batch

    def use(self, augment, augment_key=None):
        """Makes views with other functions, as of a Recipe, from now on."""
        self._views = augmentation.ViewStage(
            parts=(
                augmentation.in_parts(augment),
                augmentation.in_parts(augment_key or augment),
            ),
            size=self.image_size,
            names=augmentation.VIEW_NAMES[: 1 + self.key_views],
            augment_on=self._augment_on,
            small=self._small,
            channels=self.source.channels,
        )
        self._views.check()

    def is_removed(self, index):
        """Whether a sample is known to be gone, a bool or bool scalar.

        Args:
          index: int or int64 scalar, of the sample in the source.
        """
        return (
            False if self._removed is None else tf.gather(self._removed, index)
        )

    def positions(self, step):
        """Positions int64 [G] of the slots of an int64 step."""
        slots = tf.range(self.global_batch, dtype=tf.int64)
        return tf.cast(step, tf.int64) * self.global_batch + slots

    def samples(self, positions, substitute=0):
        """Sample indices of positions: a keyed permutation in each epoch.

        Args:
          positions: int64 [n], all of one epoch.
          substitute: int64; 1 is the sample that stands in for an unreadable
            one, 2 the one that stands in for that, …: the next in the order.

        Returns:
          int64 [n], in 0..N-1.
        """
        length = self.steps_per_epoch * self.global_batch
        epoch = positions[0] // length
        count = len(self.source)
        index = (positions % length + substitute) % count
        seed = tf.stack([tf.constant(self.seed, tf.int64), epoch, 0])
        return tf.raw_ops.RandomIndexShuffle(
            index=index,
            seed=seed,
            max_index=tf.constant(count - 1, tf.int64),
            rounds=_ROUNDS,
        )

    def order(self, step):
        """The shuffled order of a step's keys, int32 [G] (see methods/shuffle).

        Args:
          step: int64 scalar.
        """
        if self.shuffle_keys == "none":
            return tf.range(self.global_batch)
        return tf.random.experimental.stateless_shuffle(
            tf.range(self.global_batch),
            seed=tf.stack([tf.constant(self.seed, tf.int64), step]),
            alg="philox",
        )

    def distribute(self, strategy, first_step):
        """Batches of the steps from first_step on, endless, for Keras' `fit`.

        Args:
          strategy: tf.distribute.Strategy.
          first_step: int.

        Returns:
          a distributed data set, one batch a replica: a dict of "query" and
          "key": uint8 [b, S, S, C], C is source.channels; "index": int64 [b];
          "order": int64 [G]; "valid": bool [b], False for a substitute, but
          for that of an image that was removed.
          Without key views, without "key" and "order"; with small views, with
          "small": uint8 [b, V, s, s, C], of the query's images.
        """
        replicas = strategy.num_replicas_in_sync
        if self.global_batch % replicas:
            raise ValueError(
                "The number of replicas must divide the batch. Received "
                f"batch_size={self.global_batch} and {replicas} replicas."
            )

        def batches_of_worker(context):
            batches = self.batches(
                replicas,
                first_step,
                tf.int64.max,
                worker=context.input_pipeline_id,
                workers=context.num_input_pipelines,
            )
            # Else workers ask one another before each step whether all have
            # a batch, and the batches lose their static shape.
            endless = tf.data.experimental.INFINITE_CARDINALITY
            return batches.apply(
                tf.data.experimental.assert_cardinality(endless)
            )

        return distributed(strategy, batches_of_worker)

    def batches(self, replicas, first_step, last_step, *, worker=0, workers=1):
        """As `distribute`, as a plain data set: the replicas' batches in turn.

        Args:
          replicas: int, of all workers together.
          first_step, last_step: int, from the first to before the last.
          worker: int, the number of the worker whose replicas are meant.
          workers: int, how many there are.

        Returns:
          tf.data.Dataset of the batches that `distribute` describes.
        """
        part = Worker(
            number=worker,
            count=workers,
            slots=self.global_batch // workers,
            shuffle_keys=self.shuffle_keys,
        )
        dataset = tf.data.Dataset.range(first_step, last_step)
        dataset = dataset.map(functools.partial(self._jobs, part)).unbatch()
        if self.source.may_fail:
            dataset = self._views_of_chunks(part, dataset)
        else:
            dataset = self._views_of_all(part, dataset)
        local = replicas // workers
        dataset = dataset.map(functools.partial(self._deal, part, local))
        if local > 1:
            dataset = dataset.unbatch()
        dataset = dataset.prefetch(2 * local)
        options = tf.data.Options()
        # One more, to hand on what the other threads make.
        options.threading.private_threadpool_size = self.threads + 1
        # Its thread sleeps ever longer, and an iterator waits for it to end.
        options.autotune.enabled = False
        return dataset.with_options(options)

    def _views_of_all(self, worker, dataset):
        """A step's rows at a time, of images that are all readable."""
        in_parallel = {
            "num_parallel_calls": 4 * self.threads,
            "deterministic": True,
        }
        dataset = dataset.map(functools.partial(self._image, worker))
        if self._views.can_batch(dataset.element_spec.image.shape):
            dataset = dataset.batch(worker.jobs, drop_remainder=True)
            return dataset.map(self._views_of_batch, **in_parallel)
        make = functools.partial(self._views_of_image, worker)
        dataset = dataset.map(make, **in_parallel)
        return dataset.batch(worker.jobs, drop_remainder=True)

    def _views_of_chunks(self, worker, dataset):
        """A step's rows at a time, of images that may be unreadable.

        An error ends the data set in which it is met. One of a single image
        costs more than its crops; so a few images have one, which is made
        again, image by image, only where one of them cannot be read.
        """
        size = worker.chunk
        dataset = dataset.batch(size, drop_remainder=True)
        dataset = dataset.interleave(
            functools.partial(self._chunk, worker),
            cycle_length=2 * self.threads,
            num_parallel_calls=2 * self.threads,
            deterministic=True,
        )
        if size == worker.jobs:
            return dataset
        dataset = dataset.batch(worker.jobs // size, drop_remainder=True)

        def flat(*rows):
            return tf.nest.map_structure(
                lambda x: tf.reshape(x, [worker.jobs, *x.shape[2:]]), rows
            )

        return dataset.map(flat)

    @_as_written
    def _chunk(self, worker, *jobs):
        """A data set of one element: the rows of a few jobs."""
        each = tf.data.Dataset.from_tensor_slices(jobs)

        def rows(*job):  # one function: each has its price for each image
            job = self._image(worker, *job)
            return self._views_of_image(worker, job)

        readable = each.flat_map(functools.partial(self._readable, worker))
        make = functools.partial(self._views_of_image, worker)
        ways = each.map(_as_written(rows)), readable.map(make)
        at_once, one_by_one = (
            way.batch(worker.chunk, drop_remainder=True) for way in ways
        )
        return at_once.ignore_errors().concatenate(one_by_one).take(1)

    @_as_written
    def _jobs(self, worker, step):
        """The jobs of a step: fields of `Job`, with records for the images."""
        slots, wanted = worker.slots_of_jobs(self.order(step))
        positions = self.positions(step)
        choices = {
            name: tf.gather(chosen, slots)
            for name, chosen in self._views.choose(self.seed, positions).items()
        }
        positions = tf.gather(positions, slots)
        indices = self.samples(positions)
        records = self.source.records(indices)
        return positions, wanted, choices, indices, records

    @_as_written
    def _image(self, worker, position, wanted, choices, index, record):
        image = self._decoded(worker, wanted, record)
        return Job(position, wanted, choices, index, image, True)

    def _decoded(self, worker, wanted, record):
        if not self.source.may_fail:  # in memory, of one shape
            return self.source.image(record)
        return worker.if_wanted(
            tf.reduce_any(wanted),
            lambda: self.source.image(record),
            lambda: tf.zeros([1, 1, self.source.channels], tf.uint8),
        )

    @_as_written
    def _readable(self, worker, position, wanted, choices, index, record):
        """A data set of one element: the sample, or its first substitute."""

        def attempt(number):
            first = tf.equal(number, 0)

            def substitute():
                index = self.samples(position[tf.newaxis], number)
                return index[0], self.source.records(index)[0]

            sample, chosen = tf.cond(first, lambda: (index, record), substitute)
            image = self._decoded(worker, wanted, chosen)
            # The place of a removed image is not counted as unreadable.
            valid = tf.logical_or(first, self.is_removed(index))
            return Job(position, wanted, choices, sample, image, valid)

        # In a large source as many in a row mean that none can be read.
        tries = min(len(self.source), _MOST_SUBSTITUTES)
        attempts = tf.data.Dataset.range(tries).map(attempt)
        # Where no image can be read, the error of the first ends the run.
        last = tf.data.Dataset.range(1).map(attempt)
        return attempts.ignore_errors().concatenate(last).take(1)

    @_as_written
    def _views_of_image(self, worker, job):
        rows = self._views.views_of_image(
            job.image, job.choices, job.wanted, worker.if_wanted
        )
        return job.position, rows | {"index": job.index, "valid": job.valid}

    @_as_written
    def _views_of_batch(self, jobs):
        rows = self._views.views_of_batch(jobs.image, jobs.choices)
        return jobs.position, rows | {"index": jobs.index, "valid": jobs.valid}

    @_as_written
    def _deal(self, worker, replicas, position, rows):
        """Splits the rows of a worker's jobs into batches of its replicas.

        Those of one replica are its batch as they are: without the axis of the
        replicas, which takes a copy of all views to remove.
        """
        several = [replicas] if replicas > 1 else []

        def split(values):
            if not several:
                return values[: worker.slots]
            shape = [replicas, worker.slots // replicas, *values.shape[1:]]
            return tf.reshape(values[: worker.slots], shape)

        if not self.key_views:
            return {name: split(values) for name, values in rows.items()}
        order = self.order(position[0] // self.global_batch)
        if self.shuffle_keys == "address":
            dealt = worker.key_jobs(order)
            for name in rows.keys() & {"key", "key_distortion"}:
                rows[name] = tf.gather(rows[name], dealt)
        batch = {name: split(values) for name, values in rows.items()}
        # A GPU would hand int32 back to the host, where its arithmetic is.
        order = tf.cast(order, tf.int64)
        batch["order"] = tf.broadcast_to(order, [*several, *order.shape])
        return batch


class Worker(NamedTuple):
    """The part of every step that one worker's input pipeline makes.

    A job is one decoded image and one or both of its views. On one host every
    job makes both. Where key views are dealt across hosts ("address"), the
    first jobs are for the worker's local slots, and as many follow for the key
    views dealt to it; a sample in both is decoded once: nothing is wanted of
    its second job.

    Attributes:
      number: int, of the worker, 0..count - 1. count: int, workers.
      slots: int, slots of a step that are local to a worker.
      shuffle_keys: as of `Stream`.
    """

    number: int
    count: int  # type: ignore[assignment]  # not the method of tuples
    slots: int
    shuffle_keys: str

    @property
    def crosses_hosts(self):
        """Whether key views are made on another host than their queries."""
        return self.count > 1 and self.shuffle_keys == "address"

    @property
    def jobs(self):
        """Jobs of a step."""
        return 2 * self.slots if self.crosses_hosts else self.slots

    @property
    def chunk(self):
        """Jobs that share a data set: as many as divide those of a step."""
        return max(n for n in range(1, _CHUNK + 1) if self.jobs % n == 0)

    def local(self, rows):
        """The rows of this worker's slots, of [G, ...]."""
        first = self.number * self.slots
        return rows[first : first + self.slots]

    def _is_local(self, slots):
        return slots // self.slots == self.number

    def slots_of_jobs(self, order):
        """Slots and wanted views of a step's jobs.

        Args:
          order: int32 [G] (see methods/shuffle).

        Returns:
          slots int32 [jobs]; wanted bool [jobs, 2], the query and the key view.
        """
        slots = self.local(tf.range(order.shape[0]))
        both = tf.ones([self.slots, 2], tf.bool)
        if not self.crosses_hosts:
            return slots, both
        dealt = self.local(order)
        key_here = self._is_local(self.local(tf.math.invert_permutation(order)))
        made_there = ~self._is_local(dealt)
        wanted = tf.concat(
            [
                tf.stack([both[:, 0], key_here], axis=1),
                tf.stack([~both[:, 0], made_there], axis=1),
            ],
            axis=0,
        )
        return tf.concat([slots, dealt], axis=0), wanted

    def if_wanted(self, wanted, make, skip):
        """`make()`, or `skip()` where a view is made elsewhere.

        Args:
          wanted: bool scalar, of `slots_of_jobs`.
          make, skip: functions -> Tensor.
        """
        return tf.cond(wanted, make, skip) if self.crosses_hosts else make()

    def key_jobs(self, order):
        """The job that makes each key view dealt to this worker, int32 [slots].

        Args:
          order: int32 [G], of the shuffle "address".
        """
        dealt = self.local(order)
        local_job = dealt - self.number * self.slots
        if not self.crosses_hosts:
            return local_job
        second_job = self.slots + tf.range(self.slots)
        return tf.where(self._is_local(dealt), local_job, second_job)


class Job(NamedTuple):
    """An image on its way to its views."""

    position: tf.Tensor  # int64
    wanted: tf.Tensor  # bool [2]: the query view, the key view (see Worker)
    choices: dict  # of its views (see ViewStage.choose)
    index: tf.Tensor  # int64, of the sample in the source
    image: tf.Tensor  # uint8 [H, W, C]
    valid: tf.Tensor  # bool; False: a substitute
