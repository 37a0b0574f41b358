"""CMC's steps against NumPy: both sensors, both banks."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import cmc
from tests.methods import finite_differences, small_methods

BATCH, RATE = small_methods.BATCH, 0.05
IMAGES, NEGATIVES, TEMPERATURE = 12, 6, 0.5


def _method(**arguments):
    """Luminance is the first three features' work, colour the others'."""
    tf.keras.utils.set_random_seed(0)
    features = tf.keras.Input([6])
    layers = tf.keras.layers
    halves = [
        layers.Dense(4)(features[:, :3]),
        layers.Dense(4)(features[:, 3:]),
    ]
    head = tf.keras.Model(features, layers.Concatenate()(halves))
    method = cmc.CMC(
        small_methods.backbone(),
        IMAGES,
        head=head,
        negatives=NEGATIVES,
        momentum=0.5,
        temperature=TEMPERATURE,
        **arguments,
    )
    return small_methods.compiled(method, RATE, decay=0.0)


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _sensors(weights, images):
    kernel, bias, *heads = weights
    features = images.reshape(len(images), -1) @ kernel + bias
    halves = [features[:, :3], features[:, 3:]]
    return [
        _unit(half @ heads[2 * place] + heads[2 * place + 1])
        for place, half in enumerate(halves)
    ]


def _logits(query, keys, bank, drawn):
    positive = (query * keys).sum(1, keepdims=True)
    return np.hstack([positive, query @ bank[drawn].T]) / TEMPERATURE


def _loss(weights, batch, banks, drawn, constants):
    """The sum over both sensors of Eq. 3, or of NCE's loss."""
    total = 0.0
    for place, query in enumerate(_sensors(weights, batch["query"])):
        bank = banks[1 - place]
        logits = _logits(query, bank[batch["index"]], bank, drawn)
        if constants is None:
            total += np.mean(np.log(np.exp(logits).sum(1)) - logits[:, 0])
            continue
        # P(i) = exp / Z against K times the noise, 1 / N each.
        chances = np.exp(logits) / constants[1 - place]
        noise = NEGATIVES / IMAGES
        positive = chances[:, 0] / (chances[:, 0] + noise)
        others = noise / (chances[:, 1:] + noise)
        total -= np.mean(np.log(positive) + np.log(others).sum(1))
    return total


@pytest.mark.parametrize("loss", ["info_nce", "nce"])
def test_each_step_follows_the_equations(loss):
    method = _method(loss=loss)
    banks = [bank.features.numpy().astype(float) for bank in method.banks]
    assert np.abs(banks[0] - banks[1]).max() > 0.1
    constants = None
    for step, batch in enumerate(small_methods.batches(3)):
        batch["index"] = (3 * step + np.arange(BATCH)) % IMAGES
        weights = finite_differences.weights(method.query_encoder)
        drawn = method.banks[0].draw(NEGATIVES, tf.constant(step, tf.int64))
        drawn = drawn.numpy()
        sensors = _sensors(weights, batch["query"])
        if loss == "nce" and step == 0:
            constants = [None, None]
            for place, query in enumerate(sensors):
                bank = banks[1 - place]
                logits = _logits(query, bank[batch["index"]], bank, drawn)
                constants[1 - place] = IMAGES * np.exp(logits).mean()
        expected = _loss(weights, batch, banks, drawn, constants)
        iterator = iter(tf.data.Dataset.from_tensors(batch))
        result = float(method.make_train_function()(iterator)["loss"])
        np.testing.assert_allclose(result, expected, rtol=1e-4)
        for bank, seen, ours in zip(banks, sensors, method.banks, strict=True):
            places = batch["index"]
            bank[places] = _unit(0.5 * bank[places] + 0.5 * seen)
            np.testing.assert_allclose(ours.features, bank, atol=1e-5)


def test_the_first_step_goes_down_the_slope_of_the_loss():
    method = _method(loss="info_nce")
    batch = next(iter(small_methods.batches(1)))
    banks = [bank.features.numpy().astype(float) for bank in method.banks]
    drawn = method.banks[0].draw(NEGATIVES, tf.constant(0, tf.int64)).numpy()
    before = finite_differences.weights(method.query_encoder)
    small_methods.train(method, [batch])
    finite_differences.assert_downhill(
        lambda weights: _loss(weights, batch, banks, drawn, None),
        [before],
        [finite_differences.weights(method.query_encoder)],
        RATE,
    )


def test_one_sensor_is_refused():
    with pytest.raises(ValueError, match="outputs must be those of two"):
        cmc.CMC(small_methods.backbone(), IMAGES, head="fc", dim=5)
