"""MoCo with linear encoders, written out in NumPy: the oracle of test_moco."""

import numpy as np


class NumpyMoCo:
    """Algorithm 1 (arXiv:1911.05722) in float64 with its gradients by hand.

    An encoder is two linear layers, [kernel, bias, kernel, bias].
    """

    def __init__(
        self,
        weights,
        queue,
        momentum,
        temperature,
        symmetric,
        mask=False,
        fresh=False,
    ):
        """Takes the weights that both encoders start with, and the queue."""
        self.query_weights = [np.asarray(w, np.float64) for w in weights]
        self.key_weights = [w.copy() for w in self.query_weights]
        self.velocities = [np.zeros_like(w) for w in self.query_weights]
        self.queue = np.array(queue, np.float64)
        self.samples = np.full(len(queue), -1)
        self.steps = np.full(len(queue), -1)
        self.pointer = 0
        self.momentum = momentum
        self.temperature = temperature
        self.symmetric = symmetric
        self.mask = mask
        self.fresh = fresh  # the step's keys are negatives, too
        self.cosines = []  # of each step's queries: positive, queued keys

    def step(self, number, query_images, key_images, samples, rate, decay):
        """One step; returns the loss and the share of won comparisons."""
        self.key_weights = [
            self.momentum * key + (1 - self.momentum) * query
            for key, query in zip(
                self.key_weights, self.query_weights, strict=True
            )
        ]
        keys = encode(self.key_weights, key_images)[0]
        every_key = [keys]
        if self.symmetric:
            other_keys = encode(self.key_weights, query_images)[0]
            every_key.append(other_keys)
        loss, wins, gradients = self.contrast(
            query_images, keys, samples, every_key
        )
        self.cosines.append(self.newest)
        if self.symmetric:
            other_loss, _, other = self.contrast(
                key_images, other_keys, samples, every_key
            )
            loss += other_loss
            gradients = [a + b for a, b in zip(gradients, other, strict=True)]
        for place, gradient in enumerate(gradients):
            weight = self.query_weights[place]
            velocity = self.velocities[place]
            velocity = 0.9 * velocity + gradient + decay * weight
            self.velocities[place] = velocity
            self.query_weights[place] = weight - rate * velocity
        self.enqueue(keys, samples, number)
        if self.symmetric:
            self.enqueue(other_keys, samples, number)
        return loss, wins

    def contrast(self, images, keys, samples, every_key=()):
        """Loss, wins and gradients of one direction."""
        query, features, inputs, length = encode(self.query_weights, images)
        negatives, own = self.queue, np.zeros([len(query), len(self.queue)])
        if self.mask:
            own = np.asarray(samples)[:, None] == self.samples
        if self.fresh:
            negatives = np.concatenate([*every_key, negatives])
            same = np.asarray(samples)[:, None] == np.asarray(samples)
            own = np.concatenate([same] * len(every_key) + [own], axis=1)
        similarities = np.where(own, -np.inf, query @ negatives.T)
        positive = (query * keys).sum(1, keepdims=True)
        candidates = np.concatenate([positive, similarities], axis=1)
        self.newest = candidates
        logits = candidates / self.temperature
        # A tie is no win; rounding must not break it.
        wins = np.mean(logits[:, 0] > logits[:, 1:].max(1) + 1e-9)
        loss, gradients_by_row = self.loss_and_gradients(logits)
        by_logit = gradients_by_row / (len(images) * self.temperature)
        by_query = by_logit[:, :1] * keys + by_logit[:, 1:] @ negatives
        activations = (query, features, inputs, length)
        return loss, wins, gradients(self.query_weights, activations, by_query)

    def loss_and_gradients(self, logits):
        """InfoNCE, the mean over rows, and its gradients by a row's logits."""
        return info_nce(logits)

    def enqueue(self, keys, samples, number):
        """Overwrites the oldest keys, one by one."""
        for key, sample in zip(keys, samples, strict=True):
            self.queue[self.pointer] = key
            self.samples[self.pointer] = sample
            self.steps[self.pointer] = number
            self.pointer = (self.pointer + 1) % len(self.queue)


def encode(weights, images):
    """Unit vectors, features, flat inputs and the vectors' lengths before."""
    inputs = np.asarray(images, np.float64).reshape(len(images), -1)
    features = inputs @ weights[0] + weights[1]
    outputs = features @ weights[2] + weights[3]
    length = np.linalg.norm(outputs, axis=1, keepdims=True)
    return outputs / length, features, inputs, length


def info_nce(logits):
    """The mean loss of logits [N, 1 + K]; the gradient of each row's loss."""
    exponents = np.exp(logits)
    probabilities = exponents / exponents.sum(1, keepdims=True)
    loss = -np.log(probabilities[:, 0]).mean()
    probabilities[:, 0] -= 1
    return loss, probabilities


def gradients(weights, activations, by_vector):
    """Gradients of an encoder's weights.

    Args:
      weights: of the encoder. activations: what `encode` returned.
      by_vector: gradient [N, C] of the loss by the unit vectors.
    """
    vectors, features, inputs, length = activations
    along = (by_vector * vectors).sum(1, keepdims=True)
    by_output = (by_vector - along * vectors) / length
    by_features = by_output @ weights[2].T
    return [
        inputs.T @ by_features,
        by_features.sum(0),
        features.T @ by_output,
        by_output.sum(0),
    ]


def clusters(rows):
    """exp of the mutual information of the rows and columns of [N, K]."""
    joint = np.asarray(rows, np.float64) / len(rows)
    independent = joint.sum(0) / len(rows)
    logs = np.log(np.where(joint > 0, joint / independent, 1.0))
    return np.exp(np.sum(joint * logs))
