"""Learning-rate schedules as published: set once an epoch, or every step.

Each is a pure function of the step, computed in the graph, so a resumed run
needs no state of its own.
"""

import math

import tensorflow as tf

_Schedule = tf.keras.optimizers.schedules.LearningRateSchedule


class _Warmed(_Schedule):  # type: ignore[misc,valid-type]
    """A schedule in epochs, after an optional linear warm-up."""

    def __init__(self, rate, steps_per_epoch, warmup_epochs, unit):
        """See `Cosine` and `Step` for the arguments."""
        if unit not in ("epoch", "step"):
            raise ValueError(
                "The schedule's unit must be 'epoch' or 'step'. Received "
                f"unit={unit!r}."
            )
        self.rate = rate
        self.steps_per_epoch = steps_per_epoch
        self.warmup_epochs = warmup_epochs
        self.unit = unit

    def __call__(self, step):
        """Rate float32 of the int64 step."""
        step = tf.cast(step, tf.int64)
        if self.unit == "epoch":
            epoch = tf.cast(step // self.steps_per_epoch, tf.float32)
            warm = epoch + 1.0
        else:
            epoch = tf.cast(step, tf.float32) / self.steps_per_epoch
            warm = tf.cast(step + 1, tf.float32) / self.steps_per_epoch
        factor = self.factor(epoch)
        if self.warmup_epochs:
            # The first epoch (step) already moves; the last reaches the rate.
            warm = tf.minimum(warm / self.warmup_epochs, 1.0)
            factor = tf.where(epoch < self.warmup_epochs, warm, factor)
        return self.rate * factor

    def factor(self, epoch):
        """Fraction of the rate at an epoch float32 after the warm-up."""
        raise AttributeError("A schedule defines factor(epoch).")


class Cosine(_Warmed):
    """rate * 0.5 * (1 + cos(pi * e / E)) (MoCo v2; SGDR, arXiv:1608.03983).

    After a warm-up of w epochs, e and E are counted from its end.
    """

    def __init__(
        self,
        rate,
        epochs,
        steps_per_epoch,
        warmup_epochs=0,
        unit="epoch",
        first_epoch=0,
    ):
        """Makes the schedule.

        Args:
          rate: float, the base rate.
          epochs: int, E.
          steps_per_epoch: int.
          warmup_epochs: int, epochs of linear warm-up at the start.
          unit: "epoch": the rate is constant within an epoch; "step".
          first_epoch: number that the first epoch counts as: 0 on ImageNet, 1
            in the authors' CIFAR demo.

        Deviation: from 1 the last epoch has the rate 0, so the epochs of a
        schedule of one count from 0, and so do steps, whose rate would rise
        again in the last epoch.
        """
        super().__init__(rate, steps_per_epoch, warmup_epochs, unit)
        self.epochs = epochs
        counts = unit == "epoch" and epochs - warmup_epochs > 1
        self.first_epoch = first_epoch if counts else 0

    def factor(self, epoch):
        epoch = epoch - self.warmup_epochs + self.first_epoch
        length = self.epochs - self.warmup_epochs
        return 0.5 * (1.0 + tf.cos(math.pi * epoch / length))


class Step(_Warmed):
    """rate * factor ** (number of milestones reached) (MoCo v1)."""

    def __init__(
        self,
        rate,
        milestones,
        steps_per_epoch,
        decay=0.1,
        warmup_epochs=0,
        unit="epoch",
    ):
        """Makes the schedule.

        Args:
          rate: float, the base rate.
          milestones: ints, epochs (from 0) at which the rate drops.
          steps_per_epoch: int.
          decay: float, what each milestone multiplies the rate by.
          warmup_epochs, unit: as in Cosine.
        """
        super().__init__(rate, steps_per_epoch, warmup_epochs, unit)
        self.milestones = tuple(milestones)
        self.decay = decay

    def factor(self, epoch):
        reached = [tf.cast(epoch >= m, tf.float32) for m in self.milestones]
        return self.decay ** tf.add_n([tf.zeros_like(epoch), *reached])
