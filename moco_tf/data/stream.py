"""The stream: the batch of a step is a function of the seed and the step.

There is no iterator state. Starting at step s is resuming at step s, whatever
ran before and on however many replicas.
"""

import functools
import os

import tensorflow as tf

from moco_tf.data import shares

_ROUNDS = 12  # fewer leave the orders of two epochs correlated

# AutoGraph's reading of the source is most of the time to the first batch.
_as_written = tf.autograph.experimental.do_not_convert


class Stream:
    """Two views of every sample, in an order fixed by (seed, step).

    Attributes:
      steps_per_epoch: int; the rest of an epoch that fills no batch is dropped,
        another rest in each epoch.
    """

    def __init__(
        self,
        source,
        recipe,
        image_size,
        global_batch,
        seed=0,
        shuffle_keys="gather",
        threads=0,
        key_views=True,
    ):
        """Checks that the source fills a batch.

        Args:
          source: Source (moco_tf/data/sources.py).
          recipe: Recipe (moco_tf/data/views.py).
          image_size: int, pixels of a view's side.
          global_batch: int, G, samples of a step over all replicas.
          seed: int; with the step, it fixes everything.
          shuffle_keys: "address": the key views are dealt in the order of
            `order`; "gather": in slot order, to be shuffled in the step.
          threads: int, parallel decodes and views; 0: one per core.
          key_views: bool; False: query views alone, as a classifier trains on.

        Raises:
          ValueError: if the source holds fewer samples than a batch.
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
        self.threads = threads or os.cpu_count()
        self.key_views = key_views
        self.steps_per_epoch = len(source) // global_batch

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
          a data set of {"query", "key": uint8 [b, S, S, 3], "index": int64 [b],
          "order": int32 [G], "valid": bool [b]}, one batch a replica; without
          key views, without "key" and "order".
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
        share = shares.Share(
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
        dataset = dataset.map(
            functools.partial(self._views, share),
            num_parallel_calls=self.threads,
            deterministic=True,
        )
        dataset = dataset.batch(share.jobs, drop_remainder=True)
        local = replicas // workers
        dataset = dataset.map(functools.partial(self._deal, share, local))
        dataset = dataset.unbatch().prefetch(2 * local)
        options = tf.data.Options()
        options.threading.private_threadpool_size = self.threads
        return dataset.with_options(options)

    @_as_written
    def _jobs(self, share, step):
        """Position, wanted views, sample index and record of a step's jobs."""
        slots, wanted = share.wanted(self.order(step))
        positions = tf.gather(self.positions(step), slots)
        indices = self.samples(positions)
        return positions, wanted, indices, self.source.records(indices)

    @_as_written
    def _image(self, position, wanted, index, record):
        return position, wanted, index, self.source.image(record), True

    @_as_written
    def _readable(self, share, position, wanted, index, record):
        """A data set of one element: the sample, or its first substitute."""
        first = tf.data.Dataset.from_tensors((index, record, True))

        def other(number):
            index = self.samples(position[tf.newaxis], number)
            return index[0], self.source.records(index)[0], False

        others = tf.data.Dataset.range(1, len(self.source)).map(other)

        def decode(index, record, valid):
            image = share.if_wanted(
                tf.reduce_any(wanted),
                lambda: self.source.image(record),
                lambda: tf.zeros([1, 1, 3], tf.uint8),
            )
            return position, wanted, index, image, valid

        attempts = first.concatenate(others)
        readable = attempts.map(decode).ignore_errors()
        # Where not one can be read, the first one's error ends the run.
        return readable.concatenate(first.map(decode)).take(1)

    @_as_written
    def _views(self, share, position, wanted, index, image, valid):
        shape = [self.image_size, self.image_size, 3]

        @tf.function(autograph=False)  # one trace for both views
        def view(image, seed):
            made = self.recipe.augment(image, self.image_size, seed)
            return tf.ensure_shape(made, shape)

        def view_if_wanted(number):
            seed = [tf.constant(self.seed, tf.int64), 2 * position + number]
            return share.if_wanted(
                wanted[number],
                lambda: view(image, tf.stack(seed)),
                lambda: tf.zeros(shape, tf.uint8),
            )

        made = {"query": view_if_wanted(0), "index": index, "valid": valid}
        if self.key_views:
            made["key"] = view_if_wanted(1)
        return position, made

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
            made["key"] = tf.gather(made["key"], share.key_jobs(order))
        batch = {name: split(rows) for name, rows in made.items()}
        batch["order"] = tf.tile(order[tf.newaxis], [replicas, 1])
        return batch
