"""Which views of a step one worker makes."""

from typing import NamedTuple

import tensorflow as tf


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
