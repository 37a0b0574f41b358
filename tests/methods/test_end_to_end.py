"""The end-to-end step against NumPy: both encoders learn."""

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.methods import end_to_end
from tests.methods import numpy_moco, small_methods

BATCH, TEMPERATURE = small_methods.BATCH, 0.5


def _method(**arguments):
    tf.keras.utils.set_random_seed(0)
    method = end_to_end.EndToEnd(
        small_methods.backbone(),
        head="fc",
        dim=5,
        temperature=TEMPERATURE,
        **arguments,
    )
    return small_methods.compiled(method)


def _contrast(query_weights, key_weights, batch):
    """Loss, wins, and the gradients of both encoders."""
    queries = numpy_moco.encode(query_weights, batch["query"])
    keys = numpy_moco.encode(key_weights, batch["key"])
    logits = queries[0] @ keys[0].T / TEMPERATURE
    positive = np.eye(BATCH, dtype=bool)
    # Own key first, then the others.
    columns = np.argsort(~positive, axis=1, kind="stable")
    loss, gradients = numpy_moco.info_nce(
        np.take_along_axis(logits, columns, 1)
    )
    by_logit = np.zeros_like(logits)
    np.put_along_axis(by_logit, columns, gradients, 1)
    by_logit /= BATCH * TEMPERATURE
    wins = np.mean(logits.argmax(1) == np.arange(BATCH))
    return (
        loss,
        wins,
        numpy_moco.gradients(query_weights, queries, by_logit @ keys[0]),
        numpy_moco.gradients(key_weights, keys, by_logit.T @ queries[0]),
    )


@pytest.mark.parametrize("shuffle_keys", ["gather", "address", "none"])
@pytest.mark.parametrize("shared", [False, True])
def test_three_steps_follow_the_formula(shared, shuffle_keys):
    method = _method(shared_encoder=shared, shuffle_keys=shuffle_keys)
    query = small_methods.values(method.query_encoder.trainable_variables)
    query = [weight.astype(np.float64) for weight in query]
    key = query if shared else [weight.copy() for weight in query]
    velocities = [np.zeros_like(weight) for weight in [*query, *key]]
    expected = []
    batches = list(small_methods.batches(3))
    if shuffle_keys == "none":
        for batch in batches:
            batch["order"] = np.arange(BATCH)
    for batch in batches:
        loss, wins, *gradients = _contrast(query, key, batch)
        expected.append((loss, wins))
        if shared:
            both = [a + b for a, b in zip(*gradients, strict=True)]
            small_methods.descend(query, velocities, both)
        else:
            weights = [*query, *key]
            small_methods.descend(
                weights, velocities, [*gradients[0], *gradients[1]]
            )
            query, key = weights[: len(query)], weights[len(query) :]
    if shuffle_keys == "address":
        batches = [small_methods.deal(batch) for batch in batches]
    logged = small_methods.train(method, batches)
    losses, wins = zip(*expected, strict=True)
    np.testing.assert_allclose(logged["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(logged["instance_top1"], wins)
    weights = query if shared else [*query, *key]
    for result, weight in zip(method.trained_variables(), weights, strict=True):
        np.testing.assert_allclose(result, weight, atol=1e-5)


def test_a_part_of_the_batch_is_refused():
    with pytest.raises(ValueError, match="micro_batches=1"):
        _method(micro_batches=2)
