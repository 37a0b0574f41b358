"""The published linear protocol: new crops through the frozen encoder."""

import numpy as np
import tensorflow as tf

from moco_tf import assembly
from moco_tf.data import stream, views
from moco_tf.evaluation import classifier, probe, supervised
from moco_tf.training import optimizers


class LinearProbe(classifier.Classifier):
    """One linear layer on the frozen features of an encoder."""

    def __init__(self, judged, layer, classes, labels, seed):
        """Makes the layer, N(0, 0.01) weights and zero biases.

        Args:
          judged: frozen.Frozen. layer: whose features.
          classes: int. labels: int64 [N] of the training source. seed: int.
        """
        super().__init__(labels, judged.recipe, "linear_probe")
        self._encode = judged.encode  # no part of the checkpoint
        self._layer = layer
        shape = [1, judged.image_size, judged.image_size, judged.channels]
        one = judged.encode(tf.zeros(shape, tf.uint8))[layer]
        start = probe.initial_weights(one.shape[1], classes, seed)
        self.kernel = tf.Variable(start[:-1], name="kernel")
        self.bias = tf.Variable(start[-1], name="bias")

    def trained_variables(self):
        return [self.kernel, self.bias]

    def train_step(self, batch):
        """SGD of the linear layer alone; the encoder is in inference mode."""
        labels = self.labels_of(batch)
        rows = tf.stop_gradient(self._encode(batch["query"])[self._layer])
        with tf.GradientTape() as tape:
            logits = rows @ self.kernel + self.bias
            loss = classifier.cross_entropy(labels, logits)
            # Keras sums gradients over replicas.
            loss_share = loss / self.replicas
        self.optimizer.minimize(loss_share, self.trained_variables(), tape=tape)
        return self.report(batch, labels, logits, loss)

    def weights_and_bias(self):
        """float32 [1, F + 1, classes], the form of probe.train."""
        rows = [self.kernel.numpy(), self.bias.numpy()[np.newaxis]]
        return np.concatenate(rows)[np.newaxis]


def train(config, judged, pair, output, folder, strategy):
    """Trains on a new random crop of every image in every epoch.

    Args:
      config: ConfigDict of `linear`. judged: frozen.Frozen.
      pair: labelled.Labelled. output: folder of metrics and checkpoints.
      folder: not used here. strategy: tf.distribute.Strategy.

    Returns:
      weights float32 [1, F + 1, classes], dict for result.json.
    """
    del folder
    recipe = judged.recipe._replace(
        augment=views.crop_and_flip(config.data.crop)
    )
    batches = stream.Stream(
        pair.train,
        recipe,
        judged.image_size,
        config.train.batch_size,
        config.seed,
        threads=config.data.threads,
        key_views=False,
    )
    layer = config.probe.features
    with strategy.scope():
        method = LinearProbe(
            judged, layer, len(pair.names), pair.train_labels, config.seed
        )
        method.compile(
            optimizers.MomentumSGD(
                assembly.make_schedule(config, batches.steps_per_epoch),
                config.optimizer.momentum,
                config.optimizer.weight_decay,
            )
        )
    method.build_optimizer()
    supervised.train(method, batches, config, output, strategy)
    return method.weights_and_bias(), {
        "rate": config.optimizer.learning_rate,
        "epochs": config.train.epochs,
        "train_images": len(pair.train),
    }
