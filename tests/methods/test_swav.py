"""SwAV's codes and steps against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import losses, swav, two_views
from tests.methods import finite_differences, numpy_moco, small_methods

BATCH, RATE = small_methods.BATCH, 0.05
EPSILON, TEMPERATURE, PROTOTYPES = 0.3, 0.2, 5


def _method(**arguments):
    tf.keras.utils.set_random_seed(0)
    options = {"frozen_epochs": 0, "steps_per_epoch": 2} | arguments
    method = swav.SwAV(
        small_methods.backbone(),
        head="fc",
        dim=4,
        prototypes=PROTOTYPES,
        temperature=TEMPERATURE,
        epsilon=EPSILON,
        **options,
    )
    return small_methods.compiled(method, RATE, decay=0.0)


def _sinkhorn(scores, epsilon, iterations):
    """Sinkhorn-Knopp as in SwAV's Algorithm 1: scores [B, K] to codes."""
    plan = np.exp(scores / epsilon).T  # [K, B]
    plan /= plan.sum()
    for _ in range(iterations):
        plan /= plan.sum(axis=1, keepdims=True) * plan.shape[0]
        plan /= plan.sum(axis=0, keepdims=True) * plan.shape[1]
    return (plan * plan.shape[1]).T


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _codes(encoder, kernel, batch, memory=None):
    """Codes of both views of a batch."""
    result = []
    for side, name in enumerate(("query", "key")):
        vectors = numpy_moco.encode(encoder, batch[name])[0]
        if memory is not None:
            vectors = np.concatenate([vectors, memory[side]])
        result.append(_sinkhorn(vectors @ kernel, EPSILON, 3)[:BATCH])
    return result


def _loss(encoder, kernel, batch, codes):
    """Eq. 2: each code from the other view, and from the small ones."""
    logs = {}
    for name in ("query", "key"):
        scores = numpy_moco.encode(encoder, batch[name])[0] @ kernel
        scores /= TEMPERATURE
        logs[name] = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    terms = []
    for code, other in zip(codes, ("key", "query"), strict=True):
        views = [logs[other]]
        for small in np.moveaxis(batch.get("small", np.zeros([0, 0])), 1, 0):
            scores = numpy_moco.encode(encoder, small)[0] @ kernel
            scores /= TEMPERATURE
            views.append(scores - np.log(np.exp(scores).sum(1, keepdims=True)))
        terms.append(np.mean([-np.mean((code * v).sum(1)) for v in views]))
    return np.mean(terms)


def test_sinkhorn_is_the_papers_algorithm():
    scores = np.random.default_rng(0).uniform(-1, 1, [12, 5])
    result = losses.sinkhorn(tf.constant(scores, tf.float32), 0.3, 3)
    np.testing.assert_allclose(result, _sinkhorn(scores, 0.3, 3), rtol=1e-4)
    np.testing.assert_allclose(tf.reduce_sum(result, axis=1), 1.0, rtol=1e-5)


def test_sinkhorn_by_hand():
    # e^s = [[1, 3], [1, 1]]: columns [1/2, 3/4; 1/2, 1/4], then rows.
    scores = tf.math.log(tf.constant([[1.0, 3.0], [1.0, 1.0]]))
    expected = [[0.4, 0.6], [2 / 3, 1 / 3]]
    np.testing.assert_allclose(losses.sinkhorn(scores, 1.0, 1), expected)


def test_sinkhorn_of_a_small_epsilon_stays_finite():
    scores = tf.constant([[1.0, -1.0], [-1.0, 1.0]])
    result = losses.sinkhorn(scores, 0.001, 3).numpy()
    np.testing.assert_allclose(result, np.eye(2), atol=1e-6)


@pytest.mark.parametrize("small", [0, 2])
def test_each_step_is_algorithm_1(small):
    method = _method()
    for batch in small_methods.batches(3, small=small):
        kernel = _unit(method.prototypes.kernel.numpy().T).T
        before = [
            finite_differences.weights(method.query_encoder),
            [kernel.astype(np.float64)],
        ]
        codes = _codes(before[0], kernel, batch)
        iterator = iter(tf.data.Dataset.from_tensors(batch))
        result = method.make_train_function()(iterator)
        expected = _loss(before[0], kernel, batch, codes)
        np.testing.assert_allclose(result["loss"], expected, rtol=1e-4)
        expected = numpy_moco.clusters(np.concatenate(codes))
        np.testing.assert_allclose(result["clusters"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.0, 0.0, 1.0]] * 4, 1.0),  # all of one prototype
        ([[1 / 3, 1 / 3, 1 / 3]] * 4, 1.0),  # all of all prototypes
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]] * 2, 2.0),
        ([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], 2.0),  # two prototypes are one
        # exp(0.9 ln(0.9 / 0.5) + 0.1 ln(0.1 / 0.5)).
        ([[0.9, 0.1], [0.1, 0.9]], 2 * 0.9**0.9 * 0.1**0.1),
    ],
)
def test_assignments_divide_images_into_clusters(rows, expected):
    result = two_views.clusters(tf.constant([rows]))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_the_first_step_goes_down_the_slope_and_codes_have_none():
    method = _method()
    batch = next(iter(small_methods.batches(1, small=2)))
    kernel = _unit(method.prototypes.kernel.numpy().T).T.astype(np.float64)
    before = [finite_differences.weights(method.query_encoder), [kernel]]
    codes = _codes(before[0], kernel, batch)
    small_methods.train(method, [batch])
    after = [
        finite_differences.weights(method.query_encoder),
        finite_differences.weights(method.prototypes),
    ]
    finite_differences.assert_downhill(
        lambda encoder, kernel: _loss(encoder, kernel[0], batch, codes),
        before,
        after,
        RATE,
    )


def test_prototypes_stand_still_in_the_first_epoch():
    method = _method(frozen_epochs=1)
    start = _unit(method.prototypes.kernel.numpy().T).T
    batches = list(small_methods.batches(3))
    iterator = iter(
        tf.data.Dataset.from_generator(
            lambda: batches,
            output_signature={
                name: tf.TensorSpec(value.shape, value.dtype)
                for name, value in batches[0].items()
            },
        )
    )
    step = method.make_train_function()
    for moved in (False, False, True):  # an epoch has two steps
        step(iterator)
        now = _unit(method.prototypes.kernel.numpy().T).T
        assert (np.abs(now - start).max() > 1e-4) == moved


def test_features_of_earlier_steps_help_from_their_epoch_on():
    method = _method(queue_size=6, queue_from_epoch=1)
    memory = None
    for number, batch in enumerate(small_methods.batches(4)):
        kernel = _unit(method.prototypes.kernel.numpy().T).T
        encoder = finite_differences.weights(method.query_encoder)
        if number >= 2:  # an epoch has two steps, and 8 features are seen
            memory = [
                method.queue.keys.numpy(),
                method.other_queue.keys.numpy(),
            ]
        codes = _codes(encoder, kernel, batch, memory)
        vectors = [
            numpy_moco.encode(encoder, batch[n])[0] for n in ("query", "key")
        ]
        iterator = iter(tf.data.Dataset.from_tensors(batch))
        loss = float(method.make_train_function()(iterator)["loss"])
        expected = _loss(encoder, kernel, batch, codes)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        for queue, rows in zip(
            (method.queue, method.other_queue), vectors, strict=True
        ):
            places = (np.arange(BATCH) + BATCH * number) % 6
            np.testing.assert_allclose(
                queue.keys.numpy()[places], rows, atol=1e-5
            )


def test_a_queue_that_is_not_full_waits():
    method = _method(queue_size=9, queue_from_epoch=0)
    batch = next(iter(small_methods.batches(1)))
    kernel = _unit(method.prototypes.kernel.numpy().T).T
    encoder = finite_differences.weights(method.query_encoder)
    expected = _loss(encoder, kernel, batch, _codes(encoder, kernel, batch))
    loss = small_methods.train(method, [batch])["loss"][0]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be above 0"),
        ({"micro_batches": 2}, "needs train.micro_batches=1"),
    ],
)
def test_what_it_cannot_honour_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        swav.SwAV(small_methods.backbone(), 2, head="fc", **arguments)
