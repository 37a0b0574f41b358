"""BatchNorm in eight groups: an operation for each, or one for all of them.

    python -m benchmarks.norm_groups [--devices=gpu] [--rounds=7]

Three forms take turns in one process, forward and backward, plain and under
XLA: `BatchNorm` (an operation for each group); "channels", one operation after
the groups were moved into the channels; "moments", one reduction over the
groups as an axis. Printed for each: processor time of a call (on a GPU the
wall's), the median of the rounds, and how far output, moving statistics and
gradients are from the first form's, in units of the largest value.
"""

import argparse
import statistics
import time

import numpy as np
import tensorflow as tf

from moco_tf.models import batch_norm
from moco_tf.training import distribution

GROUPS = 8
SHAPES = ([64, 56, 56, 64], [64, 14, 14, 256], [64, 7, 7, 512])


class Channels(batch_norm.BatchNorm):
    """Groups as channels: one operation, between two transpositions."""

    def _normalize(self, images, training):
        count, channels = self.splits, images.shape[-1]
        rows = np.prod(images.shape[:3]) // count
        parts = tf.reshape(images, [count, rows, channels])
        parts = tf.transpose(parts, [1, 0, 2])
        result = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(parts, [rows, 1, 1, count * channels]),
            scale=tf.tile(self.gamma, [count]),
            offset=tf.tile(self.beta, [count]),
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=self.epsilon,
            is_training=training,
        )
        for moving, values in (
            (self.moving_mean, result.batch_mean),
            (self.moving_variance, result.batch_variance),
        ):
            self._update(moving, tf.unstack(tf.reshape(values, [count, -1])))
        parts = tf.reshape(result.y, [rows, count, channels])
        return tf.reshape(tf.transpose(parts, [1, 0, 2]), images.shape)


class Moments(batch_norm.BatchNorm):
    """Groups as an axis: mean and variance, then single operations."""

    def _normalize(self, images, training):
        rows = np.prod(images.shape[:3]) // self.splits
        parts = tf.reshape(images, [self.splits, rows, images.shape[-1]])
        parts = tf.cast(parts, tf.float32)
        mean, variance = tf.nn.moments(parts, [1], keepdims=True)
        self._update(self.moving_mean, tf.unstack(mean[:, 0]))
        unbiased = variance[:, 0] * (rows / (rows - 1))
        self._update(self.moving_variance, tf.unstack(unbiased))
        scale = tf.math.rsqrt(variance + self.epsilon) * self.gamma
        outputs = (parts - mean) * scale + self.beta
        return tf.cast(tf.reshape(outputs, images.shape), images.dtype)


FORMS = {
    "groups": batch_norm.BatchNorm,
    "channels": Channels,
    "moments": Moments,
}


def make_step(form, policy, channels, jit_compile):
    """A function of images and gradients: the results that are compared."""
    layer = form(GROUPS, dtype=policy)
    layer.build([None, None, None, channels])
    layer.gamma.assign(np.linspace(0.5, 1.5, channels))
    layer.beta.assign(np.linspace(-1.0, 1.0, channels))

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(images, gradients):
        layer.moving_mean.assign(tf.zeros([channels]))
        layer.moving_variance.assign(tf.ones([channels]))
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
        inputs = [images, layer.gamma, layer.beta]
        moving = [layer.moving_mean.read_value(), 1 * layer.moving_variance]
        back = tape.gradient(outputs, inputs, output_gradients=gradients)
        return [outputs, *moving, *back]

    return step


def compare(policy, shape, jit_compile, rounds, clock):
    """Prints a line for each form."""
    rng = np.random.default_rng(0)
    dtype = tf.keras.mixed_precision.Policy(policy).compute_dtype
    images = tf.cast(2.0 * rng.standard_normal(shape) + 1.0, dtype)
    gradients = tf.cast(rng.standard_normal(shape), dtype)
    steps = {
        name: make_step(form, policy, shape[-1], jit_compile)
        for name, form in FORMS.items()
    }

    def run(name):
        results = steps[name](images, gradients)
        return [tf.cast(x, tf.float32).numpy() for x in results]

    results = {name: run(name) for name in FORMS}  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(rounds):
        for name in FORMS:
            start = clock()
            steps[name](images, gradients)[0].numpy()
            seconds[name].append(clock() - start)
    for name, values in results.items():
        deviations = [
            np.abs(a - b).max() / np.abs(b).max()
            for a, b in zip(values, results["groups"], strict=True)
        ]
        print(
            f"{policy:<15} {str(shape):<17} "
            f"{'XLA' if jit_compile else 'plain':<6}{name:<9}"
            f"{1e3 * statistics.median(seconds[name]):>7.1f} ms; apart: output "
            f"{deviations[0]:.0e}, statistics {max(deviations[1:3]):.0e}, "
            f"gradients {max(deviations[3:]):.0e}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(
        description="Forms of BatchNorm in groups.", allow_abbrev=False
    )
    parser.add_argument("--devices", default="cpu", help="[cpu]")
    parser.add_argument("--rounds", type=int, default=7, help="[7]")
    options = parser.parse_args()
    distribution.make_strategy(options.devices)
    on_gpu = distribution.kind_of_devices() == "GPU"
    clock = time.perf_counter if on_gpu else time.process_time
    for policy in ("float32", "mixed_bfloat16"):
        for shape in SHAPES:
            for jit_compile in (False, True):
                compare(policy, shape, jit_compile, options.rounds, clock)


if __name__ == "__main__":
    main()
