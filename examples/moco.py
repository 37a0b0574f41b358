"""Algorithm 1 of MoCo (arXiv:1911.05722) as a plain loop over its parts.

    python examples/moco.py

Trains a small ResNet-18 on pictures of shapes, which are drawn and need no
download, and prints the loss of every step. It rises while keys of images
replace the random ones that the queue starts with, and falls from then on.
`moco-tf pretrain` takes the same steps, on several devices and in micro-batches
if wanted, and writes checkpoints, kNN accuracy and a log.
"""

import functools

import tensorflow as tf

from moco_tf.data import sources, stream, views
from moco_tf.methods import dictionaries, losses
from moco_tf.methods.momentum import update_momentum
from moco_tf.models import batch_norm, encoder
from moco_tf.training import optimizers

BATCH = 32  # N, images of a step
QUEUE = 256  # K, keys in the dictionary; published: 65536
DIM = 128  # C, features of a query or key
SIZE = 32  # pixels of a view's side
TEMPERATURE = 0.2  # as in v2 (arXiv:2003.04297); v1: 0.07
MOMENTUM = 0.99  # of the key encoder; published, for many epochs: 0.999
RATE, SGD_MOMENTUM, WEIGHT_DECAY = 0.06, 0.9, 1e-4
# BatchNorm takes its statistics of groups of a batch, as of several devices.
# Keys are encoded in another order than queries, so that a query and its key
# meet different companions, and no statistics tell that they belong together.
GROUPS = 4


def main(steps=32, seed=0):
    """Trains from random weights.

    Args:
      steps: int. seed: int, of weights, queue, order and augmentation.

    Returns:
      list of float, the loss of every step in nats.
    """
    tf.keras.utils.set_random_seed(seed)
    recipe = views.RECIPES["cifar"]
    batches = stream.Stream(
        sources.open_source("shapes:test"),
        recipe,
        SIZE,
        BATCH,
        seed=seed,
        shuffle_keys="address",  # the key views come in the order of `order`
    )
    norm = functools.partial(batch_norm.BatchNorm, splits=GROUPS)
    backbone = encoder.build_backbone(
        "resnet18", width=0.25, stem="cifar", norm=norm, image_size=SIZE
    )
    query_encoder = encoder.make_encoder(backbone, "mlp", DIM)
    key_encoder = query_encoder.clone()
    queue = dictionaries.KeyQueue(QUEUE, DIM, seed)
    optimizer = optimizers.MomentumSGD(RATE, SGD_MOMENTUM, WEIGHT_DECAY)
    weights = query_encoder.trainable_variables
    optimizer.build(weights)

    def encode(encoder, images):
        images = views.normalize(images, recipe.mean, recipe.std)
        return tf.math.l2_normalize(encoder(images, training=True), axis=1)

    @tf.function(autograph=False)
    def train_step(batch, step):
        update_momentum(key_encoder, query_encoder, MOMENTUM)
        key = encode(key_encoder, batch["key"])  # [N, C], in shuffled order
        slots = tf.argsort(batch["order"])
        key = tf.gather(key, slots)  # row i is the positive of query i

        with tf.GradientTape() as tape:
            query = encode(query_encoder, batch["query"])
            loss, _ = losses.info_nce(query, key, queue.keys, TEMPERATURE)
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

        # After the logits: no key is a negative of its own query.
        queue.enqueue(key, batch["index"], step)
        return loss

    history = []
    for step, batch in enumerate(batches.batches(1, 0, steps)):
        loss = train_step(batch, tf.constant(step, tf.int64))
        history.append(float(loss))
        print(f"step {step + 1:>3}  loss {history[-1]:.4f}")
    return history


if __name__ == "__main__":
    main()
