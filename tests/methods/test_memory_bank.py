"""The memory bank's step against NumPy, and its draws and updates."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import dictionaries, losses, memory_bank
from tests.methods import numpy_moco, small_methods

IMAGES, NEGATIVES, TEMPERATURE, MOMENTUM = 12, 7, 0.5, 0.3


class NumpyBank(numpy_moco.NumpyMoCo):
    """InstDisc's step: the dictionary is drawn, keys are of the bank."""

    constant = None  # Z, of NCE

    def loss_and_gradients(self, logits):
        if self.constant is None:
            return super().loss_and_gradients(logits)
        # h = P / (P + K / n), P = exp(logit) / Z (InstDisc, Eq. 5 to 7).
        noise = NEGATIVES / IMAGES
        share = np.exp(logits) / self.constant
        real = share / (share + noise)
        loss = -np.log(real[:, 0]) - np.log(1 - real[:, 1:]).sum(1)
        gradients = real.copy()
        gradients[:, 0] -= 1  # d -log h / d logit = h - 1; of -log(1 - h): h
        return loss.mean(), gradients


def _method(**arguments):
    tf.keras.utils.set_random_seed(0)
    method = memory_bank.MemoryBank(
        small_methods.backbone(),
        IMAGES,
        head="fc",
        dim=5,
        negatives=NEGATIVES,
        momentum=MOMENTUM,
        temperature=TEMPERATURE,
        **arguments,
    )
    return small_methods.compiled(method)


def _moved(bank, indices, vectors):
    """The bank after a step; the first feature of an image counts."""
    bank, seen = bank.copy(), set()
    for index, vector in zip(indices, vectors, strict=True):
        if index not in seen:
            row = MOMENTUM * bank[index] + (1 - MOMENTUM) * vector
            bank[index] = row / np.linalg.norm(row)
            seen.add(index)
    return bank


@pytest.mark.parametrize("loss", dictionaries.LOSSES)
def test_three_steps_follow_the_equations(loss):
    method = _method(loss=loss)
    oracle = NumpyBank(
        small_methods.values(method.trained_variables()),
        np.zeros([NEGATIVES, 5]),
        1.0,
        TEMPERATURE,
        False,
    )
    bank = method.bank.features.numpy().astype(np.float64)
    batches = list(small_methods.batches(3))
    for batch, index in zip(
        batches, ([3, 1, 9, 0], [1, 9, 9, 11], [9, 2, 3, 1]), strict=True
    ):
        batch["index"] = np.array(index)
    expected = []
    for step, batch in enumerate(batches):
        drawn = method.bank.draw(NEGATIVES, tf.constant(step, tf.int64)).numpy()
        oracle.queue = bank[drawn]
        keys = bank[batch["index"]]
        vectors = numpy_moco.encode(oracle.query_weights, batch["query"])[0]
        if loss == "nce" and step == 0:
            cosines = np.hstack(
                [
                    (vectors * keys).sum(1, keepdims=True),
                    vectors @ oracle.queue.T,
                ]
            )
            oracle.constant = IMAGES * np.exp(cosines / TEMPERATURE).mean()
        value, wins, gradients = oracle.contrast(
            batch["query"], keys, batch["index"]
        )
        # Of a query's own feature, drawn as a negative, rounding decides.
        ties = np.isin(batch["index"], drawn).mean()
        expected.append((value, wins, ties))
        small_methods.descend(
            oracle.query_weights, oracle.velocities, gradients
        )
        bank = _moved(bank, batch["index"], vectors)
    logged = small_methods.train(method, batches)
    values, wins, ties = np.transpose(expected)
    np.testing.assert_allclose(logged["loss"], values, rtol=1e-5)
    more = np.array(logged["instance_top1"]) - wins
    assert (more >= 0).all()
    assert (more <= ties).all()
    np.testing.assert_allclose(method.bank.features, bank, atol=1e-5)
    for result, weight in zip(
        method.trained_variables(), oracle.query_weights, strict=True
    ):
        np.testing.assert_allclose(result, weight, atol=1e-5)
    if loss == "nce":
        np.testing.assert_allclose(
            method.bank.constant.numpy(), oracle.constant, rtol=1e-5
        )


def test_nce_by_hand():
    # One negative of two images, Z = 1: noise 1 / 2. The positive's P = 1 gives
    # h = 2 / 3, the other P = 1 / 2 gives 1 - h = 1 / 2.
    logits = tf.constant([[0.0, np.log(0.5)]], tf.float32)
    loss = losses.nce(logits, tf.constant(1.0), 2)
    np.testing.assert_allclose(loss, np.log(1.5) + np.log(2), rtol=1e-6)


def test_draws_are_even_and_a_function_of_seed_and_step():
    bank = dictionaries.FeatureBank(10, 2, 0.5, seed=3)
    step = tf.constant(4, tf.int64)
    drawn = bank.draw(5000, step).numpy()
    np.testing.assert_array_equal(drawn, bank.draw(5000, step))
    assert (drawn != bank.draw(5000, step + 1).numpy()).any()
    # 500 each, with a standard deviation of 21.
    assert abs(np.bincount(drawn, minlength=10) - 500).max() < 110


def test_features_are_of_unit_length_from_the_start():
    features = dictionaries.FeatureBank(50, 8, 0.5).features.numpy()
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_micro_batches_make_the_same_step():
    batches = list(small_methods.batches(2, index_step=4))
    at_once, parts = (
        _method(loss="info_nce", micro_batches=count) for count in (1, 2)
    )
    for method in (at_once, parts):
        small_methods.train(method, batches)
    np.testing.assert_allclose(
        at_once.bank.features, parts.bank.features, atol=1e-6
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"loss": "softmax"}, "loss must be one of"),
        (
            {"loss": "nce", "micro_batches": 2},
            "nce needs train.micro",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        _method(**arguments)
