"""Fine-tuning and blending on R replicas, in a process of their own.

python -m tests.evaluation.finetune_worker R OUT.npz
"""

import functools
import sys

import numpy as np
import tensorflow as tf

from moco_tf.data import views
from moco_tf.evaluation import finetune, label_augment
from moco_tf.models import batch_norm, heads, resnet
from moco_tf.training import distribution, optimizers
from tests import shallow

BATCH = 8  # G
STEPS = 3


def make_method(strategy, mixing=None):
    """A small FineTuned with synchronised BatchNorm everywhere."""
    tf.keras.utils.set_random_seed(3)
    norm = functools.partial(batch_norm.BatchNorm, synchronized=True)
    with shallow.network(), strategy.scope():
        backbone = resnet.resnet(18, 0.125, "cifar", norm=norm, image_size=8)
        features = backbone.output_shape[-1]
        head = heads.classification_head(features, 3, norm=norm)
        method = finetune.FineTuned(
            backbone,
            head,
            np.arange(24) % 3,
            views.RECIPES["cifar"],
            0.1,
            mixing,
        )
        factors = [(v, 10.0) for v in head.trainable_variables]
        method.compile(
            optimizers.MomentumSGD(0.01, 0.9, 1e-3, rate_factors=factors)
        )
    method.build_optimizer()
    return method


def batches(strategy):
    """Dealt batches of all steps, as the stream makes them."""
    rng = np.random.default_rng(0)
    shape = [STEPS * BATCH, 8, 8, 3]
    rows = {
        "query": rng.integers(0, 256, shape, dtype=np.uint8),
        "index": np.arange(STEPS * BATCH),
        "valid": np.ones(STEPS * BATCH, bool),
    }
    share = BATCH // strategy.num_replicas_in_sync
    dataset = tf.data.Dataset.from_tensor_slices(rows)
    dataset = dataset.batch(share, drop_remainder=True)
    return strategy.distribute_datasets_from_function(lambda context: dataset)


def train(strategy):
    """Losses and, name -> array, all weights after the steps."""
    method = make_method(strategy)
    step, iterator = method.make_train_function(), iter(batches(strategy))
    result = {"losses": [float(step(iterator)["loss"]) for _ in range(STEPS)]}
    for number, weight in enumerate(
        [*method.backbone.weights, *method.head.weights]
    ):
        result[f"weight{number}"] = weight.numpy()
    images = np.full([2, 8, 8, 3], [[[[7, 99, 200]]]], np.uint8)
    return result | {"logits": method.logits(images).numpy()}


def blend(strategy):
    """Images float32 [steps, R, 4, 9, 9, 4], one-hot pixels before."""
    mixing = label_augment.Mixing(0.5, 1.0, seed=0)
    rows = tf.tile(tf.eye(4)[:, tf.newaxis, tf.newaxis], [1, 9, 9, 1])

    @tf.function
    def run(step):
        return strategy.run(lambda n: mixing(rows, tf.eye(4), n), args=(step,))

    result = [
        strategy.experimental_local_results(run(tf.constant(n, tf.int64))[0])
        for n in range(8)
    ]
    return np.array([[image.numpy() for image in step] for step in result])


if __name__ == "__main__":
    replicas = distribution.make_strategy(f"cpu:{sys.argv[1]}")
    np.savez(sys.argv[2], blended=blend(replicas), **train(replicas))
