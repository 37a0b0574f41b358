"""The stream: the batch of a step is a function of the seed and the step.

There is no iterator state. Starting at step s is resuming at step s, whatever
ran before and on however many replicas.
"""

import functools
import os
from typing import NamedTuple

import tensorflow as tf

from moco_tf.data import augmentation, sources, view_stage, views


class Share(NamedTuple):
    """A worker's part of every step: slots side by side, and dealt keys.

    A job is one decoded image and one or both of its views. On one host every
    job makes both. Where key views are dealt across hosts ("address"), the
    first jobs are the worker's own slots, and as many follow for the key views
    dealt to it; a sample in both is decoded once: its second job wants nothing.
    """

    worker: int
    workers: int
    slots: int  # of a worker
    shuffle_keys: str

    @property
    def crosses(self):
        """Whether key views are made on another host than their queries."""
        return self.workers > 1 and self.shuffle_keys == "address"

    @property
    def jobs(self):
        """Jobs of a step."""
        return 2 * self.slots if self.crosses else self.slots

    def of(self, rows):
        """This worker's rows of [G, ...]."""
        first = self.worker * self.slots
        return rows[first : first + self.slots]

    def _holds(self, slots):
        return slots // self.slots == self.worker

    def wanted(self, order):
        """Slots and views of a step's jobs.

        Args:
          order: int32 [G] (see methods/shuffle).

        Returns:
          slots int32 [jobs]; wanted bool [jobs, 2], the query and the key view.
        """
        own = self.of(tf.range(order.shape[0]))
        both = tf.ones([self.slots, 2], tf.bool)
        if not self.crosses:
            return own, both
        dealt = self.of(order)
        key_here = self._holds(self.of(tf.math.invert_permutation(order)))
        made_there = ~self._holds(dealt)
        wanted = tf.concat(
            [
                tf.stack([both[:, 0], key_here], axis=1),
                tf.stack([~both[:, 0], made_there], axis=1),
            ],
            axis=0,
        )
        return tf.concat([own, dealt], axis=0), wanted

    def if_wanted(self, wanted, make, skip):
        """`make()`, or `skip()` where a view is made elsewhere.

        Args:
          wanted: bool scalar, of `wanted`. make, skip: functions -> Tensor.
        """
        return tf.cond(wanted, make, skip) if self.crosses else make()

    def key_jobs(self, order):
        """The job that makes each key view dealt to this worker, int32 [slots].

        Args:
          order: int32 [G], of the shuffle "address".
        """
        dealt = self.of(order)
        own_job = dealt - self.worker * self.slots
        if not self.crosses:
            return own_job
        other_job = self.slots + tf.range(self.slots)
        return tf.where(self._holds(dealt), own_job, other_job)


_ROUNDS = 12  # fewer leave the orders of two epochs correlated

# AutoGraph's reading of the source is most of the time to the first batch.
_as_written = tf.autograph.experimental.do_not_convert


class Job(NamedTuple):
    """An image on its way to its views."""

    position: tf.Tensor  # int64
    wanted: tf.Tensor  # bool [2]: the query view, the key view (see Share)
    choices: dict  # what is random in them (see ViewStage)
    index: tf.Tensor  # int64, its sample
    image: tf.Tensor  # uint8 [H, W, C]
    valid: tf.Tensor  # bool; False: a substitute


class Stream:
    """Two views of every sample, in an order fixed by (seed, step).

    Attributes:
      steps_per_epoch: int; the rest of an epoch that fills no batch is dropped,
        another rest in each epoch.
    """

    def __init__(
        self,
        source: sources.Source,
        recipe: views.Recipe,
        image_size: int,
        global_batch: int,
        seed: int = 0,
        shuffle_keys: str = "gather",
        threads: int = 0,
        key_views: bool = True,
        augment_on: str = "host",
        small: view_stage.SmallViews | None = None,
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
          threads: int, parallel decodes and views; 0: one per core.
          key_views: bool; False: query views alone, as a classifier trains on.
          augment_on: "host", or "device": see view_stage.py.
          small: SmallViews of multi-crop, or None.

        Raises:
          ValueError: if the source holds fewer samples than a batch, or the
            device cannot distort the recipe's views.
        """
        if len(source) < global_batch:
            raise ValueError(
                "A batch must not be larger than the data set. Received "
                f"batch_size={global_batch} and {len(source)} images. Use a "
                "smaller batch_size or more images."
            )
        self.source = source
        self.recipe = recipe
        self.image_size = image_size
        self.global_batch = global_batch
        self.seed = seed
        self.shuffle_keys = shuffle_keys
        self.threads = threads or os.cpu_count() or 1
        self.key_views = key_views
        self._augment_on = augment_on
        self._small = small
        self.use(recipe.augment, recipe.augment_key)
        self.steps_per_epoch = len(source) // global_batch

    def use(self, augment, augment_key=None):
        """Takes other functions of a Recipe from now on."""
        self._views = view_stage.ViewStage(
            (
                augmentation.in_parts(augment),
                augmentation.in_parts(augment_key or augment),
            ),
            self.image_size,
            view_stage.NAMES[: 1 + self.key_views],
            self._augment_on,
            self._small,
            self.source.channels,
        )
        self._views.check()

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
        """Batches of the steps from first_step on, without end, for `fit`.

        Args:
          strategy: tf.distribute.Strategy.
          first_step: int.

        Returns:
          a data set of {"query", "key": uint8 [b, S, S, C], "index": int64 [b],
          "order": int32 [G], "valid": bool [b]}, one batch a replica; without
          key views, without "key" and "order"; with small views, with "small":
          uint8 [b, V, s, s, C], of the query's images. C is source.channels.
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
                context.input_pipeline_id,
                context.num_input_pipelines,
            )
            # Else workers ask one another before each step whether all have
            # a batch, and the batches lose their static shape.
            endless = tf.data.experimental.INFINITE_CARDINALITY
            return batches.apply(
                tf.data.experimental.assert_cardinality(endless)
            )

        return strategy.distribute_datasets_from_function(batches_of_worker)

    def batches(self, replicas, first_step, last_step, worker=0, workers=1):
        """As `distribute`, a plain data set: the replicas' batches in turn.

        Args:
          replicas: int, of all workers together.
          first_step, last_step: int.
          worker, workers: int, whose replicas, and how many workers there are.
        """
        share = Share(
            worker, workers, self.global_batch // workers, self.shuffle_keys
        )
        dataset = tf.data.Dataset.range(first_step, last_step)
        dataset = dataset.map(functools.partial(self._jobs, share)).unbatch()
        if self.source.may_fail:
            dataset = dataset.interleave(
                functools.partial(self._readable, share),
                cycle_length=2 * self.threads,
                num_parallel_calls=2 * self.threads,
                deterministic=True,
            )
        else:
            dataset = dataset.map(self._image)
        in_parallel = {
            "num_parallel_calls": 4 * self.threads,
            "deterministic": True,
        }
        if self._views.takes_batches_of(dataset.element_spec.image.shape):
            dataset = dataset.batch(share.jobs, drop_remainder=True)
            dataset = dataset.map(self._views_of_batch, **in_parallel)
        else:
            dataset = dataset.map(
                functools.partial(self._views_of_image, share), **in_parallel
            )
            dataset = dataset.batch(share.jobs, drop_remainder=True)
        local = replicas // workers
        dataset = dataset.map(functools.partial(self._deal, share, local))
        dataset = dataset.unbatch().prefetch(2 * local)
        options = tf.data.Options()
        # One more, to hand on what the others make.
        options.threading.private_threadpool_size = self.threads + 1
        # Its thread sleeps ever longer, and an iterator waits for it to end.
        options.autotune.enabled = False
        return dataset.with_options(options)

    @_as_written
    def _jobs(self, share, step):
        """The jobs of a step: what `Job` holds, but the image."""
        slots, wanted = share.wanted(self.order(step))
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
    def _image(self, position, wanted, choices, index, record):
        image = self.source.image(record)
        return Job(position, wanted, choices, index, image, True)

    @_as_written
    def _readable(self, share, position, wanted, choices, index, record):
        """A data set of one element: the sample, or its first substitute."""

        def attempt(number):
            first = tf.equal(number, 0)

            def substitute():
                index = self.samples(position[tf.newaxis], number)
                return index[0], self.source.records(index)[0]

            sample, found = tf.cond(first, lambda: (index, record), substitute)
            image = share.if_wanted(
                tf.reduce_any(wanted),
                lambda: self.source.image(found),
                lambda: tf.zeros([1, 1, self.source.channels], tf.uint8),
            )
            return Job(position, wanted, choices, sample, image, first)

        attempts = tf.data.Dataset.range(len(self.source)).map(attempt)
        # Where not one can be read, the first one's error ends the run.
        last = tf.data.Dataset.range(1).map(attempt)
        return attempts.ignore_errors().concatenate(last).take(1)

    @_as_written
    def _views_of_image(self, share, job):
        made = self._views.of_image(
            job.image, job.choices, job.wanted, share.if_wanted
        )
        return job.position, made | {"index": job.index, "valid": job.valid}

    @_as_written
    def _views_of_batch(self, jobs):
        made = self._views.of_batch(jobs.image, jobs.choices)
        return jobs.position, made | {"index": jobs.index, "valid": jobs.valid}

    @_as_written
    def _deal(self, share, replicas, position, made):
        """Splits a worker's slots into its replicas' rows."""

        def split(rows):
            shape = [replicas, share.slots // replicas, *rows.shape[1:]]
            return tf.reshape(rows[: share.slots], shape)

        if not self.key_views:
            return {name: split(rows) for name, rows in made.items()}
        order = self.order(position[0] // self.global_batch)
        if self.shuffle_keys == "address":
            dealt = share.key_jobs(order)
            for name in made.keys() & {"key", "key_distortion"}:
                made[name] = tf.gather(made[name], dealt)
        batch = {name: split(rows) for name, rows in made.items()}
        batch["order"] = tf.tile(order[tf.newaxis], [replicas, 1])
        return batch
